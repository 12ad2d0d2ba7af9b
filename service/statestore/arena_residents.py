"""The rows of a table in memory, as a tier lets them go and takes them back.

Flow: ColdTier -> [ArenaResidents] over a `KeyedTable`, or over a `RowTable` with its index.

The marks are those of the arena's stamps, which kernels set: REFERENCED and DIRTY. A bin from which
rows leave is laid out anew, so that its regions fit what stays.

Invariants
  AR1  A row that stays keeps its version and its DIRTY mark; one that is taken back has neither
       mark.
Cost: about 1 us for each row of a bin that the hand comes by and some rows leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.statestore import _layout
from service.statestore.arena import KeyedTable
from service.statestore.hosted import KeptRows, StoredValues
from service.statestore.row_table import RowTable
from service.statestore.timers import TimerTable

Int64s = NDArray[np.int64]


class ArenaResidents:
    """Resident rows of one table (`cold_tier.Residents`)."""

    def __init__(
        self,
        table: KeyedTable | RowTable,
        read: Callable[[Int64s], tuple[Int64s, StoredValues]],
        put: Callable[[Int64s, Sequence[bytes]], None],
        timers: TimerTable | None = None,
    ) -> None:
        """Let rows of `table` go.

        Args:
            table: the rows in memory.
            read: keys of these bins, bin by bin, and what a checkpoint keeps of each.
            put: adds rows that the table does not have, from what `read` gave.
            timers: of the rows, which stay in memory and count.
        """
        self.bin_bits = table.bin_bits
        self._table = table
        self._index = table if isinstance(table, KeyedTable) else table.index
        self._arenas = [self._index.arrays] if isinstance(table, KeyedTable) else table.arenas
        self._read = read
        self._put = put
        self._timers = timers
        #: The largest region, and the bytes in use when it was looked for.
        self._largest = (-1, 0)

    @property
    def count(self) -> int:
        """Keys of all bins. Cost: O(bins)."""
        return self._index.row_count

    @property
    def nbytes(self) -> int:
        """Bytes of all regions in use, those of timers among them."""
        return self._table.nbytes + (0 if self._timers is None else self._timers.nbytes)

    @property
    def largest_region_bytes(self) -> int:
        """Bytes of the largest region. Cost: O(bins), if a region has changed since."""
        if self._largest[0] != self._table.nbytes:
            largest = max(
                8 * arena.cells.shape[1] << int((arena.regions & _layout.ORDER_MASK).max())
                for arena in self._arenas
            )
            self._largest = (self._table.nbytes, largest)
        return self._largest[1]

    def per_bin(self) -> Int64s:
        """Keys of every bin, a copy."""
        return self._index.rows_per_bin()

    def keys_of(self, bin_id: int) -> Int64s:
        """Keys of a bin."""
        return self._index.extract(bin_id).keys

    def absent(self, keys: Int64s) -> Int64s:
        """Those of `keys` that are not here, each once."""
        distinct = np.unique(keys)
        return distinct[self._index.lookup(distinct) < 0]

    def let_go(self, bins: Int64s) -> tuple[Int64s, KeptRows] | None:
        """Take out the rows of these bins that have no mark, and the marks of the others (AR1)."""
        bins = bins[self._index.arrays.rows[bins] > 0]
        if not len(bins):
            return None
        keys, values = self._read(bins)
        stamps = self._stamps(keys)
        marked = (stamps & _layout.REFERENCED) != 0
        if marked.all():
            self._set_marks(keys, stamps & _layout.DIRTY)
            return None
        for bin_id in bins.tolist():
            self._table.delete(bin_id)
        if marked.any():
            self._put(keys[marked], values[marked].tolist())
            self._set_marks(keys[marked], stamps[marked] & _layout.DIRTY)
        changed = ~marked & ((stamps & _layout.DIRTY) != 0)
        return keys[~marked], _kept(keys, stamps, values, changed)

    def take_changed(self, bins: Int64s) -> KeptRows:
        """The rows of these bins that are DIRTY, and no longer are."""
        keys, values = self._read(bins)
        stamps = self._stamps(keys)
        changed = (stamps & _layout.DIRTY) != 0
        self._set_marks(keys, stamps & _layout.REFERENCED)
        return _kept(keys, stamps, values, changed)

    def take_back(self, keys: Int64s, values: list[bytes]) -> None:
        """Add rows that the database had (AR1)."""
        self._put(keys, values)
        self._set_marks(keys, np.zeros_like(keys))

    def unmark(self, keys: Int64s) -> None:
        """Take REFERENCED from these keys, as far as they are here."""
        slots = self._index.lookup(keys)
        cells = self._index.arrays.cells
        slots = slots[slots >= 0]
        cells[slots, _layout.STAMP] &= ~_layout.REFERENCED

    def _stamps(self, keys: Int64s) -> Int64s:
        """The stamps of keys that are here, a copy."""
        stamps: Int64s = self._index.arrays.cells[self._index.lookup(keys), _layout.STAMP]
        return stamps

    def _set_marks(self, keys: Int64s, marks: Int64s) -> None:
        """Give distinct keys that are here these marks and no others."""
        slots = self._index.lookup(keys)
        cells = self._index.arrays.cells
        cells[slots, _layout.STAMP] = (cells[slots, _layout.STAMP] & ~_layout.MARKS) | marks


def _kept(
    keys: Int64s, stamps: Int64s, values: StoredValues, chosen: NDArray[np.bool_]
) -> KeptRows:
    versions = (stamps[chosen] >> _layout.MARK_BITS) - 1
    return KeptRows(keys[chosen], versions, values[chosen])
