"""End-to-end latency, measured where the results come out: at a consumer of the output topic.

Flow: output topic -> ConsumerClient -> FieldReader -> [LatencyMeter] -> a JSON document per window,
and a final one.

Each output record carries a time: of an aggregate, `oldest`, the intended send time (ms) of the
oldest event it absorbed; of a windowed result, the window's end or start, which `dates` turns into
the intended send time of the event that let the watermark pass. Its latency is the moment of
consumption minus that. Nothing is subtracted for the generator's ticks, the client's batching or
the broker: a late or queued event makes a late result. Dates are floored to the millisecond and the
moment is taken after the fetch, so latency is overstated by up to 1 ms and never understated.

Two timelines are kept. *Consumed*: windows by the moment of consumption, printed as they close; a
stall shows as windows without records. *Intended*: windows by `oldest`; a stall shows in the
windows of the events that had to wait, which is what a selection "while migrating" must use
(everything due during the interval counts, whenever it came out).

Invariants
  M1  Every payload is measured once in each timeline, or counted as unreadable or as closed by the
      end of the stream.
  M2  A consumed window is printed once, in order, after its end; empty ones too.

Source: Hoffmann et al., "Megaphone", section 5 (open loop, latency from the intended time, windows
        of 250 ms).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from loadgen.broker import ConsumerClient
from loadgen.clock import Clock
from loadgen.dates import NEVER, EventDates
from loadgen.fields import UNREADABLE, AvroField, FieldReader, JsonField
from loadgen.histogram import Histogram, HistogramDocument, Timeline
from loadgen.payloads import Payloads
from service.nexmark.events import SCHEMA_IDS, schema_text

#: From the numbers in results to the times that their latencies count from.
Intended = Callable[[NDArray[np.int64]], NDArray[np.int64]]

WINDOW_US = 250_000
_FETCH_SECONDS = 0.05
_DRAIN_SECONDS_MAX = 10.0
_IDLE_US_MAX = 1_000_000


class WindowDocument(TypedDict):
    """One window as printed: latency of the records in it, and the histogram behind it."""

    t_us: int
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    histogram: HistogramDocument


class FinalDocument(TypedDict):
    """What a measurement ends with."""

    kind: str
    window_us: int
    count: int
    unreadable: int
    closed_by_end: int
    #: Processor time of the meter from its first fetch on.
    cpu_us: int
    consumed: list[WindowDocument]
    intended: list[WindowDocument]


def auction_bids(field: str = "oldest") -> AvroField:
    """Reader of a field of auction_bids results.

    Raises:
        FieldUnknown: they have no such number.
    """
    schema = json.loads(schema_text("auction_bids"))
    return AvroField(schema, SCHEMA_IDS["auction_bids"], field)


def sent_at(dates_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """The intended time of events whose date is the time they are sent at."""
    return dates_ms * 1000


def closed_by(
    dates: EventDates, *, after_ms: int
) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """The intended time of the event that let the watermark close each window.

    Args:
        dates: of the stream.
        after_ms: what is added to the number in a result: the bound of out-of-orderness, and the
            size of the window if the number is its start.
    """
    return lambda numbers_ms: dates.passing_us(numbers_ms + after_ms)


class LatencyMeter:
    """Latencies by window of consumption and by window of intended time. Pure.

    Times given must not decrease; a clock that jumps back counts at the last time seen.
    """

    def __init__(
        self,
        start_us: int,
        window_us: int = WINDOW_US,
        *,
        reader: FieldReader | None = None,
        intended: Intended = sent_at,
    ) -> None:
        """Prepare to measure from `start_us` on.

        Args:
            start_us: time of the first window, epoch microseconds.
            window_us: length of a window.
            reader: takes a number out of each result; by default `oldest` of auction_bids.
            intended: from those numbers to the times that latencies count from, epoch
                microseconds, or NEVER.
        """
        self.count = 0
        self.unreadable = 0
        #: Results of windows that no event closed, but the end of the stream.
        self.closed_by_end = 0
        self._reader = reader or auction_bids()
        self._intended_of = intended
        self._consumed = Timeline(window_us)
        self._intended = Timeline(window_us)
        self._current = Histogram()
        self._window_us = self._consumed.window_of(start_us)

    def observe(self, payloads: Payloads, now_us: int) -> None:
        """Count output records consumed at `now_us` (M1)."""
        numbers = self._reader.values(payloads)
        if (numbers == UNREADABLE).any():
            numbers = numbers[numbers != UNREADABLE]
        intended_us = self._intended_of(numbers)
        if len(intended_us) and int(intended_us.min()) == NEVER:
            intended_us = intended_us[intended_us != NEVER]
        self.unreadable += len(payloads) - len(numbers)
        self.closed_by_end += len(numbers) - len(intended_us)
        self.count += len(intended_us)
        latencies = now_us - intended_us
        self._intended.record(intended_us, latencies)
        self._current.record(latencies)

    @classmethod
    def warm_up(cls) -> None:
        """Load or compile the kernels, so that the first results are not charged with it."""
        record = SCHEMA_IDS["auction_bids"].to_bytes(5, "big") + bytes(5)
        meter = cls(0)
        for reader in (auction_bids(), JsonField("oldest")):
            meter._reader = reader
            meter.observe(Payloads.of([record, b""]), 0)
        list(meter.closed_windows(meter._window_us + 2 * WINDOW_US))
        meter.final()

    def closed_windows(self, now_us: int) -> Iterator[WindowDocument]:
        """The consumed windows that have ended since the last call, each once (M2).

        Caller: before `observe` with the same time, so that no record lands in an ended window.
        """
        width = self._consumed.window_us
        while self._window_us + width <= now_us:
            yield window_document(self._window_us, self._current)
            self._consumed.put(self._window_us, self._current)
            self._current = Histogram()
            self._window_us += width

    def final(self) -> FinalDocument:
        """Everything measured, the window still open included."""
        consumed = [window_document(*window) for window in self._consumed.windows()]
        if self._current.count:
            consumed.append(window_document(self._window_us, self._current))
        return {
            "kind": "final",
            "window_us": self._consumed.window_us,
            "count": self.count,
            "unreadable": self.unreadable,
            "closed_by_end": self.closed_by_end,
            "cpu_us": 0,
            "consumed": consumed,
            "intended": [window_document(*window) for window in self._intended.windows()],
        }


def window_document(start_us: int, histogram: Histogram) -> WindowDocument:
    """A window as printed."""
    return {
        "t_us": start_us,
        "count": histogram.count,
        "p50_ms": histogram.quantile(0.5) / 1000,
        "p99_ms": histogram.quantile(0.99) / 1000,
        "max_ms": histogram.max_us / 1000,
        "histogram": histogram.document(),
    }


def run(
    client: ConsumerClient,
    meter: LatencyMeter,
    clock: Clock,
    emit: Callable[[WindowDocument], None],
    stop: Callable[[], bool],
) -> FinalDocument:
    """Measure until told to stop, then what the topic still holds, and return the final document.

    The end is bounded: 10 s, or 1 s in which nothing more arrives.

    Raises:
        LoadError: the broker refuses to go on.
    """
    stopped_us = last_us = 0
    begun_us = clock.cpu_us()
    while True:
        payloads = client.fetch(_FETCH_SECONDS)
        now = clock.wall_us()
        for window in meter.closed_windows(now):
            emit(window)
        if len(payloads):
            meter.observe(payloads, now)
            last_us = now
        if stopped_us == 0 and stop():
            stopped_us = last_us = now
        if stopped_us and (
            now - stopped_us > _DRAIN_SECONDS_MAX * 1e6
            or now - last_us > _IDLE_US_MAX
            or not (len(payloads) or client.behind())
        ):
            return {**meter.final(), "cpu_us": clock.cpu_us() - begun_us}
