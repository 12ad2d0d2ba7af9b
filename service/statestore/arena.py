"""Keyed rows in memory, grouped by bin: the arena table.

Flow: a batch's keys -> [KeyedTable.touch] -> state of the distinct keys -> an aggregate program
folds -> [KeyedTable.store]; a bin that moves -> [extract] -> chunks -> [install] on another worker.

Each bin owns one region of slots; a bin that fills doubles its own region and rehashes only itself.
Address space for the largest table is reserved at the start and costs nothing until it is touched:
growing never copies another bin's rows and never moves an array. A bin that has lost most of its
rows moves into a smaller region, and what is released goes back to the system; of bins that move
away some of it may stay for a while, for those that come. Load thresholds
differ from bin to bin, spread over a factor of two, so that bins which fill evenly double one after
the other and not all in one batch.

Invariants
  A1  A key is in the region of bin hash >> (64 - bin_bits) and nowhere else.
  A2  Slot numbers and column views are valid until the next call that changes the table.
  A3  `since` = 0 means all rows, also those never marked; otherwise rows with version > since.
  A4  `install` and `append` either take all rows or leave the table as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt, StateError
from service.statestore import _kernels, _layout, _regions, _whole_bins
from service.statestore._memory import RESERVED_BYTES, Keeper, new_arena
from service.statestore.columns import ColumnSpec, Rows, Values, require_same_columns, type_name

Int64s = NDArray[np.int64]

#: Load thresholds in 1/1024, least and greatest: a factor of two, so that growth is even in time.
_LOAD_LEAST = 410
LOAD_GREATEST = 820


@dataclass(frozen=True, slots=True)
class Touched:
    """The rows of the distinct keys of one batch, m of them, in order of first occurrence.

    Between `touch` and `store` or `restore` the table belongs to this batch: no other call.
    """

    #: For each row of the batch, the number of its key in `keys`.
    positions: NDArray[np.int32]
    keys: Int64s
    #: A line of m cells, as bits, per state column; changed in place, then given to `store`.
    state: Int64s
    #: Slot of each row.
    slots: Int64s
    #: Positions of the keys that the table did not have.
    new: Int64s
    #: All of it as the kernels take it; the arrays of int64 above are views of it.
    lines: Int64s


class KeyedTable:
    """Rows of 64-bit state columns under int64 keys, grouped by bin."""

    def __init__(
        self,
        bin_bits: int,
        columns: Sequence[ColumnSpec],
        *,
        reserved_bytes: int = RESERVED_BYTES,
    ) -> None:
        """Make an empty table.

        Args:
            bin_bits: 0..20; the table has 2**bin_bits bins.
            columns: state columns in order, distinct names; none is allowed.
            reserved_bytes: address space for all rows together.

        Raises:
            StateError: the system grants no address space.
        """
        assert len({spec.name for spec in columns}) == len(columns), "column names differ"
        self.bin_bits = bin_bits
        self.bins = 1 << bin_bits
        self.columns = tuple(columns)
        self._width = _layout.FIRST_COLUMN + len(self.columns)
        #: Told the keys of rows that may be changed, before they are.
        self.on_change: Callable[[Int64s], None] | None = None
        #: The same of rows that are removed: rows behind them may change their slots.
        self.on_removal: Callable[[Int64s], None] | None = None
        #: Rises when a bin may have come back to a region that it had before.
        self.turns = 0
        self._arena, self._memory = new_arena(
            self.bins,
            self._width,
            reserved_bytes,
            loads=_load_thresholds(self.bins),
            initial=np.array([spec.initial_bits for spec in self.columns], dtype=np.int64),
        )
        #: Whether memory of regions that were released stays for those to come.
        self.keeper = Keeper(self._arena, self._memory)

    @property
    def arrays(self) -> _layout.Arena:
        """What the table is made of, for kernels that read it beside those called here (A2)."""
        return self._arena

    @property
    def row_count(self) -> int:
        """Rows of all bins. Cost: O(bins)."""
        return int(self._arena.rows.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of all regions in use."""
        return int(self._arena.space[_layout.IN_USE]) * 8 * self._width

    def rows(self, bin_id: int) -> int:
        """Number of rows of the bin."""
        return int(self._arena.rows[bin_id])

    def rows_per_bin(self) -> Int64s:
        """Number of rows of every bin, a copy."""
        return self._arena.rows.copy()

    def bin_nbytes(self, bin_id: int) -> int:
        """Bytes of the bin's region."""
        region = int(self._arena.regions[bin_id])
        if region == _layout.NO_REGION:
            return 0
        return (8 * self._width) << (region & _layout.ORDER_MASK)

    def touch(self, keys: Int64s) -> Touched:
        """Find or insert every key and copy the state of the distinct ones out.

        Args:
            keys: n int64 keys, repeated as they like.

        Returns:
            What `store` takes, once its `state` has been changed; or `restore`, to change nothing.

        Raises:
            StateError: the reserved address space is used up; the keys before stay inserted.

        Cost: about one cache miss per distinct key.
        """
        keys = np.ascontiguousarray(keys, dtype=np.int64)
        positions = np.empty(len(keys), dtype=np.int32)
        depth = _kernels.TOUCHED_STATE + len(self.columns)
        lines = np.empty((depth, _staggered(len(keys))), dtype=np.int64)
        count, new, complete = _kernels.touch(self._arena, self.bin_bits, keys, positions, lines)
        touched = Touched(
            positions=positions,
            keys=lines[_kernels.TOUCHED_KEYS, :count],
            state=lines[_kernels.TOUCHED_STATE :, :count],
            slots=lines[_kernels.TOUCHED_SLOTS, :count],
            new=lines[_kernels.TOUCHED_NEW, :new],
            lines=lines,
        )
        if self.on_change is not None:
            self.on_change(touched.keys)
        if not complete:
            self.restore(touched)
        self._require_space(complete)
        return touched

    def store(self, touched: Touched, version: int) -> None:
        """Write the changed state of touched rows back, as changed at `version` >= 0."""
        assert version >= 0, "versions count from 0"
        _kernels.store(self._arena, touched.lines, len(touched.keys), version)

    def restore(self, touched: Touched) -> None:
        """Undo a touch; keys that were new stay, with initial values and version 0."""
        _kernels.restore(self._arena, touched.lines, len(touched.keys))

    def upsert(self, keys: Int64s) -> Int64s:
        """Find or insert every key; new rows have initial values and version 0.

        Returns:
            n slots (A2).

        Raises:
            StateError: the reserved address space is used up.
        """
        touched = self.touch(keys)
        self.restore(touched)
        slots: Int64s = touched.slots[touched.positions]
        return slots

    def lookup(self, keys: Int64s) -> Int64s:
        """Slot of each key (A2), -1 where it is absent."""
        slots = np.empty(len(keys), dtype=np.int64)
        keys = np.ascontiguousarray(keys, dtype=np.int64)
        _kernels.lookup(self._arena, self.bin_bits, keys, slots)
        return slots

    def column(self, name: str) -> Values:
        """The state column as a strided view, writable, indexed by slot (A2)."""
        for index, spec in enumerate(self.columns):
            if spec.name == name:
                top = int(self._arena.space[_layout.TOP])
                cells = self._arena.cells[:top, _layout.FIRST_COLUMN + index]
                return cells if spec.dtype == "int64" else cells.view(np.float64)
        raise StateError(f"no state column {name!r}; there are {[c.name for c in self.columns]}")

    def mark_changed(self, slots: Int64s, version: int) -> None:
        """Set the version (>= 0) of the rows at these slots, repeated as they like."""
        assert version >= 0, "versions count from 0"
        if self.on_change is not None:
            self.on_change(self._arena.cells[slots, _layout.KEY])
        _kernels.mark(self._arena, slots, version)

    def remove(self, keys: Int64s) -> int:
        """Remove the rows of these keys; those that are absent are passed over.

        Args:
            keys: n int64 keys, repeated as they like.

        Returns:
            How many rows there were.

        Cost: one cache miss a key. A bin that keeps an eighth of the rows it would double at moves
        into a smaller region.
        """
        keys = np.ascontiguousarray(keys, dtype=np.int64)
        if self.on_removal is not None:
            self.on_removal(keys)
        self.keeper.releasing()
        removed = _kernels.remove(self._arena, self.bin_bits, keys)
        if self._arena.space[_layout.RELEASED]:
            # A bin that shrinks may come back to a region that it had before.
            self.turns += 1
            self.keeper.released()
        return removed

    def slots(self) -> tuple[Int64s, Int64s]:
        """All cells, and the region of each bin, packed as `_layout` says (A2); to be read."""
        return self._arena.cells, self._arena.regions

    def extract(self, bin_id: int, since: int = 0) -> Rows:
        """Copies of the bin's rows changed after `since` (A3), in no particular order."""
        return self.extract_bins(np.array([bin_id], dtype=np.int64), since)

    def extract_bins(self, bin_ids: Int64s, since: int = 0) -> Rows:
        """As `extract`, for several bins at once; rows come bin by bin in the order given."""
        out = np.empty((self._width, int(self._arena.rows[bin_ids].sum())), dtype=np.int64)
        count = _kernels.extract(self._arena, bin_ids, since, out)
        out[_layout.STAMP, :count] >>= _layout.MARK_BITS
        out[_layout.STAMP, :count] -= 1
        columns = {
            spec.name: out[_layout.FIRST_COLUMN + index, :count].view(spec.dtype)
            for index, spec in enumerate(self.columns)
        }
        return Rows(out[_layout.KEY, :count], out[_layout.STAMP, :count], columns)

    def delete(self, bin_id: int) -> None:
        """Forget all rows of the bin; its memory may stay, as far as the keeper says."""
        self._release(bin_id)
        self.keeper.released()

    def delete_bins(self, bin_ids: Int64s) -> None:
        """Forget all rows of these bins, as `delete`."""
        self.keeper.releasing()
        _kernels.release_each(self._arena, bin_ids)
        self.keeper.released()

    def clear(self) -> None:
        """Delete every bin."""
        for bin_id in np.flatnonzero(self._arena.regions != _layout.NO_REGION):
            self._release(int(bin_id))
        self.keeper.released()

    def _release(self, bin_id: int) -> None:
        self.keeper.releasing()
        region = int(self._arena.regions[bin_id])
        if region != _layout.NO_REGION:
            _regions.release(self._arena, region)
        self._arena.regions[bin_id] = _layout.NO_REGION
        self._arena.rows[bin_id] = 0

    def install(self, bin_id: int, rows: Rows) -> None:
        """Replace all rows of the bin, or fail and leave it as it was (A4).

        Raises:
            StateCorrupt: a key is of another bin or comes twice.
            FormatMismatch: the columns differ.
            StateError: the reserved address space is used up.
        """
        self.require_columns(rows)
        lines = np.empty((self._width, len(rows)), dtype=np.int64)
        lines[0], lines[1] = rows.keys, rows.versions
        for line, values in zip(lines[2:], rows.columns.values()):
            line[:] = values.view(np.int64)
        arena = self._arena
        region, count = int(arena.regions[bin_id]), int(arena.rows[bin_id])
        arena.regions[bin_id], arena.rows[bin_id] = _layout.NO_REGION, 0
        try:
            self._put(np.array([bin_id]), np.array([len(rows)]), lines)
        except StateError:
            arena.regions[bin_id], arena.rows[bin_id] = region, count
            raise
        if region != _layout.NO_REGION:
            self.keeper.releasing()
            _regions.release(arena, region)
            self.keeper.released()

    def take_out(self, bin_ids: Int64s) -> tuple[Int64s, Int64s]:
        """Lines of keys, versions and state columns of these bins, bin by bin, which are forgotten.

        Returns:
            The lines, and how many rows each bin had.
        """
        counts = self._arena.rows[bin_ids]
        lines = np.empty((self._width, int(counts.sum())), dtype=np.int64)
        _whole_bins.take_lines(self._arena, bin_ids, lines)
        self.delete_bins(bin_ids)
        return lines, counts

    def put_in(self, bin_ids: Int64s, counts: Int64s, lines: Int64s) -> int:
        """Replace the rows of these bins by lines that `take_out` gave, or leave them without rows.

        Returns:
            The greatest version that came; 0 if none did.

        Raises:
            StateCorrupt: a key is of another bin or comes twice, or a version is negative.
            StateError: the reserved address space is used up.
        """
        if lines.shape[1] != counts.sum():
            raise StateCorrupt(f"{lines.shape[1]} rows came where {counts.sum()} are counted")
        self.keeper.releasing()
        _kernels.release_each(self._arena, bin_ids)
        return self._put(bin_ids, counts, lines)

    def _put(self, bin_ids: Int64s, counts: Int64s, lines: Int64s) -> int:
        """`put_in` for bins without regions."""
        done, fault, greatest = 0, _whole_bins.ALL_IN, 0
        complete = _kernels.reserve_each(self._arena, bin_ids, counts)
        if complete:
            done, fault, greatest = _whole_bins.put_lines(
                self._arena, self.bin_bits, bin_ids, counts, lines
            )
        if not complete or fault != _whole_bins.ALL_IN:
            _kernels.release_each(self._arena, bin_ids)
        self._require_space(complete)
        match fault:
            case _whole_bins.FOREIGN:
                raise StateCorrupt(
                    f"key {lines[0, done]} came with a bin and is of another bin of {self.bins}"
                )
            case _whole_bins.TWICE:
                raise StateCorrupt(f"key {lines[0, done]} comes twice")
            case _whole_bins.NO_VERSION:
                raise StateCorrupt("a row to install has a negative version")
        return int(greatest)

    def append(self, rows: Rows) -> None:
        """Add rows of any bins whose keys the table does not have.

        Raises:
            StateCorrupt: a key is there already or comes twice; the rows before it have been added,
                so clear the table.
            FormatMismatch: the columns differ.
            StateError: the reserved address space is used up.
        """
        self._append(self._stacked(rows))

    def _append(self, incoming: Int64s) -> None:
        done, duplicate = _kernels.append(self._arena, self.bin_bits, incoming)
        if duplicate:
            raise StateCorrupt(f"key {incoming[_layout.KEY, done]} comes twice")
        self._require_space(done == incoming.shape[1])

    def require_columns(self, rows: Rows) -> None:
        """Check that rows have this table's columns.

        Raises:
            FormatMismatch: they have not.
        """
        require_same_columns(
            "the state to install",
            [(spec.name, spec.dtype) for spec in self.columns],
            [(name, type_name(values.dtype)) for name, values in rows.columns.items()],
        )

    def _stacked(self, rows: Rows) -> Int64s:
        """The rows as one array, a line per cell of a slot: stamps, keys, state columns."""
        self.require_columns(rows)
        incoming = np.empty((self._width, len(rows)), dtype=np.int64)
        if len(rows) and rows.versions.min() < 0:
            raise StateCorrupt("a row to install has a negative version")
        np.add(rows.versions, 1, out=incoming[_layout.STAMP])
        incoming[_layout.STAMP] <<= _layout.MARK_BITS
        incoming[_layout.STAMP] |= _layout.MARKS
        incoming[_layout.KEY] = rows.keys
        for index, values in enumerate(rows.columns.values()):
            incoming[_layout.FIRST_COLUMN + index] = values.view(np.int64)
        return incoming

    def _require_space(self, granted: bool) -> None:
        if not granted:
            raise StateError(
                f"the table's reserved address space ({self._arena.cells.nbytes} bytes) is used up "
                f"at {self.row_count} rows; spread the bins over more workers"
            )


def _staggered(width: int) -> int:
    """Length of a line so that the same column of different lines falls into different cache sets.

    Lines whose lengths are multiples of 4 KiB would all compete for the same few.
    """
    return (width + 511) // 512 * 512 + 72


def _load_thresholds(bins: int) -> Int64s:
    """Load at which each bin doubles, in 1/1024, spread evenly and without order over the bins."""
    golden = (np.arange(bins, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    fraction = golden.astype(np.float64) / 2.0**32
    spread: Int64s = (_LOAD_LEAST * (LOAD_GREATEST / _LOAD_LEAST) ** fraction).astype(np.int64)
    return spread
