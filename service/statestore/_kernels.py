"""Kernels of the arena: find, insert, grow, extract. One call handles a whole batch of all bins.

Flow: KeyedTable holds the arrays -> [these kernels] change them in place, without the GIL.

A slot is a row of `cells`: stamp, key, state columns, side by side, so that a key's whole row lies in
one or two cache lines. A stamp of zero means an empty slot; version + 1 a row; a negative stamp,
inside `touch` only, -(position + 1) of the row's key among the distinct keys of the batch.

Invariants
  K1  A bin's rows are in its region only; a row is found by linear probing from the low bits of its
      hash without crossing an empty slot. Rows are never removed singly.
  K2  Each region keeps at least one empty slot, so that probing ends.
  K3  Full keys are compared.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from service.hashing import mix64
from service.statestore._regions import (
    FIRST_COLUMN,
    KEY,
    NOTHING,
    SMALLEST,
    STAMP,
    Int8s,
    Int64s,
    allocate,
    release,
)
from numpy.typing import NDArray

#: A bin's region packed into one number: start << ORDER_BITS | order; NOTHING for none.
ORDER_BITS = 6
ORDER_MASK = (1 << ORDER_BITS) - 1
#: Load thresholds are in 1/1024.
LOAD_SHIFT = 10


@njit(inline="always")
def _bin_of(hashed: np.uint64, bin_bits: int) -> int:
    # Two shifts, because with no bin bits a shift by 64 would be undefined.
    return np.int64((hashed >> np.uint64(1)) >> np.uint64(63 - bin_bits))


@njit(inline="always")
def _find(cells: Int64s, region: int, key: int, hashed: np.uint64) -> int:
    """Slot of the key in its bin's region, or ~slot of the empty slot where it belongs (K1)."""
    start = region >> ORDER_BITS
    mask = (1 << (region & ORDER_MASK)) - 1
    offset = np.int64(hashed) & mask
    while True:
        slot = start + offset
        if cells[slot, STAMP] == 0:
            return ~slot
        if cells[slot, KEY] == key:
            return slot
        offset = (offset + 1) & mask


@njit(cache=True, nogil=True)
def _move_rows(cells: Int64s, old: int, new: int, slots: Int64s) -> None:
    """Copy all rows of one region into an empty larger one.

    Rows touched by the batch in progress take their entry of `slots` with them.
    """
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


@njit(cache=True, nogil=True)
def _enlarge(
    cells: Int64s,
    markers: Int8s,
    space: Int64s,
    regions: Int64s,
    bin: int,
    order: int,
    slots: Int64s,
) -> bool:
    """Give the bin a region of the given order and move its rows there; False if none is left."""
    start = allocate(cells, markers, space, order)
    if start == NOTHING:
        return False
    old = regions[bin]
    regions[bin] = start << ORDER_BITS | order
    if old != NOTHING:
        _move_rows(cells, old, regions[bin], slots)
        release(cells, markers, space, old >> ORDER_BITS, old & ORDER_MASK)
    return True


@njit(cache=True, nogil=True)
def _insert(
    cells: Int64s,
    markers: Int8s,
    space: Int64s,
    regions: Int64s,
    rows: Int64s,
    loads: Int64s,
    bin: int,
    key: int,
    hashed: np.uint64,
    slots: Int64s,
) -> int:
    """Slot for a key that the bin does not have: key written, stamp and columns not.

    Returns:
        The slot, or NOTHING if the address space is used up.
    """
    region = regions[bin]
    if region == NOTHING:
        if not _enlarge(cells, markers, space, regions, bin, SMALLEST, slots):
            return NOTHING
    elif rows[bin] >= loads[bin] << (region & ORDER_MASK) >> LOAD_SHIFT:
        order = (region & ORDER_MASK) + 1
        if not _enlarge(cells, markers, space, regions, bin, order, slots):
            return NOTHING
    slot = ~_find(cells, regions[bin], key, hashed)
    cells[slot, KEY] = key
    rows[bin] += 1
    return slot


@njit(cache=True, nogil=True)
def touch(
    cells: Int64s,
    markers: Int8s,
    space: Int64s,
    regions: Int64s,
    rows: Int64s,
    loads: Int64s,
    initial: Int64s,
    bin_bits: int,
    keys: Int64s,
    positions: NDArray[np.int32],
    slots: Int64s,
    firsts: Int64s,
    stamps: Int64s,
) -> tuple[int, bool]:
    """Find or insert every key; number the distinct ones in order of first occurrence.

    Leaves the stamps of all touched rows negative; the caller must call `seal`.

    Args:
        keys: n keys.
        positions: out, n numbers of distinct keys.
        slots, firsts, stamps: out, slot, first row and previous stamp of each distinct key.

    Returns:
        How many distinct keys were touched, and whether that are all (False: no address space).
    """
    count = 0
    for row in range(keys.shape[0]):
        key = keys[row]
        hashed = mix64(np.uint64(key))
        bin = _bin_of(hashed, bin_bits)
        region = regions[bin]
        slot = ~0 if region == NOTHING else _find(cells, region, key, hashed)
        if slot >= 0:
            stamp = cells[slot, STAMP]
            if stamp < 0:
                positions[row] = -stamp - 1
                continue
        else:
            slot = _insert(cells, markers, space, regions, rows, loads, bin, key, hashed, slots)
            if slot == NOTHING:
                return count, False
            for column in range(initial.shape[0]):
                cells[slot, FIRST_COLUMN + column] = initial[column]
            # Version 0: present, never marked as changed.
            stamp = 1
        positions[row] = count
        slots[count] = slot
        firsts[count] = row
        stamps[count] = stamp
        count += 1
        cells[slot, STAMP] = -count
    return count, True


