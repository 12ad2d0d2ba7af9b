"""Log-bucketed histograms of latencies: mergeable, exact in count, sum and extremes.

Flow: latencies (µs) -> [Histogram per window] -> JSON line, report, selection by time.
Pure.

The layout is HDR's: values below 128 µs have a bucket each; above, each power of two is divided
into 64 equal buckets. With v in a bucket of width 2**e starting at 2**e * s, 64 <= s < 128, the
relative width is 1/s <= 1/64.

Invariants
  L1  A quantile is the nearest-rank value's bucket edge: true <= reported < true * (1 + 1/64),
      and never above the exact maximum.
  L2  Merging is associative and commutative, and equals recording everything into one.
  L3  Values are clamped to 0 .. VALUE_MAX; nothing recorded is lost from the count.

Source: Tene, HdrHistogram (the bucket layout); Megaphone's harness uses 16 buckets per power.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TypedDict

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SUB_BITS = 6
_LINEAR = 2 << _SUB_BITS  # 128: below it a bucket per value.
VALUE_MAX = (1 << 40) - 1  # 12.7 days in microseconds.
BUCKETS = ((40 - _SUB_BITS - 1) << _SUB_BITS) + _LINEAR


class HistogramDocument(TypedDict):
    """JSON form of a histogram; `buckets` has [bucket, count] of the non-empty ones, ascending."""

    count: int
    sum_us: int
    min_us: int
    max_us: int
    buckets: list[list[int]]


@njit(cache=True)
def _record(
    counts: NDArray[np.int64], values: NDArray[np.int64], extremes: NDArray[np.int64]
) -> int:
    """Count each value; widen `extremes` (min, max); return the sum of the clamped values."""
    total = 0
    for i in range(values.shape[0]):
        value = min(max(values[i], 0), VALUE_MAX)
        exponent = 0
        while value >> exponent >= _LINEAR:
            exponent += 1
        counts[(exponent << _SUB_BITS) + (value >> exponent)] += 1
        extremes[0] = min(extremes[0], value)
        extremes[1] = max(extremes[1], value)
        total += value
    return total


def upper_edges() -> NDArray[np.int64]:
    """The largest value of each bucket, ascending."""
    bucket = np.arange(BUCKETS, dtype=np.int64)
    exponent = np.maximum((bucket >> _SUB_BITS) - 1, 0)
    edges: NDArray[np.int64] = ((bucket - (exponent << _SUB_BITS) + 1) << exponent) - 1
    return edges


_EDGES = upper_edges()
_EDGES.setflags(write=False)


class Histogram:
    """Counts of latencies in microseconds. Memory: 18 KB."""

    __slots__ = ("_counts", "_extremes", "_sum")

    def __init__(self) -> None:
        self._counts = np.zeros(BUCKETS, dtype=np.int64)
        self._extremes = np.array([VALUE_MAX, 0], dtype=np.int64)
        self._sum = 0

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """A new histogram of everything in `parts` (L2)."""
        out = cls()
        for part in parts:
            out.add(part)
        return out

    @classmethod
    def of_document(cls, document: HistogramDocument) -> Histogram:
        """The histogram that `document()` described."""
        out = cls()
        if document["count"] == 0:
            return out
        buckets = np.array(document["buckets"], dtype=np.int64)
        out._counts[buckets[:, 0]] = buckets[:, 1]
        out._extremes[:] = document["min_us"], document["max_us"]
        out._sum = document["sum_us"]
        assert out.count == document["count"], "L3"
        return out

    def record(self, values_us: NDArray[np.int64]) -> None:
        """Count values, in any order. Cost: a few nanoseconds each."""
        self._sum += int(_record(self._counts, values_us, self._extremes))

    def add(self, other: Histogram) -> None:
        """Count everything `other` has counted, too (L2)."""
        self._counts += other._counts
        self._extremes[0] = min(self._extremes[0], other._extremes[0])
        self._extremes[1] = max(self._extremes[1], other._extremes[1])
        self._sum += other._sum

    @property
    def count(self) -> int:
        """How many values have been recorded."""
        return int(self._counts.sum())

    @property
    def sum_us(self) -> int:
        """Exact sum of the values."""
        return self._sum

    @property
    def min_us(self) -> int:
        """Exact smallest value; 0 when empty."""
        return int(self._extremes[0]) if self.count else 0

    @property
    def max_us(self) -> int:
        """Exact largest value; 0 when empty."""
        return int(self._extremes[1])

    def quantile(self, fraction: float) -> int:
        """The nearest-rank `fraction` quantile in microseconds, rounded up (L1); 0 when empty."""
        count = self.count
        if count == 0:
            return 0
        rank = max(1, int(np.ceil(fraction * count)))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(int(_EDGES[bucket]), self.max_us)

    def ccdf(self) -> Iterator[tuple[int, float]]:
        """(value in µs, share of values above it) at each non-empty bucket, values ascending."""
        count = self.count
        above = count - np.cumsum(self._counts)
        for bucket in np.flatnonzero(self._counts):
            yield min(int(_EDGES[bucket]), self.max_us), int(above[bucket]) / count

    def document(self) -> HistogramDocument:
        """The JSON form; `of_document` reads it back to an equal histogram."""
        filled = np.flatnonzero(self._counts)
        return {
            "count": self.count,
            "sum_us": self._sum,
            "min_us": self.min_us,
            "max_us": self.max_us,
            "buckets": np.column_stack([filled, self._counts[filled]]).tolist(),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.document() == other.document()

    __hash__ = None  # type: ignore[assignment]  # mutable: equal now need not stay equal


class Timeline:
    """One histogram per window of `window_us`, aligned to multiples of it since 1970.

    Windows that are no longer written to are packed: about 1 KB instead of 18.
    """

    __slots__ = ("_open", "_packed", "window_us")

    _OPEN_MAX = 16

    def __init__(self, window_us: int) -> None:
        self.window_us = window_us
        #: {window start: histogram}, the latest used last; at most _OPEN_MAX.
        self._open: dict[int, Histogram] = {}
        #: {window start: JSON of its document}; disjoint from `_open`.
        self._packed: dict[int, bytes] = {}

    def window_of(self, time_us: int) -> int:
        """Start of the window that a time falls into."""
        return time_us // self.window_us * self.window_us

    def record(self, times_us: NDArray[np.int64], values_us: NDArray[np.int64]) -> None:
        """Count each value in the window of its time. Cost: per batch and window, not per value."""
        if not len(times_us):
            return
        first, last = self.window_of(int(times_us.min())), self.window_of(int(times_us.max()))
        if (
            first == last
        ):  # As nearly always; to look for the windows would cost more than all else.
            self._histogram(first).record(values_us)
            return
        windows = times_us // self.window_us * self.window_us
        for start in np.unique(windows).tolist():
            self._histogram(start).record(values_us[windows == start])

    def put(self, start_us: int, histogram: Histogram) -> None:
        """Keep a whole window that is not in the timeline yet and will not grow."""
        assert start_us not in self._packed, "one histogram per window"
        self._packed[start_us] = _pack(histogram)

    def windows(self) -> Iterator[tuple[int, Histogram]]:
        """(window start, histogram) of each window with values, times ascending."""
        for start in sorted([*self._open, *self._packed]):
            opened = self._open.get(start)
            yield start, opened if opened is not None else _unpack(self._packed[start])

    def _histogram(self, start: int) -> Histogram:
        packed = self._packed.pop(start, None)
        opened = self._open.pop(start, None)
        if opened is None:
            opened = Histogram() if packed is None else _unpack(packed)
        self._open[start] = opened
        if len(self._open) > self._OPEN_MAX:
            oldest = next(iter(self._open))
            self._packed[oldest] = _pack(self._open.pop(oldest))
        return opened


def _pack(histogram: Histogram) -> bytes:
    return json.dumps(histogram.document()).encode()


def _unpack(packed: bytes) -> Histogram:
    return Histogram.of_document(json.loads(packed))
