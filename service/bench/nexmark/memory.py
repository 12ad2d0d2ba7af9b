"""A query in one thread without Kafka and codecs: what the dataflow itself can do.

Flow: Drawn -> [run_query] -> StandaloneJob of the service's own gateway, workers and controller ->
Ran: rows of the result, time taken, plans, memory. `paced` gives the same job its rows by a clock.

Invariants
  NM1  What is timed begins with batches that are there, as decoding leaves them, and ends when the
       job has stopped: all windows closed, all results given. No Kafka, no codec, no start-up.
  NM2  Batches come as slices of the columns a source asks for; nothing is prepared that decoding
       would not give. One has about as many rows as a poll of what the query reads, whatever else
       was sent meanwhile: a topic of few events fills its polls, too, when there is a backlog.
"""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from typing import Protocol

import msgspec
import pyarrow as pa

from service.bench.nexmark.peak import peak_memory
from service.bench.nexmark.stream import Drawn
from service.clock import SystemClock
from service.dataflow.flow import Flow
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.errors import MegaphoneError
from service.ids import Slot
from service.migration.controller_events import ControllerSettings
from service.migration.records import LogRecord, ManifestRecord, RequestState, StatusRecord
from service.standalone.job import StandaloneJob
from service.standalone.surroundings import shape_of

BINS = 1024
#: Ticks without rows are not wanted at full speed.
_IDLE_TICK_US = 1_000
#: Share of the input behind which reading waits for the plans to end: rows follow them, too.
_HELD_SHARE = 0.75
_FINAL = (RequestState.COMPLETED, RequestState.REJECTED, RequestState.ABORTED)


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """How a query is run."""

    workers: int = 1
    #: How state moves while it runs: "none", or a strategy; there and back, a quarter of all bins.
    migration: str = "none"
    bins: int = BINS
    #: Rows that are read at once, of all sources together; 0: batches as they were drawn.
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Ran:
    """One run."""

    seconds: float
    rows: pa.Table | None
    #: What its plans have moved.
    moved_bytes: int
    moved_bins: int
    #: Greatest resident memory of the process while it ran, the events included.
    peak_bytes: int = 0


class Rows(Protocol):
    """One source's events."""

    @property
    def schema(self) -> pa.Schema:
        """Their columns."""
        ...

    @property
    def end(self) -> int:
        """Position behind the last row."""
        ...

    def at(self, position: int) -> pa.RecordBatch | None:
        """Rows from a position on; None: there are none, or none yet."""
        ...