@njit(cache=True, nogil=True)
def seal(cells: Int64s, slots: Int64s, stamps: Int64s, version: int) -> None:
    """End a `touch`: give each row the version, or with version < 0 its previous stamp."""
    if version < 0:
        for position in range(slots.shape[0]):
            cells[slots[position], STAMP] = stamps[position]
        return
    for position in range(slots.shape[0]):
        cells[slots[position], STAMP] = version + 1


@njit(cache=True, nogil=True)
def seal_and_gather(
    cells: Int64s, slots: Int64s, version: int, keys: Int64s, state: Int64s
) -> None:
    """End a `touch` with a version, and copy keys and state columns of the rows out.

    Args:
        keys: out, m keys.
        state: out, one row of m cells per state column.
    """
    for position in range(slots.shape[0]):
        slot = slots[position]
        cells[slot, STAMP] = version + 1
        keys[position] = cells[slot, KEY]
        for column in range(state.shape[0]):
            state[column, position] = cells[slot, FIRST_COLUMN + column]


@njit(cache=True, nogil=True)
def scatter(cells: Int64s, slots: Int64s, state: Int64s) -> None:
    """Write state columns (one row of m cells per column) back to m slots."""
    for position in range(slots.shape[0]):
        for column in range(state.shape[0]):
            cells[slots[position], FIRST_COLUMN + column] = state[column, position]


@njit(cache=True, nogil=True)
def lookup(cells: Int64s, regions: Int64s, bin_bits: int, keys: Int64s, slots: Int64s) -> None:
    """Slot of each key, or NOTHING where it is absent."""
    for row in range(keys.shape[0]):
        hashed = mix64(np.uint64(keys[row]))
        region = regions[_bin_of(hashed, bin_bits)]
        slot = NOTHING
        if region != NOTHING:
            slot = max(_find(cells, region, keys[row], hashed), NOTHING)
        slots[row] = slot


@njit(cache=True, nogil=True)
def mark(cells: Int64s, slots: Int64s, version: int) -> None:
    """Give the rows at these slots the version."""
    for row in range(slots.shape[0]):
        cells[slots[row], STAMP] = version + 1


@njit(cache=True, nogil=True)
def extract(cells: Int64s, regions: Int64s, bins: Int64s, since: int, out: Int64s) -> int:
    """Copy the rows of the bins whose version is above `since` (0: all), region by region.

    Args:
        out: one row per cell of a slot, wide enough for all rows of the bins.

    Returns:
        How many rows were copied.
    """
    least = since + 2 if since > 0 else 1
    count = 0
    for bin in bins:
        region = regions[bin]
        if region == NOTHING:
            continue
        start = region >> ORDER_BITS
        for slot in range(start, start + (1 << (region & ORDER_MASK))):
            if cells[slot, STAMP] >= least:
                for cell in range(cells.shape[1]):
                    out[cell, count] = cells[slot, cell]
                count += 1
    return count


@njit(cache=True, nogil=True)
def drop(
    cells: Int64s, markers: Int8s, space: Int64s, regions: Int64s, rows: Int64s, bin: int
) -> None:
    """Forget the bin's rows and give its region back."""
    region = regions[bin]
    if region != NOTHING:
        release(cells, markers, space, region >> ORDER_BITS, region & ORDER_MASK)
    regions[bin] = NOTHING
    rows[bin] = 0


@njit(cache=True, nogil=True)
def append(
    cells: Int64s,
    markers: Int8s,
    space: Int64s,
    regions: Int64s,
    rows: Int64s,
    loads: Int64s,
    bin_bits: int,
    incoming: Int64s,
) -> tuple[int, bool]:
    """Insert rows whose keys the table does not have.

    Args:
        incoming: one row per cell of a slot: stamps, keys, state columns.

    Returns:
        How many were inserted, and whether the reason to stop early was a key already there
        (otherwise, if not all: no address space).
    """
    no_slots = np.empty(0, dtype=np.int64)
    for row in range(incoming.shape[1]):
        key = incoming[KEY, row]
        hashed = mix64(np.uint64(key))
        bin = _bin_of(hashed, bin_bits)
        region = regions[bin]
        if region != NOTHING and _find(cells, region, key, hashed) >= 0:
            return row, True
        slot = _insert(cells, markers, space, regions, rows, loads, bin, key, hashed, no_slots)
        if slot == NOTHING:
            return row, False
        for cell in range(cells.shape[1]):
            cells[slot, cell] = incoming[cell, row]
    return incoming.shape[1], False


@njit(cache=True, nogil=True)
def reserve(
    cells: Int64s,
    markers: Int8s,
    space: Int64s,
    regions: Int64s,
    loads: Int64s,
    bin: int,
    expected: int,
) -> bool:
    """Give a bin without a region one that holds `expected` rows; False if none is left."""
    order = SMALLEST
    while loads[bin] << order >> LOAD_SHIFT < expected:
        order += 1
    return _enlarge(cells, markers, space, regions, bin, order, np.empty(0, dtype=np.int64))
