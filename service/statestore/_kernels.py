"""Kernels of the arena: find, insert, remove, resize, extract; one call for a batch of all bins.

Flow: KeyedTable holds the arrays -> [these kernels] change them in place, without the GIL.

A slot is a row of `cells`: stamp, key, state columns, side by side, so that a key's whole row lies
in one or two cache lines. (Measured against one array per column: 1 M keys 2.5 times as fast.) A
stamp of zero means an empty slot; (version + 1) << MARK_BITS with the marks below, a row; a
negative stamp, between `touch` and `store` only, -(position + 1) of the row's key among the
distinct keys of the batch.

Invariants
  K1  A bin's rows are in its region only; a row is found by linear probing from the low bits of its
      hash without crossing an empty slot. So removing a row moves later rows of its run back.
  K2  Each region keeps at least one empty slot, so that probing ends.
  K3  Full keys are compared.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.hashing import mix64
from service.statestore import _signatures as kinds
from service.statestore._layout import (
    FIRST_COLUMN,
    KEY,
    MARK_BITS,
    MARKS,
    NEW_ROW,
    NO_REGION,
    NOTHING,
    ORDER_BITS,
    ORDER_MASK,
    SMALLEST,
    STAMP,
    Arena,
    Int64s,
)
from service.statestore._prefetch import prefetch
from service.statestore._regions import allocate, release

#: Lines of `touched`; the state columns follow.
TOUCHED_SLOTS = 0
TOUCHED_STAMPS = 1
TOUCHED_KEYS = 2
TOUCHED_NEW = 3
TOUCHED_STATE = 4
#: Load thresholds are in 1/1024.
LOAD_SHIFT = 10
#: A bin moves into a smaller region when its rows are at most this part of what makes it double.
#: There it fills at most half of that, so that many rows come or go before it moves again.
SPARSE_SHIFT = 3
#: How many rows ahead of its use a row is asked for; 16 to 32 measure alike.
AHEAD = 24


@njit(inline="always")
def bin_of(hashed: np.uint64, bin_bits: int) -> int:
    """The bin of a key, given its hash."""
    # Two shifts, because with no bin bits a single one by 64 would be undefined.
    return (hashed >> np.uint64(1)) >> np.uint64(63 - bin_bits)  # type: ignore[return-value]  # numba's int


@njit(inline="always")
def _find(cells: Int64s, region: int, key: int, hashed: np.uint64) -> int:
    """Slot of the key in its bin's region, or ~slot of the empty slot where it belongs (K1)."""
    start = region >> ORDER_BITS
    mask = (1 << (region & ORDER_MASK)) - 1
    offset = np.int64(hashed) & mask
    while True:
        slot = start + offset
        if cells[slot, STAMP] == 0:
            return int(~slot)
        if cells[slot, KEY] == key:
            return int(slot)
        offset = (offset + 1) & mask


@njit(cache=True, nogil=True)
def resize(arena: Arena, bin_id: int, order: int, slots: Int64s) -> bool:
    """Give the bin a region of the given order and move its rows there; False if none is left.

    Rows touched by the batch in progress take their entry of `slots` with them.
    """
    cells = arena.cells
    start = allocate(arena, order)
    if start == NOTHING:
        return False
    old, new = arena.regions[bin_id], start << ORDER_BITS | order
    arena.regions[bin_id] = new
    if old == NO_REGION:
        return True
    start = old >> ORDER_BITS
    for source in range(start, start + (1 << (old & ORDER_MASK))):
        stamp = cells[source, STAMP]
        if stamp == 0:
            continue
        key = cells[source, KEY]
        target = ~_find(cells, new, key, mix64(np.uint64(key)))
        for cell in range(cells.shape[1]):
            cells[target, cell] = cells[source, cell]
        if stamp < 0:
            slots[-stamp - 1] = target
    release(arena, old)
    return True


@njit(cache=True, nogil=True)
def _double(arena: Arena, bin_id: int, slots: Int64s) -> bool:
    """Give the bin a region twice as large, or its first one; False if none is left."""
    order = (arena.regions[bin_id] & ORDER_MASK) + 1
    return resize(arena, bin_id, max(order, SMALLEST), slots)


@njit(inline="always")
def _is_full(rows: int, load: int, region: int) -> bool:
    """Whether the bin must grow before it takes another row (K2); true of NO_REGION."""
    return rows >= (load << (region & ORDER_MASK)) >> LOAD_SHIFT


@njit(inline="always")
def _ask_for(cells: Int64s, regions: Int64s, bin_bits: int, key: int) -> None:
    """Prefetch the slot where probing for the key starts."""
    hashed = mix64(np.uint64(key))
    region = regions[bin_of(hashed, bin_bits)]
    mask = (1 << (region & ORDER_MASK)) - 1
    prefetch(cells, (region >> ORDER_BITS) + (np.int64(hashed) & mask))


