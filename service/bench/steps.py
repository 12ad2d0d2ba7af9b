"""What one step of a worker costs: beside a thousand idle operators, and for a batch of one row.

Flow: one worker without peers; each measured step a source sends one batch and closes its epoch,
and all that follows from it happens -> nanoseconds.

Invariants
  SC1  Workers that are compared take turns step by step, so a stall of the machine hits both.
  SC2  A step counts from the call that lets the source send to the moment the worker has nothing
       left to do and every frontier has moved.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc

from service.bench.document import Figure
from service.clock import SystemClock
from service.dataflow.flow import Flow
from service.dataflow.graph import Dataflow
from service.dataflow.operator import OperatorContext
from service.dataflow.operators import MapOperator
from service.dataflow.progress.summary import identity
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.vertices import KafkaSource, MapVertex
from service.dataflow.worker import Worker

IDLE_OPERATORS = 1_000
#: Share of a step that they may add.
BOUND_IDLE = 0.05
OPERATORS = 10
#: What a batch of one row may take through them, microseconds.
BOUND_ROW_US = 300.0

_SAME = {(0, 0): identity(1)}
_Map = Callable[[pa.RecordBatch], pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How many steps are measured, after how many that are not."""

    steps: int = 2_000
    warm_up: int = 200


class _Feed:
    """A source: sends one batch and closes the epoch when told to."""

    def open(self, context: OperatorContext) -> None:
        """Take the port and the right to send."""
        self._context = context
        (self._output,) = context.outputs
        self._right = context.initial[0]
        self._batch: pa.RecordBatch | None = None

    def tick(self, batch: pa.RecordBatch | None) -> None:
        """Send `batch`, if there is one, and close the epoch in the next step."""
        self._batch = batch
        self._context.activate()

    def step(self) -> None:
        """Do what was told; nothing when the dataflow begins."""
        batch, self._batch = self._batch, None
        if batch is not None:
            self._output.send(self._right, batch)
        (epoch,) = self._right.time
        self._right.downgrade((epoch + 1,))


class _Sink:
    """Takes batches in and counts their rows."""

    def __init__(self) -> None:
        """Nothing came."""
        self.rows = 0

    def open(self, context: OperatorContext) -> None:
        """Take the port."""
        (self._input,) = context.inputs

    def step(self) -> None:
        """Take everything in."""
        while (message := self._input.pull()) is not None:
            batch = message.payload
            assert isinstance(batch, pa.RecordBatch), "a data channel carries record batches"
            self.rows += batch.num_rows


class Line:
    """One worker: a source, the operators of `maps` one after the other, a sink."""

    def __init__(self, batch: pa.RecordBatch, maps: Sequence[_Map], idle: int = 0) -> None:
        """Build it, with `idle` more operators behind a second source that sends nothing."""
        graph = Dataflow()
        self.batch = batch
        self.sink = _Sink()
        self._feed, self._silent = _Feed(), _Feed()
        at = (_source(graph, "in", self._feed), 0)
        silent = (_source(graph, "silent", self._silent), 0)
        for number, function in enumerate(maps):
            batch = function(batch)
            at = (_map(graph, f"map {number}", at, function, batch.schema), 0)
        for number in range(idle):
            _map(graph, f"idle {number}", silent, _unchanged, self.batch.schema)
        end = graph.add("out", self.sink, inputs=1, outputs=0, connectivity={})
        graph.connect(at, (end, 0))
        self._worker = Worker(graph, 0, 1, (0,), MemoryNetwork(1).transport(0))
        self._worker.step()

    def step(self, *, all_epochs: bool = False) -> None:
        """One batch, one epoch; with `all_epochs` the silent source closes its epoch, too (SC2)."""
        self._feed.tick(self.batch)
        if all_epochs:
            self._silent.tick(None)
        self._worker.step()
        assert not self._worker.has_work, "SC2: a step does all there is to do"


def _source(graph: Dataflow, name: str, feed: _Feed) -> int:
    return graph.add(name, feed, inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))


