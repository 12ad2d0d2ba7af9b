"""Kernels of a heap of typed rows: every bin's rows in a region of its own, chained by key.

Flow: RowTable holds an index (an arena with a slot per key) and a heap (an arena of cells) ->
[these kernels] change both in place, without the GIL.

The heap is an arena whose slots are two cells; of it a kernel is also given all cells as one line.
Its `rows` counts the cells in use of each bin, its `loads` those of them that are garbage. A row's
address is its cell counted from the beginning of its bin's region: it stays while the bin grows
by whole regions, and `_refit`, which lays a bin out anew, is the only one that changes it.

Of each group of rows a slot of the index has three state columns: head and tail (addresses of the
first and the last row of the chain) and the number of rows.

Invariants
  RH1  A chain has as many rows as its slot says; the link of the last one means nothing.
  RH2  Cells in use of a bin lie at the beginning of its region; those of chains and garbage add up.
  RH3  Rows of a chain are in order of insertion, and stay so when a bin is laid out anew.
  RH4  Room for a batch is made before it is touched, so that adding rows cannot fail midway.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.hashing import mix64
from service.statestore import _row_signatures as kinds
from service.statestore._kernels import TOUCHED_KEYS, TOUCHED_STATE
from service.statestore._layout import (
    FIRST_COLUMN,
    NO_REGION,
    NOTHING,
    ORDER_BITS,
    ORDER_MASK,
    SMALLEST,
    STAMP,
    Arena,
    Int64s,
)
from service.statestore._regions import allocate, release
from service.statestore._row_cells import LINK_SHIFT, SIZE_MASK

#: State columns of a group in the index.
HEAD, TAIL, COUNT = 0, 1, 2
GROUP_COLUMNS = 3
#: What `add` does with a row whose key has some: chain it, or put it in their place, or leave it.
CHAIN, REPLACE, KEEP = 0, 1, 2
#: Lines of `found`.
FOUND_HEAD, FOUND_COUNT, FOUND_OWN = 0, 1, 2
#: Load thresholds of the index are spread up to this one; of the heap they are used in proportion.
_LOAD_GREATEST = 820


@njit(inline="always")
def bin_of(key: int, bin_bits: int) -> int:
    hashed = mix64(np.uint64(key))
    return (hashed >> np.uint64(1)) >> np.uint64(63 - bin_bits)  # type: ignore[return-value]  # numba's int


@njit(inline="always")
def base_of(region: int) -> int:
    """First cell of a region."""
    return (region >> ORDER_BITS) << 1


@njit(inline="always")
def _limit(order: int, load: int) -> int:
    """Cells that a region takes before its bin is laid out anew, spread over a factor of two."""
    return (2 << order) * load // _LOAD_GREATEST


@njit(cache=True, nogil=True)
def _refit(index: Arena, heap: Arena, flat: Int64s, groups: int, bin_id: int, room: int) -> bool:
    """Lay a bin out anew, without its garbage, with room for more cells; False if there is none."""
    live = heap.rows[bin_id] - heap.loads[bin_id]
    old, load = heap.regions[bin_id], index.loads[bin_id]
    order = SMALLEST
    while _limit(order, load) < live + room + (live + room) // 4:
        order += 1
    start = allocate(heap, order)
    if start == NOTHING:
        return False
    new = start << ORDER_BITS | order
    used = np.int64(0)
    if live:
        cells = index.cells
        source, target = base_of(old), base_of(new)
        region = index.regions[bin_id]
        first = region >> ORDER_BITS
        for slot in range(first, first + (1 << (region & ORDER_MASK))):
            if cells[slot, STAMP] == 0:
                continue
            for group in range(groups):
                column = FIRST_COLUMN + group * GROUP_COLUMNS
                count = cells[slot, column + COUNT]
                if count == 0:
                    continue
                at = cells[slot, column + HEAD]
                cells[slot, column + HEAD] = used
                for _ in range(count):
                    head = flat[source + at]
                    size = head & SIZE_MASK
                    flat[target + used] = (used + size) << LINK_SHIFT | size
                    for cell in range(1, size):
                        flat[target + used + cell] = flat[source + at + cell]
                    cells[slot, column + TAIL] = used
                    used += size
                    at = head >> LINK_SHIFT
    if old != NO_REGION:
        release(heap, old)
    heap.regions[bin_id] = new
    heap.rows[bin_id] = used
    heap.loads[bin_id] = 0
    return True


@njit(kinds.MAKE_ROOM, cache=True, nogil=True)
def make_room(
    index: Arena,
    heap: Arena,
    flat: Int64s,
    bin_bits: int,
    groups: int,
    keys: Int64s,
    sizes: Int64s,
    needed: Int64s,
) -> bool:
    """Make room in their bins for rows of these keys (RH4).

    Args:
        index: the keys, none of them touched.
        heap: their rows.
        flat: all cells of the heap.
        bin_bits: 0..20.
        groups: of rows.
        keys: n keys.
        sizes: cells of the row, or rows, of each.
        needed: for each bin 0, and 0 again afterwards.

    Returns:
        False if no address space is left; what was there is as before.
    """
    for row in range(keys.shape[0]):
        needed[bin_of(keys[row], bin_bits)] += sizes[row]
    complete = True
    for row in range(keys.shape[0]):
        bin_id = bin_of(keys[row], bin_bits)
        room = needed[bin_id]
        if room == 0:
            continue
        needed[bin_id] = 0
        region = heap.regions[bin_id]
        limit = 0
        if region != NO_REGION:
            limit = _limit(region & ORDER_MASK, index.loads[bin_id])
        if complete and heap.rows[bin_id] + room > limit:
            complete = _refit(index, heap, flat, groups, bin_id, room)
    return complete


@njit(cache=True, nogil=True)
def _drop_chain(heap: Arena, flat: Int64s, bin_id: int, head: int, count: int) -> None:
    """Count the rows of a chain as garbage."""
    at = base_of(heap.regions[bin_id]) + head
    base = at - head
    for _ in range(count):
        row = flat[at]
        heap.loads[bin_id] += row & SIZE_MASK
        at = base + (row >> LINK_SHIFT)


@njit(kinds.ADD, cache=True, nogil=True)
def add(
    heap: Arena,
    flat: Int64s,
    bin_bits: int,
    mode: int,
    touched: Int64s,
    positions: NDArray[np.int32],
    groups: Int64s,
    starts: Int64s,
    cells: Int64s,
    met: Int64s,
) -> None:
    """Add rows to the chains of touched keys, in order; room has been made (RH4).

    Args:
        heap: the rows.
        flat: all its cells.
        bin_bits: 0..20.
        mode: CHAIN, REPLACE or KEEP.
        touched: lines of the touched keys.
        positions: number of each row's key among them.
        groups: which group each row joins.
        starts: where each row begins in `cells`.
        cells: the rows.
        met: out, unless it is empty: three lines, head and number of the rows that each row met in
            the other one of two groups, and its own address.
    """
    regions, used = heap.regions, heap.rows
    meets = met.shape[1] > 0
    for row in range(positions.shape[0]):
        position = positions[row]
        bin_id = bin_of(touched[TOUCHED_KEYS, position], bin_bits)
        base = base_of(regions[bin_id])
        group = groups[row]
        column = TOUCHED_STATE + group * GROUP_COLUMNS
        if meets:
            other = TOUCHED_STATE + (1 - group) * GROUP_COLUMNS
            met[FOUND_HEAD, row] = touched[other + HEAD, position]
            met[FOUND_COUNT, row] = touched[other + COUNT, position]
        count = touched[column + COUNT, position]
        if mode == KEEP and count > 0:
            continue
        begin = starts[row]
        size = cells[begin]
        at = used[bin_id]
        if mode == REPLACE and count > 0:
            head = touched[column + HEAD, position]
            if count == 1 and flat[base + head] & SIZE_MASK == size:
                at = head
            else:
                _drop_chain(heap, flat, bin_id, head, count)
            count = 0
        if at == used[bin_id]:
            used[bin_id] += size
        flat[base + at] = size
        for cell in range(1, size):
            flat[base + at + cell] = cells[begin + cell]
        if count == 0:
            touched[column + HEAD, position] = at
        else:
            tail = base + touched[column + TAIL, position]
            flat[tail] = at << LINK_SHIFT | (flat[tail] & SIZE_MASK)
        touched[column + TAIL, position] = at
        touched[column + COUNT, position] = count + 1
        if meets:
            met[FOUND_OWN, row] = at


@njit(kinds.CHAINS_AT, cache=True, nogil=True)
def chains_at(index: Arena, slots: Int64s, group: int, found: Int64s) -> None:
    """Head and number of the rows of a group at these slots; none where the slot is -1."""
    column = FIRST_COLUMN + group * GROUP_COLUMNS
    for row in range(slots.shape[0]):
        slot = slots[row]
        found[FOUND_HEAD, row] = index.cells[slot, column + HEAD] if slot >= 0 else 0
        found[FOUND_COUNT, row] = index.cells[slot, column + COUNT] if slot >= 0 else 0


@njit(kinds.WALK, cache=True, nogil=True)
def walk(
    heap: Arena, flat: Int64s, bin_bits: int, keys: Int64s, found: Int64s, rows: Int64s
) -> None:
    """List the rows of the chains found: the number of the key, and the address in `flat`.

    With a third line `rows` is also told the address of the row that found them.
    """
    place = 0
    for number in range(keys.shape[0]):
        count = found[FOUND_COUNT, number]
        if count == 0:
            continue
        base = base_of(heap.regions[bin_of(keys[number], bin_bits)])
        at = base + found[FOUND_HEAD, number]
        for _ in range(count):
            rows[0, place] = number
            rows[1, place] = at
            if rows.shape[0] > FOUND_OWN:
                rows[2, place] = base + found[FOUND_OWN, number]
            at = base + (flat[at] >> LINK_SHIFT)
            place += 1


@njit(kinds.RETAIN, cache=True, nogil=True)
def retain(
    heap: Arena,
    flat: Int64s,
    bin_bits: int,
    group: int,
    touched: Int64s,
    count: int,
    order: NDArray[np.int32],
    kept: NDArray[np.uint8],
) -> None:
    """Take rows out of the chains of touched keys.

    Args:
        heap: the rows.
        flat: all its cells.
        bin_bits: 0..20.
        group: whose chains.
        touched: lines of the touched keys.
        count: how many there are.
        order: their numbers, in the order in which `walk` went through their chains.
        kept: of each row that `walk` listed, whether it stays.
    """
    column = TOUCHED_STATE + group * GROUP_COLUMNS
    place = 0
    for number in range(count):
        position = order[number]
        rows = touched[column + COUNT, position]
        bin_id = bin_of(touched[TOUCHED_KEYS, position], bin_bits)
        base = base_of(heap.regions[bin_id])
        at = touched[column + HEAD, position]
        stay = 0
        for _ in range(rows):
            head = flat[base + at]
            if kept[place]:
                if stay == 0:
                    touched[column + HEAD, position] = at
                else:
                    tail = base + touched[column + TAIL, position]
                    flat[tail] = at << LINK_SHIFT | (flat[tail] & SIZE_MASK)
                touched[column + TAIL, position] = at
                stay += 1
            else:
                heap.loads[bin_id] += head & SIZE_MASK
            place += 1
            at = head >> LINK_SHIFT
        touched[column + COUNT, position] = stay


@njit(kinds.SHRINK, cache=True, nogil=True)
def shrink(index: Arena, heap: Arena, flat: Int64s, groups: int, bin_ids: Int64s) -> None:
    """Lay those of the bins out anew of whose regions most is unused; no key is touched."""
    for bin_id in bin_ids:
        region = heap.regions[bin_id]
        if region == NO_REGION:
            continue
        live = heap.rows[bin_id] - heap.loads[bin_id]
        order = region & ORDER_MASK
        if live == 0:
            release(heap, region)
            heap.regions[bin_id] = NO_REGION
            heap.rows[bin_id] = heap.loads[bin_id] = 0
        # A quarter, so that a bin that swings about one size is not laid out anew each time.
        elif order > SMALLEST and 4 * live <= _limit(order, index.loads[bin_id]):
            _refit(index, heap, flat, groups, bin_id, 0)
