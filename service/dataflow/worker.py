"""One process's share of a timely dataflow: runs operators, exchanges messages and progress.

Flow: transport -> [Worker] -> input ports -> Operator.step -> output ports -> transport, and the
ledger of every step -> progress batch -> all peers -> tracker -> frontiers.

The worker is pure but for its `Transport`: it reads no clock, opens nothing and never blocks, so
the simulator runs a whole cluster of them in one thread.

Invariants
  W1  A progress batch holds whole operator steps, and this worker's own counts change only when its
      batch is broadcast: all peers see prefixes of the same sequence.
  W2  Progress, control and credit never wait for credit; data and state do, by class.
  W3  An input queue is bounded: remote messages by the sender's window, local ones by `has_room`.
  W4  When `step` returns, either nothing can be done before something arrives from outside, or
      `has_work` says that a bound ended the step, or an operator its portion.
Source: DESIGN §5; Naiad (SOSP 2013) §3.3; reference "own contribution" accumulation rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from heapq import heappop, heappush

import pyarrow as pa

from service.dataflow.aside import Aside, Said, aside_of
from service.dataflow.credits import Credits
from service.dataflow.graph import Dataflow, check_fit
from service.dataflow.holdings import Holdings
from service.dataflow.operator import (
    Capability,
    Edge,
    InputPort,
    Ledger,
    Message,
    OperatorContext,
    OutputPort,
    Pact,
    Payload,
)
from service.dataflow.progress.broadcast import (
    ProgressReceiver,
    ProgressSender,
    decode_progress,
    encode_progress,
)
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.progress.tracker import Tracker
from service.dataflow.transport.base import BodyPart, Received, Transport, length_of
from service.dataflow.transport.credit import CreditClass, charge_of
from service.dataflow.transport.frame import FLAG_ON, FrameKind
from service.dataflow.transport.rows import SchemaCache
from service.errors import ProtocolViolation

#: Rounds of operator steps within one worker step; a bound, so that receiving is never starved.
_ROUNDS_MAX = 16
#: Frames taken from the transport in one worker step.
_FRAMES_MAX = 512


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Bounds of one worker, in bytes."""

    #: Data in flight to one peer.
    data_window: int = 8 << 20
    #: State chunks in flight to one peer.
    state_window: int = 8 << 20
    #: What has no time (`Aside`) in flight to one peer.
    aside_window: int = 4 << 20
    #: Bytes queued between two operators of this process.
    local_queue: int = 8 << 20


class Speaking(Enum):
    """When a worker tells the others of its steps. Only a benchmark asks for anything else."""

    #: When a frontier may hang on it, as the progress protocol says.
    ACCUMULATED = auto()
    #: At the end of every worker step.
    EVERY_STEP = auto()
    #: After every operator's step.
    EVERY_OPERATOR = auto()


