"""Where the text of each key of windows is found again: beside one of its entries, its *home*.

Flow: entries that are listed -> [Homes.enter]; a key whose text memory lacks -> [Homes.of] -> the
entry beside which it is on disk; windows that are forgotten -> [Homes.ended] -> keys without any.

Invariants
  WH1  A key is here exactly while it has an entry.
  WH2  A key's home is one of its entries of the greatest pane, so it is forgotten with the last.
  WH3  A home and its key are in one bin.
Cost: 40 to 80 bytes a key; a cache miss for each key asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.statestore.arena import LOAD_GREATEST, KeyedTable
from service.statestore.columns import ColumnSpec

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]

_HOME, _PANE = ColumnSpec("home", "int64", 0), ColumnSpec("pane", "int64", 0)
#: Bins that are looked through at once.
_BINS_AT_ONCE = 64
#: Nobody asks which change was the last.
_VERSION = 0


class Homes:
    """The home of each key, in 2**bin_bits bins."""

    def __init__(self, bin_bits: int) -> None:
        """Know no key."""
        self._table = KeyedTable(bin_bits, [_HOME, _PANE])
        # As tables are where memory is short, which it is.
        self._table.arrays.loads[:] = LOAD_GREATEST

    @property
    def count(self) -> int:
        """Keys."""
        return self._table.row_count

    @property
    def nbytes(self) -> int:
        """Bytes of all regions in use."""
        return self._table.nbytes

    def enter(self, entries: Int64s, keys: Int64s, panes: Int64s) -> None:
        """Know entries by their ids, of these keys and panes (WH2)."""
        if not len(entries):
            return
        order = np.lexsort((panes, keys))
        last = order[np.append(keys[order][1:] != keys[order][:-1], True)]
        touched = self._table.touch(keys[last])
        places = last[np.argsort(touched.positions)]
        home, pane = touched.state
        later = panes[places] > pane
        later[touched.new] = True
        home[later], pane[later] = entries[places[later]], panes[places[later]]
        self._table.store(touched, _VERSION)

    def of(self, keys: Int64s) -> tuple[Int64s, Flags]:
        """The homes of those of `keys` that have one, and which these are."""
        slots = self._table.lookup(keys)
        there = slots >= 0
        found: Int64s = self._table.column(_HOME.name)[slots[there]].view(np.int64)
        return found, there

    def keys_of(self, bins: Int64s) -> Int64s:
        """The keys of these bins."""
        return self._table.extract_bins(bins).keys

    def ended(self, first: int, of: Callable[[Int64s], Flags] | None = None) -> Int64s:
        """Keys without an entry in pane `first` or later; only those that `of` tells.

        Cost: a look at all keys, some bins at a time.
        """
        bins = np.flatnonzero(self._table.rows_per_bin())
        found = [np.empty(0, dtype=np.int64)]
        for start in range(0, len(bins), _BINS_AT_ONCE):
            rows = self._table.extract_bins(bins[start : start + _BINS_AT_ONCE])
            ends = rows.columns[_PANE.name] < first
            if of is not None:
                ends &= of(rows.keys)
            found.append(rows.keys[ends])
        return np.concatenate(found)

    def forget(self, keys: Int64s) -> None:
        """Know these keys no more."""
        self._table.remove(keys)

    def delete(self, bin_id: int) -> None:
        """Know no key of the bin."""
        self._table.delete(bin_id)

    def clear(self) -> None:
        """Know no key."""
        self._table.clear()
