"""Where regions of the arena lie: a buddy allocator over slot numbers.

Flow: a bin needs a region of 2**order slots -> [allocate] -> start; the bin moves out -> [release].

A region is a run of slots whose length is a power of two and whose start is a multiple of its
length. A released region merges with its free buddy, so that the small regions which bins leave
behind when they double become the large ones that other bins double into.

Invariants
  R1  The first 2**SMALLEST slots, which stay empty (NO_REGION), regions in use, free regions, and
      the end [top, capacity) partition the slot space.
  R2  No two free buddies exist; a free region that ends at `top` is given back to the end.
  R3  Slots at or above `high_water` have not been written since the system last took their memory
      back, if ever: their cells are zero. Slots of a region that `allocate` returns are all empty
      (stamp zero).
  R4  A free region's first slot holds the links of its free list in its first two cells;
      `markers[start >> SMALLEST]` holds order + 1, and 0 for every start that is no free region.
  R5  What `returnable` names is no part of a region in use, and of a free region it leaves out the
      first slot: those pages may read zero from then on.

Source: Knowlton, "A Fast Storage Allocator", CACM 1965 (buddy system).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.statestore import _signatures as kinds
from service.statestore._layout import (
    CAPACITY,
    HEADS,
    HIGH_WATER,
    IN_USE,
    NOTHING,
    ORDER_BITS,
    ORDER_MASK,
    ORDERS,
    RELEASED,
    RELEASED_MAX,
    SMALLEST,
    STAMP,
    TOP,
    Arena,
    Int64s,
)


def new_space(capacity: int) -> Int64s:
    """Registers of an allocator over `capacity` slots, none of them in use."""
    space = np.full(RELEASED + 1 + RELEASED_MAX, NOTHING, dtype=np.int64)
    space[TOP] = space[HIGH_WATER] = 1 << SMALLEST
    space[IN_USE] = space[RELEASED] = 0
    space[CAPACITY] = capacity
    return space


@njit(cache=True, nogil=True)
def _link(arena: Arena, start: int, order: int) -> None:
    cells = arena.cells
    head = arena.space[HEADS + order]
    cells[start, 0] = head
    cells[start, 1] = NOTHING
    if head != NOTHING:
        cells[head, 1] = start
    arena.space[HEADS + order] = start
    arena.markers[start >> SMALLEST] = order + 1
    # The links are written data, where a region was cut from the fresh end.
    arena.space[HIGH_WATER] = max(arena.space[HIGH_WATER], start + 1)


@njit(cache=True, nogil=True)
def _unlink(arena: Arena, start: int, order: int) -> None:
    cells = arena.cells
    after, before = cells[start, 0], cells[start, 1]
    if after != NOTHING:
        cells[after, 1] = before
    if before != NOTHING:
        cells[before, 0] = after
    else:
        arena.space[HEADS + order] = after
    arena.markers[start >> SMALLEST] = 0


@njit(cache=True, nogil=True)
def _free_gap(arena: Arena, end: int) -> None:
    """Turn [top, end) into free regions, where `end` is aligned higher than `top`.

    Each is as large as its start allows, so no two of them are buddies (R2).
    """
    space = arena.space
    while space[TOP] < end:
        order = SMALLEST
        while (space[TOP] >> order) & 1 == 0:
            order += 1
        _link(arena, space[TOP], order)
        space[TOP] += 1 << order


@njit(cache=True, nogil=True)
def _free_region_ending_at(markers: NDArray[np.int8], end: int) -> int:
    order = SMALLEST
    while order < ORDERS and end > 0 and (end >> order) << order == end:
        start = end - (1 << order)
        if markers[start >> SMALLEST] == order + 1:
            return int(start)
        order += 1
    return NOTHING


@njit(kinds.ALLOCATE, cache=True, nogil=True)
def allocate(arena: Arena, order: int) -> int:
    """Take a region of 2**order slots, all empty (R3), order >= SMALLEST.

    Returns:
        Its first slot, or NOTHING if the address space is used up (then nothing has changed).

    Cost: O(ORDERS), plus clearing the region where it is not fresh.
    """
    space = arena.space
    size = 1 << order
    found = order
    while found < ORDERS and space[HEADS + found] == NOTHING:
        found += 1
    if found < ORDERS:
        start = space[HEADS + found]
        _unlink(arena, start, found)
        while found > order:
            found -= 1
            _link(arena, start + (1 << found), found)
    else:
        start = (space[TOP] + size - 1) & ~(size - 1)
        if start + size > space[CAPACITY]:
            return NOTHING
        _free_gap(arena, start)
        space[TOP] = start + size
    fresh = max(start, space[HIGH_WATER])
    for slot in range(start, min(fresh, start + size)):
        # Not written where it is zero: reading memory that was given back does not take it again.
        if arena.cells[slot, STAMP] != 0:
            arena.cells[slot, STAMP] = 0
    space[HIGH_WATER] = max(space[HIGH_WATER], start + size)
    space[IN_USE] += size
    return int(start)


@njit(kinds.RELEASE, cache=True, nogil=True)
def release(arena: Arena, region: int) -> None:
    """Give a packed region back and merge it with its free buddies (R2).

    Cost: O(ORDERS).
    """
    space, markers = arena.space, arena.markers
    start = region >> ORDER_BITS
    order = region & ORDER_MASK
    space[IN_USE] -= 1 << order
    space[RELEASED] += 1
    if space[RELEASED] <= RELEASED_MAX:
        space[RELEASED + space[RELEASED]] = region
    while order < ORDERS - 1:
        buddy = start ^ (1 << order)
        if buddy >= space[TOP] or markers[buddy >> SMALLEST] != order + 1:
            break
        _unlink(arena, buddy, order)
        start = min(start, buddy)
        order += 1
    if start + (1 << order) != space[TOP]:
        _link(arena, start, order)
        return
    # The end moves down over this region and over the free ones that now touch it.
    while start != NOTHING:
        space[TOP] = start
        start = _free_region_ending_at(markers, start)
        if start != NOTHING:
            _unlink(arena, start, markers[start >> SMALLEST] - 1)


@njit(cache=True, nogil=True)
def _free_region_around(arena: Arena, start: int, order: int) -> int:
    """The free region, packed, that holds [start, start + 2**order), or NOTHING."""
    while order < ORDERS:
        first = (start >> order) << order
        if arena.markers[first >> SMALLEST] == order + 1:
            return int(first << ORDER_BITS | order)
        order += 1
    return NOTHING


@njit(cache=True, nogil=True)
def _note_range(arena: Arena, page: int, within: int, start: int, end: int, out: Int64s) -> int:
    """Enter the pages of slots [start, end) that lie in the free region `within`; how many ranges.

    A page goes as soon as all of it is free, though small regions were released one by one.
    """
    row = 8 * arena.cells.shape[1]
    first = within >> ORDER_BITS
    last = first + (1 << (within & ORDER_MASK))
    low = max(start * row // page, ((first + 1) * row + page - 1) // page)
    high = min((end * row + page - 1) // page, last * row // page)
    if high <= low:
        return 0
    out[0], out[1] = low * page, (high - low) * page
    return 1


@njit(kinds.RETURNABLE, cache=True, nogil=True)
def returnable(arena: Arena, page: int, ranges: Int64s) -> int:
    """Which memory the system may have back of what was released since the last call (R5).

    Args:
        arena: the table.
        page: bytes of a page.
        ranges: out, lines of (first byte, bytes), both multiples of `page`; more than fit are
            passed over. The first line, which may be empty, is memory behind the end; where it is
            given back, `high_water` may be lowered to its first byte.

    Returns:
        How many lines were written, at least one.
    """
    space, row = arena.space, 8 * arena.cells.shape[1]
    low = (space[TOP] * row + page - 1) // page * page
    ranges[0, 0] = low
    ranges[0, 1] = max((space[HIGH_WATER] * row + page - 1) // page * page - low, 0)
    count = 1
    released = space[RELEASED]
    space[RELEASED] = 0
    if released <= RELEASED_MAX:
        for number in range(released):
            region = space[RELEASED + 1 + number]
            start, order = region >> ORDER_BITS, region & ORDER_MASK
            if start >= space[TOP] or count == ranges.shape[0]:
                continue
            within = _free_region_around(arena, start, order)
            if within != NOTHING:
                end = start + (1 << order)
                count += _note_range(arena, page, within, start, end, ranges[count])
        return count
    for order in range(SMALLEST, ORDERS):
        start = space[HEADS + order]
        while start != NOTHING and count < ranges.shape[0]:
            within = start << ORDER_BITS | order
            count += _note_range(arena, page, within, start, start + (1 << order), ranges[count])
            start = arena.cells[start, 0]
    return count
