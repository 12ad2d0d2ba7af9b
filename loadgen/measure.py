"""End-to-end latency, measured where the results come out: at a consumer of the output topic.

Flow: output topic -> ConsumerClient -> [oldest_of kernel] -> [LatencyMeter] -> a JSON document per
window, and a final one.

Each output record carries `oldest`, the intended send time (ms) of the oldest event it absorbed.
Its latency is the moment of consumption minus that. Nothing is subtracted for the generator's
ticks, the client's batching or the broker: a late or queued event makes a late result. `oldest` is
floored to the millisecond and the moment is taken after the fetch, so latency is overstated by up
to 1 ms and never understated.

Two timelines are kept. *Consumed*: windows by the moment of consumption, printed as they close; a
stall shows as windows without records. *Intended*: windows by `oldest`; a stall shows in the
windows of the events that had to wait, which is what a selection "while migrating" must use
(everything due during the interval counts, whenever it came out).

Invariants
  M1  Every payload is either measured once in each timeline or counted as unreadable.
  M2  A consumed window is printed once, in order, after its end; empty ones too.

Source: Hoffmann et al., "Megaphone", section 5 (open loop, latency from the intended time, windows
        of 250 ms).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TypedDict

import numpy as np
from numba import njit
from numpy.typing import NDArray

from loadgen.broker import ConsumerClient
from loadgen.clock import Clock
from loadgen.histogram import Histogram, HistogramDocument, Timeline
from loadgen.payloads import Payloads
from service.nexmark.events import SCHEMA_IDS, schema_text

WINDOW_US = 250_000
_FETCH_SECONDS = 0.05
_DRAIN_SECONDS_MAX = 10.0
_IDLE_US_MAX = 1_000_000
_HEADER_BYTES = 5
_UNREADABLE = np.iinfo(np.int64).min


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
    consumed: list[WindowDocument]
    intended: list[WindowDocument]


@njit(cache=True)
def _longs_field(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    shape: tuple[int, int, int],
    out: NDArray[np.int64],
) -> None:
    """Read one field of records that consist of longs only.

    Args:
        data: what wire messages lie in.
        starts: n; where each starts.
        ends: n; where each ends.
        shape: schema id < 256, number of fields, and which field to read.
        out: n; receives the field, or _UNREADABLE where the message is no such record of exactly
            its length.
    """
    schema_id, fields, wanted = shape
    for i in range(ends.shape[0]):
        start = starts[i]
        end = ends[i]
        out[i] = _UNREADABLE
        at = start + _HEADER_BYTES
        good = at <= end
        if good:
            for byte in range(start, at - 1):
                good = good and data[byte] == 0
            good = good and data[at - 1] == schema_id
        value = np.int64(0)
        for field in range(fields):
            bits = np.uint64(0)
            shift = 0
            while good:
                if at >= end or shift > 63:
                    good = False
                    break
                byte_value = np.uint64(data[at])
                at += 1
                bits |= (byte_value & np.uint64(0x7F)) << np.uint64(shift)
                shift += 7
                if byte_value < np.uint64(0x80):
                    break
            if field == wanted:
                value = np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1))
        if good and at == end:
            out[i] = value


def oldest_of(payloads: Payloads) -> NDArray[np.int64]:
    """The field `oldest` of auction_bids messages, ms; the smallest int64 where unreadable (M1).

    Cost: 20 ns per payload, no Python per payload.
    """
    out = np.empty(len(payloads), dtype=np.int64)
    _longs_field(payloads.data, payloads.starts, payloads.ends, _SHAPE, out)
    return out


def _auction_bids_shape() -> tuple[int, int, int]:
    fields = json.loads(schema_text("auction_bids"))["fields"]
    assert all(field["type"] == "long" for field in fields), "the kernel reads longs only"
    names = [field["name"] for field in fields]
    return SCHEMA_IDS["auction_bids"], len(names), names.index("oldest")


_SHAPE = _auction_bids_shape()


class LatencyMeter:
    """Latencies by window of consumption and by window of intended time. Pure.

    Times given must not decrease; a clock that jumps back counts at the last time seen.
    """

    def __init__(self, start_us: int, window_us: int = WINDOW_US) -> None:
        self.count = 0
        self.unreadable = 0
        self._consumed = Timeline(window_us)
        self._intended = Timeline(window_us)
        self._current = Histogram()
        self._window_us = self._consumed.window_of(start_us)

    def observe(self, payloads: Payloads, now_us: int) -> None:
        """Count output records consumed at `now_us` (M1)."""
        oldest_us = oldest_of(payloads)
        readable = oldest_us != _UNREADABLE
        oldest_us = oldest_us[readable] * 1000
        latencies = now_us - oldest_us
        self.count += len(oldest_us)
        self.unreadable += len(payloads) - len(oldest_us)
        self._intended.record(oldest_us, latencies)
        self._current.record(latencies)

    @classmethod
    def warm_up(cls) -> None:
        """Load or compile the kernels, so that the first results are not charged with it."""
        schema_id, fields, _ = _SHAPE
        record = schema_id.to_bytes(_HEADER_BYTES, "big") + bytes(fields)
        meter = cls(0)
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
            return meter.final()
