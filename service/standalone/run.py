"""A flow run to the end of its inputs in this process, without Kafka.

Flow: local sources -> [LocalEnds] -> StandaloneJob, its parts taking turns -> [LocalEnds] -> local
sinks. It ends when every source has ended and everything read is written, or as soon as a stop is
asked for, with what was read by then.

Invariants
  LR1  Results are complete, or the run raises and no sink is told that it ended as asked.
  LR2  Nothing is kept for a later run: each begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from service.clock import Clock, SystemClock, sleep
from service.dataflow.connectors import LocalSink, LocalSource, LocalWriter
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import uses_kafka
from service.dataflow.operators import columns_of
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.errors import DataError, GraphError, MegaphoneError, UsageError
from service.hashing import bin_bits_of
from service.ids import Slot
from service.migration.controller_events import ControllerSettings
from service.migration.records import LogRecord, ManifestRecord, StatusRecord
from service.standalone.job import StandaloneJob
from service.standalone.surroundings import shape_of

_IDLE_TICK_US = 5_000
_IDLE_WAIT_S = 0.001


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run has done."""

    rows_read: int
    rows_written: int
    #: Whether every source was read to its end; otherwise a stop was asked for.
    complete: bool


class LocalEnds:
    """Sources and sinks of one run; the `Surroundings` of its job."""

    def __init__(self, flow: Flow) -> None:
        """Ask every source for its columns.

        Raises:
            MegaphoneError: a source cannot be read.
        """
        self._schemas: dict[str, pa.Schema] = {}
        self._batches: dict[str, Iterator[pa.RecordBatch]] = {}
        self._ended: set[str] = set()
        self._writers: dict[str, LocalWriter] = {}
        self._offset = 0
        self.rows_read = 0
        self.rows_written = 0
        for vertex in flow.vertices:
            if isinstance(vertex, SourceVertex):
                assert isinstance(vertex.connector, LocalSource), "no end is Kafka's"
                self._schemas[vertex.name] = vertex.connector.schema()
                self._batches[vertex.name] = vertex.connector.batches()

    def schema_of(self, vertex: SourceVertex) -> pa.Schema:
        """Columns of a source."""
        return self._schemas[vertex.name]

    def open_sink(self, vertex: SinkVertex, columns: pa.Schema) -> None:
        """Open a sink when the first process comes that writes to it."""
        assert isinstance(vertex.connector, LocalSink), "no end is Kafka's"
        if vertex.name not in self._writers:
            self._writers[vertex.name] = vertex.connector.open(columns)

    def read(self, topic: str, partition: int, position: int) -> pa.RecordBatch | None:
        """The next rows of a source, which is read once and in order."""
        while topic not in self._ended:
            rows = self._next(topic)
            if rows is None:
                self._ended.add(topic)
            elif rows.num_rows:
                self.rows_read += rows.num_rows
                return rows
        return None

    def _next(self, name: str) -> pa.RecordBatch | None:
        try:
            rows = next(self._batches[name], None)
        except MegaphoneError:
            raise
        except Exception as error:  # a connector of a user may raise anything
            raise DataError(
                f"source {name!r} raised {type(error).__name__}: {error}; correct the connector"
            ) from error
        if rows is not None and not rows.schema.equals(self._schemas[name]):
            raise GraphError(
                f"source {name!r} gave columns {columns_of(rows.schema)}, but had said "
                f"{columns_of(self._schemas[name])}"
            )
        return rows

    def at_end(self, topic: str, partition: int, position: int) -> bool:
        """Whether a source has ended."""
        return topic in self._ended

    def store(self, writer: Slot, vertex: SinkVertex, rows: pa.RecordBatch) -> None:
        """Write rows."""
        self._writers[vertex.name].write(rows)
        self.rows_written += rows.num_rows

    def keep(self, record: LogRecord) -> int:
        """Number a record of the log; nobody comes later who would read it (LR2)."""
        self._offset += 1
        return self._offset - 1

    def publish(self, status: StatusRecord) -> None:
        """Nobody asks for anything here."""

    def keep_manifest(self, manifest: ManifestRecord) -> None:
        """Nothing is kept (LR2)."""

    def close(self, *, complete: bool) -> None:
        """Close every sink that is open, all of them also if one fails (LR1)."""
        problem: MegaphoneError | None = None
        while self._writers:
            _, writer = self._writers.popitem()
            try:
                writer.close(complete=complete and problem is None)
            except MegaphoneError as error:
                problem = problem or error
        if problem is not None:
            raise problem


