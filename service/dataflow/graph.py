"""A dataflow as built: operators with ports, declared connectivity, and channels between them.

Flow: lowering -> [Dataflow] -> Worker. Every process of a generation builds an equal graph (SPMD),
so that location and channel numbers mean the same everywhere; only the operators' logic objects
differ in what they own.

Invariants
  G1  An edge carries time unchanged; what an operator does to time is in its declared connectivity
      and nowhere else.
  G2  A missing connectivity entry means "never": an effect along it is an error, not a delay.
  G3  Operators run in the order they were added, which is the order data flows.
  G4  Every cycle has a channel without a bound, its feedback's: if each waited for room at the
      next one, none would ever have it. What is in a loop at once bounds that queue.
Source: DESIGN §5; Naiad (SOSP 2013) §2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.dataflow.operator import Edge, Operator, Pact
from service.dataflow.progress.summary import PathSummary
from service.dataflow.progress.topology import FrozenTopology, PortDepths, Topology
from service.dataflow.transport.base import Received
from service.dataflow.transport.credit import CreditClass
from service.dataflow.transport.frame import FrameKind
from service.errors import ProtocolViolation


@dataclass(frozen=True, slots=True)
class BuiltOperator:
    """One operator: its logic in this process and its ports as declared for all of them."""

    name: str
    logic: Operator
    inputs: int
    outputs: int
    connectivity: Mapping[tuple[int, int], PathSummary]
    #: Outputs at which every peer holds a capability when the dataflow begins.
    holds: frozenset[int]
    #: Locations, beside its own inputs, whose frontier wakes it.
    watches: list[int] = field(default_factory=list)
    #: Whether a frontier that moves at an input wakes it.
    notified: bool = False


class Dataflow:
    """Builds operators and channels, then freezes into a checked topology."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._topology = Topology()
        self.operators: list[BuiltOperator] = []
        self.edges: list[Edge] = []

    def add(
        self,
        name: str,
        logic: Operator,
        *,
        inputs: int,
        outputs: int,
        connectivity: Mapping[tuple[int, int], PathSummary],
        depth: PortDepths = 1,
        holds: frozenset[int] = frozenset(),
        notified: bool = False,
    ) -> int:
        """Add an operator and return its number; `connectivity` is complete (G2).

        `depth` is the length of timestamps at its ports: 1, and 1 more for each loop around it.
        """
        number = self._topology.add_operator(
            name, inputs, outputs, depth, connectivity=dict(connectivity)
        )
        self.operators.append(
            BuiltOperator(
                name, logic, inputs, outputs, connectivity, holds=holds, notified=notified
            )
        )
        return number

    def connect(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        pact: Pact = Pact.PIPELINE,
        credit: CreditClass = CreditClass.DATA,
        *,
        bounded: bool = True,
    ) -> None:
        """Add a channel from an output (operator, port) to an input (operator, port) (G4)."""
        assert bounded or pact is Pact.PIPELINE, "only what stays in the process may lack a bound"
        self._topology.connect(source, target)
        location = self._topology.target(*target)
        self.edges.append(Edge(len(self.edges), pact, credit, source, target, location, bounded))

    def watch(self, operator: int, location: int) -> None:
        """Wake `operator` whenever the frontier of `location` moves."""
        self.operators[operator].watches.append(location)

    def target(self, operator: int, port: int) -> int:
        """Location number of an input port."""
        return self._topology.target(operator, port)

    def source(self, operator: int, port: int) -> int:
        """Location number of an output port."""
        return self._topology.source(operator, port)

    def freeze(self) -> FrozenTopology:
        """Check the graph as a whole and return the topology the tracker uses."""
        return self._topology.freeze()


def check_fit(edge: Edge, received: Received, depth: int) -> None:
    """See that a frame is of the kind that its channel takes, at a time of the right length.

    Raises:
        ProtocolViolation: it is not.
    """
    wanted = FrameKind.STATE if edge.credit is CreditClass.STATE else FrameKind.DATA
    if received.kind is not wanted or len(received.time) != depth:
        raise ProtocolViolation(
            f"peer {received.sender} sent a {received.kind.name} frame at {received.time} on "
            f"channel {received.channel}, which takes no such"
        )
