"""Typed rows under int64 keys, any number of them a key, grouped by bin: the table of joins.

Flow: a batch's columns -> RowFormat.encode -> [RowTable.add, put, meet] -> rows chained per key;
[find] -> addresses -> [read] -> Arrow arrays; a bin that moves -> [extract] -> chunks -> [install].

A key's rows may be of several groups, each with a format of its own: the sides of a join. They are
kept in a heap in which each bin has a region; an arena table is the index, key -> chains. A region
whose garbage or emptiness outgrows its rows is laid out anew, and what it had serves other bins.

Invariants
  RO1  The rows of a key and group are given in order of insertion, whatever happened between.
  RO2  Addresses are valid until the next call that changes the table.
  RO3  `install` takes all rows or leaves the bin as it was; what came from outside is checked.
  RO4  A key without rows is no key: it is counted, extracted and stored nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateCorrupt, StateError
from service.hashing import bins_of
from service.statestore import _layout, _row_heap
from service.statestore._memory import RESERVED_BYTES
from service.statestore.arena import KeyedTable
from service.statestore.columns import ColumnSpec
from service.statestore.row_format import Records, RowFormat
from service.statestore.row_heap import Extracted, RowHeap

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of some keys and one group, the keys in the order asked, each one's rows in order."""

    group: int
    keys: Int64s
    #: Of each row, the number of its key in `keys`.
    positions: Int64s
    #: Where each row is (RO2).
    addresses: Int64s

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a row that was added and one of the other group that was there before."""

    #: Number of the added row in its batch.
    rows: Int64s
    added: Int64s
    met: Int64s


class RowTable:
    """Chains of typed rows under int64 keys."""

    def __init__(
        self,
        bin_bits: int,
        formats: Sequence[RowFormat],
        *,
        reserved_bytes: int = RESERVED_BYTES,
    ) -> None:
        """Make an empty table.

        Args:
            bin_bits: 0..20; the table has 2**bin_bits bins.
            formats: of the rows of each group, at least one.
            reserved_bytes: address space for the index, and as much for all rows together.

        Raises:
            StateError: the system grants no address space.
        """
        self.bin_bits = bin_bits
        self.bins = 1 << bin_bits
        self.formats = tuple(formats)
        names = ("head", "tail", "rows")
        columns = [
            ColumnSpec(f"{name} of {group}", "int64", 0)
            for group in range(len(formats))
            for name in names
        ]
        self._keys = KeyedTable(bin_bits, columns, reserved_bytes=reserved_bytes)
        self._heap = RowHeap(self._keys, formats, reserved_bytes)

    # Size ---------------------------------------------------------------------------------------

    @property
    def key_count(self) -> int:
        """Keys of all bins. Cost: O(bins)."""
        return self._keys.row_count

    @property
    def nbytes(self) -> int:
        """Bytes of all regions in use."""
        return self._keys.nbytes + self._heap.nbytes

    def keys(self, bin_id: int) -> int:
        """Number of keys of the bin."""
        return self._keys.rows(bin_id)

    def keys_per_bin(self) -> Int64s:
        """Number of keys of every bin, a copy."""
        return self._keys.rows_per_bin()

    def bin_nbytes(self, bin_id: int) -> int:
        """Bytes of the bin's regions."""
        return self._keys.bin_nbytes(bin_id) + self._heap.bin_nbytes(bin_id)

    @property
    def index(self) -> KeyedTable:
        """The keys, each with the chains of its rows; nothing but marks may be changed in it."""
        return self._keys

    @property
    def arenas(self) -> list[_layout.Arena]:
        """What index and heap are made of, to be read (A2)."""
        return [self._keys.arrays, self._heap.arrays]

    @property
    def cells(self) -> Int64s:
        """All cells, of which addresses are numbers, for kernels that read them (RO2)."""
        return self._heap.cells

    # Change -------------------------------------------------------------------------------------

    def add(self, keys: Int64s, records: Records, version: int, group: int = 0) -> None:
        """Chain row r behind the rows of keys[r], for each r in order.

        Raises:
            StateError: the reserved address space is used up; nothing has been added.
        """
        self._change(_row_heap.CHAIN, keys, _same(group, keys), records, version)

    def add_each(self, keys: Int64s, groups: Sequence[Records], version: int) -> None:
        """Chain row r of groups[g] behind those of keys[r] in group g, for each r, in one go.

        Raises:
            StateError: as `add`.
        """
        starts = np.cumsum([0, *(len(records.cells) for records in groups)])
        bounds = [records.bounds[:-1] + start for records, start in zip(groups, starts)]
        cells = np.concatenate([records.cells for records in groups])
        records = Records(cells, np.concatenate((*bounds, starts[-1:])))
        numbers = np.repeat(np.arange(len(groups)), len(keys))
        self._change(_row_heap.CHAIN, np.tile(keys, len(groups)), numbers, records, version)

    def put(self, keys: Int64s, records: Records, version: int, group: int = 0) -> None:
        """Make row r the only row of keys[r], for each r in order: insert or update.

        Raises:
            StateError: as `add`.
        """
        self._change(_row_heap.REPLACE, keys, _same(group, keys), records, version)

    def put_absent(self, keys: Int64s, records: Records, version: int, group: int = 0) -> None:
        """Make row r the only row of keys[r] if that key has none in this group; else leave it.

        Raises:
            StateError: as `add`.
        """
        self._change(_row_heap.KEEP, keys, _same(group, keys), records, version)

    def meet(
        self, keys: Int64s, groups: Int64s, sides: tuple[Records, Records], version: int
    ) -> Pairs:
        """Add rows of two groups in turn, and pair each with those of the other one before it.

        Args:
            keys: of the rows, n of them.
            groups: 0 or 1 for each row; the n-th row of group g is the next of sides[g].
            sides: the rows of both groups.
            version: what the keys are to have.

        Returns:
            The pairs, in the order of the rows that were added, and for one row in that in which
            the others came.

        Raises:
            StateError: as `add`.
        """
        met = np.zeros((3, len(keys)), dtype=np.int64)
        records = _interleaved(groups, sides)
        self._change(_row_heap.CHAIN, keys, groups, records, version, met)
        found = self._heap.walk(keys, met)
        return Pairs(found[0], found[2], found[1])

    def make_room(self, keys: Int64s, records: Records) -> None:
        """Make room for a row under each of these keys, for a kernel that puts them in (RO2).

        Raises:
            StateError: as `add`.
        """
        self._heap.make_room(keys, records.cells[records.bounds[:-1]])

    def retain(self, found: Found, keep: NDArray[np.bool_], version: int) -> None:
        """Take the rows of `found` out that are not to be kept; order stays (RO1).

        Args:
            found: what `find` gave for distinct keys, with nothing changed since.
            keep: for each row of it.
            version: what the keys are to have.

        Cost: that of the rows found; memory goes back when three quarters of a bin are gone.
        """
        self.retain_each([(found, keep)], version)

    def retain_each(self, groups: Sequence[tuple[Found, NDArray[np.bool_]]], version: int) -> None:
        """`retain` for what `find` gave of several groups for the same keys, in one go."""
        asked = groups[0][0].keys
        listed = np.zeros(len(asked), dtype=np.bool_)
        for found, keep in groups:
            listed[found.positions[~keep]] = True
        changed = np.flatnonzero(listed)
        if not len(changed):
            return
        keys = asked[changed]
        touched = self._keys.touch(keys)
        assert len(touched.keys) == len(keys), "keys are distinct"
        for found, keep in groups:
            self._heap.retain(found.group, touched, keep[listed[found.positions]])
        self._keys.store(touched, version)
        counts = touched.state[_row_heap.COUNT :: _row_heap.GROUP_COLUMNS].sum(axis=0)
        self._keys.remove(touched.keys[counts == 0])
        had = np.zeros(self.bins, dtype=np.bool_)
        had[bins_of(keys, self.bin_bits)] = True
        self._heap.shrink(np.flatnonzero(had))

    def remove(self, keys: Int64s, version: int) -> None:
        """Take all rows of these distinct keys out; those that have none are passed over."""
        for group in range(len(self.formats)):
            found = self.find(keys, group)
            self.retain(found, np.zeros(len(found), dtype=np.bool_), version)

    # Read ---------------------------------------------------------------------------------------

    def find(self, keys: Int64s, group: int = 0) -> Found:
        """The rows of these keys. Cost: one cache miss a key, and one a row."""
        keys = np.ascontiguousarray(keys, dtype=np.int64)
        rows = self._heap.walk(keys, self._heap.chains(self._keys.lookup(keys), group))
        return Found(group, keys, rows[0], rows[1])

    def counts_at(self, slots: Int64s, group: int = 0) -> Int64s:
        """How many rows of the group the keys at these slots of the index have; 0 for slot -1."""
        counts: Int64s = self._heap.chains(slots, group)[_row_heap.FOUND_COUNT]
        return counts

    def read(self, group: int, addresses: Int64s) -> list[pa.Array]:
        """Columns of the rows of a group at these addresses (RO2).

        Raises:
            StateError: a column of texts has more than 2 GiB.
        """
        return self.formats[group].decode(self._heap.cells, np.ascontiguousarray(addresses))

    # Bins that leave and come -------------------------------------------------------------------

    def extract(self, bin_ids: Int64s, since: int = 0) -> Extracted:
        """Copies of the rows of these bins, all of each key changed after `since`.

        Keys that were removed are not among them.
        """
        return self._heap.copy_out(np.ascontiguousarray(bin_ids, dtype=np.int64), since)

    def install(self, bin_id: int, rows: Extracted) -> None:
        """Replace all rows of the bin, or fail and leave it as it was (RO3).

        Raises:
            StateCorrupt: a key is of another bin, comes twice, or has rows that are not whole.
            StateError: the reserved address space is used up.
        """
        foreign = np.flatnonzero(bins_of(rows.keys, self.bin_bits) != bin_id)
        if len(foreign):
            raise StateCorrupt(
                f"rows for bin {bin_id} hold key {rows.keys[foreign[0]]}, which is of another bin "
                f"of {self.bins}"
            )
        self._heap.check(rows)
        before = self._heap.take_bin(bin_id)
        try:
            self._keys.install(bin_id, self._heap.place(rows))
        except StateError:
            self._heap.drop(self._heap.take_bin(bin_id))
            self._heap.give_bin(bin_id, before)
            raise
        self._heap.drop(before)

    def append(self, rows: Extracted) -> None:
        """Add rows of any bins under keys that the table does not have.

        Raises:
            StateCorrupt: a key is there already or comes twice, or its rows are not whole; some
                have been added, so clear the table.
            StateError: the reserved address space is used up; as above.
        """
        self._heap.check(rows)
        self._keys.append(self._heap.place(rows))

    def delete(self, bin_id: int) -> None:
        """Forget all rows of the bin, and give its memory back."""
        self._keys.delete(bin_id)
        self._heap.drop(self._heap.take_bin(bin_id))

    def clear(self) -> None:
        """Delete every bin."""
        self._keys.clear()
        self._heap.clear()

    # Within -------------------------------------------------------------------------------------

    def _change(
        self,
        mode: int,
        keys: Int64s,
        groups: Int64s,
        records: Records,
        version: int,
        met: Int64s | None = None,
    ) -> None:
        keys = np.ascontiguousarray(keys, dtype=np.int64)
        self._heap.make_room(keys, records.cells[records.bounds[:-1]])
        touched = self._keys.touch(keys)
        self._heap.add(mode, touched, groups, records, met)
        self._keys.store(touched, version)


def _same(group: int, keys: Int64s) -> Int64s:
    return np.full(len(keys), group, dtype=np.int64)


def _interleaved(groups: Int64s, sides: tuple[Records, Records]) -> Records:
    """The rows of both sides as one, in the order of `groups`.

    Bounds are then where rows begin, and the last one means nothing.
    """
    first, second = sides
    if not len(second):
        return first
    if not len(first):
        return second
    bounds = np.empty(len(groups) + 1, dtype=np.int64)
    bounds[-1] = 0
    bounds[:-1][groups == 0] = first.bounds[:-1]
    bounds[:-1][groups == 1] = second.bounds[:-1] + len(first.cells)
    return Records(np.concatenate((first.cells, second.cells)), bounds)