def run_local(
    flow: Flow,
    *,
    workers: int = 2,
    gateways: int = 1,
    bins: int = 1024,
    stop_asked: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
) -> RunSummary:
    """Run a flow whose sources and sinks are no Kafka, here, to the end of its sources.

    Args:
        flow: what to run.
        workers: parts over which keyed state is spread; they take turns in this thread.
        gateways: parts that read.
        bins: pieces of keyed state, a power of two.
        stop_asked: looked at in each turn; once true, what was read is finished and nothing more
            is read.
        clock: where time comes from; that of the machine.

    Raises:
        UsageError: the flow's ends are Kafka's, a number is wrong, or a file cannot be opened.
        GraphError: the flow cannot be built.
        UserFunctionError: a function of the flow raised; it names vertex, epoch and batch.
        DataError: a row of a source cannot be used; it names file and line.

    Cost: all parts share one core and pass rows by reference.

    Example:
        >>> import megaphone as mp
        >>> flow, results = mp.Flow("bids"), mp.ListSink()
        >>> bids = flow.source("bids", mp.ListSource([{"auction": 7}, {"auction": 7}]))
        >>> counts = bids.key_by("auction").aggregate("counts", bids=mp.count())
        >>> _ = counts.sink("out", results)
        >>> summary = mp.run_local(flow, bins=16)
        >>> results.rows
        [{'auction': 7, 'bids': 2}]
    """
    flow.check()
    bin_bits_of(bins)
    if min(workers, gateways) < 1:
        raise UsageError(
            f"a job needs at least one worker and one gateway, not {workers} and {gateways}"
        )
    if uses_kafka(flow.vertices):
        raise UsageError(
            f"flow {flow.name!r} reads or writes Kafka; run it with `megaphone run --local` and "
            "--bootstrap-servers, or test it with megaphone.testing"
        )
    clock = clock or SystemClock()
    ends = LocalEnds(flow)
    complete = False
    try:
        complete = _to_the_end(flow, ends, (workers, gateways, bins), stop_asked, clock)
    except BaseException:  # whatever ended it says more than a sink that cannot be closed
        _close_quietly(ends)
        raise
    ends.close(complete=True)
    return RunSummary(ends.rows_read, ends.rows_written, complete)


def _to_the_end(
    flow: Flow,
    ends: LocalEnds,
    size: tuple[int, int, int],
    stop_asked: Callable[[], bool],
    clock: Clock,
) -> bool:
    """Let everybody take turns; whether the sources were read to their ends."""
    workers, gateways, bins = size
    shape = shape_of(
        flow, workers=workers, gateways=gateways, bins=bins, partitions=1, until_end=True
    )
    start_us = clock.wall_us()
    start_ns = clock.monotonic_ns()
    job = StandaloneJob(
        flow, shape, ends, ControllerSettings(), start_us, idle_tick_us=_IDLE_TICK_US
    )
    stopped = False
    while not job.ended:
        now_us = start_us + (clock.monotonic_ns() - start_ns) // 1_000
        if not stopped and stop_asked():
            stopped = True
            job.ask_stop(now_us)
        if not job.turn(now_us):
            sleep(_IDLE_WAIT_S)
    return not stopped


def _close_quietly(ends: LocalEnds) -> None:
    try:
        ends.close(complete=False)
    except MegaphoneError:
        return
