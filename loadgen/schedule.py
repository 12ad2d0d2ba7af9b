"""When each event is meant to be sent: the map between event numbers and times.

Flow: [Schedule] -> producer (which events are due now) -> date_time of each event.
Pure. The schedule knows nothing of how fast anything answers; that makes the load open-loop: a
system that stalls finds all events of the stall waiting, each with the time it was meant for.

Invariants
  S1  `times_us` never decreases with the event number.
  S2  n < due(t)  <=>  n < total and times_us(n) <= t. Integer arithmetic, so both sides agree.
  S3  Two processes with the same schedule agree on every time; a process of a shard takes the
      numbers congruent to its index and shares nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

US_PER_SECOND = 1_000_000
NUMBER_MAX = (1 << 63) // US_PER_SECOND  # Beyond it, number * US_PER_SECOND leaves 64 bits.


class Schedule(Protocol):
    """Event numbers 0 .. total - 1 and their intended send times; `shapes` has more of them."""

    @property
    def start_us(self) -> int:
        """When the stream begins, epoch microseconds."""
        ...

    @property
    def total(self) -> int:
        """How many events there are."""
        ...

    def times_us(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Intended send time of each event, epoch microseconds, floored."""
        ...

    def due(self, now_us: int) -> int:
        """How many events are due at a time (S2)."""
        ...

    def reached(self, now_us: int) -> int:
        """How many would be due at a time if the stream had no end."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """Event n at `start_us + floor(n / rate)`.

    Attributes:
        start_us: time of event 0, epoch microseconds.
        rate: events per second, >= 1.
        total: how many events there are.

    Raises:
        ValueError: rate or total out of range.
    """

    start_us: int
    rate: int
    total: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rate < 1:
            raise ValueError(f"rate {self.rate}: must be at least 1 event per second")
        if not 0 <= self.total < NUMBER_MAX:
            raise ValueError(f"total {self.total}: must be 0..{NUMBER_MAX - 1}")

    def times_us(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Intended send time of each event, epoch microseconds, floored."""
        return self.start_us + numbers * US_PER_SECOND // self.rate

    def due(self, now_us: int) -> int:
        """How many events are due at a time (S2)."""
        return min(self.total, self.reached(now_us))

    def reached(self, now_us: int) -> int:
        """How many would be due at a time if the stream had no end.

        floor(n * 10**6 / rate) <= elapsed  <=>  n * 10**6 < (elapsed + 1) * rate, so the count is
        the ceiling of the right side over 10**6.
        """
        elapsed = now_us - self.start_us
        if elapsed < 0:
            return 0
        return -(-(elapsed + 1) * self.rate // US_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several processes that share a schedule: it takes n with n % `count` == `index` (S3).

    Raises:
        ValueError: the index is not one of 0 .. count - 1.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index}/{self.count}: must be 0/N .. (N-1)/N")

    def share(self, due: int) -> int:
        """How many of the events 0 .. due - 1 are this process's."""
        return max(0, -(-(due - self.index) // self.count))

    def numbers(self, first: int, end: int) -> NDArray[np.int64]:
        """Event numbers of this process's events first .. end - 1 (its own count)."""
        return np.arange(first, end, dtype=np.int64) * self.count + self.index


WHOLE = Shard()