class Worker:
    """Runs the operators of `dataflow` as peer number `peer` of `peers`."""

    def __init__(
        self,
        dataflow: Dataflow,
        peer: int,
        peers: int,
        start: Timestamp,
        transport: Transport,
        limits: WorkerLimits | None = None,
        *,
        speaking: Speaking = Speaking.ACCUMULATED,
    ) -> None:
        """Build ports and the tracker; `start` is the dataflow's first time, equal everywhere."""
        self._speaking = speaking
        self.peer = peer
        self.peers = peers
        self._dataflow = dataflow
        self._transport = transport
        self._limits = limits or WorkerLimits()
        self._ledger = Ledger()
        topology = dataflow.freeze()
        self.tracker = Tracker(topology)
        self._sender = ProgressSender(topology)
        self._receiver = ProgressReceiver()
        self._is_source = topology.is_source
        #: Newest epoch of a message that a peer spoke of: others have work at it.
        self.newest_epoch = 0
        self._schemas = SchemaCache()
        others = [other for other in range(peers) if other != peer]
        windows = {
            CreditClass.DATA: self._limits.data_window,
            CreditClass.STATE: self._limits.state_window,
            CreditClass.ASIDE: self._limits.aside_window,
        }
        self._credits = Credits(transport, others, windows)
        self._asides: list[Aside] = []
        #: Operators that were refused room for what has no time.
        self._short: set[int] = set()
        self._inputs: dict[tuple[int, int], InputPort] = {}
        self._holdings = Holdings(self._ledger, self._sender, self._inputs)
        self._contexts: list[OperatorContext] = []
        self._active: set[int] = set()
        #: Operators that have done a portion of their work (see `OperatorContext.resume`).
        self._later: set[int] = set()
        #: Channels that were refused room (see `has_room`).
        self._refused: set[int] = set()
        #: Operators woken by a location's frontier.
        self._watchers: dict[int, list[int]] = {}
        #: Peers whose held store is over its budget; gateways do not read while any is.
        self.pressed: set[int] = set()
        #: Frames and bytes sent and received, for telemetry.
        self.progress_batches_sent = 0
        self.progress_bytes_sent = 0
        for number in range(len(dataflow.operators)):
            self._contexts.append(self._build(number, start))
        #: By channel: the input it leads to here, and the windows a message on it may need.
        self._targets = [self._inputs[edge.target] for edge in dataflow.edges]
        all_windows = self._credits.windows
        self._needed = [
            [] if edge.pact is Pact.PIPELINE else [all_windows[o, edge.credit] for o in others]
            for edge in dataflow.edges
        ]
        for operator, context in zip(dataflow.operators, self._contexts, strict=True):
            operator.logic.open(context)
        self._logics = [operator.logic for operator in dataflow.operators]
        self._active.update(range(len(dataflow.operators)))
        self._propagate()

    def step(self) -> None:
        """Receive, run what is active, and broadcast what it did (W4). Never blocks."""
        self._transport.gather()
        self._receive()
        self._run_all()
        self._transport.flush()

    def _run_all(self) -> None:
        """Run until nothing is active, or for long enough."""
        if self._later:
            self._active |= self._later
            self._later.clear()
        for _ in range(_ROUNDS_MAX):
            if self._refused:
                self._wake_refused()
            # Not before all that flows on inside this process has: what one operator sends and the
            # next one takes then cancels, and there is one batch instead of one per operator.
            if not self._active:
                self._flush()
                if not self._active:
                    return
            self._run()
        self._flush()

    @property
    def has_work(self) -> bool:
        """Whether another step would do something although nothing arrives (W4)."""
        return bool(self._active or self._later)

    @property
    def complete(self) -> bool:
        """Whether no pointstamp is left anywhere: everything was applied and acknowledged."""
        return self._sender.is_empty and self._ledger.is_empty and self.tracker.is_empty

    @property
    def is_refused(self) -> bool:
        """Whether an operator waits for room, which a message from elsewhere may give."""
        return bool(self._refused)

    def activate(self, operator: int) -> None:
        """Let an operator run in the next step."""
        self._active.add(operator)

    def announce_pressure(self, on: bool) -> None:
        """Tell every peer that this process's held store is over its budget, or no longer."""
        (self.pressed.add if on else self.pressed.discard)(self.peer)
        for other in range(self.peers):
            if other != self.peer:
                self._transport.send(other, FrameKind.PRESSURE, 0, (), flags=FLAG_ON if on else 0)

    def queued_bytes(self) -> int:
        """Bytes waiting in input ports of this process."""
        return sum(port.bytes for port in self._inputs.values())

    def credit_bytes(self) -> dict[CreditClass, tuple[int, int]]:
        """Bytes sent to peers and not consumed, and bytes that may still go, by class."""
        return self._credits.amounts()

    # Outlet -------------------------------------------------------------------------------------

    def local(self, edge: Edge, message: Message) -> None:
        """Queue a message at the edge's target here."""
        self._inputs[edge.target].push(message)
        self._active.add(edge.target[0])

    def remote(self, edge: Edge, peer: int, time: Timestamp, payload: Payload) -> None:
        """Send a message to another peer, spending its credit (W2)."""
        flags = 0
        parts: list[BodyPart]
        if isinstance(payload, pa.RecordBatch):
            kind = FrameKind.DATA
            flags, parts = self._schemas.encode(peer, edge.channel, payload)
        else:
            assert isinstance(payload, bytes), "only rows and chunks leave a process"
            kind = FrameKind.STATE
            parts = [payload]
        self._credits.spend(peer, edge.credit, length_of(parts))
        self._transport.send(peer, kind, edge.channel, time, parts, flags)

    def has_room(self, edge: Edge) -> bool:
        """Whether every target of the edge may take one more message (W3)."""
        if self._room(edge.channel):
            return True
        self._refused.add(edge.channel)
        return False

    # Inside a step ------------------------------------------------------------------------------

    def _build(self, number: int, start: Timestamp) -> OperatorContext:
        operator = self._dataflow.operators[number]
        inputs = []
        for port in range(operator.inputs):
            location = self._dataflow.target(number, port)
            consumed = self._credits.consumer(self._credit_class(number, port))
            built = InputPort(location, self._ledger, self.tracker.frontier, consumed)
            self._inputs[number, port] = built
            inputs.append(built)
            if operator.notified:
                self._watchers.setdefault(location, []).append(number)
        for location in operator.watches:
            self._watchers.setdefault(location, []).append(number)
        outputs = []
        initial = {}
        for port in range(operator.outputs):
            location = self._dataflow.source(number, port)
            edges = [edge for edge in self._dataflow.edges if edge.source == (number, port)]
            paths = {i: path for (i, o), path in operator.connectivity.items() if o == port}
            outputs.append(OutputPort(location, edges, paths, self.peer, self._ledger, self))
            if port in operator.holds:
                first = start + (0,) * (self.tracker.topology.depths[location] - 1)
                self.tracker.update(location, first, self.peers)
                self._sender.assume([(location, first, 1)])
                initial[port] = Capability.initial(location, first, self._ledger)
        aside = aside_of(number, self._transport, self._credits, self._short)
        self._asides.append(aside)
        return OperatorContext(
            operator.name,
            self.peer,
            self.peers,
            start,
            tuple(inputs),
            tuple(outputs),
            initial,
            aside,
            self.tracker.frontier,
            partial(self._holdings.passed, number),
            partial(self._active.add, number),
            partial(self._later.add, number),
        )

    def _credit_class(self, number: int, port: int) -> CreditClass:
        """Class of an input's channels; lowering gives all channels of one input the same."""
        for edge in self._dataflow.edges:
            if edge.target == (number, port):
                return edge.credit
        return CreditClass.DATA

    def _receive(self) -> None:
        """Take what arrived: progress to the tracker, messages to ports, credit to windows."""
        moved = False
        for received in self._transport.receive(_FRAMES_MAX):
            kind = received.kind
            if kind is FrameKind.PROGRESS:
                self._learn(received)
                moved = True
            elif kind is FrameKind.DATA or kind is FrameKind.STATE:
                self._deliver(received)
            elif kind is FrameKind.CREDIT:
                if self._credits.give_back(received) is CreditClass.ASIDE:
                    self._active |= self._short
                    self._short.clear()
            elif kind is FrameKind.ASIDE:
                self._hear(received)
            elif kind is FrameKind.PRESSURE:
                on = bool(received.flags & FLAG_ON)
                (self.pressed.add if on else self.pressed.discard)(received.sender)
            elif kind is not FrameKind.BYE:
                # A peer that leaves on purpose said all it had to say; nothing is owed to it.
                raise ProtocolViolation(
                    f"peer {received.sender} sent a {kind.name} frame to a worker"
                )
        if moved:
            self._propagate()

    def _learn(self, received: Received) -> None:
        """Enter a peer's progress batch into the view.

        Raises:
            ProtocolViolation: it is no batch, is out of sequence, or names what this graph lacks.
        """
        try:
            batch = decode_progress(bytes(received.body))
            update = self.tracker.update
            for location, time, delta in self._receiver.accept(received.sender, batch):
                update(location, time, delta)
                if time[0] > self.newest_epoch and not self._is_source[location]:
                    self.newest_epoch = time[0]
        except ProgressError as error:
            raise ProtocolViolation(
                f"progress of peer {received.sender} cannot be followed: {error}; "
                "the generation ends, start the job again"
            ) from error

    def _deliver(self, received: Received) -> None:
        if received.channel >= len(self._dataflow.edges):
            raise ProtocolViolation(
                f"peer {received.sender} named channel {received.channel} "
                f"of {len(self._dataflow.edges)}"
            )
        edge = self._dataflow.edges[received.channel]
        check_fit(edge, received, self.tracker.topology.depths[edge.location])
        payload: Payload
        if received.kind is FrameKind.DATA:
            payload, _ = self._schemas.decode(received)
        else:
            payload = bytes(received.body)
        charge = charge_of(received.body_length)
        self._inputs[edge.target].push(Message(received.time, payload, charge, received.sender))
        self._active.add(edge.target[0])

    def _hear(self, received: Received) -> None:
        if received.channel >= len(self._asides):
            raise ProtocolViolation(
                f"peer {received.sender} named operator {received.channel} of {len(self._asides)}"
            )
        charge = charge_of(received.body_length)
        self._asides[received.channel].push(Said(received.sender, received.body, charge))
        self._active.add(received.channel)

    def _run(self) -> None:
        """Step every active operator once, in the order data flows, and those they wake below."""
        active, ledger = self._active, self._ledger
        queue = sorted(active)
        active.clear()
        while queue:
            number = heappop(queue)
            self._logics[number].step()
            ledger.turn += 1
            if self._speaking is Speaking.EVERY_OPERATOR:
                self._flush()
            # What it sent is taken in the same pass: a line of operators is one pass, not one each.
            for below in [other for other in active if other > number]:
                active.discard(below)
                if below not in queue:
                    heappush(queue, below)

    def _room(self, channel: int) -> bool:
        if self._targets[channel].bytes >= self._limits.local_queue:
            return not self._dataflow.edges[channel].bounded
        for window in self._needed[channel]:  # noqa: SIM110 - a generator costs more than the loop
            if not window.can_send():
                return False
        return True

    def _wake_refused(self) -> None:
        """Activate operators that were refused room on a channel that has it now."""
        for channel in [channel for channel in self._refused if self._room(channel)]:
            self._refused.discard(channel)
            self._active.add(self._dataflow.edges[channel].source[0])

    def _flush(self) -> None:
        """Broadcast the ledger when the accumulation rule says so (W1)."""
        if not self._ledger.is_empty:
            self._active |= self._holdings.record()
        early = self._speaking is not Speaking.ACCUMULATED
        while (early and not self._sender.is_empty) or self._sender.ready(self.tracker):
            batch = self._sender.take()
            if self.peers > 1:
                encoded = encode_progress(batch)
                for other in range(self.peers):
                    if other != self.peer:
                        self._transport.send(other, FrameKind.PROGRESS, 0, (), [encoded])
                self.progress_bytes_sent += len(encoded) * (self.peers - 1)
            self.progress_batches_sent += 1
            for location, time, delta in batch.changes:
                self.tracker.update(location, time, delta)
            self._propagate()

    def _propagate(self) -> None:
        for location in self.tracker.propagate():
            if location in self._watchers:
                self._active.update(self._watchers[location])
