"""A gateway without the rest of its job: everything it does to a record, and workers that answer.

Flow: decoded rows -> Member (source, F) -> frames -> [StandInWorkers], which drop the rows and give
back what workers give back: credit and progress.

What a gateway does for a record between its client and its sockets runs here as it runs in a job:
the member, its operators, frames encoded as for the network, progress told and heard. What is left
out is said in docs/benchmarks/ingest.md.

Invariants
  BG1  Stand-ins behave as peers by the protocol: numbered progress, no pointstamp consumed that was
      not sent, credit returned for what was consumed. So the frontiers move as in a job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from service.dataflow.flow import Flow
from service.dataflow.graph import Dataflow
from service.dataflow.progress.broadcast import ProgressBatch, encode_progress
from service.dataflow.progress.change_batch import Change
from service.dataflow.transport.base import BodyPart, Received, length_of
from service.dataflow.transport.credit import (
    CreditClass,
    CreditReturns,
    charge_of,
    encode_credit,
)
from service.dataflow.transport.frame import FrameKind, pack_header
from service.dataflow.vertices import SourceVertex
from service.dataflow.worker import WorkerLimits
from service.egress.sink import SinkOperator
from service.ids import Membership
from service.ingest.source import ReadRows, SourceOperator
from service.member import Member
from service.migration.control_source import ControlSource
from service.migration.horizon import LogFollower
from service.migration.lowering import Edges, lower
from service.migration.records import Generation, SlotBinding
from service.migration.routing_table import RoutingTable

_GENERATION = 1
#: The control log has promised this much beyond the first epoch: longer than any benchmark takes.
_PROMISED_US = 86_400_000_000


class Gateway:
    """The only gateway of a job of `workers` workers, all of them stand-ins."""

    def __init__(
        self,
        flow: Flow,
        schema: pa.Schema,
        partitions: Mapping[str, int],
        *,
        workers: int,
        bins: int,
        now_us: int,
        monotonic_us: int,
    ) -> None:
        """Build the member and its peers.

        Args:
            flow: a flow with one source.
            schema: columns the source gives.
            partitions: how many each input topic has; the gateway reads all.
            workers: how many stand-ins there are.
            bins: number of bins, dealt out in turn.
            now_us: wall clock, microseconds since 1970; the first epoch.
            monotonic_us: reading of the monotonic clock that ticks will use.
        """
        members = Membership(workers, 1)
        generation = generation_of(members, partitions, bins, now_us)
        built = _graph_of(flow, schema, generation)
        self.workers = StandInWorkers(members, built, generation)
        (vertex,) = (each for each in flow.vertices if isinstance(each, SourceVertex))
        self.member = Member(
            flow, generation, members.slot(workers), self.workers, _no_producer, lambda _: schema
        )
        self._source = self.member.sources[vertex.name]
        self.member.ticks.observe(generation.clock, monotonic_us)
        self.member.step()

    def route(self, rows: ReadRows, monotonic_us: int) -> None:
        """Stamp `rows` with a tick, route them to their workers, encode the frames."""
        self._source.offer(rows)
        ticked = self.member.tick(monotonic_us)
        assert ticked, "the horizon is far away"
        self.member.step()


class StandInWorkers:
    """The transport of a gateway whose workers drop what they get, and say so (BG1)."""

    def __init__(self, members: Membership, graph: Dataflow, generation: Generation) -> None:
        """Stand in for the workers of `members`, which all build `graph`."""
        self.index = members.workers
        self.observer = members.peers
        self.peers = tuple(range(members.workers))
        #: Frames sent to the workers, their bytes, and rows in them as the frames say.
        self.frames = 0
        self.bytes = 0
        self._graph = graph
        self._inbox: deque[Received] = deque()
        self._sequences = [0] * members.workers
        window = WorkerLimits().data_window
        self._returns = [CreditReturns(window) for _ in self.peers]
        self._acknowledged = [
            graph.source(number, 0)
            for number, operator in enumerate(graph.operators)
            if isinstance(operator.logic, SinkOperator)
        ]
        for worker in self.peers:
            self._tell(worker, _first_actions(graph, generation))

    def send(
        self,
        peer: int,
        kind: FrameKind,
        channel: int,
        time: tuple[int, ...],
        parts: Sequence[BodyPart] = (),
        flags: int = 0,
    ) -> None:
        """Pack the frame's header as a link does, drop the frame, and answer for its worker."""
        length = length_of(parts)
        header = pack_header(
            kind, _GENERATION, 1, self.frames, channel, time, flags, length, len(parts)
        )
        self.frames += 1
        self.bytes += len(header) + length
        if kind is FrameKind.DATA and peer != self.observer:
            self._consume(peer, channel, time, length)

    def gather(self) -> None:
        """Nothing is gained by keeping frames back."""

    def flush(self) -> None:
        """Nothing is kept back."""

    def receive(self, max_frames: int) -> list[Received]:
        """What the stand-ins answered."""
        return [self._inbox.popleft() for _ in range(min(max_frames, len(self._inbox)))]

    def wait(self, timeout_s: float) -> None:
        """Stand-ins answer at once: nothing to wait for."""

    def tick(self, now_ns: int) -> None:
        """Stand-ins are never silent: nothing to do."""

    def leave(self, because: str = "") -> None:
        """Nobody to tell."""

    def close(self) -> None:
        """Nothing is held."""

    def _consume(self, worker: int, channel: int, time: tuple[int, ...], length: int) -> None:
        """What a worker says of rows: taken in; then, once Kafka has its results, acknowledged."""
        due = self._returns[worker].consumed(charge_of(length))
        if due:
            body = encode_credit(due)
            credit = CreditClass.DATA.value
            self._inbox.append(Received(worker, FrameKind.CREDIT, credit, (), (body,)))
        taken_at = self._graph.edges[channel].location
        results = [(location, time, 1) for location in self._acknowledged]
        self._tell(worker, [*results, (taken_at, time, -1)])
        self._tell(worker, [(location, time, -1) for location in self._acknowledged])

    def _tell(self, worker: int, changes: Sequence[Change]) -> None:
        batch = ProgressBatch(self._sequences[worker], tuple(changes))
        self._sequences[worker] += 1
        body = encode_progress(batch)
        self._inbox.append(Received(worker, FrameKind.PROGRESS, 0, (), (body,)))


