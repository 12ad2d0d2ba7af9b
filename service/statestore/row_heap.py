"""The heap of a table of typed rows: where the rows of every bin lie.

Flow: RowTable finds or inserts keys in its index -> [RowHeap] adds, walks and takes out the rows of
their chains, by the kernels of _row_heap; moves rows out and in by those of _row_transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt, StateError
from service.statestore import _layout, _regions, _row_cells, _row_heap, _row_transfer
from service.statestore._memory import give_back, new_arena
from service.statestore.arena import KeyedTable, Touched
from service.statestore.columns import Rows
from service.statestore.row_format import Records, RowFormat

Int64s = NDArray[np.int64]

_SLOT_CELLS = 2
_SLOT_BYTES = 8 * _SLOT_CELLS


@dataclass(frozen=True, slots=True)
class Extracted:
    """Rows of some bins outside a table; copies."""

    keys: Int64s
    versions: Int64s
    #: Groups x keys: how many rows.
    counts: Int64s
    #: Where the cells of each key end.
    ends: Int64s
    #: Rows, those of a key together, group by group.
    cells: Int64s

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, chosen: NDArray[np.bool_]) -> Extracted:
        """The rows of the chosen keys; copies."""
        sizes = np.diff(self.ends, prepend=0)
        return Extracted(
            self.keys[chosen],
            self.versions[chosen],
            np.ascontiguousarray(self.counts[:, chosen]),
            np.cumsum(sizes[chosen]),
            self.cells[np.repeat(chosen, sizes)],
        )


@dataclass(frozen=True, slots=True)
class HeapBin:
    """What a bin has in the heap: its region, the cells of it in use, those that are garbage."""

    region: int = _layout.NO_REGION
    used: int = 0
    garbage: int = 0


class RowHeap:
    """Rows of cells, chained by the keys of an index, in regions of bins."""

    def __init__(
        self, index: KeyedTable, formats: Sequence[RowFormat], reserved_bytes: int
    ) -> None:
        """Make an empty heap for rows of these `formats` under the keys of `index`.

        Raises:
            StateError: the system grants no address space.
        """
        self._keys = index
        self._index = index.arrays
        self._bin_bits = index.bin_bits
        self._groups = len(formats)
        self._arena, self._memory = new_arena(
            index.bins,
            _SLOT_CELLS,
            reserved_bytes,
            loads=np.zeros(index.bins, dtype=np.int64),
            initial=np.empty(0, dtype=np.int64),
        )
        #: All cells; addresses of rows are numbers of these.
        self.cells: Int64s = self._arena.cells.reshape(-1)
        self._needed = np.zeros(index.bins, dtype=np.int64)
        places = [form.text_places for form in formats]
        self._texts = np.full((len(formats), max(map(len, places))), -1, dtype=np.int64)
        for group, cells in enumerate(places):
            self._texts[group, : len(cells)] = cells
        self._least = np.array([form.cells_least for form in formats], dtype=np.int64)

    @property
    def arrays(self) -> _layout.Arena:
        """What the heap is made of, to be read."""
        return self._arena

    @property
    def nbytes(self) -> int:
        """Bytes of all regions in use."""
        return int(self._arena.space[_layout.IN_USE]) * _SLOT_BYTES

    def bin_nbytes(self, bin_id: int) -> int:
        """Bytes of the bin's region."""
        region = int(self._arena.regions[bin_id])
        return 0 if region == _layout.NO_REGION else _SLOT_BYTES << (region & _layout.ORDER_MASK)

    def make_room(self, keys: Int64s, sizes: Int64s) -> None:
        """Make room for rows of `sizes` cells under these keys, none of which is touched.

        Raises:
            StateError: the reserved address space is used up; nothing has changed.
        """
        granted = _row_heap.make_room(
            self._index,
            self._arena,
            self.cells,
            self._bin_bits,
            self._groups,
            np.ascontiguousarray(keys),
            np.ascontiguousarray(sizes),
            self._needed,
        )
        if not granted:
            raise StateError(
                f"the table's reserved address space ({self.cells.nbytes} bytes) is used up at "
                f"{self.nbytes} bytes; spread the bins over more workers"
            )

    def add(
        self,
        mode: int,
        touched: Touched,
        groups: Int64s,
        records: Records,
        met: Int64s | None,
    ) -> None:
        """Add rows to the chains of touched keys, for which there is room; see `_row_heap.add`."""
        _row_heap.add(
            self._arena,
            self.cells,
            self._bin_bits,
            mode,
            touched.lines,
            touched.positions,
            groups,
            records.bounds[:-1],
            records.cells,
            np.empty((3, 0), dtype=np.int64) if met is None else met,
        )

    def chains(self, slots: Int64s, group: int) -> Int64s:
        """Head and length of the chains at these slots of the index."""
        chains = np.empty((2, len(slots)), dtype=np.int64)
        _row_heap.chains_at(self._index, slots, group, chains)
        return chains

    def walk(self, keys: Int64s, chains: Int64s) -> Int64s:
        """The rows of these chains: a line of numbers of keys, and one of addresses; `walk`."""
        rows = int(chains[_row_heap.FOUND_COUNT].sum())
        found = np.empty((len(chains), rows), dtype=np.int64)
        _row_heap.walk(self._arena, self.cells, self._bin_bits, keys, chains, found)
        return found

    def retain(self, group: int, touched: Touched, keep: NDArray[np.bool_]) -> None:
        """Take the rows that are not to be kept out of the chains of touched keys."""
        _row_heap.retain(
            self._arena,
            self.cells,
            self._bin_bits,
            group,
            touched.lines,
            len(touched.keys),
            touched.positions,
            keep.view(np.uint8),
        )

    def shrink(self, bins: Int64s) -> None:
        """Give back what these bins do not need."""
        _row_heap.shrink(self._index, self._arena, self.cells, self._groups, bins)
        self._give_back()

    def copy_out(self, bins: Int64s, since: int) -> Extracted:
        """Copies of all rows of the bins' keys that changed after `since` (0: all keys)."""
        given = (self._index, self._arena, self.cells, self._groups, bins, since)
        keys, size = _row_transfer.measure(*given)
        lines = np.empty((_layout.FIRST_COLUMN + self._groups, keys), dtype=np.int64)
        ends = np.empty(keys, dtype=np.int64)
        cells = np.empty(size, dtype=np.int64)
        _row_transfer.copy_out(*given, lines, ends, cells)
        versions = (lines[_layout.STAMP] >> _layout.MARK_BITS) - 1
        counts = lines[_layout.FIRST_COLUMN :]
        return Extracted(lines[_layout.KEY], versions, counts, ends, cells)

    def check(self, rows: Extracted) -> None:
        """Check rows that came from outside.

        Raises:
            StateCorrupt: they are not what `copy_out` gives of keys that have some.
        """
        wrong = -1
        if rows.counts.shape != (self._groups, len(rows)) or rows.counts.min(initial=0) < 0:
            wrong = 0
        elif len(rows) and rows.counts.sum(axis=0).min() < 1:
            wrong = int(rows.counts.sum(axis=0).argmin())
        elif len(rows):
            wrong = _row_cells.first_wrong(
                rows.cells, rows.ends, rows.counts, self._texts, self._least
            )
        elif len(rows.cells):
            raise StateCorrupt("there are rows without a key")
        if wrong >= 0:
            raise StateCorrupt(f"the rows of key {rows.keys[wrong]} are not whole")

    def place(self, rows: Extracted) -> Rows:
        """Copy rows that were checked into their bins; returns what the index is to say of them.

        Raises:
            StateError: the reserved address space is used up.
        """
        self.make_room(rows.keys, np.diff(rows.ends, prepend=0))
        columns = self._keys.columns
        chains = np.empty((len(columns), len(rows)), dtype=np.int64)
        _row_transfer.place_rows(
            self._arena, self.cells, self._bin_bits, rows.keys, rows.counts, rows.cells, chains
        )
        named = {spec.name: chains[number] for number, spec in enumerate(columns)}
        return Rows(rows.keys, rows.versions, named)

    def take_bin(self, bin_id: int) -> HeapBin:
        """Leave the bin without rows; what it had goes to `drop` or `give_bin`."""
        arena = self._arena
        had = HeapBin(*(int(each[bin_id]) for each in (arena.regions, arena.rows, arena.loads)))
        self.give_bin(bin_id, HeapBin())
        return had

    def give_bin(self, bin_id: int, had: HeapBin) -> None:
        """Give a bin without rows those that `take_bin` took."""
        arena = self._arena
        arena.regions[bin_id], arena.rows[bin_id] = had.region, had.used
        arena.loads[bin_id] = had.garbage

    def clear(self) -> None:
        """Leave every bin without rows."""
        for bin_id in np.flatnonzero(self._arena.regions != _layout.NO_REGION).tolist():
            self.drop(self.take_bin(bin_id))

    def drop(self, had: HeapBin) -> None:
        """Let what `take_bin` took serve other bins, or the system."""
        if had.region != _layout.NO_REGION:
            _regions.release(self._arena, had.region)
            self._give_back()

    def _give_back(self) -> None:
        if self._arena.space[_layout.RELEASED]:
            give_back(self._arena, self._memory)