class _Batches:
    """One source's events by the position of their first row."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = [each for each in batches if each.num_rows]
        self._starts: list[int] = [0, *accumulate(each.num_rows for each in self._batches)]
        self.schema = batches[0].schema

    @property
    def end(self) -> int:
        """Position behind the last row."""
        return self._starts[-1]

    def at(self, position: int) -> pa.RecordBatch | None:
        """The batch that begins at a position."""
        place = bisect_right(self._starts, position) - 1
        return self._batches[place] if place < len(self._batches) else None


@dataclass
class Around:
    """What the job has around it: events in memory, results in a list."""

    sources: Mapping[str, Rows]
    now_us: Callable[[], int]
    results: list[pa.RecordBatch] = field(default_factory=list)
    #: When each of the results was there.
    stored_us: list[int] = field(default_factory=list)
    statuses: dict[str, StatusRecord] = field(default_factory=dict)
    read_rows: int = 0
    #: Rows after which nothing is read until the plans are done.
    held_at: float = inf
    #: Plans before whose end the input does not end.
    plans: int = 0
    _log: int = 0

    def schema_of(self, vertex: SourceVertex) -> pa.Schema:
        """Columns of a source."""
        return self.sources[vertex.inputs[0]].schema

    def open_sink(self, vertex: SinkVertex, columns: pa.Schema) -> None:
        """Any columns will do."""

    def read(self, topic: str, partition: int, position: int) -> pa.RecordBatch | None:
        """The next batch."""
        if self.read_rows >= self.held_at:
            return None
        rows = self.sources[topic].at(position)
        self.read_rows += 0 if rows is None else rows.num_rows
        return rows

    def at_end(self, topic: str, partition: int, position: int) -> bool:
        """Whether all was read, and no plan is under way."""
        return position >= self.sources[topic].end and self.plans_done

    @property
    def plans_done(self) -> bool:
        """Whether every plan wanted has come to its end."""
        done = sum(each.state in _FINAL for each in self.statuses.values())
        return done >= self.plans

    def store(self, writer: Slot, vertex: SinkVertex, rows: pa.RecordBatch) -> None:
        """Keep results."""
        self.results.append(rows)
        self.stored_us.append(self.now_us())

    def keep(self, record: LogRecord) -> int:
        """The log is in memory."""
        self._log += 1
        return self._log - 1

    def publish(self, status: StatusRecord) -> None:
        """Keep the newest status of a request."""
        self.statuses[status.id] = status

    def keep_manifest(self, manifest: ManifestRecord) -> None:
        """Nobody goes on from it."""


def run_query(flow: Flow, stream: Drawn, options: MemoryOptions) -> Ran:
    """Run a query to the end of a stream.

    Raises:
        MegaphoneError: the job failed, or a plan did not complete.
    """
    read = [vertex for vertex in flow.vertices if isinstance(vertex, SourceVertex)]
    groups = list(_groups(stream, [vertex.name for vertex in read], options.rows))
    sources = {}
    for vertex in read:
        fields, kind = list(vertex.kafka.fields), vertex.name
        sources[vertex.inputs[0]] = _Batches(
            [pa.concat_batches([each[kind].select(fields) for each in group]) for group in groups]
        )
    around = Around(sources, wall_clock())
    total = sum(each.end for each in sources.values())
    if options.migration != "none":
        around.held_at = total * _HELD_SHARE
    driven = drive(flow, around, options, total)
    rows = pa.Table.from_batches(around.results) if around.results else None
    statuses = around.statuses.values()
    return Ran(
        driven.seconds,
        rows,
        sum(each.bytes for each in statuses),
        sum(each.bins for each in statuses),
        driven.peak_bytes,
    )


def wall_clock() -> Callable[[], int]:
    """Epoch microseconds that follow the monotonic clock."""
    clock = SystemClock()
    base_us, base_ns = clock.wall_us(), clock.monotonic_ns()
    return lambda: base_us + (clock.monotonic_ns() - base_ns) // 1_000


@dataclass(frozen=True, slots=True)
class Driven:
    """A job that has come to its end."""

    seconds: float
    #: Greatest resident memory of the process meanwhile.
    peak_bytes: int


def drive(flow: Flow, around: Around, options: MemoryOptions, total: int) -> Driven:
    """Run a job to its end, plans and all (NM1).

    Args:
        flow: the query.
        around: its events.
        options: how it is run.
        total: rows that there are to read; where plans begin is a share of it.

    Raises:
        MegaphoneError: the job failed, or a plan did not complete.
    """
    shape = shape_of(
        flow, workers=options.workers, gateways=1, bins=options.bins, partitions=1, until_end=True
    )
    clock, now_us = SystemClock(), around.now_us
    job = StandaloneJob(
        flow, shape, around, ControllerSettings(), now_us(), idle_tick_us=_IDLE_TICK_US
    )
    requests = _requests(options)
    around.plans = len(requests)
    with peak_memory() as peak, _collected():
        begun = clock.monotonic_ns()
        while not job.ended:
            while requests and around.read_rows >= total * requests[0].share:
                if not requests[0].follows(around.statuses):
                    break
                job.request(requests.pop(0).value, 0, now_us())
            if around.held_at < inf and around.plans_done:
                around.held_at = inf
            job.turn(now_us())
        took = clock.monotonic_ns() - begun
    for status in around.statuses.values():
        if status.state is not RequestState.COMPLETED:
            raise MegaphoneError(f"plan {status.id} is {status.state}: {status.reason}")
    return Driven(took / 1e9, peak.bytes)


def _groups(
    stream: Drawn, kinds: Sequence[str], rows: int
) -> Iterator[list[dict[str, pa.RecordBatch]]]:
    """Batches of the stream that are read as one: of at least so many rows of these types."""
    group: list[dict[str, pa.RecordBatch]] = []
    count = 0
    for each in stream.batches:
        group.append(each)
        count += sum(each[kind].num_rows for kind in kinds)
        if count >= rows:
            yield group
            group, count = [], 0
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class _Request:
    """A plan that is asked for when so much of the input was read, once another has completed."""

    share: float
    value: bytes
    after: str | None

    def follows(self, statuses: Mapping[str, StatusRecord]) -> bool:
        """Whether the one before is done.

        Raises:
            MegaphoneError: it came to another end, so that this one is never due.
        """
        if self.after is None:
            return True
        done = statuses.get(self.after)
        if done is not None and done.state in _FINAL[1:]:
            raise MegaphoneError(f"plan {done.id} is {done.state}: {done.reason}")
        return done is not None and done.state is RequestState.COMPLETED


def _requests(options: MemoryOptions) -> list[_Request]:
    """A quarter of the bins, from the first worker to the last and back."""
    if options.migration == "none":
        return []
    moving = range(options.bins // options.workers)[: options.bins // 4]
    there = [[number, options.workers - 1] for number in moving]
    back = [[number, 0] for number in moving]
    return [
        _Request(share, _value(name, moves, options.migration), after)
        for share, name, moves, after in (
            (0.25, "there", there, None),
            (0.5, "back", back, "there"),
        )
    ]


def _value(name: str, moves: list[list[int]], strategy: str) -> bytes:
    return msgspec.json.encode({"id": name, "kind": "move", "moves": moves, "strategy": strategy})


@contextmanager
def _collected() -> Iterator[None]:
    """What is there already is no garbage to look for."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
