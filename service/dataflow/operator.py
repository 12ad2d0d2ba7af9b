"""What an operator sees: ports, messages, capabilities, frontiers.

Flow: the worker fills input ports and calls `Operator.step`; the operator pulls messages, sends on
output ports, and keeps capabilities for what it will send later. Everything it does to pointstamp
counts is entered in the worker's ledger and leaves the process in one batch after the step, so no
peer ever sees half an action.

Invariants
  O1  To send at t on a port one holds a right to it: a message pulled in the same step, whose path
      to that port is declared, or a capability; both are asked for every send.
  O2  A capability counts one pointstamp at its port and time from birth until `drop`.
  O3  Pulling a message takes its pointstamp away and returns its credit: whoever must wait for a
      frontier keeps a capability and the rows, never the message.
Source: timely dataflow's capabilities; Naiad (SOSP 2013) §2; DESIGN §5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import pyarrow as pa

from service.dataflow.aside import Aside
from service.dataflow.progress.antichain import Antichain
from service.dataflow.progress.change_batch import ChangeBatch
from service.dataflow.progress.summary import PathSummary
from service.dataflow.progress.timestamp import Timestamp, less_equal
from service.dataflow.transport.credit import CreditClass
from service.errors import MegaphoneError

#: What travels on a channel: a record batch, a chunk of state (bytes) or a control record.
Payload = object


#: What a payload of unknown size counts for in a queue's bound.
_SMALL = 64


def payload_size(payload: Payload) -> int:
    """Bytes a payload keeps in memory, a slice those of its whole; control records few.

    Cost: 0.1 us; `RecordBatch.nbytes`, which looks into slices, takes 9 us.
    """
    if isinstance(payload, pa.RecordBatch):
        return int(payload.get_total_buffer_size())
    if isinstance(payload, bytes):
        return len(payload)
    return _SMALL


class CapabilityError(MegaphoneError):
    """A right was used for what it does not allow; the text shows both times."""


class Ledger(ChangeBatch):
    """Changes of pointstamp counts since the last broadcast, and the number of the running step."""

    __slots__ = ("turn",)

    def __init__(self) -> None:
        """Nothing has happened."""
        super().__init__()
        #: Rises by one after each operator's step; messages pulled before give no right (O1).
        self.turn = 0


class Pact(Enum):
    """How a channel spreads messages over the peers."""

    PIPELINE = "pipeline"
    ROUTED = "routed"


class Outlet(Protocol):
    """Where an output port hands messages over; the worker implements it."""

    def local(self, edge: Edge, message: Message) -> None:
        """Queue a message at the edge's target in this process."""
        ...

    def remote(self, edge: Edge, peer: int, time: Timestamp, payload: Payload) -> None:
        """Send a message to another peer."""
        ...

    def has_room(self, edge: Edge) -> bool:
        """Whether the edge may take another message now, for every target it can reach.

        Affects: an edge that was refused has its operator stepped again once there is room.
        """
        ...


@dataclass(frozen=True, slots=True)
class Edge:
    """One channel from an output port to an input port, equal in every process."""

    channel: int
    pact: Pact
    credit: CreditClass
    #: Operator and port numbers of the two ends.
    source: tuple[int, int]
    target: tuple[int, int]
    #: Location number of the target port.
    location: int
    #: Whether senders wait for room on it; a feedback's does not (G4 of the graph).
    bounded: bool = True


@dataclass(slots=True)
class Message:
    """A payload at a time, waiting at an input port; `sender` is None when it is this process."""

    time: Timestamp
    payload: Payload
    size: int
    sender: int | None = None
    #: Turn of the ledger in which it was pulled (O1).
    turn: int = -1


class Capability:
    """The right to send at its time, or later, on one output port (O2)."""

    __slots__ = ("_ledger", "held", "location", "time")

    def __init__(self, location: int, time: Timestamp, ledger: Ledger) -> None:
        """Count one pointstamp at (`location`, `time`) in the `ledger`."""
        #: Location number of the output port.
        self.location = location
        #: The earliest time it allows; what it was when it was dropped.
        self.time = time
        #: Whether it was not dropped yet.
        self.held = True
        self._ledger = ledger
        ledger.update(location, time, 1)

    @classmethod
    def initial(cls, location: int, time: Timestamp, ledger: Ledger) -> Capability:
        """A capability that all peers counted when the dataflow began; nothing is entered."""
        capability = cls.__new__(cls)
        capability.location = location
        capability.time = time
        capability.held = True
        capability._ledger = ledger
        return capability

    def delayed(self, time: Timestamp) -> Capability:
        """Another capability for the same port at a later `time`."""
        self._check(time)
        return Capability(self.location, time, self._ledger)

    def downgrade(self, time: Timestamp) -> None:
        """Give up all times that are not in advance of `time`."""
        self._check(time)
        if time != self.time:
            self._ledger.update(self.location, time, 1)
            self._ledger.update(self.location, self.time, -1)
            self.time = time

    def drop(self) -> None:
        """Give the right up; dropping twice is an error."""
        self._check(self.time)
        self._ledger.update(self.location, self.time, -1)
        self.held = False

    def _check(self, time: Timestamp) -> None:
        if not self.held:
            raise CapabilityError(
                f"a capability of location {self.location}, dropped at {self.time}, "
                f"was used for {time}"
            )
        if len(time) != len(self.time) or not less_equal(self.time, time):
            raise CapabilityError(
                f"a capability of location {self.location} at {self.time} does not allow {time}"
            )


