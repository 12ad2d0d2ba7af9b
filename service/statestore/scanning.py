"""Rows of a bin a few at a time, without a copy of the whole bin.

Flow: pre-copy, and a bin that is given up -> [next_rows], [rows_of] -> lines of keys and state
columns; [put] writes them.

*Lines* are int64, one of keys and one per state column in order, n wide: cells as bits.

Invariants
  SN1  Between two calls of `next_rows` the table may change: a row that is there throughout is
       given at least once, as it is at the call.
  SN2  `portions_of` gives each row of a bin that does not change once, whatever becomes of others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from service.hashing import bins_of
from service.statestore import _kernels, _layout, _scans
from service.statestore.arena import Int64s, KeyedTable
from service.statestore.chunk import PORTION_BYTES
from service.statestore.columns import Rows, no_rows
from service.statestore.place import Place


def next_rows(table: KeyedTable, bin_id: int, place: Place, most: int) -> Int64s | None:
    """Lines of up to `most` > 0 further rows, moving `place` (SN1); None behind the last."""
    cells, regions = table.slots()
    region = int(regions[bin_id])
    if (region, table.turns) != (place.region, place.turn):
        # The bin may be in another region: nothing is known of where its rows are.
        place.region, place.turn, place.slot = region, table.turns, 0
    start = region >> _layout.ORDER_BITS
    end = start + (1 << (region & _layout.ORDER_MASK))
    lines = np.empty((cells.shape[1] - _layout.KEY, most), dtype=np.int64)
    count, slot = _scans.scan(cells, start + place.slot, end, lines)
    place.slot = slot - start
    if not count:
        return None
    return lines if count == most else lines[:, :count].copy()


def rows_of(table: KeyedTable, keys: Int64s) -> tuple[Int64s, Int64s]:
    """Lines of those of `keys` that the table has, and the keys that it does not have."""
    slots = table.lookup(keys)
    there = slots != _layout.NOTHING
    cells, _ = table.slots()
    lines = np.ascontiguousarray(cells[slots[there], _layout.KEY :].T)
    return lines, keys[~there]


def portions_of(table: KeyedTable, bin_id: int) -> Iterator[Rows]:
    """All rows of the bin with their versions, in portions that fit into a chunk; at least one.

    The bin must not change before the last was taken; others may.
    """
    most = PORTION_BYTES // (8 * (2 + len(table.columns)))
    place = Place()
    lines = next_rows(table, bin_id, place, most)
    if lines is None:
        yield no_rows(table.columns)
    while lines is not None:
        yield as_rows(table, lines)
        # Bins that shrank meanwhile are others: the rows of this one are where they were (SN2).
        place.turn = table.turns
        lines = next_rows(table, bin_id, place, most)


def lines_of(table: KeyedTable, keys: Int64s) -> Int64s:
    """Lines of `keys`, their versions and state columns; one that is absent has version -1."""
    slots = table.lookup(keys)
    there = slots != _layout.NOTHING
    cells, _ = table.slots()
    lines = np.zeros((2 + len(table.columns), len(keys)), dtype=np.int64)
    lines[0], lines[1] = keys, there.astype(np.int64) - 1
    lines[2:, there] = cells[slots[there], _layout.FIRST_COLUMN :].T
    return lines


def make_room(table: KeyedTable, bin_id: int, rows: int) -> None:
    """Let a bin without rows have room for so many at once; where there is none, `put` will say so.

    Rows that come in the order of `next_rows` are then written one behind the other.
    """
    arena = table.arrays
    fits = 0 < rows < arena.space[_layout.CAPACITY]
    if fits and int(arena.regions[bin_id]) == _layout.NO_REGION:
        _kernels.reserve_each(arena, np.array([bin_id]), np.array([rows]))


def put(table: KeyedTable, lines: Int64s, version: int) -> None:
    """Write rows as changed at `version`, over what there is of their keys.

    Of a key that comes twice the last row counts.

    Raises:
        StateError: the reserved address space is used up.
    """
    touched = table.touch(lines[0])
    if len(touched.keys) == lines.shape[1]:
        touched.state[:] = lines[1:]
    else:
        touched.state[:, touched.positions] = lines[1:]
    table.store(touched, version)


def behind(table: KeyedTable, keys: Int64s) -> Int64s:
    """Keys of rows that the removal of `keys` may put into other slots, and perhaps of others."""
    slots = table.lookup(keys)
    there = slots != _layout.NOTHING
    cells, regions = table.slots()
    regions = regions[bins_of(keys[there], table.bin_bits)]
    found = np.empty(_scans.runs(cells, regions, slots[there], slots[:0]), dtype=np.int64)
    _scans.runs(cells, regions, slots[there], found)
    return found


def as_rows(table: KeyedTable, lines: Int64s) -> Rows:
    """Lines as rows of version 0."""
    columns = {spec.name: line.view(spec.dtype) for spec, line in zip(table.columns, lines[1:])}
    return Rows(lines[0], np.zeros(lines.shape[1], dtype=np.int64), columns)


def as_gone(table: KeyedTable, keys: Int64s) -> Rows:
    """Keys that are gone, as rows of version -1 whose columns mean nothing."""
    nothing = np.zeros(len(keys), dtype=np.int64)
    columns = {spec.name: nothing.view(spec.dtype) for spec in table.columns}
    return Rows(keys, nothing - 1, columns)


def as_lines(table: KeyedTable, rows: Rows) -> Int64s:
    """Rows as lines; raises FormatMismatch if their columns are not the table's."""
    table.require_columns(rows)
    lines = np.empty((1 + len(rows.columns), len(rows)), dtype=np.int64)
    lines[0] = rows.keys
    for line, values in zip(lines[1:], rows.columns.values()):
        line[:] = values.view(np.int64)
    return lines
