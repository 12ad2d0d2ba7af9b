"""Kernels for whole bins that leave a table and come into one, several at a time.

Flow: `KeyedTable.take_out` and `put_in` -> [take_lines], [put_lines]: between slots and lines of
keys, versions and state columns, each row read once and written once.

Invariants
  WB1  Rows are put in only where a key hashes to the bin it is counted for, is not there already,
       and has a version; the first row that does not is named.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from service.hashing import mix64
from service.statestore import _signatures as kinds
from service.statestore._kernels import AHEAD, bin_of
from service.statestore._layout import (
    FIRST_COLUMN,
    KEY,
    MARK_BITS,
    MARKS,
    ORDER_BITS,
    ORDER_MASK,
    STAMP,
    Arena,
    Int64s,
)
from service.statestore._prefetch import prefetch

#: Lines of a row; the state columns follow.
_KEYS = 0
_VERSIONS = 1
_COLUMNS = 2
#: What can be wrong with a row.
ALL_IN, TWICE, FOREIGN, NO_VERSION = range(4)


@njit(kinds.TAKE_LINES, cache=True, nogil=True)
def take_lines(arena: Arena, bin_ids: Int64s, out: Int64s) -> None:
    """Copy all rows of these bins, bin by bin, into lines just wide enough for them."""
    cells, regions = arena.cells, arena.regions
    row = 0
    for bin_id in bin_ids:
        start = regions[bin_id] >> ORDER_BITS
        for slot in range(start, start + (1 << (regions[bin_id] & ORDER_MASK))):
            if cells[slot, STAMP] != 0:
                out[_KEYS, row] = cells[slot, KEY]
                out[_VERSIONS, row] = (cells[slot, STAMP] >> MARK_BITS) - 1
                for column in range(_COLUMNS, out.shape[0]):
                    out[column, row] = cells[slot, FIRST_COLUMN - _COLUMNS + column]
                row += 1


@njit(kinds.PUT_LINES, cache=True, nogil=True)
def put_lines(
    arena: Arena, bin_bits: int, bin_ids: Int64s, counts: Int64s, lines: Int64s
) -> tuple[int, int, int]:
    """Insert rows into bins that have regions for them and no rows (WB1).

    Args:
        arena: the table.
        bin_bits: 0..20.
        bin_ids: bins, each once.
        counts: rows of each bin; as many in all as the lines are wide.
        lines: a line each of keys, versions and state columns, bin by bin.

    Returns:
        How many rows are in, what is wrong with the next one, and the greatest version of those in.
    """
    cells, regions, rows = arena.cells, arena.regions, arena.rows
    row, greatest = 0, 0
    for number in range(bin_ids.shape[0]):
        bin_id = bin_ids[number]
        start = regions[bin_id] >> ORDER_BITS
        mask = (1 << (regions[bin_id] & ORDER_MASK)) - 1
        end = row + counts[number]
        while row < end:
            if row + AHEAD < end:
                ahead = mix64(np.uint64(lines[_KEYS, row + AHEAD]))
                prefetch(cells, start + (np.int64(ahead) & mask))
            key, version = lines[_KEYS, row], lines[_VERSIONS, row]
            hashed = mix64(np.uint64(key))
            if bin_of(hashed, bin_bits) != bin_id:
                return row, FOREIGN, greatest
            if version < 0:
                return row, NO_VERSION, greatest
            offset = np.int64(hashed) & mask
            while cells[start + offset, STAMP] != 0:
                if cells[start + offset, KEY] == key:
                    return row, TWICE, greatest
                offset = (offset + 1) & mask
            slot = start + offset
            cells[slot, STAMP] = (version + 1) << MARK_BITS | MARKS
            cells[slot, KEY] = key
            for column in range(_COLUMNS, lines.shape[0]):
                cells[slot, FIRST_COLUMN - _COLUMNS + column] = lines[column, row]
            greatest = max(greatest, version)
            rows[bin_id] += 1
            row += 1
    return row, ALL_IN, greatest
