"""Entries of windows of which some are on disk: as `window_table`, over a `TieredTable`.

Flow: `WindowStore` with a budget -> [ColdWindowTable] -> TieredTable. What a batch touches comes
back by one multi-get; what a window that closes gives is read where it is, some bins at a time, and
forgotten without being read again. So nothing comes back because a watermark rises.

Which ids a pane has stays in memory, and the budget counts it. Ids of bins that have left are told
by numbers: each list says after how many deletions of bins it was made.

Invariants
  CW1  An id is listed once for its pane, and its entry is there, resident or away; but for those
       listed before the last deletion of their bin, which `ids_of` leaves out.
  CW2  Results of a key are made of one part of `lines_of`, which holds whole bins.
  CW3  Each pane has so few lists that their ids take nearly all of their memory: a list is at least
       twice as long as the one made after it.
Cost: 8 bytes an entry in memory; of entries that are away 2 to 4 us each time they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.hashing import bins_of
from service.statestore.arena import Touched
from service.statestore.tiered_table import TieredTable
from service.statestore.window_table import WindowTable

Int64s = NDArray[np.int64]

#: Bytes of an entry's id, which stays in memory.
ID_BYTES = 8
#: Entries that are read, or forgotten, at once; of a bin that has more, all.
_AT_ONCE = 4096


class Watcher(Protocol):
    """Told which entries there are."""

    def entered(self, ids: Int64s, identity: Int64s) -> None:
        """Know entries that are listed, by their ids and lines of identity."""
        ...

    def ending(self, first: int, of: Callable[[Int64s], NDArray[np.bool_]] | None) -> None:
        """Know that all entries before pane `first` are dropped next, those that `of` tells."""
        ...


class ColdWindowTable(WindowTable):
    """Entries in a table with a database behind it."""

    def __init__(self, table: TieredTable, like: WindowTable, watcher: Watcher | None) -> None:
        """Find entries as `like` does; the table's budget counts the ids from now on."""
        super().__init__(table, like.lines, hash_bits=like.hash_bits)
        table.beside = ID_BYTES
        self._watcher = watcher
        self._tiered = table
        #: Of each list of `_panes`, the table's deletions when it was made (CW1).
        self._made: dict[int, list[int]] = {}

    def ids_of(self, pane: int) -> Int64s:
        """The ids of a pane's entries (WT2, CW1)."""
        if pane not in self._panes:
            return np.empty(0, dtype=np.int64)
        self._doubtful.discard(pane)
        self._join(pane, 0)
        return self._panes[pane][0]

    def enter(self, touched: Touched) -> None:
        """As `WindowTable.enter`."""
        super().enter(touched)
        if self._watcher is not None and len(touched.new):
            identity = touched.state[: self.lines, touched.new]
            self._watcher.entered(touched.keys[touched.new], identity)

    def loaded(self, ids: Int64s, identity: Int64s) -> None:
        """As `WindowTable.loaded`."""
        super().loaded(ids, identity)
        if self._watcher is not None:
            entries = ~self.are_marks(ids)
            self._watcher.entered(ids[entries], identity[:, entries])

    def ending(self, first: int, of: Callable[[Int64s], NDArray[np.bool_]] | None) -> None:
        """As `WindowTable.ending`."""
        if self._watcher is not None and any(pane < first for pane in self._panes):
            self._watcher.ending(first, of)

    def read(self, ids: Int64s) -> tuple[Int64s, Int64s]:
        """As `WindowTable.read`; what is away stays so."""
        return self._tiered.peek(ids)

    def drop(self, pane: int, of: Callable[[Int64s], NDArray[np.bool_]] | None = None) -> None:
        """As `WindowTable.drop`."""
        super().drop(pane, of)
        if pane not in self._panes:
            self._made.pop(pane, None)

    def lines_of(self, listed: Sequence[Int64s]) -> Iterator[Int64s]:
        """As `WindowTable.lines_of`, each part of some thousand entries or of one bin (CW2)."""
        ordered, ends = [], []
        for ids in listed:
            bins = bins_of(ids, self.table.bin_bits)
            ordered.append(ids[np.argsort(bins, kind="stable")])
            counts = np.bincount(bins, minlength=self.table.bins)
            ends.append(np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts))))
        total = np.sum(ends, axis=0) if ends else np.zeros(self.table.bins + 1, dtype=np.int64)
        for first, behind in _runs(total):
            parts = [
                self.read(ids[end[first] : end[behind]])[0]
                for ids, end in zip(ordered, ends, strict=True)
            ]
            nothing = np.empty((len(self.table.columns), 0), dtype=np.int64)
            yield np.concatenate([nothing, *parts], axis=1)

    def ids_near(self, pane: int, keys: Int64s) -> Int64s:
        """As `WindowTable.ids_near`: those in the keys' bins, so that others are not read."""
        ids = self.ids_of(pane)
        wanted = np.zeros(self.table.bins, dtype=np.bool_)
        wanted[bins_of(np.ascontiguousarray(keys), self.table.bin_bits)] = True
        return ids[wanted[bins_of(ids, self.table.bin_bits)]]

    def left(self) -> None:
        """Nothing to note: the table counts deletions itself (CW1)."""

    def clear(self) -> None:
        """List nothing."""
        super().clear()
        self._made.clear()

    def _remove(self, ids: Int64s) -> None:
        for start in range(0, len(ids), _AT_ONCE):
            self._tiered.discard(ids[start : start + _AT_ONCE])

    def _add(self, pane: int, ids: Int64s) -> None:
        super()._add(pane, ids)
        self._made.setdefault(pane, []).append(self._tiered.deletions)
        listed = self._panes[pane]
        first, size = len(listed) - 1, len(ids)
        while first and len(listed[first - 1]) < 2 * size:
            first -= 1
            size += len(listed[first])
        self._join(pane, first)

    def _join(self, pane: int, first: int) -> None:
        """Make the lists of a pane from number `first` on one, without ids that have left."""
        listed, made, now = self._panes[pane], self._made[pane], self._tiered.deletions
        if first == len(listed) - 1 and made[first] == now:
            return
        parts = []
        for ids, then in zip(listed[first:], made[first:], strict=True):
            if then == now:
                parts.append(ids)
                continue
            bins = bins_of(ids, self.table.bin_bits)
            parts.append(ids[self._tiered.deleted_at[bins] <= then])
        listed[first:], made[first:] = [np.concatenate(parts)], [now]


def _runs(ends: Int64s) -> Iterator[tuple[int, int]]:
    """Runs of bins with about `_AT_ONCE` entries, at least one: the first, and the one behind.

    Args:
        ends: entries of the bins before each, and of all.
    """
    first, bins = 0, len(ends) - 1
    while first < bins:
        behind = int(np.searchsorted(ends, ends[first] + _AT_ONCE, side="right")) - 1
        behind = max(behind, first + 1)
        yield first, behind
        first = behind