def _first_actions(graph: Dataflow, generation: Generation) -> list[Change]:
    """What a worker does first: its control source follows the promise, its sources close."""
    start, promised = (generation.first_epoch,), (generation.horizon,)
    taken: list[Change] = []
    dropped: list[Change] = []
    for number, operator in enumerate(graph.operators):
        for port in operator.holds:
            location = graph.source(number, port)
            dropped.append((location, start, -1))
            if isinstance(operator.logic, ControlSource):
                taken.append((location, promised, 1))
    return taken + dropped


def generation_of(
    members: Membership, partitions: Mapping[str, int], bins: int, now_us: int
) -> Generation:
    """A generation whose first gateway reads everything, and whose horizon is far away."""
    return Generation(
        clock=now_us,
        generation=_GENERATION,
        horizon=now_us + _PROMISED_US,
        first_epoch=now_us,
        bins=bins,
        workers=members.workers,
        gateways=members.gateways,
        slots=[
            SlotBinding(slot=str(members.slot(peer)), incarnation="1", address="inproc")
            for peer in range(members.peers)
        ],
        bin_owners=[number % members.workers for number in range(bins)],
        sink_owners=list(range(members.workers)),
        partition_owners={topic: [0] * count for topic, count in partitions.items()},
        positions={topic: [0] * count for topic, count in partitions.items()},
        manifest=None,
        until_end=False,
    )


def _graph_of(flow: Flow, schema: pa.Schema, generation: Generation) -> Dataflow:
    """The graph that every process of the generation builds, for its numbers only."""
    edges = Edges(
        lambda _: SourceOperator(owns_partitions=False),
        lambda *_: SinkOperator(_NoProducer()),
        lambda _: schema,
    )
    control = ControlSource(LogFollower(), RoutingTable.of(generation))
    return lower(flow, generation.bins, control, edges).dataflow


class _NoProducer:
    """The producer of sinks that exist for the graph's sake: nothing may reach it."""

    def has_room(self) -> bool:
        """Nothing can be taken."""
        return False

    def submit(self, rows: object, acknowledged: Callable[[], None]) -> None:
        """Refuse rows.

        Raises:
            AssertionError: always.
        """
        raise AssertionError("a gateway's sink received rows")


def _no_producer(*_: object) -> _NoProducer:
    return _NoProducer()
