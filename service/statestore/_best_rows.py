"""Kernels of "best within": rows of one side are offered to the open intervals of their keys.

Flow: BestWithin -> [offer] -> which intervals have a new best row, and which row -> [put_at] keeps
those rows. The arrays are those of _row_heap.

Each key has a chain of intervals and a chain of as many best rows: the n-th of the one is that of
the n-th of the other. An interval's row has, beside what the flow gave, the lines below.

Invariants
  BE1  Of the rows that an interval was offered, its best one is kept: that of the greatest rank,
       then of the earliest time, then the least as `compare` has it; so it does not matter in which
       order, or how often, they were offered.
  BE2  A row in neither chain is never looked at again: what is kept of an interval is one row.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from service.statestore import _row_signatures as kinds
from service.statestore._layout import FIRST_COLUMN, KEY, Arena, Int64s
from service.statestore._row_cells import LINK_SHIFT, SIZE_MASK, Bytes
from service.statestore._row_heap import COUNT, GROUP_COLUMNS, HEAD, TAIL, base_of, bin_of
from service.statestore._row_order import compare

#: Lines of an interval, in cells behind its first one: it holds times from SINCE to below UNTIL and
#: takes ranks from FLOOR on; rank and time of its best row; and where that row is.
SINCE, UNTIL, FLOOR, RANK, TIME, WHERE = 0, 1, 2, 3, 4, 5
LINES = 6
#: `WHERE`: there is none; it is in the chain of best rows; or this plus its number in the batch.
NONE, KEPT, OFFERED = 0, 1, 2
#: The groups of rows.
INTERVALS, BEST = 0, 1
#: Lines of what `offer` returns: slot of the key, number of the interval in its chain, the row.
NEW_SLOT, NEW_PLACE, NEW_ROW = 0, 1, 2
_AT = 3


@njit(cache=True, nogil=True)
def _nth(flat: Int64s, base: int, head: int, place: int) -> int:
    """Address of the row at this place of a chain."""
    at = base + head
    for _ in range(place):
        at = base + (flat[at] >> LINK_SHIFT)
    return at


@njit(cache=True, nogil=True)
def _wider(lines: Int64s) -> Int64s:
    """The lines with as much room again."""
    wider = np.empty((lines.shape[0], 2 * lines.shape[1]), dtype=np.int64)
    wider[:, : lines.shape[1]] = lines
    return wider


@njit(cache=True, nogil=True)
def _settle(flat: Int64s, new: Int64s, count: int) -> None:
    """Note which row each interval took, and that it will be kept."""
    for number in range(count):
        where = new[_AT, number]
        new[NEW_ROW, number] = flat[where] - OFFERED
        flat[where] = KEPT


@njit(kinds.OFFER, cache=True, nogil=True)
def offer(
    index: Arena,
    heap: Arena,
    flat: Int64s,
    bin_bits: int,
    first: int,
    slots: Int64s,
    times: Int64s,
    ranks: Int64s,
    starts: Int64s,
    cells: Int64s,
    columns: Int64s,
    held: Bytes,
) -> Int64s:
    """Offer rows to the intervals of their keys (BE1).

    Args:
        index: the keys.
        heap: their intervals and best rows.
        flat: all its cells.
        bin_bits: 0..20.
        first: where the lines of an interval begin in its row.
        slots: of each row's key, -1 where it has none.
        times: of the rows.
        ranks: of the rows; the greatest wins.
        starts: where each row begins in `cells`.
        cells: the rows, as they would be kept.
        columns: their ordering.
        held: out, 1 for each row whose time lies in some interval.

    Returns:
        Lines of the intervals whose best row is another one now.
    """
    index_cells, regions = index.cells, heap.regions
    left = FIRST_COLUMN + INTERVALS * GROUP_COLUMNS
    best = FIRST_COLUMN + BEST * GROUP_COLUMNS
    new = np.empty((_AT + 1, 64), dtype=np.int64)
    count = 0
    for row in range(slots.shape[0]):
        slot = slots[row]
        if slot < 0:
            continue
        intervals = index_cells[slot, left + COUNT]
        if intervals == 0:
            continue
        base = base_of(regions[bin_of(index_cells[slot, KEY], bin_bits)])
        at = base + index_cells[slot, left + HEAD]
        time, rank = times[row], ranks[row]
        for place in range(intervals):
            lines = at + first
            link = flat[at] >> LINK_SHIFT
            if flat[lines + SINCE] <= time and time < flat[lines + UNTIL]:
                held[row] = 1
                where = flat[lines + WHERE]
                wins = rank >= flat[lines + FLOOR]
                if wins and where != NONE and rank <= flat[lines + RANK]:
                    wins = rank == flat[lines + RANK] and time <= flat[lines + TIME]
                    if wins and time == flat[lines + TIME]:
                        begin = starts[row]
                        if where == KEPT:
                            kept = _nth(flat, base, index_cells[slot, best + HEAD], place)
                            wins = compare(cells, begin, flat, kept, columns) < 0
                        else:
                            kept = starts[where - OFFERED]
                            wins = compare(cells, begin, cells, kept, columns) < 0
                if wins:
                    flat[lines + RANK] = rank
                    flat[lines + TIME] = time
                    flat[lines + WHERE] = OFFERED + row
                    if where < OFFERED:
                        if count == new.shape[1]:
                            new = _wider(new)
                        new[NEW_SLOT, count] = slot
                        new[NEW_PLACE, count] = place
                        new[_AT, count] = lines + WHERE
                        count += 1
            at = base + link
    _settle(flat, new, count)
    return new[:_AT, :count].copy()


@njit(kinds.PUT_AT, cache=True, nogil=True)
def put_at(
    index: Arena,
    heap: Arena,
    flat: Int64s,
    bin_bits: int,
    new: Int64s,
    starts: Int64s,
    cells: Int64s,
) -> None:
    """Put rows in the places that `offer` returned, in the chains of best rows.

    Room has been made (RH4), which moves no slot.
    """
    index_cells, used = index.cells, heap.rows
    column = FIRST_COLUMN + BEST * GROUP_COLUMNS
    for number in range(new.shape[1]):
        slot, place = new[NEW_SLOT, number], new[NEW_PLACE, number]
        bin_id = bin_of(index_cells[slot, KEY], bin_bits)
        base = base_of(heap.regions[bin_id])
        before = base
        if place > 0:
            before = _nth(flat, base, index_cells[slot, column + HEAD], place - 1)
            at = base + (flat[before] >> LINK_SHIFT)
        else:
            at = base + index_cells[slot, column + HEAD]
        begin = starts[new[NEW_ROW, number]]
        size, had = cells[begin] & SIZE_MASK, flat[at] & SIZE_MASK
        link = flat[at] >> LINK_SHIFT
        if size != had:
            heap.loads[bin_id] += had
            own = used[bin_id]
            used[bin_id] += size
            at = base + own
            if place > 0:
                flat[before] = own << LINK_SHIFT | (flat[before] & SIZE_MASK)
            else:
                index_cells[slot, column + HEAD] = own
            if place == index_cells[slot, column + COUNT] - 1:
                index_cells[slot, column + TAIL] = own
        flat[at] = link << LINK_SHIFT | size
        for cell in range(1, size):
            flat[at + cell] = cells[begin + cell]