class InputPort:
    """Messages waiting at one input of one operator in this process."""

    __slots__ = ("_consumed", "_frontier_of", "_ledger", "bytes", "location", "queue")

    def __init__(
        self,
        location: int,
        ledger: Ledger,
        frontier_of: Callable[[int], Antichain],
        consumed: Callable[[int, int], None],
    ) -> None:
        """Bind to the worker: `consumed(sender, size)` returns the credit of a remote message."""
        self.location = location
        self.queue: deque[Message] = deque()
        #: Bytes queued; the worker bounds it through credits (remote) and `has_room` (local).
        self.bytes = 0
        self._frontier_of = frontier_of
        self._ledger = ledger
        self._consumed = consumed

    def frontier(self) -> Antichain:
        """Times that may still arrive here, over all processes."""
        return self._frontier_of(self.location)

    def push(self, message: Message) -> None:
        """Queue a message; called by the worker."""
        self.queue.append(message)
        self.bytes += message.size

    def pull(self) -> Message | None:
        """Take the oldest message (O3), or None."""
        if not self.queue:
            return None
        message = self.queue.popleft()
        message.turn = self._ledger.turn
        self.bytes -= message.size
        self._ledger.update(self.location, message.time, -1)
        if message.sender is not None:
            self._consumed(message.sender, message.size)
        return message


class OutputPort:
    """The sending end of one output of one operator in this process."""

    __slots__ = ("_ledger", "_outlet", "_paths", "edges", "location", "peer")

    def __init__(
        self,
        location: int,
        edges: Sequence[Edge],
        paths: dict[int, PathSummary],
        peer: int,
        ledger: Ledger,
        outlet: Outlet,
    ) -> None:
        """Bind to the worker; `paths` maps an input port's number to its declared summary."""
        self.location = location
        self.edges = tuple(edges)
        self.peer = peer
        self._paths = paths
        self._ledger = ledger
        self._outlet = outlet

    def ready(self) -> bool:
        """Whether one more message may be sent without overrunning a bound."""
        # A loop, as a generator costs more than the question.
        for edge in self.edges:  # noqa: SIM110 - a generator costs more than the loop
            if not self._outlet.has_room(edge):
                return False
        return True

    def retain(self, input_port: int, message: Message) -> Capability:
        """Turn a message just pulled from `input_port` into a capability of this output (O1).

        Raises:
            CapabilityError: no path from that input to this output is declared, or the message was
                pulled in an earlier step.
        """
        return Capability(self.location, self._arrival(input_port, message), self._ledger)

    def forward(
        self, input_port: int, message: Message, payload: Payload, peer: int | None = None
    ) -> None:
        """Send a `payload` at the time a message of this step has here (O1); raises as `retain`.

        Args:
            input_port: where the message was pulled.
            message: the message that gives the right; pulled in this step.
            payload: what to send.
            peer: the target on routed edges; None on pipeline edges.
        """
        self._send(self._arrival(input_port, message), payload, peer)

    def send(self, right: Capability, payload: Payload, peer: int | None = None) -> None:
        """Send a `payload` at a capability's time; `peer` as in `forward`."""
        self._send(self._granted(right), payload, peer)

    def _granted(self, right: Capability) -> Timestamp:
        if right.location != self.location:
            raise CapabilityError(
                f"a capability of location {right.location} at {right.time} was used "
                f"at location {self.location}"
            )
        if not right.held:
            raise CapabilityError(
                f"a capability of location {self.location}, dropped at {right.time}, was used again"
            )
        return right.time

    def _arrival(self, input_port: int, message: Message) -> Timestamp:
        path = self._paths.get(input_port)
        if path is None:
            raise CapabilityError(
                f"input {input_port} has no declared path to the output at location "
                f"{self.location}; a message at {message.time} gives no right to it"
            )
        if message.turn != self._ledger.turn:
            raise CapabilityError(
                f"a message at {message.time} was pulled in step {message.turn} and used in step "
                f"{self._ledger.turn}; keep a capability instead"
            )
        return path.results_in(message.time)

    def _send(self, time: Timestamp, payload: Payload, peer: int | None) -> None:
        for edge in self.edges:
            if (edge.pact is Pact.ROUTED) != (peer is not None):
                raise CapabilityError(f"channel {edge.channel} is {edge.pact.value}")
            self._ledger.update(edge.location, time, 1)
            if peer is None or peer == self.peer:
                self._outlet.local(edge, Message(time, payload, payload_size(payload)))
            else:
                self._outlet.remote(edge, peer, time, payload)


@dataclass(frozen=True, slots=True)
class OperatorContext:
    """All that one operator may touch, for the life of the dataflow."""

    name: str
    peer: int
    peers: int
    #: The dataflow's first time, equal in every process.
    start: Timestamp
    inputs: tuple[InputPort, ...]
    outputs: tuple[OutputPort, ...]
    #: Capabilities at the dataflow's first time, one per output that was declared to hold one.
    initial: dict[int, Capability]
    #: To and from the same operator in other processes, outside of time.
    aside: Aside
    #: Frontier of any location of the graph, over all processes (a probe).
    frontier_of: Callable[[int], Antichain]
    #: Whether nothing below an epoch is left at these ports in this process alone (holdings).
    passed_here: Callable[[Collection[int], int], bool]
    #: Ask for another `step` although nothing may arrive.
    activate: Callable[[], None]
    #: The same, but not before this process has received again: for work done in portions.
    resume: Callable[[], None]


class Operator(Protocol):
    """The logic of one operator in one process."""

    def open(self, context: OperatorContext) -> None:
        """Take the context; called once, before the first `step`."""
        ...

    def step(self) -> None:
        """Do what can be done now and return; never block, sleep or wait.

        Guarantees: called after a message arrived at an input, after the frontier of a watched
        location moved, after room came back on a full output, after `activate` and `resume`, and
        after something changed here since `passed_here` said no.
        """
        ...
