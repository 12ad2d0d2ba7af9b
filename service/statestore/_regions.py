"""Where regions of the arena lie: a buddy allocator over slot numbers.

Flow: a bin needs a region of 2**order slots -> [allocate] -> start; the bin moves out -> [release].

A region is a run of slots whose length is a power of two and whose start is a multiple of its
length. A released region merges with its free buddy, so that the small regions which bins leave
behind when they double become the large ones that other bins double into.

Invariants
  R1  Regions in use, free regions and the untouched end [top, capacity) partition the slot space.
  R2  No two free buddies exist; a free region that ends at `top` is given back to the end.
  R3  Slots at or above `high_water` have never been written: their cells are zero. The slots of a
      region that `allocate` returns are all empty (stamp zero).
  R4  A free region's first slot holds the links of its free list in its first two cells;
      `markers[start >> SMALLEST]` holds order + 1, and 0 for every start that is no free region.

Source: Knowlton, "A Fast Storage Allocator", CACM 1965 (buddy system).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Order of the smallest region: 8 slots.
SMALLEST = 3
#: Orders below this one have a free list; 2**40 slots are beyond any machine.
ORDERS = 40
NOTHING = -1

#: Cells of every slot; the state columns follow.
STAMP = 0
KEY = 1
FIRST_COLUMN = 2

#: Registers of an allocator; the heads of the free lists follow.
TOP = 0
HIGH_WATER = 1
CAPACITY = 2
IN_USE = 3
HEADS = 4

Int64s = NDArray[np.int64]
Int8s = NDArray[np.int8]


def new_space(capacity: int) -> Int64s:
    """Registers of an allocator over `capacity` slots, none of them in use."""
    space = np.full(HEADS + ORDERS, NOTHING, dtype=np.int64)
    space[TOP] = space[HIGH_WATER] = space[IN_USE] = 0
    space[CAPACITY] = capacity
    return space


@njit(cache=True, nogil=True)
def _link(cells: Int64s, markers: Int8s, space: Int64s, start: int, order: int) -> None:
    head = space[HEADS + order]
    cells[start, 0] = head
    cells[start, 1] = NOTHING
    if head != NOTHING:
        cells[head, 1] = start
    space[HEADS + order] = start
    markers[start >> SMALLEST] = order + 1


@njit(cache=True, nogil=True)
def _unlink(cells: Int64s, markers: Int8s, space: Int64s, start: int, order: int) -> None:
    after, before = cells[start, 0], cells[start, 1]
    if after != NOTHING:
        cells[after, 1] = before
    if before != NOTHING:
        cells[before, 0] = after
    else:
        space[HEADS + order] = after
    markers[start >> SMALLEST] = 0


@njit(cache=True, nogil=True)
def allocate(cells: Int64s, markers: Int8s, space: Int64s, order: int) -> int:
    """Take a region of 2**order slots, all empty (R3), order >= SMALLEST.

    Returns:
        Its first slot, or NOTHING if the address space is used up (then nothing has changed).

    Cost: O(ORDERS), plus clearing the region where it is not fresh.
    """
    size = 1 << order
    found = order
    while found < ORDERS and space[HEADS + found] == NOTHING:
        found += 1
    if found < ORDERS:
        start = space[HEADS + found]
        _unlink(cells, markers, space, start, found)
        while found > order:
            found -= 1
            _link(cells, markers, space, start + (1 << found), found)
    else:
        start = (space[TOP] + size - 1) & ~(size - 1)
        if start + size > space[CAPACITY]:
            return NOTHING
        # The gap up to the aligned start becomes free regions. Writing their links touches fresh
        # slots, hence the high water mark; no two of them are buddies.
        while space[TOP] < start:
            gap_order = SMALLEST
            while (space[TOP] >> gap_order) & 1 == 0:
                gap_order += 1
            _mark_written(cells, space, space[TOP] + 1)
            _link(cells, markers, space, space[TOP], gap_order)
            space[TOP] += 1 << gap_order
        space[TOP] = start + size
    written_end = min(start + size, space[HIGH_WATER])
    if written_end > start:
        cells[start:written_end, STAMP] = 0
    space[HIGH_WATER] = max(space[HIGH_WATER], start + size)
    space[IN_USE] += size
    return start


@njit(cache=True, nogil=True)
def _mark_written(cells: Int64s, space: Int64s, end: int) -> None:
    space[HIGH_WATER] = max(space[HIGH_WATER], end)


@njit(cache=True, nogil=True)
def release(cells: Int64s, markers: Int8s, space: Int64s, start: int, order: int) -> None:
    """Give the region back and merge it with its free buddies (R2).

    Cost: O(ORDERS).
    """
    space[IN_USE] -= 1 << order
    while order < ORDERS - 1:
        buddy = start ^ (1 << order)
        if buddy >= space[TOP] or markers[buddy >> SMALLEST] != order + 1:
            break
        _unlink(cells, markers, space, buddy, order)
        start = min(start, buddy)
        order += 1
    if start + (1 << order) != space[TOP]:
        _link(cells, markers, space, start, order)
        return
    # The end moves down over this region and over any free one that now touches it.
    space[TOP] = start
    while space[TOP] > 0:
        below = _free_region_ending_at(markers, space[TOP])
        if below == NOTHING:
            return
        _unlink(cells, markers, space, below, markers[below >> SMALLEST] - 1)
        space[TOP] = below


@njit(cache=True, nogil=True)
def _free_region_ending_at(markers: Int8s, end: int) -> int:
    for order in range(SMALLEST, ORDERS):
        if (end >> order) << order != end or end < (1 << order):
            return NOTHING
        start = end - (1 << order)
        if markers[start >> SMALLEST] == order + 1:
            return start
    return NOTHING