@njit(kinds.TOUCH, cache=True, nogil=True)
def touch(
    arena: Arena, bin_bits: int, keys: Int64s, positions: NDArray[np.int32], touched: Int64s
) -> tuple[int, int, bool]:
    """Find or insert every key; number the distinct ones in order of first occurrence.

    Leaves the stamps of all touched rows negative, until `store` or `restore`.

    Args:
        arena: the table.
        bin_bits: 0..20.
        keys: n keys.
        positions: out, n numbers of distinct keys.
        touched: out, a line each of slots, previous stamps, keys, positions of new keys, and every
            state column of the distinct keys; at least n wide.

    Returns:
        How many distinct keys were touched, how many of those were inserted, and whether all were
        touched (False: no address space).
    """
    # Arrays are taken out of the tuple once: each access to its fields counts a reference.
    cells, regions, rows = arena.cells, arena.regions, arena.rows
    loads, initial, slots = arena.loads, arena.initial, touched[TOUCHED_SLOTS]
    count = new = 0
    for row in range(keys.shape[0]):
        if row + AHEAD < keys.shape[0]:
            _ask_for(cells, regions, bin_bits, keys[row + AHEAD])
        key = keys[row]
        hashed = mix64(np.uint64(key))
        bin_id = bin_of(hashed, bin_bits)
        slot = _find(cells, regions[bin_id], key, hashed)
        if slot >= 0:
            stamp = cells[slot, STAMP]
            if stamp < 0:
                positions[row] = -stamp - 1
                continue
        else:
            if _is_full(rows[bin_id], loads[bin_id], regions[bin_id]):
                if not _double(arena, bin_id, slots):
                    return count, new, False
                slot = _find(cells, regions[bin_id], key, hashed)
            slot = ~slot
            rows[bin_id] += 1
            cells[slot, KEY] = key
            for column in range(initial.shape[0]):
                cells[slot, FIRST_COLUMN + column] = initial[column]
            touched[TOUCHED_NEW, new] = count
            new += 1
            stamp = NEW_ROW
        positions[row] = count
        touched[TOUCHED_SLOTS, count] = slot
        touched[TOUCHED_STAMPS, count] = stamp
        touched[TOUCHED_KEYS, count] = key
        for column in range(initial.shape[0]):
            touched[TOUCHED_STATE + column, count] = cells[slot, FIRST_COLUMN + column]
        count += 1
        cells[slot, STAMP] = -count
    return count, new, True


@njit(kinds.STORE, cache=True, nogil=True)
def store(arena: Arena, touched: Int64s, count: int, version: int) -> None:
    """End a `touch`: write the `count` rows' state columns back, and the version."""
    cells, columns = arena.cells, arena.initial.shape[0]
    stamp = (version + 1) << MARK_BITS | MARKS
    for position in range(count):
        if position + AHEAD < count:
            prefetch(cells, touched[TOUCHED_SLOTS, position + AHEAD])
        slot = touched[TOUCHED_SLOTS, position]
        cells[slot, STAMP] = stamp
        for column in range(columns):
            cells[slot, FIRST_COLUMN + column] = touched[TOUCHED_STATE + column, position]


@njit(kinds.RESTORE, cache=True, nogil=True)
def restore(arena: Arena, touched: Int64s, count: int) -> None:
    """End a `touch` without a change: give each row its previous stamp back."""
    cells = arena.cells
    for position in range(count):
        cells[touched[TOUCHED_SLOTS, position], STAMP] = touched[TOUCHED_STAMPS, position]


@njit(kinds.LOOKUP, cache=True, nogil=True)
def lookup(arena: Arena, bin_bits: int, keys: Int64s, slots: Int64s) -> None:
    """Slot of each key, or NOTHING where it is absent."""
    cells, regions = arena.cells, arena.regions
    for row in range(keys.shape[0]):
        if row + AHEAD < keys.shape[0]:
            _ask_for(cells, regions, bin_bits, keys[row + AHEAD])
        hashed = mix64(np.uint64(keys[row]))
        region = regions[bin_of(hashed, bin_bits)]
        slots[row] = max(_find(cells, region, keys[row], hashed), NOTHING)


@njit(kinds.MARK, cache=True, nogil=True)
def mark(arena: Arena, slots: Int64s, version: int) -> None:
    """Give the rows at these slots the version, as changed."""
    cells = arena.cells
    for row in range(slots.shape[0]):
        cells[slots[row], STAMP] = (version + 1) << MARK_BITS | MARKS


@njit(inline="always")
def take_out(cells: Int64s, region: int, slot: int) -> None:
    """Empty a slot, and move later rows of its run back so that each is still found (K1)."""
    start = region >> ORDER_BITS
    mask = (1 << (region & ORDER_MASK)) - 1
    hole = offset = slot - start
    while True:
        offset = (offset + 1) & mask
        source = start + offset
        if cells[source, STAMP] == 0:
            break
        home = np.int64(mix64(np.uint64(cells[source, KEY]))) & mask
        # Probing from its home reaches the hole before it reaches the row.
        if (offset - home) & mask >= (offset - hole) & mask:
            for cell in range(cells.shape[1]):
                cells[start + hole, cell] = cells[source, cell]
            hole = offset
    cells[start + hole, STAMP] = 0


