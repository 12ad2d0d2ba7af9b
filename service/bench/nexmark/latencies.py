"""Latencies by the time their events were due, and what they come to over stretches of time.

Flow: the meter's final document, or due times and latencies -> [Timeline] -> [Timeline.within] ->
Latency. Pure.

The layout of buckets is the load generator's (L1 of loadgen/histogram.py): a value up to 127 us
has a bucket of its own, above it each power of two is cut into 64.

Invariants
  LT1  A window belongs to the time at which its events were due, so a stall shows where events had
       to wait, and not where their wait ended.
  LT2  A percentile is the upper edge of the bucket of the value of that rank, and never above the
       greatest value, which is kept exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_LINEAR = 128
_SUB_BITS = 6
WINDOW_US = 100_000

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution, in milliseconds."""

    count: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Window:
    """Latencies of what was due within a stretch of time."""

    start_us: int
    #: Values in each bucket.
    counts: Mapping[int, int]
    max_us: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """Windows of one length, by when their events were due (LT1)."""

    width_us: int
    windows: Sequence[Window]

    @classmethod
    def of_document(cls, final: Mapping[str, Any]) -> Self:
        """What the meter says at its end (`nexmark-loadgen measure`)."""
        windows = [
            Window(
                each["t_us"],
                dict(each["histogram"]["buckets"]),
                each["histogram"]["max_us"],
            )
            for each in final["intended"]
        ]
        return cls(final["window_us"], windows)

    @classmethod
    def of_values(
        cls, due_us: NDArray[np.int64], latencies_us: NDArray[np.int64], width_us: int = WINDOW_US
    ) -> Self:
        """Latencies of events that were due at these times."""
        starts = due_us // width_us * width_us
        windows = []
        for start in np.unique(starts).tolist():
            values = np.maximum(latencies_us[starts == start], 0)
            numbers, counts = np.unique(buckets_of(values), return_counts=True)
            held = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            windows.append(Window(start, held, int(values.max())))
        return cls(width_us, windows)

    def within(self, spans: Sequence[Span], without: Sequence[Span] = ()) -> Latency | None:
        """All windows that begin in one of the spans and touch none of `without`.

        Returns:
            None if there was nothing.
        """
        return _summed(
            each
            for each in self.windows
            if any(begin <= each.start_us < end for begin, end in spans)
            and not self._touches(each, without)
        )

    def touching(self, parts: Sequence[Span], within: Span) -> Latency | None:
        """All windows that begin in a span and have a part in one of `parts`; None: nothing."""
        begin, end = within
        return _summed(
            each
            for each in self.windows
            if begin <= each.start_us < end and self._touches(each, parts)
        )

    def _touches(self, window: Window, spans: Sequence[Span]) -> bool:
        end_us = window.start_us + self.width_us
        return any(begin < end_us and window.start_us <= end for begin, end in spans)


def buckets_of(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket of each value >= 0."""
    # frexp gives the number of bits of a whole number below 2**53, exactly.
    bits = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    exponent = np.maximum(bits - _SUB_BITS - 1, 0)
    found: NDArray[np.int64] = (exponent << _SUB_BITS) + (values >> exponent)
    return found


def upper_edge(bucket: int) -> int:
    """The greatest value of a bucket."""
    if bucket < _LINEAR:
        return bucket
    exponent = (bucket >> _SUB_BITS) - 1
    return ((bucket - (exponent << _SUB_BITS) + 1) << exponent) - 1


def latency_cells(found: Iterable[Latency | None]) -> tuple[str, str, str]:
    """Medians of p50, p99 and the greatest over runs, for a table; empty without any."""
    there = [each for each in found if each is not None]
    if not there:
        return "", "", ""
    p50, p99, most = (
        median(getattr(each, name) for each in there) for name in ("p50", "p99", "max")
    )
    return f"{p50:.1f}", f"{p99:.1f}", f"{most:.1f}"


def _summed(windows: Iterable[Window]) -> Latency | None:
    counts: Counter[int] = Counter()
    most = 0
    for each in windows:
        counts.update(each.counts)
        most = max(most, each.max_us)
    total = counts.total()
    if not total:
        return None
    quantile = _quantiles(counts, total, most)
    return Latency(total, quantile(0.5) / 1000, quantile(0.99) / 1000, most / 1000)


def _quantiles(counts: Counter[int], total: int, most: int) -> Callable[[float], int]:
    """From a share to the value of that rank (LT2)."""
    numbers = sorted(counts)
    reached = np.cumsum([counts[number] for number in numbers])

    def quantile(share: float) -> int:
        rank = max(1, int(np.ceil(share * total)))
        return min(upper_edge(numbers[int(np.searchsorted(reached, rank))]), most)

    return quantile
