"""Log-bucketed histograms of latencies in nanoseconds, one for each window of time.

Flow: due times and the moment they were done -> [Latencies] in a worker -> merged by the process
that started them -> percentiles, complementary distribution, timeline.

The layout is the original's, but finer: 64 linear buckets in each power of two where that has 16,
so a bucket is at most 1.6 % wide; below 128 ns a bucket a nanosecond. The complementary
distribution is given in the original's buckets.

Invariants
  WH1  Every value lies in [lower edge, upper edge) of its bucket; nothing recorded is lost, and
       what would lie outside the last window counts in it.
  WH2  A quantile is the upper edge of the bucket of the value of that rank, and never above the
       largest value, which is kept exactly.
  WH3  A value belongs to the window in which it was *due*: a stall shows where records waited, and
       not where their wait ended.
Source: Tene, HdrHistogram; reference on the original, section 4.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

#: Linear buckets in each power of two.
SUB_BUCKETS = 64
_SUB_BITS = 6
#: The same of the original, 16, each of four of these.
_PRINTED_BITS = 4
#: Values are below 2**40 ns, 18 minutes; longer ones count as that.
_VALUE_MAX = (1 << 40) - 1
BUCKETS = (40 - _SUB_BITS + 1) << _SUB_BITS

Int64s = NDArray[np.int64]
_READ = types.Array(types.int64, 1, "C", readonly=True)
_COUNTS = types.Array(types.int64, 2, "C")
_LINE = types.Array(types.int64, 1, "C")


@njit(inline="always")
def _exponent(value: int, guess: int) -> int:
    """Power of two that a value's bucket is wide; neighbours differ little, so `guess` helps."""
    while (value >> guess) >= 2 * SUB_BUCKETS:
        guess += 1
    while guess > 0 and (value >> guess) < SUB_BUCKETS:
        guess -= 1
    return guess


@njit(
    types.void(
        _COUNTS, _LINE, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64
    ),
    cache=True,
    nogil=True,
)
def _record_run(
    counts: NDArray[np.int64],
    maxima: Int64s,
    start: int,
    width: int,
    first: int,
    interval: int,
    records: int,
    now: int,
) -> None:
    exponent = 0
    for number in range(records):
        due = first + number * interval
        value = min(max(now - due, 0), _VALUE_MAX)
        window = min(max((due - start) // width, 0), counts.shape[0] - 1)
        exponent = _exponent(value, exponent)
        counts[window, (exponent << _SUB_BITS) + (value >> exponent)] += 1
        maxima[window] = max(maxima[window], value)


@njit(
    types.void(_COUNTS, _LINE, types.int64, types.int64, _READ, types.int64),
    cache=True,
    nogil=True,
)
def _record_each(
    counts: NDArray[np.int64], maxima: Int64s, start: int, width: int, dues: Int64s, now: int
) -> None:
    exponent = 0
    for number in range(dues.shape[0]):
        due = dues[number]
        value = min(max(now - due, 0), _VALUE_MAX)
        window = min(max((due - start) // width, 0), counts.shape[0] - 1)
        exponent = _exponent(value, exponent)
        counts[window, (exponent << _SUB_BITS) + (value >> exponent)] += 1
        maxima[window] = max(maxima[window], value)


def bucket_of(value: int) -> int:
    """The bucket of a value >= 0."""
    value = min(max(value, 0), _VALUE_MAX)
    exponent = int(_exponent(value, 0))
    return (exponent << _SUB_BITS) + (value >> exponent)


def lower_edge(bucket: int) -> int:
    """The smallest value of a bucket."""
    if bucket < 2 * SUB_BUCKETS:
        return bucket
    exponent = (bucket >> _SUB_BITS) - 1
    return (SUB_BUCKETS + (bucket & (SUB_BUCKETS - 1))) << exponent


def upper_edge(bucket: int) -> int:
    """The smallest value above a bucket (WH1)."""
    return lower_edge(bucket + 1)


def printed_edge(value: int) -> int:
    """The smallest value above the original's bucket of a value."""
    exponent = max(0, value.bit_length() - 1 - _PRINTED_BITS)
    return ((value >> exponent) + 1) << exponent


@dataclass(frozen=True, slots=True)
class Latency:
    """One distribution: how many values fell into each bucket, and the largest of them."""

    counts: Int64s
    max_ns: int

    @classmethod
    def none(cls) -> Latency:
        """No values."""
        return cls(np.zeros(BUCKETS, dtype=np.int64), 0)

    @property
    def count(self) -> int:
        """How many values there are."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> int:
        """The value below or at which `share` of all lie, ns (WH2); 0 if there are none."""
        reached = np.cumsum(self.counts)
        if not reached[-1]:
            return 0
        rank = max(1, int(np.ceil(share * float(reached[-1]))))
        bucket = int(np.searchsorted(reached, rank))
        return min(upper_edge(bucket), self.max_ns)

    def plus(self, other: Latency) -> Latency:
        """Both together."""
        return Latency(self.counts + other.counts, max(self.max_ns, other.max_ns))

    def ccdf(self) -> Iterator[tuple[int, float, int]]:
        """(upper edge, share of values at or above the lower one, count) of buckets with values.

        Buckets are the original's.
        """
        total = self.count
        above = total
        used = np.flatnonzero(self.counts).tolist()
        for edge, buckets in groupby(used, lambda bucket: printed_edge(lower_edge(bucket))):
            count = int(self.counts[list(buckets)].sum())
            yield edge, above / total, count
            above -= count


class Latencies:
    """A distribution for each window of a run, by when records were due (WH3)."""

    def __init__(self, windows: int, width_ns: int, start_ns: int = 0) -> None:
        """Begin without values; `start_ns` is when the first window begins."""
        assert windows > 0, "a run has a first window"
        self.start_ns = start_ns
        self.width_ns = width_ns
        self.counts = np.zeros((windows, BUCKETS), dtype=np.int64)
        self.maxima = np.zeros(windows, dtype=np.int64)

    def record_run(self, first_due: int, interval: int, records: int, now: int) -> None:
        """Records due at `first_due` and every `interval` from there, all done `now`; ns."""
        _record_run(
            self.counts,
            self.maxima,
            self.start_ns,
            self.width_ns,
            first_due,
            interval,
            records,
            now,
        )

    def record_each(self, dues: Int64s, now: int) -> None:
        """Records due at each of `dues`, all done `now`; ns."""
        _record_each(self.counts, self.maxima, self.start_ns, self.width_ns, dues, now)

    def add(self, other: Latencies) -> None:
        """Take the values of another worker's windows in."""
        self.counts += other.counts
        np.maximum(self.maxima, other.maxima, out=self.maxima)

    def over(self, windows: Int64s) -> Latency:
        """All values of these windows."""
        if not len(windows):
            return Latency.none()
        return Latency(self.counts[windows].sum(axis=0), int(self.maxima[windows].max()))

    def window(self, number: int) -> Latency:
        """The values of one window."""
        return Latency(self.counts[number], int(self.maxima[number]))
