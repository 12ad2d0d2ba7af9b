"""An arena whose rows do not all fit into memory: hot rows here, all others in the slot's database.

Flow: touch -> [TieredTable] recalls what is away by one multi-get -> fold -> store; before the next
touch, where the slot's budget is used up, rows go by the clock: changed ones to the database,
unchanged ones just so.

A row is resident, in the arena, or away (`cold_rows`).

Invariants
  TT1  Whatever `KeyedTable` promises holds of resident and away rows together: a table with a
       budget gives what one without it gives.
  TT2  A resident row that is not DIRTY is in the database as it is here.
Cost: without away rows, that of `KeyedTable`; a recalled row about 5 us, an evicted one about 3 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from service.statestore import _kernels, _layout, _tiers
from service.statestore.arena import LOAD_GREATEST, KeyedTable, Touched
from service.statestore.away_filter import AwayFilter
from service.statestore.cold_rows import ColdRows
from service.statestore.columns import ColumnSpec, Rows, Values
from service.statestore.hosted import KeptRows, StoredValues
from service.statestore.slot_database import SlotDatabase

Int64s = NDArray[np.int64]

#: Away rows that are read where they are go by so many at once.
_PEEKED_AT_ONCE = 4096
#: A full bin is one that has this part of the rows it would double at; it keeps that much.
_FULL = 15 / 16
_KEPT = 7 / 8


class TieredTable(KeyedTable):
    """Rows of one vertex, in memory as far as the budget of `slot` lets them."""

    def __init__(
        self, bin_bits: int, columns: Sequence[ColumnSpec], slot: SlotDatabase, number: int
    ) -> None:
        """Make an empty table of the vertex that has this `number` in the database."""
        super().__init__(bin_bits, columns)
        self.cold = ColdRows(bin_bits, slot, number)
        self._hands = np.zeros(self.bins, dtype=np.int64)
        self._largest = (0, 0)
        #: While set, no row leaves.
        self._held = False
        #: Positions of the last touch that were inserted: new ones, and those that came back.
        self._inserted: Int64s = np.empty(0, dtype=np.int64)
        #: Bytes that the store keeps in memory of every row, resident or away, beside this table.
        self.beside = 0
        #: And what else it keeps beside this table, to be counted.
        self.other_bytes: Callable[[], int] = lambda: 0
        #: How many times a bin was forgotten or replaced, and which of these was the bin's last.
        self.deletions = 0
        self.deleted_at: Int64s = np.zeros(self.bins, dtype=np.int64)
        slot.tables.append(self)

    @property
    def filter(self) -> AwayFilter:
        """Which keys may be in the database."""
        return self.cold.filter

    @property
    def recalled(self) -> int:
        """Rows recalled so far."""
        return self.cold.recalled

    @property
    def evicted(self) -> int:
        """Rows evicted so far."""
        return self.cold.evicted

    # What KeyedTable says of rows, of all of them (TT1) -------------------------------------------

    @property
    def row_count(self) -> int:
        """Rows of all bins. Cost: O(bins)."""
        return super().row_count + self.cold.total

    @property
    def away_count(self) -> int:
        """Rows that are away."""
        return self.cold.total

    @property
    def nbytes(self) -> int:
        """Bytes of all regions in use, and what the away rows would take."""
        return super().nbytes + 8 * self._width * self.cold.total

    @property
    def resident_bytes(self) -> int:
        """Bytes that this table takes of the budget."""
        beside = self.beside * self.row_count if self.beside else 0
        return super().nbytes + self.filter.nbytes + beside + self.other_bytes()

    def rows(self, bin_id: int) -> int:
        """Number of rows of the bin."""
        return super().rows(bin_id) + int(self.cold.away[bin_id])

    def rows_per_bin(self) -> Int64s:
        """Number of rows of every bin, a copy."""
        return super().rows_per_bin() + self.cold.away

    def bin_nbytes(self, bin_id: int) -> int:
        """Bytes of the bin's region, and what its away rows would take."""
        return super().bin_nbytes(bin_id) + 8 * self._width * int(self.cold.away[bin_id])

    def touch(self, keys: Int64s) -> Touched:
        """As `KeyedTable.touch`; away rows of these keys are resident then.

        Raises:
            StateError: the address space is used up, or the database cannot be read or written.
            StateCorrupt: what it gave is no row.
        """
        self.cold.slot.make_room(self)
        touched = super().touch(keys)
        self._inserted = touched.new
        if len(touched.new) and self.cold.total:
            new = touched.keys[touched.new]
            found, values = self._fetch(new)
            if len(found):
                _tiers.fill(self._arena, touched.lines, touched.new[found], values)
                self.cold.came_back(new[found])
                touched = replace(touched, new=np.delete(touched.new, found))
        return touched

    def store(self, touched: Touched, version: int) -> None:
        """As `KeyedTable.store`."""
        super().store(touched, version)
        _tiers.unrefer(self._arena, touched.slots, self._inserted)

    def lookup(self, keys: Int64s) -> Int64s:
        """As `KeyedTable.lookup`; raises as `touch`."""
        if not self._held:
            self.cold.slot.make_room(self)
        slots = super().lookup(keys)
        if self.cold.total and (slots < 0).any():
            absent = np.unique(np.asarray(keys, dtype=np.int64)[slots < 0])
            found, values = self._fetch(absent)
            if len(found):
                incoming = np.empty((self._width, len(found)), dtype=np.int64)
                incoming[_layout.STAMP] = (values[:, 0] + 1) << _layout.MARK_BITS
                incoming[_layout.KEY] = absent[found]
                incoming[_layout.FIRST_COLUMN :] = values[:, 1:].T
                self._append(incoming)
                self.cold.came_back(absent[found])
                slots = super().lookup(keys)
        return slots

    def remove(self, keys: Int64s) -> int:
        """As `KeyedTable.remove`; raises as `touch`."""
        keys = np.unique(np.asarray(keys, dtype=np.int64))
        if not self.resident(keys).all():
            # Else nothing is to come, and nothing may go: rows of a touch that is undone are new.
            self.lookup(keys)
        # All of them are resident now, and have to stay so while others ask for them.
        self._held = True
        try:
            removed = super().remove(keys)
        finally:
            self._held = False
        self.cold.delete(keys)
        return removed

    def discard(self, keys: Int64s) -> None:
        """Remove rows that are all there, each named once; those that are away are not read.

        Raises:
            StateError: the database cannot be written.

        Cost: as `remove` for resident ones; a deletion in the database for what that has.
        """
        resident = super().lookup(keys) >= 0
        away = np.ascontiguousarray(keys[~resident])
        if len(away):
            if self.on_change is not None:
                self.on_change(away)
            self.cold.came_back(away)
        self._held = True
        try:
            super().remove(keys[resident])
        finally:
            self._held = False
        self.cold.delete(keys)

    def peek(self, keys: Int64s) -> tuple[Int64s, Int64s]:
        """Lines of the state columns of those of `keys` that are there, and which these are.

        Nothing comes back: rows that are away are read where they are.

        Raises:
            StateError: the database cannot be read.
            StateCorrupt: what it gave is no row.

        Cost: as `lookup`, but for the memory: beside the lines that of some thousand rows.
        """
        slots = super().lookup(keys)
        lines = np.empty((len(self.columns), len(keys)), dtype=np.int64)
        there = slots >= 0
        lines[:, there] = self._arena.cells[slots[there], _layout.FIRST_COLUMN :].T
        if self.cold.total and not there.all():
            absent = np.flatnonzero(~there)
            for start in range(0, len(absent), _PEEKED_AT_ONCE):
                some = absent[start : start + _PEEKED_AT_ONCE]
                found, values = self._fetch(keys[some])
                lines[:, some[found]] = values[:, 1:].T
                there[some[found]] = True
        if there.all():
            return lines, np.arange(len(keys))
        return np.ascontiguousarray(lines[:, there]), np.flatnonzero(there)

    def extract_bins(self, bin_ids: Int64s, since: int = 0) -> Rows:
        """As `KeyedTable.extract_bins`.

        Raises:
            StateCorrupt: the database holds other rows than went there.
            StateError: it cannot be read.
        """
        cold = self.cold
        wanted = (cold.away[bin_ids] > 0) & ((since == 0) | (cold.newest[bin_ids] > since))
        if not wanted.any():
            return super().extract_bins(bin_ids, since)
        parts: list[Rows] = []
        for bin_id, reads in zip(bin_ids.tolist(), wanted.tolist(), strict=True):
            parts.append(super().extract_bins(np.array([bin_id], dtype=np.int64), since))
            if reads:
                parts.append(self._away_rows(bin_id, since))
        columns: dict[str, Values] = {
            spec.name: np.concatenate([part.columns[spec.name] for part in parts])
            for spec in self.columns
        }
        return Rows(
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.versions for part in parts]),
            columns,
        )

    def all_keys(self, bin_id: int) -> Int64s:
        """Keys of all rows of the bin, resident and away."""
        resident = super().extract_bins(np.array([bin_id], dtype=np.int64)).keys
        if not self.cold.away[bin_id]:
            return resident
        return np.concatenate([resident, self._away_rows(bin_id, 0).keys])

    def delete(self, bin_id: int) -> None:
        """As `KeyedTable.delete`, in the database as well."""
        super().delete(bin_id)
        self._forget(bin_id)

    def clear(self) -> None:
        """Delete every bin."""
        super().clear()
        self.cold.clear()

    def install(self, bin_id: int, rows: Rows) -> None:
        """As `KeyedTable.install`; what the database had of the bin is deleted."""
        super().install(bin_id, rows)
        self._forget(bin_id)
        self.cold.slot.make_room(self)

    def append(self, rows: Rows) -> None:
        """As `KeyedTable.append`; none of the keys may be away."""
        super().append(rows)
        self.cold.slot.make_room(self)

    def _forget(self, bin_id: int) -> None:
        self.cold.forget(bin_id)
        self.deletions += 1
        self.deleted_at[bin_id] = self.deletions

    # Room -----------------------------------------------------------------------------------------

    @property
    def largest_region_bytes(self) -> int:
        """Bytes of the largest region. Cost: O(bins), if a region has changed since."""
        in_use = int(self._arena.space[_layout.IN_USE])
        if self._largest[0] != in_use:
            order = int((self._arena.regions & _layout.ORDER_MASK).max())
            self._largest = (in_use, (8 * self._width) << order)
        return self._largest[1]

    def evict_full(self) -> int:
        """Evict from bins that are about to double, so that they do not; how many rows.

        Until memory is short bins double at loads that differ, from now on all at the greatest.
        """
        arena = self._arena
        arena.loads[:] = LOAD_GREATEST
        capacity = self._capacities()
        full = np.flatnonzero(arena.rows > _FULL * capacity)
        if not len(full):
            return 0
        keep = (_KEPT * capacity[full]).astype(np.int64)
        return self._evict(full, keep, arena.regions[full] & _layout.ORDER_MASK)

    def shrink(self, nbytes: int) -> int:
        """Give at least `nbytes` of regions back, if there are so many, those filled least first.

        Returns:
            Bytes given back.
        """
        arena = self._arena
        bins = np.flatnonzero(arena.regions != _layout.NO_REGION)
        orders = arena.regions[bins] & _layout.ORDER_MASK
        by_fill = np.argsort(arena.rows[bins] / (1 << orders), kind="stable")
        bins, orders = bins[by_fill], orders[by_fill]
        smallest = orders == _layout.SMALLEST
        after = np.where(smallest, 0, orders - 1)
        freed = (8 * self._width) * ((1 << orders) - np.where(smallest, 0, 1 << after))
        chosen = int(np.searchsorted(np.cumsum(freed), nbytes)) + 1
        bins, after = bins[:chosen], after[:chosen]
        before = super().nbytes
        capacity = (arena.loads[bins] << after) >> _kernels.LOAD_SHIFT
        self._evict(bins, np.where(smallest[:chosen], 0, _KEPT * capacity).astype(np.int64), after)
        return before - super().nbytes

    def _capacities(self) -> Int64s:
        """Rows at which each bin doubles."""
        arena = self._arena
        orders = arena.regions & _layout.ORDER_MASK
        capacities: Int64s = (arena.loads << orders) >> _kernels.LOAD_SHIFT
        return capacities

    def _evict(self, bin_ids: Int64s, keep: Int64s, orders: Int64s) -> int:
        arena = self._arena
        leaving = int(np.maximum(arena.rows[bin_ids] - keep, 0).sum())
        out = np.empty((self._width, leaving), dtype=np.int64)
        count = _tiers.evict(arena, bin_ids, keep, orders, self._hands, out)
        assert count == leaving, "the hand goes round until enough rows have left"
        self.cold.put(_kept(out[:, (out[_layout.STAMP] & _layout.DIRTY) != 0]))
        self.cold.left(out[_layout.KEY])
        self.keeper.give_all_back()
        return count

    # The database ---------------------------------------------------------------------------------

    def take_changed(self, bin_ids: Int64s) -> tuple[Int64s, StoredValues]:
        """Keys of the resident rows that the database lacks, and what it is to keep of each.

        From now on they count as being there (TT2): the caller puts them there, or fails.
        """
        out = np.empty((self._width, int(self._arena.rows[bin_ids].sum())), dtype=np.int64)
        count = _tiers.take_changed(self._arena, bin_ids, out)
        rows = self.cold.dressed(_kept(out[:, :count]))
        self.cold.note_stored(rows.keys, rows.versions)
        return rows.keys, rows.values

    def restored(self, away: Int64s, newest: Int64s, known: AwayFilter) -> None:
        """Take rows that the database has as away, in an empty table."""
        assert not self.row_count, "only an empty table is restored"
        self.cold.restored(away, newest, known)

    def resident_per_bin(self) -> Int64s:
        """Number of resident rows of every bin, a copy."""
        return super().rows_per_bin()

    def resident(self, keys: Int64s) -> NDArray[np.bool_]:
        """Which of these keys are of resident rows."""
        found: NDArray[np.bool_] = super().lookup(keys) >= 0
        return found

    def _fetch(self, keys: Int64s) -> tuple[Int64s, Int64s]:
        """Which of these keys, all of them not resident, are away; and their stored cells."""
        found, values = self.cold.ask(keys)
        return found, self.cold.slot.cells(values, self._width - 1)

    def _away_rows(self, bin_id: int, since: int) -> Rows:
        keys, values = self.cold.bin_values(bin_id)
        cells = self.cold.slot.cells(values, self._width - 1)
        away = super().lookup(keys) < 0
        self.cold.require_count(bin_id, int(away.sum()))
        chosen = away if since == 0 else away & (cells[:, 0] > since)
        cells = cells[chosen]
        columns: dict[str, Values] = {
            spec.name: np.ascontiguousarray(cells[:, 1 + index]).view(spec.dtype)
            for index, spec in enumerate(self.columns)
        }
        return Rows(keys[chosen], cells[:, 0].copy(), columns)


def _kept(out: Int64s) -> KeptRows:
    """Rows of the arena as the database keeps them: version and state columns, as bytes."""
    cells = np.empty((out.shape[1], out.shape[0] - 1), dtype="<i8")
    cells[:, 0] = (out[_layout.STAMP] >> _layout.MARK_BITS) - 1
    cells[:, 1:] = out[_layout.FIRST_COLUMN :].T
    values = cells.view(f"V{8 * cells.shape[1]}").reshape(len(cells))
    return KeptRows(out[_layout.KEY].copy(), cells[:, 0].astype(np.int64), values)
