"""Kernels of timers: every bin's timers as a binary heap in a region of its own.

Flow: TimerTable -> [set_timers, pop_timers, settle_timers] change the arrays in place, without the
GIL.

The arena's slots are four cells: time, key, tag, and the number of the call << 1 with 1 for set and
0 for cancelled. A timer is its time, key and tag; of several entries of one timer the latest call
counts, and it comes out last because the number is compared last. So setting and cancelling are an
entry each and look for nothing. `rows` counts the entries of each bin.

Invariants
  TH1  The entries of a bin lie at the beginning of its region, as a heap: none precedes its parent.
  TH2  A bin is settled, that is sorted and freed of entries that do not count, before it grows; it
       grows only if it is then more than half full: entries of timers long cancelled do not add up.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from service.statestore import _row_signatures as kinds
from service.statestore._layout import (
    NO_REGION,
    NOTHING,
    ORDER_BITS,
    ORDER_MASK,
    SMALLEST,
    Arena,
    Int64s,
)
from service.statestore._regions import allocate, release
from service.statestore._row_heap import bin_of

TIME, KEY, TAG, CALL = 0, 1, 2, 3
CELLS = 4
#: Earliest entry of a bin that has none.
NEVER = np.iinfo(np.int64).max


@njit(inline="always")
def _before(cells: Int64s, one: int, other: int) -> bool:
    for cell in range(CELLS):
        if cells[one, cell] != cells[other, cell]:
            return bool(cells[one, cell] < cells[other, cell])
    return False


@njit(inline="always")
def _swap(cells: Int64s, one: int, other: int) -> None:
    for cell in range(CELLS):
        kept = cells[one, cell]
        cells[one, cell] = cells[other, cell]
        cells[other, cell] = kept


@njit(cache=True, nogil=True)
def _sink(cells: Int64s, start: int, count: int) -> None:
    """Restore TH1 where only the first entry may be wrong."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= count:
            return
        if child + 1 < count and _before(cells, start + child + 1, start + child):
            child += 1
        if not _before(cells, start + child, start + place):
            return
        _swap(cells, start + child, start + place)
        place = child


@njit(cache=True, nogil=True)
def _rise(cells: Int64s, start: int, place: int) -> None:
    """Restore TH1 where only the entry at `place` may be wrong, and too far behind."""
    while place > 0:
        parent = (place - 1) >> 1
        if not _before(cells, start + place, start + parent):
            return
        _swap(cells, start + place, start + parent)
        place = parent


@njit(inline="always")
def _pop(cells: Int64s, start: int, count: int) -> None:
    """Take the first entry out; its place is where the last one was."""
    _swap(cells, start, start + count - 1)
    _sink(cells, start, count - 1)


@njit(inline="always")
def _same(cells: Int64s, slot: int, lines: Int64s, place: int) -> bool:
    return bool(
        cells[slot, TIME] == lines[TIME, place]
        and cells[slot, KEY] == lines[KEY, place]
        and cells[slot, TAG] == lines[TAG, place]
    )


@njit(inline="always")
def _earliest(arena: Arena, bin_id: int) -> int:
    if arena.rows[bin_id] == 0:
        return NEVER
    return int(arena.cells[arena.regions[bin_id] >> ORDER_BITS, TIME])


@njit(cache=True, nogil=True)
def _drain(arena: Arena, bin_id: int, until: int, lines: Int64s, begin: int) -> int:
    """Move the entries up to a time out, sorted, those left out that do not count.

    Returns:
        Where the lines end that begin at `begin`.
    """
    cells = arena.cells
    start, count = arena.regions[bin_id] >> ORDER_BITS, arena.rows[bin_id]
    end = begin
    while count > 0 and cells[start, TIME] <= until:
        if end > begin and not _same(cells, start, lines, end - 1) and not lines[CALL, end - 1] & 1:
            end -= 1
        if end == begin or not _same(cells, start, lines, end - 1):
            end += 1
        for cell in range(CELLS):
            lines[cell, end - 1] = cells[start, cell]
        _pop(cells, start, count)
        count -= 1
    if end > begin and not lines[CALL, end - 1] & 1:
        end -= 1
    arena.rows[bin_id] = count
    return end


