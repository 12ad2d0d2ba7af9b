"""A query in one thread, without Kafka and codecs, at a rate: how late its results are.

Flow: Drawn, events a second -> [run_paced]: the job of `memory`, given its rows by a schedule ->
results and when each was there -> due -> PacedRun.

The schedule is an open one, and begins when the job first asks: a row is there from the moment it
is due on, whether the job asks or not, and a latency counts from then. Event time follows the
clock, as many times as fast as the rate is of 10,000 events a second. As through Kafka, results
that say a time count from it, others are paired with their events; what only the end of the stream
closes is not measured.

Invariants
  PA1  No row is given before it is due, and none is held back: a job that is behind finds all that
       came meanwhile, up to 65,536 rows of a source at once.
  PA2  The moment taken is after the result was given, so a latency is never understated.
  PA3  A result counts as moving if any part of its wait lies within a plan, from its first cut to
       its completion; all others count as steady. The stream ends when the plans have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.bench.nexmark.due import TIMED, UNTIMED, Dating, Waits, waits_of
from service.bench.nexmark.latencies import Latency, Span, Timeline
from service.bench.nexmark.memory import Around, MemoryOptions, drive, wall_clock
from service.bench.nexmark.oracle import Recorded
from service.bench.nexmark.stream import FIRST_MS, Drawn
from service.dataflow.flow import Flow
from service.dataflow.vertices import SourceVertex
from service.nexmark.rules import RULES

_ROWS = 65_536
#: Between the first time that a row is asked for and the first event.
_LEAD_US = 50_000
_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class PacedRun:
    """One run at a rate."""

    rate: int
    #: None: no result was due while nothing moved.
    steady: Latency | None
    moving: Latency | None
    moved_bytes: int
    #: Of the longer of the two moves.
    duration_ms: int
    #: Greatest resident memory of the process while it ran, the events included.
    peak_bytes: int


class DueRows:
    """One source's rows, each from the moment on at which its date has come (PA1)."""

    def __init__(
        self, rows: pa.RecordBatch, dates_ms: NDArray[np.int64], date_now: Callable[[], int]
    ) -> None:
        """Hold rows whose dates never decrease.

        Args:
            rows: all of them.
            dates_ms: of each.
            date_now: the event time that the clock has reached, ms.
        """
        self._rows = rows
        self._dates_ms = dates_ms
        self._date_now = date_now

    @property
    def schema(self) -> pa.Schema:
        """Their columns."""
        return self._rows.schema

    @property
    def end(self) -> int:
        """Position behind the last row."""
        return int(self._rows.num_rows)

    def at(self, position: int) -> pa.RecordBatch | None:
        """What is due from a position on."""
        due = int(np.searchsorted(self._dates_ms, self._date_now(), side="right"))
        count = min(due, position + _ROWS) - position
        return self._rows.slice(position, count) if count > 0 else None


class _Schedule:
    """Event time by the clock, from the first look on."""

    def __init__(self, stream: Drawn, rate: int) -> None:
        self.now_us = wall_clock()
        self._late_ms = stream.options.out_of_order_ms
        self._dilation = Fraction(rate, stream.options.per_second)
        self._dating: Dating | None = None

    def dating(self) -> Dating:
        """How event time follows the clock; making the job is before it."""
        if self._dating is None:
            start_us = self.now_us() + _LEAD_US
            self._dating = Dating(start_us, FIRST_MS * 1000, self._dilation, late_ms=self._late_ms)
        return self._dating

    def date_now(self) -> int:
        """The event time that the clock has reached, ms."""
        dating = self.dating()
        ahead = (self.now_us() - dating.start_us) * dating.dilation.numerator
        return (dating.origin_us + ahead // dating.dilation.denominator) // 1000


def run_paced(
    query: str,
    flow: Flow,
    stream: Drawn,
    recorded: Recorded,
    rate: int,
    options: MemoryOptions | None = None,
) -> PacedRun:
    """Run a query over a whole stream at a rate.

    Args:
        query: q0 to q8.
        flow: it, told how far the stream is out of order.
        stream: the events, in order.
        recorded: the same as tables.
        rate: events a second.
        options: workers, and what moves.

    Raises:
        MegaphoneError: the job failed, or a plan did not complete.

    Cost: the length of the schedule, and for q4 and q6 1 us an event to pair results.
    """
    options = options or MemoryOptions()
    schedule = _Schedule(stream, rate)
    sources = {}
    for vertex in flow.vertices:
        if isinstance(vertex, SourceVertex):
            whole = getattr(recorded, vertex.name)
            read = whole.select(list(vertex.kafka.fields))
            rows = pa.concat_batches(read.to_batches()) if read.num_rows else _none_of(read)
            dates = whole["date_time"].to_numpy()
            sources[vertex.inputs[0]] = DueRows(rows, dates, schedule.date_now)
    around = Around(sources, schedule.now_us)
    driven = drive(flow, around, options, sum(each.end for each in sources.values()))
    dating = schedule.dating()
    plans = list(around.statuses.values())
    steady, moving = split(
        _waits(query, around, recorded, dating),
        last_us=int(dating.due_us(np.array([_last_date(query, recorded)]))[0]),
        spans=[(each.at, each.at + each.duration_ms * 1000) for each in plans if each.at],
    )
    return PacedRun(
        rate,
        steady,
        moving,
        sum(each.bytes for each in plans),
        max((each.duration_ms for each in plans), default=0),
        driven.peak_bytes,
    )


def _none_of(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=table.schema)


def _waits(query: str, around: Around, recorded: Recorded, dating: Dating) -> Waits:
    """When each result was due and there; of every query."""
    if not around.results:
        return Waits(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    results = pa.Table.from_batches(around.results)
    counts = [each.num_rows for each in around.results]
    read_us = np.repeat(np.array(around.stored_us, dtype=np.int64), counts)
    if query in UNTIMED:
        return waits_of(query, results, read_us, recorded, dating)
    column, is_, size_ms = TIMED[query]
    dates = results[column].to_numpy()
    due = dating.due_us(dates) if is_ == "date" else dating.passed_us(dates + size_ms)
    return Waits(due, read_us)


def _last_date(query: str, recorded: Recorded) -> int:
    """The last date that every type of event has come to, and so a watermark."""
    tables = [getattr(recorded, kind) for kind in RULES[query].inputs]
    return min((int(each["date_time"][-1].as_py()) for each in tables if len(each)), default=0)


def split(
    waits: Waits, last_us: int, spans: Sequence[Span]
) -> tuple[Latency | None, Latency | None]:
    """Steady and moving, of what was due before the stream's end (PA3)."""
    within = waits.due_us <= last_us
    due, read = waits.due_us[within], waits.read_us[within]
    moved = np.zeros(len(due), dtype=bool)
    for begin, end in spans:
        moved |= (due <= end) & (read >= begin)
    return _latency(due[~moved], read[~moved]), _latency(due[moved], read[moved])


def _latency(due: NDArray[np.int64], read: NDArray[np.int64]) -> Latency | None:
    return Timeline.of_values(due, read - due, _ALL).within([(0, _ALL)])
