"""A flow on a few processes in one thread: rows are put in by hand, results kept as they come.

Flow: a test -> [SmallJob] -> real lowering, real workers over links in memory -> `results`.
What is played here: sources, sinks and the log, which promises everything at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from service.dataflow.flow import Flow
from service.dataflow.operator import Capability, OperatorContext
from service.dataflow.progress.antichain import Antichain
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.dataflow.worker import Worker, WorkerLimits
from service.migration.control_source import ControlSource
from service.migration.horizon import LogFollower
from service.migration.lowering import Edges, lower
from service.migration.routing_table import RoutingTable
from tests.fakes.control import FIRST, generation, stop

#: Nothing a test stamps lies beyond it.
HORIZON = 1 << 60


class Feed:
    """A source that sends when told to."""

    def open(self, context: OperatorContext) -> None:
        (self.output,) = context.outputs
        (self.commands,) = context.inputs
        self.right: Capability = context.initial[0]

    def step(self) -> None:
        while self.commands.pull() is not None:
            pass


class Results:
    """A sink that keeps what it is given."""

    def __init__(self, kept: list[tuple[Timestamp, pa.RecordBatch]]) -> None:
        self._kept = kept

    def open(self, context: OperatorContext) -> None:
        (self._input,) = context.inputs

    def step(self) -> None:
        frontier = self._input.frontier()
        while (message := self._input.pull()) is not None:
            assert frontier.less_equal(message.time), f"{message.time} came after {frontier}"
            self._kept.append((message.time, message.payload))


class SmallJob:
    """`workers` processes that work, then `gateways` that read; one of both is the default."""

    def __init__(
        self,
        flow: Flow,
        schema: pa.Schema,
        *,
        workers: int = 1,
        gateways: int = 0,
        limits: WorkerLimits | None = None,
        owners: Sequence[int] = (0,) * 8,
    ) -> None:
        """Build all processes; sources have the columns of `schema`, bins these `owners`."""
        peers = workers + gateways
        network = MemoryNetwork(peers)
        #: By process: what reached each sink there.
        self.results: list[dict[str, list[tuple[Timestamp, pa.RecordBatch]]]] = []
        self.feeds: list[dict[str, Feed]] = []
        self.workers: list[Worker] = []
        self.lowered = []
        self._controls = []
        for peer in range(peers):
            feeds: dict[str, Feed] = {}
            results: dict[str, list[tuple[Timestamp, pa.RecordBatch]]] = {}

            def feed(vertex: SourceVertex, feeds=feeds) -> Feed:
                return feeds.setdefault(vertex.name, Feed())

            def sink(vertex: SinkVertex, _: pa.Schema, results=results) -> Results:
                return Results(results.setdefault(vertex.name, []))

            began = generation(owners, workers, gateways, HORIZON)
            control = ControlSource(LogFollower(began), RoutingTable.of(began))
            lowered = lower(flow, len(owners), control, Edges(feed, sink, lambda _: schema))
            start = (FIRST,)
            transport = network.transport(peer)
            self.workers.append(Worker(lowered.dataflow, peer, peers, start, transport, limits))
            self.lowered.append(lowered)
            self.feeds.append(feeds)
            self.results.append(results)
            self._controls.append(control)
        self.settle()

    def put(self, rows: pa.RecordBatch, epoch: int = FIRST, source: str = "in", at: int = -1):
        """Let process `at`, by default the last, read `rows` at `epoch`; then run what can."""
        feed = self.feeds[at][source]
        feed.right.downgrade((epoch,))
        feed.output.send(feed.right, rows)
        self.settle()

    def reach(self, epoch: int) -> None:
        """No source has anything before `epoch` any more."""
        for feeds in self.feeds:
            for feed in feeds.values():
                feed.right.downgrade((epoch,))
        self._wake()

    def end(self) -> None:
        """No source has anything any more, and no command follows."""
        for control, feeds in zip(self._controls, self.feeds, strict=True):
            for feed in feeds.values():
                feed.right.drop()
            control.feed(stop(HORIZON + 1))
        self._wake()

    def settle(self) -> None:
        """Step everybody until nothing happens any more."""
        while sum(self._step(worker) for worker in self.workers):
            pass

    def _wake(self) -> None:
        for worker in self.workers:
            worker.activate(0)
        self.settle()

    def _step(self, worker: Worker) -> bool:
        before = worker.progress_batches_sent
        worker.step()
        return worker.has_work or worker.progress_batches_sent > before

    @property
    def complete(self) -> bool:
        """Whether nothing is left anywhere."""
        return all(worker.complete for worker in self.workers)

    @property
    def places(self) -> Mapping[str, int]:
        """What a probe asks for."""
        return self.lowered[0].places

    def frontier_at(self, location: int) -> Antichain:
        """What a probe asks."""
        return self.workers[0].tracker.frontier(location)

    def rows(self, sink: str = "out", at: int | None = None) -> list[dict]:
        """Records that reached a sink, in one process or in all, in the order they came."""
        processes = self.results if at is None else [self.results[at]]
        return [
            record
            for results in processes
            for _, rows in results.get(sink, [])
            for record in rows.to_pylist()
        ]

    def timed(self, sink: str = "out") -> list[tuple[Timestamp, list[dict]]]:
        """Times and records of the batches that reached a sink."""
        return [
            (time, rows.to_pylist())
            for results in self.results
            for time, rows in results.get(sink, [])
        ]