@njit(cache=True, nogil=True)
def _shrink(arena: Arena, bin_id: int) -> None:
    """Move a bin that has become sparse into a smaller region, or into none."""
    region, rows, load = arena.regions[bin_id], arena.rows[bin_id], arena.loads[bin_id]
    if rows == 0:
        arena.regions[bin_id] = NO_REGION
        release(arena, region)
        return
    order = SMALLEST
    while _is_full(2 * rows, load, order):
        order += 1
    if order < region & ORDER_MASK:
        # Without address space for a smaller region it stays where it is.
        resize(arena, bin_id, order, np.empty(0, dtype=np.int64))


@njit(kinds.REMOVE, cache=True, nogil=True)
def remove(arena: Arena, bin_bits: int, keys: Int64s) -> int:
    """Remove the rows of these keys; keys that are absent, or come again, are passed over.

    Returns:
        How many rows were removed.
    """
    cells, regions, rows, loads = arena.cells, arena.regions, arena.rows, arena.loads
    removed = 0
    for row in range(keys.shape[0]):
        if row + AHEAD < keys.shape[0]:
            _ask_for(cells, regions, bin_bits, keys[row + AHEAD])
        key = keys[row]
        hashed = mix64(np.uint64(key))
        bin_id = bin_of(hashed, bin_bits)
        slot = _find(cells, regions[bin_id], key, hashed)
        if slot < 0:
            continue
        take_out(cells, regions[bin_id], slot)
        rows[bin_id] -= 1
        removed += 1
        if not _is_full(rows[bin_id] << SPARSE_SHIFT, loads[bin_id], regions[bin_id]):
            _shrink(arena, bin_id)
    return removed


@njit(kinds.EXTRACT, cache=True, nogil=True)
def extract(arena: Arena, bin_ids: Int64s, since: int, out: Int64s) -> int:
    """Copy the rows of the bins whose version is above `since` (0: all), region by region.

    Args:
        arena: the table.
        bin_ids: bins, each once.
        since: version, or 0.
        out: a line per cell of a slot, wide enough for all rows of the bins.

    Returns:
        How many rows were copied.
    """
    cells = arena.cells
    least = (since + 2) << MARK_BITS if since > 0 else 1
    count = 0
    for bin_id in bin_ids:
        region = arena.regions[bin_id]
        start = region >> ORDER_BITS
        for slot in range(start, start + (1 << (region & ORDER_MASK))):
            if cells[slot, STAMP] >= least:
                for cell in range(cells.shape[1]):
                    out[cell, count] = cells[slot, cell]
                count += 1
    return count


@njit(kinds.APPEND, cache=True, nogil=True)
def append(arena: Arena, bin_bits: int, incoming: Int64s) -> tuple[int, bool]:
    """Insert rows whose keys the table does not have.

    Args:
        arena: the table.
        bin_bits: 0..20.
        incoming: a line per cell of a slot: stamps, keys, state columns.

    Returns:
        How many were inserted, and whether the reason to stop early was a key already there
        (otherwise, if not all: no address space).
    """
    cells, regions, rows, loads = arena.cells, arena.regions, arena.rows, arena.loads
    no_slots = np.empty(0, dtype=np.int64)
    for row in range(incoming.shape[1]):
        if row + AHEAD < incoming.shape[1]:
            _ask_for(cells, regions, bin_bits, incoming[KEY, row + AHEAD])
        key = incoming[KEY, row]
        hashed = mix64(np.uint64(key))
        bin_id = bin_of(hashed, bin_bits)
        slot = _find(cells, regions[bin_id], key, hashed)
        if slot >= 0:
            return row, True
        if _is_full(rows[bin_id], loads[bin_id], regions[bin_id]):
            if not _double(arena, bin_id, no_slots):
                return row, False
            slot = _find(cells, regions[bin_id], key, hashed)
        rows[bin_id] += 1
        for cell in range(incoming.shape[0]):
            cells[~slot, cell] = incoming[cell, row]
    return incoming.shape[1], False


@njit(kinds.RESERVE, cache=True, nogil=True)
def reserve(arena: Arena, bin_id: int, expected: int) -> bool:
    """Give a bin without a region one that holds `expected` > 0 rows; False if none is left."""
    order = SMALLEST
    while _is_full(expected - 1, arena.loads[bin_id], order):
        order += 1
    return resize(arena, bin_id, order, np.empty(0, dtype=np.int64))


@njit(kinds.RESERVE_EACH, cache=True, nogil=True)
def reserve_each(arena: Arena, bin_ids: Int64s, expected: Int64s) -> bool:
    """`reserve` for each of these bins, where rows are expected; False if space is used up."""
    for number in range(bin_ids.shape[0]):
        if expected[number] > 0 and not reserve(arena, bin_ids[number], expected[number]):
            return False
    return True


@njit(kinds.RELEASE_EACH, cache=True, nogil=True)
def release_each(arena: Arena, bin_ids: Int64s) -> None:
    """Forget all rows of these bins."""
    for bin_id in bin_ids:
        region = arena.regions[bin_id]
        arena.regions[bin_id], arena.rows[bin_id] = NO_REGION, 0
        if region != NO_REGION:
            release(arena, region)