@njit(cache=True, nogil=True)
def _resize(arena: Arena, bin_id: int, order: int) -> bool:
    """Give the bin a region of another order; False if none is left."""
    start = allocate(arena, order)
    if start == NOTHING:
        return False
    old, cells = arena.regions[bin_id], arena.cells
    before = old >> ORDER_BITS
    for place in range(arena.rows[bin_id]):
        for cell in range(CELLS):
            cells[start + place, cell] = cells[before + place, cell]
    if old != NO_REGION:
        release(arena, old)
    arena.regions[bin_id] = start << ORDER_BITS | order
    return True


@njit(inline="always")
def _fitting(count: int, order: int) -> int:
    """Order of a region for so many entries, in place of one of this order: a quarter is in use."""
    while order > SMALLEST and 4 * count <= 1 << order:
        order -= 1
    return order


@njit(cache=True, nogil=True)
def _shrink(arena: Arena, bin_id: int) -> None:
    """Give memory back where three quarters of the region are unused (if there is room to)."""
    region, count = arena.regions[bin_id], arena.rows[bin_id]
    if region == NO_REGION:
        return
    if count == 0:
        release(arena, region)
        arena.regions[bin_id] = NO_REGION
    elif _fitting(count, region & ORDER_MASK) < region & ORDER_MASK:
        _resize(arena, bin_id, _fitting(count, region & ORDER_MASK))


@njit(cache=True, nogil=True)
def _settle(arena: Arena, bin_id: int) -> None:
    """Sort the bin's entries, and leave out those that do not count."""
    count = arena.rows[bin_id]
    lines = np.empty((CELLS, count), dtype=np.int64)
    end = _drain(arena, bin_id, NEVER, lines, 0)
    start = arena.regions[bin_id] >> ORDER_BITS
    for place in range(end):
        for cell in range(CELLS):
            arena.cells[start + place, cell] = lines[cell, place]
    arena.rows[bin_id] = end


@njit(kinds.SET_TIMERS, cache=True, nogil=True)
def set_timers(
    arena: Arena,
    bin_bits: int,
    keys: Int64s,
    times: Int64s,
    tags: Int64s,
    call: int,
    is_set: int,
    earliest: Int64s,
) -> bool:
    """Enter timers as set or cancelled by a call; False if no address space is left."""
    cells = arena.cells
    for row in range(keys.shape[0]):
        bin_id = bin_of(keys[row], bin_bits)
        region = arena.regions[bin_id]
        if region == NO_REGION:
            if not _resize(arena, bin_id, SMALLEST):
                return False
        elif arena.rows[bin_id] == 1 << (region & ORDER_MASK):
            _settle(arena, bin_id)
            earliest[bin_id] = _earliest(arena, bin_id)
            order = region & ORDER_MASK
            if 2 * arena.rows[bin_id] > 1 << order:
                if not _resize(arena, bin_id, order + 1):
                    return False
            elif _fitting(arena.rows[bin_id], order) < order:
                _resize(arena, bin_id, _fitting(arena.rows[bin_id], order))
        start, place = arena.regions[bin_id] >> ORDER_BITS, arena.rows[bin_id]
        cells[start + place, TIME] = times[row]
        cells[start + place, KEY] = keys[row]
        cells[start + place, TAG] = tags[row]
        cells[start + place, CALL] = call << 1 | is_set
        arena.rows[bin_id] = place + 1
        _rise(cells, start, place)
        earliest[bin_id] = cells[start, TIME]
    return True


@njit(kinds.POP_TIMERS, cache=True, nogil=True)
def pop_timers(arena: Arena, bin_ids: Int64s, until: int, lines: Int64s, earliest: Int64s) -> int:
    """Take the timers of these bins up to a time out, each bin's in order.

    Args:
        arena: the timers.
        bin_ids: each once.
        until: a time.
        lines: out, four lines, wide enough for all entries of the bins.
        earliest: of each bin, kept.

    Returns:
        How many came out.
    """
    end = 0
    for bin_id in bin_ids:
        end = _drain(arena, bin_id, until, lines, end)
        earliest[bin_id] = _earliest(arena, bin_id)
        _shrink(arena, bin_id)
    return end


@njit(kinds.SETTLE_TIMERS, cache=True, nogil=True)
def settle_timers(arena: Arena, bin_id: int, earliest: Int64s) -> None:
    """Leave exactly one entry for each timer of the bin, sorted."""
    _settle(arena, bin_id)
    earliest[bin_id] = _earliest(arena, bin_id)
    _shrink(arena, bin_id)
