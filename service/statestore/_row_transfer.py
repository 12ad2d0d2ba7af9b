"""Kernels that copy typed rows out of a heap and into one: bins that move and are stored.

Flow: RowTable.extract -> [measure, copy_out] -> chunks or entries -> RowTable.install or append ->
[place_rows]. The arrays are those of _row_heap.
"""

from __future__ import annotations

from numba import njit

from service.statestore import _row_signatures as kinds
from service.statestore._layout import (
    FIRST_COLUMN,
    KEY,
    MARK_BITS,
    ORDER_BITS,
    ORDER_MASK,
    STAMP,
    Arena,
    Int64s,
)
from service.statestore._row_cells import LINK_SHIFT, SIZE_MASK
from service.statestore._row_heap import COUNT, GROUP_COLUMNS, HEAD, TAIL, base_of, bin_of


@njit(kinds.MEASURE, cache=True, nogil=True)
def measure(
    index: Arena, heap: Arena, flat: Int64s, groups: int, bin_ids: Int64s, since: int
) -> tuple[int, int]:
    """Keys with rows in these bins whose version is above `since` (0: all), and their cells."""
    cells = index.cells
    least = (since + 2) << MARK_BITS if since > 0 else 1
    keys = total = 0
    for bin_id in bin_ids:
        base = base_of(heap.regions[bin_id])
        region = index.regions[bin_id]
        start = region >> ORDER_BITS
        for slot in range(start, start + (1 << (region & ORDER_MASK))):
            if cells[slot, STAMP] < least:
                continue
            rows = 0
            for group in range(groups):
                column = FIRST_COLUMN + group * GROUP_COLUMNS
                at = cells[slot, column + HEAD]
                for _ in range(cells[slot, column + COUNT]):
                    total += flat[base + at] & SIZE_MASK
                    at = flat[base + at] >> LINK_SHIFT
                    rows += 1
            if rows:
                keys += 1
    return keys, total


@njit(kinds.COPY_OUT, cache=True, nogil=True)
def copy_out(
    index: Arena,
    heap: Arena,
    flat: Int64s,
    groups: int,
    bin_ids: Int64s,
    since: int,
    lines: Int64s,
    ends: Int64s,
    out: Int64s,
) -> None:
    """Copy what `measure` counted: stamps, keys and numbers of rows as `lines`, rows as cells.

    The rows of a key lie together, group by group, each in order of insertion and with no link.
    """
    cells = index.cells
    least = (since + 2) << MARK_BITS if since > 0 else 1
    key = place = 0
    for bin_id in bin_ids:
        base = base_of(heap.regions[bin_id])
        region = index.regions[bin_id]
        start = region >> ORDER_BITS
        for slot in range(start, start + (1 << (region & ORDER_MASK))):
            if cells[slot, STAMP] < least:
                continue
            rows = 0
            for group in range(groups):
                column = FIRST_COLUMN + group * GROUP_COLUMNS
                at = cells[slot, column + HEAD]
                count = cells[slot, column + COUNT]
                for _ in range(count):
                    head = flat[base + at]
                    size = head & SIZE_MASK
                    out[place] = size
                    for cell in range(1, size):
                        out[place + cell] = flat[base + at + cell]
                    place += size
                    at = head >> LINK_SHIFT
                rows += count
            if rows:
                lines[STAMP, key] = cells[slot, STAMP]
                lines[KEY, key] = cells[slot, KEY]
                for group in range(groups):
                    column = FIRST_COLUMN + group * GROUP_COLUMNS
                    lines[FIRST_COLUMN + group, key] = cells[slot, column + COUNT]
                ends[key] = place
                key += 1


@njit(kinds.PLACE, cache=True, nogil=True)
def place_rows(
    heap: Arena,
    flat: Int64s,
    bin_bits: int,
    keys: Int64s,
    counts: Int64s,
    cells: Int64s,
    chains: Int64s,
) -> None:
    """Copy rows that `first_wrong` found whole into their bins; room has been made (RH4).

    Args:
        heap: the rows.
        flat: all its cells.
        bin_bits: 0..20.
        keys: n keys.
        counts: groups x n, how many rows.
        cells: the rows of one key behind those of the other, group by group.
        chains: out, groups * GROUP_COLUMNS lines: what the index says of each key.
    """
    begin = 0
    for number in range(keys.shape[0]):
        bin_id = bin_of(keys[number], bin_bits)
        base = base_of(heap.regions[bin_id])
        used = heap.rows[bin_id]
        for group in range(counts.shape[0]):
            column = group * GROUP_COLUMNS
            chains[column + HEAD, number] = used
            chains[column + TAIL, number] = used
            chains[column + COUNT, number] = counts[group, number]
            for _ in range(counts[group, number]):
                size = cells[begin]
                flat[base + used] = (used + size) << LINK_SHIFT | size
                for cell in range(1, size):
                    flat[base + used + cell] = cells[begin + cell]
                chains[column + TAIL, number] = used
                used += size
                begin += size
        heap.rows[bin_id] = used
