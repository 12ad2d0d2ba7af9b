"""Kernels of a table whose rows do not all fit into memory: evict, recall, and what is away.

Flow: TieredTable -> [these kernels] change the arena, and the filter's words, in place.

Invariants
  TI1  A row leaves by the clock: not while it is REFERENCED, which the hand takes away when it
       comes by, so that a row touched since the last round stays for another.
  TI3  The hand goes round in steps that spread over the whole region. Slot by slot it would leave
       emptiness behind itself and crowds before it, where rows are found only after thousands of
       others (measured: 100 times as slow).
  TI2  A word of the filter keeps all bits of every key entered.
Source: Corbato, "A Paging Experiment with the Multics System", 1968 (the clock); Putze, Sanders and
Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007 (a filter of one word a key).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.hashing import mix64
from service.statestore import _signatures as kinds
from service.statestore._kernels import (
    TOUCHED_SLOTS,
    TOUCHED_STAMPS,
    TOUCHED_STATE,
    resize,
    take_out,
)
from service.statestore._layout import (
    DIRTY,
    FIRST_COLUMN,
    MARK_BITS,
    NO_REGION,
    ORDER_BITS,
    ORDER_MASK,
    REFERENCED,
    SMALLEST,
    STAMP,
    Arena,
    Int64s,
)
from service.statestore._prefetch import prefetch
from service.statestore._regions import release

Words = NDArray[np.uint64]

#: 2**64 over the golden ratio: multiples of it spread evenly, however many there are.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
#: How many steps before its coming the hand asks for a row.
_HAND_AHEAD = 8


@njit(kinds.EVICT, cache=True, nogil=True)
def evict(
    arena: Arena, bin_ids: Int64s, keep: Int64s, orders: Int64s, hands: Int64s, out: Int64s
) -> int:
    """Take rows out of bins (TI1), and move the bins into regions of other orders.

    Args:
        arena: the table, no touch in progress.
        bin_ids: bins, each once.
        keep: how many rows each may keep at most.
        orders: order of the region each is to have if that is smaller; 0, where it keeps no row,
            gives its region up.
        hands: how many steps the hand of each bin of the table has made; changed.
        out: out, a line per cell of a slot, wide enough; rows come bin by bin.

    Returns:
        How many rows were taken out.
    """
    cells, regions, rows = arena.cells, arena.regions, arena.rows
    count = 0
    for number in range(bin_ids.shape[0]):
        bin_id = bin_ids[number]
        region = regions[bin_id]
        start = region >> ORDER_BITS
        order = region & ORDER_MASK
        mask = (1 << order) - 1
        step = np.int64(_GOLDEN >> np.uint64(64 - order)) | 1 if order > 0 else 1
        hand = hands[bin_id]
        while rows[bin_id] > keep[number]:
            slot = start + (hand * step & mask)
            stamp = cells[slot, STAMP]
            if stamp != 0 and stamp & REFERENCED == 0:
                for cell in range(cells.shape[1]):
                    out[cell, count] = cells[slot, cell]
                count += 1
                rows[bin_id] -= 1
                # Another row may take the slot: the hand stays.
                take_out(cells, region, slot)
                continue
            if stamp != 0:
                cells[slot, STAMP] = stamp ^ REFERENCED
            hand += 1
            prefetch(cells, start + ((hand + _HAND_AHEAD) * step & mask))
        hands[bin_id] = hand
        if region == NO_REGION:
            continue
        if orders[number] < SMALLEST:
            regions[bin_id] = NO_REGION
            release(arena, region)
        elif orders[number] < order:
            resize(arena, bin_id, orders[number], np.empty(0, dtype=np.int64))
    return count


@njit(kinds.FILL, cache=True, nogil=True)
def fill(arena: Arena, touched: Int64s, positions: Int64s, values: Int64s) -> None:
    """Give new rows of a touch in progress the versions and state they had, as unchanged.

    Args:
        arena: the table.
        touched: lines of the touch; changed with the rows.
        positions: which of the touched rows.
        values: for each of those, its version and its state columns.
    """
    cells = arena.cells
    for number in range(positions.shape[0]):
        position = positions[number]
        slot = touched[TOUCHED_SLOTS, position]
        touched[TOUCHED_STAMPS, position] = (values[number, 0] + 1) << MARK_BITS
        for column in range(values.shape[1] - 1):
            cells[slot, FIRST_COLUMN + column] = values[number, 1 + column]
            touched[TOUCHED_STATE + column, position] = values[number, 1 + column]


@njit(kinds.UNREFER, cache=True, nogil=True)
def unrefer(arena: Arena, slots: Int64s, positions: Int64s) -> None:
    """Take the mark from rows that came with the last batch: one touch does not make a row hot."""
    cells = arena.cells
    for number in range(positions.shape[0]):
        cells[slots[positions[number]], STAMP] &= ~REFERENCED


@njit(kinds.CHANGED, cache=True, nogil=True)
def take_changed(arena: Arena, bin_ids: Int64s, out: Int64s) -> int:
    """Copy the DIRTY rows of the bins, bin by bin, and take that mark from them.

    Returns:
        How many rows were copied.
    """
    cells = arena.cells
    count = 0
    for bin_id in bin_ids:
        region = arena.regions[bin_id]
        start = region >> ORDER_BITS
        for slot in range(start, start + (1 << (region & ORDER_MASK))):
            if cells[slot, STAMP] & DIRTY != 0:
                for cell in range(cells.shape[1]):
                    out[cell, count] = cells[slot, cell]
                cells[slot, STAMP] ^= DIRTY
                count += 1
    return count


@njit(inline="always")
def _bits_of(hashed: np.uint64) -> np.uint64:
    """Four bits of a word, from the low bits of a hash."""
    one, six, last = np.uint64(1), np.uint64(6), np.uint64(63)
    bits = one << (hashed & last)
    for _ in range(3):
        hashed >>= six
        bits |= one << (hashed & last)
    return bits


@njit(inline="always")
def _word_of(words: Words, hashed: np.uint64) -> int:
    """Which word a key has, from the middle bits of its hash; there are a power of two."""
    return int(np.int64(hashed >> np.uint64(24)) & (words.shape[0] - 1))


@njit(kinds.ENTER, cache=True, nogil=True)
def enter(words: Words, keys: Int64s) -> None:
    """Enter keys into a filter (TI2)."""
    for row in range(keys.shape[0]):
        hashed = mix64(np.uint64(keys[row]))
        words[_word_of(words, hashed)] |= _bits_of(hashed)


@njit(kinds.MAY_HOLD, cache=True, nogil=True)
def may_hold(words: Words, keys: Int64s, out: NDArray[np.bool_]) -> None:
    """Set `out` where a key may have been entered; where it is set already, leave it."""
    for row in range(keys.shape[0]):
        if not out[row]:
            hashed = mix64(np.uint64(keys[row]))
            bits = _bits_of(hashed)
            out[row] = words[_word_of(words, hashed)] & bits == bits
