"""Windows of one size that begin at regular times, and the panes that they are put together from.

Flow: a window of the users' API, in the unit of the stream's event times -> [Panes] -> the stores
of windows ask it which pane a time is in, which windows are closed, and what may be forgotten.

Window number j is [j * every, j * every + size), whatever the sign of j: windows are aligned to
1970. A pane is the greatest part that every window is made of whole; a row belongs to one pane, and
a window's result is that of its panes together. Pane number p begins at p * pane.

Windows that rows bring along (`given`) have their end as number, and one pane of that number.

Invariants
  PA1  Numbers are of Python, so that nothing overflows; what leaves is cut off where an int64
       ends.
  PA2  A window closes when W >= end, and is forgotten when W >= end + lateness. A row is late when
       the last window that it belongs to is forgotten.
  PA3  At the end of all input every window is closed and forgotten, also one that would end beyond
       what an int64 holds.
Source: Li, Maier, Tufte, Papadimos, Tucker, "No Pane, No Gain", SIGMOD Record 2005.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Self

from service.statestore.timed import ALL, NEVER


@dataclass(frozen=True, slots=True)
class Panes:
    """Windows of `size` that begin at every multiple of `every`, and are kept `lateness` longer."""

    size: int
    every: int
    lateness: int
    #: Length of a pane.
    pane: int
    #: Panes of a window.
    width: int
    #: Panes from the beginning of one window to that of the next.
    step: int

    @classmethod
    def of(cls, size: int, every: int, lateness: int = 0) -> Self:
        """Windows with 0 < every <= size and lateness >= 0."""
        assert 0 < every <= size, "the flow refuses others"
        assert lateness >= 0, "the flow refuses it otherwise"
        pane = gcd(size, every)
        return cls(size, every, lateness, pane, size // pane, every // pane)

    @classmethod
    def given(cls, lateness: int = 0) -> Self:
        """Windows that rows bring along; their numbers are their ends."""
        return cls(0, 1, lateness, 1, 1, 1)

    @property
    def has_memory(self) -> bool:
        """Whether something of a window stays when it has been given."""
        return self.width > 1 or self.lateness > 0

    def closed(self, watermark: int) -> int:
        """The last window that is closed at `watermark` (PA2, PA3)."""
        return self._ended(watermark, 0)

    def forgotten(self, watermark: int) -> int:
        """The last window that is forgotten at `watermark` (PA2, PA3)."""
        return self._ended(watermark, self.lateness)

    def _ended(self, watermark: int, longer: int) -> int:
        if watermark == ALL:
            return ALL // self.every
        return (watermark - longer - self.size) // self.every

    def end_of_closed(self, watermark: int) -> int:
        """End of the last window that is closed at `watermark`; NEVER if none can be."""
        if watermark == ALL:
            return ALL
        return max(self.closed(watermark) * self.every + self.size, NEVER)

    def after(self, end: int) -> int:
        """The first window that ends after `end`, which is of a window; see `end_of_closed`."""
        return (end - self.size) // self.every + 1

    def first_kept(self, forgotten: int) -> int:
        """The first pane of the windows after `forgotten`: earlier ones serve no window."""
        return (forgotten + 1) * self.step

    def windows(self, pane: int) -> tuple[int, int]:
        """The first and the last window that the pane is part of."""
        return -((self.width - 1 - pane) // self.step), pane // self.step

    def windows_within(self, pane: int, first: int, last: int) -> range:
        """The windows from `first` to `last` that the pane is part of."""
        windows = self.windows(pane)
        return range(max(windows[0], first), min(windows[1], last) + 1)

    def panes(self, window: int) -> range:
        """The panes of a window."""
        first = window * self.step
        return range(first, first + self.width)

    def bounds(self, window: int) -> tuple[int, int]:
        """Start and end of a window, cut off at the ends of int64 (PA1)."""
        start = window * self.every
        return max(start, NEVER), min(start + self.size, ALL)