def _map(
    graph: Dataflow, name: str, above: tuple[int, int], function: _Map, schema: pa.Schema
) -> int:
    logic = MapOperator(name, function, schema)
    operator = graph.add(name, logic, inputs=1, outputs=1, connectivity=_SAME)
    graph.connect(above, (operator, 0))
    return operator


def _unchanged(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


def one_row() -> pa.RecordBatch:
    """The batch of one row that is measured."""
    columns = {"auction": [17], "bidder": [4], "price": [250], "note": ["a note of a bid"]}
    return pa.record_batch(columns)


def ten_maps() -> list[_Map]:
    """Filters, selections and arithmetic as a flow has them; none drops the row of `one_row`."""
    flow, price = Flow("ten"), pc.field("price")
    columns = one_row().schema.names
    (
        flow.source("in", KafkaSource(["bids"], record="bid", fields=columns))
        .filter("not cheap", price > 100)
        .select("numbers", "auction", "bidder", "price")
        .with_columns("in euro", euro=pc.multiply(price.cast(pa.float64()), 0.908))
        .filter("bounded", pc.field("euro") < 1e6)
        .with_columns("a pair", pair=pc.field("auction") + pc.field("bidder"))
        .filter("of two", (pc.field("pair") > pc.field("bidder")) & (price < 1000))
        .with_columns("the rest", rest=pc.field("pair") - pc.field("auction"))
        .select("results", "auction", "euro", "rest")
        .filter("still there", pc.field("rest") != 0)
        .select("named", "auction", "euro", bidder=pc.field("rest"))
    )
    maps = [vertex.function for vertex in flow.vertices if isinstance(vertex, MapVertex)]
    assert len(maps) == OPERATORS, "the figure is of ten operators"
    return maps


def _medians(options: StepOptions, steps: Sequence[Callable[[], None]]) -> list[float]:
    """Median microseconds of each of `steps`, which take turns (SC1)."""
    clock = SystemClock()
    took: list[list[int]] = [[] for _ in steps]
    gc.collect()
    gc.freeze()
    try:
        for _ in range(options.warm_up + options.steps):
            for step, times in zip(steps, took, strict=True):
                begun = clock.monotonic_ns()
                step()
                times.append(clock.monotonic_ns() - begun)
    finally:
        gc.unfreeze()
    return [median(times[options.warm_up :]) / 1000 for times in took]


def _bare(batch: pa.RecordBatch, maps: Sequence[_Map]) -> None:
    """The functions of `maps` one after the other, and nothing around them."""
    for function in maps:
        batch = function(batch)


def idle_figures(runs: int, options: StepOptions) -> Iterator[Figure]:
    """Measure a line of one operator with and without idle ones."""
    shares: list[float] = []
    alone: list[float] = []
    ticked: list[float] = []
    for _ in range(runs):
        plain, crowded, moving = (
            Line(one_row(), [_unchanged], idle) for idle in (0, IDLE_OPERATORS, IDLE_OPERATORS)
        )
        base, beside = _medians(options, [plain.step, crowded.step])
        (moved,) = _medians(options, [partial(moving.step, all_epochs=True)])
        shares.append(beside / base - 1)
        alone.append(base)
        ticked.append(moved - base)
    name = f"idle: share of a step that {IDLE_OPERATORS:,} operators add"
    yield Figure.of(name, "", shares, at_most=BOUND_IDLE)
    yield Figure.of("idle: the step without them", "us", alone)
    yield Figure.of("idle: what they add if their epoch closes with it", "us", ticked)


def row_figures(runs: int, options: StepOptions) -> Iterator[Figure]:
    """Measure one row through ten operators, and through as many functions without a worker."""
    whole: list[float] = []
    functions: list[float] = []
    for _ in range(runs):
        line, maps = Line(one_row(), ten_maps()), ten_maps()
        step, alone = _medians(options, [line.step, partial(_bare, one_row(), maps)])
        assert line.sink.rows == options.warm_up + options.steps, "no row is lost on its way"
        whole.append(step)
        functions.append(alone)
    name = f"row: one row through {OPERATORS} operators"
    yield Figure.of(name, "us", whole, at_most=BOUND_ROW_US)
    yield Figure.of("row: their functions alone", "us", functions)
