"""One operator on its own: messages put in by hand, frontiers set by hand, what it sends recorded.

Flow: a test -> [Ports] -> Operator.step -> `sent`, `rights`. The ports and capabilities are the
real ones; what is played here is the worker around them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from service.dataflow.aside import Aside, Said
from service.dataflow.operator import (
    Capability,
    Edge,
    InputPort,
    Ledger,
    Message,
    Operator,
    OperatorContext,
    OutputPort,
    Pact,
    Payload,
)
from service.dataflow.progress.antichain import Antichain
from service.dataflow.progress.summary import identity
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.transport.credit import CreditClass


class Sent(NamedTuple):
    """A message as it left: `peer` is None on a pipeline edge."""

    output: int
    time: Timestamp
    payload: Payload
    peer: int | None


class Ports:
    """Locations 0.. are the inputs, then the outputs; others may be named for frontiers only."""

    def __init__(
        self,
        logic: Operator,
        *,
        inputs: int,
        outputs: int,
        paths: Iterable[tuple[int, int]],
        routed: Iterable[int] = (),
        holds: Iterable[int] = (),
        start: Timestamp = (0,),
        peers: int = 1,
        peer: int = 0,
    ) -> None:
        """Open `logic`; every path in `paths` is an identity."""
        self.logic = logic
        self.ledger = Ledger()
        #: Frontier of each location; the start where a test says nothing else.
        self.frontiers: dict[int, Antichain] = {}
        self._start = start
        #: Outputs that take nothing now.
        self.full: set[int] = set()
        self.sent: list[Sent] = []
        #: (sender, size) of each remote message pulled: its credit went back.
        self.credited: list[tuple[int, int]] = []
        #: (peer, body) of what was sent outside of time, and peers that take none of it now.
        self.said: list[tuple[int, bytes]] = []
        self.deaf: set[int] = set()
        self._aside = Aside(
            lambda peer: peer not in self.deaf,
            lambda peer, body: self.said.append((peer, body)),
            self._consumed,
        )
        #: What `passed_here` answers below which epoch, and whether it said no.
        self.clear_to = 1 << 62
        self.is_asking = False
        self.activations = 0
        self.resumptions = 0
        routed = frozenset(routed)
        paths = tuple(paths)
        self.inputs = tuple(
            InputPort(port, self.ledger, self._frontier, self._consumed) for port in range(inputs)
        )
        self._outputs = {inputs + port: port for port in range(outputs)}
        ports = []
        initial = {}
        for port in range(outputs):
            pact = Pact.ROUTED if port in routed else Pact.PIPELINE
            edge = Edge(port, pact, CreditClass.DATA, (0, port), (1, port), 100 + port)
            from_inputs = {i: identity(1) for i, o in paths if o == port}
            ports.append(OutputPort(inputs + port, [edge], from_inputs, peer, self.ledger, self))
            if port in holds:
                initial[port] = Capability.initial(inputs + port, start, self.ledger)
                self.ledger.update(inputs + port, start, 1)
        self._peer = peer
        logic.open(
            OperatorContext(
                name="alone",
                peer=peer,
                peers=peers,
                start=start,
                inputs=self.inputs,
                outputs=tuple(ports),
                initial=initial,
                aside=self._aside,
                frontier_of=self._frontier,
                passed_here=self._passed,
                activate=self._activate,
                resume=self._resume,
            )
        )

    def put(self, port: int, epoch: int, payload: Payload, sender: int | None = None) -> None:
        """Queue a message at an input, as if it had been counted by its sender."""
        self.ledger.update(port, (epoch,), 1)
        self.inputs[port].push(Message((epoch,), payload, 64, sender))

    def say(self, sender: int, body: bytes) -> None:
        """Queue bytes that have no time, as from `sender`."""
        self._aside.push(Said(sender, body, 64))

    def step(self) -> list[Sent]:
        """Step the operator; returns what it sent meanwhile."""
        before = len(self.sent)
        self.logic.step()
        self.ledger.turn += 1
        return self.sent[before:]

    def reach(self, epochs: Mapping[int, int | None]) -> None:
        """Set frontiers: {location: epoch}, None for an empty one."""
        for location, epoch in epochs.items():
            self.frontiers[location] = Antichain([] if epoch is None else [(epoch,)])

    def rights(self, output: int) -> list[Timestamp]:
        """Times of the capabilities held at an output, ascending."""
        location = len(self.inputs) + output
        found = [time for (at, time), count in self.ledger.items() if at == location and count > 0]
        return sorted(found)

    def local(self, edge: Edge, message: Message) -> None:
        """Record a message for this process."""
        peer = self._peer if edge.pact is Pact.ROUTED else None
        self.sent.append(Sent(edge.channel, message.time, message.payload, peer))

    def remote(self, edge: Edge, peer: int, time: Timestamp, payload: Payload) -> None:
        """Record a message for another process."""
        self.sent.append(Sent(edge.channel, time, payload, peer))

    def has_room(self, edge: Edge) -> bool:
        """As `full` says."""
        return edge.channel not in self.full

    def _frontier(self, location: int) -> Antichain:
        return self.frontiers.get(location, Antichain([self._start]))

    def _passed(self, locations: Collection[int], epoch: int) -> bool:
        self.is_asking = epoch > self.clear_to
        return not self.is_asking

    def _consumed(self, sender: int, size: int) -> None:
        self.credited.append((sender, size))

    def _activate(self) -> None:
        self.activations += 1

    def _resume(self) -> None:
        self.resumptions += 1
