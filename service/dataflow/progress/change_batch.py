"""Signed counts of pointstamps that belong together.

Flow: what one activation of an operator consumed, produced, took and dropped -> [ChangeBatch]
      -> ProgressSender (to everyone) and Tracker.
Pure: a dictionary.

Invariants
  CB1  Counts of one pointstamp are summed, and a sum of zero is not kept.
  CB2  `drain` hands over everything: a batch is one action and is never split.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable

from service.dataflow.progress.timestamp import Timestamp

#: (location, time, signed count)
Change = tuple[int, Timestamp, int]


class ChangeBatch:
    """Sums signed counts by (location, time)."""

    __slots__ = ("_sums",)

    #: {(location, time): sum != 0} (CB1).
    _sums: dict[tuple[int, Timestamp], int]

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        """Start with `changes`."""
        self._sums = {}
        self.extend(changes)

    @property
    def is_empty(self) -> bool:
        """Whether everything recorded has cancelled, or nothing was."""
        return not self._sums

    def update(self, location: int, time: Timestamp, delta: int) -> None:
        """Add `delta` to the count of (location, time)."""
        key = (location, time)
        total = self._sums.get(key, 0) + delta
        if total:
            self._sums[key] = total
        else:
            self._sums.pop(key, None)

    def extend(self, changes: Iterable[Change]) -> None:
        """Add every change of `changes`."""
        for location, time, delta in changes:
            self.update(location, time, delta)

    def drain(self) -> list[Change]:
        """Hand over all changes, in order of first mention, and become empty (CB2)."""
        changes = [(location, time, delta) for (location, time), delta in self._sums.items()]
        self._sums = {}
        return changes

    def count(self, key: tuple[int, Timestamp]) -> int:
        """The sum of one (location, time)."""
        return self._sums.get(key, 0)

    def items(self) -> ItemsView[tuple[int, Timestamp], int]:
        """Look at the sums by (location, time) without draining them."""
        return self._sums.items()

    def __len__(self) -> int:
        """Count the pointstamps whose sum is not zero."""
        return len(self._sums)

    def __repr__(self) -> str:
        """Show the sums."""
        return f"ChangeBatch({self._sums})"
