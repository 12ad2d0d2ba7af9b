"""Kernels that read a bin a few slots at a time.

Flow: pre-copy and the giving up of a bin -> [scan] over the slots of its region.

Invariants
  SC1  A scan goes upwards through the slots; a row that stays in its slot is met once. `runs` names
       the rows that do not stay when others are removed.
"""

from __future__ import annotations

from numba import njit

from service.statestore import _signatures as kinds
from service.statestore._layout import KEY, ORDER_BITS, ORDER_MASK, STAMP, Int64s


@njit(kinds.SCAN, cache=True, nogil=True)
def scan(cells: Int64s, slot: int, end: int, out: Int64s) -> tuple[int, int]:
    """Copy rows of the slots [slot, end), until `out` is full (SC1).

    Args:
        cells: slots x (stamp, key, state columns).
        slot: where to begin.
        end: where the region ends.
        out: a line of keys and one per state column.

    Returns:
        How many rows were copied, and the slot to go on from.
    """
    count = 0
    while slot < end and count < out.shape[1]:
        if cells[slot, STAMP] != 0:
            for line in range(out.shape[0]):
                out[line, count] = cells[slot, KEY + line]
            count += 1
        slot += 1
    return count, slot


@njit(kinds.RUNS, cache=True, nogil=True)
def runs(cells: Int64s, regions: Int64s, slots: Int64s, out: Int64s) -> int:
    """Keys of the rows between each slot, of the region beside it, and the next empty slot.

    Args:
        cells: as in `scan`.
        regions: of each slot, packed.
        slots: where rows are.
        out: as many of the keys as fit.

    Returns:
        How many keys there are.
    """
    count = 0
    for row in range(slots.shape[0]):
        start = regions[row] >> ORDER_BITS
        mask = (1 << (regions[row] & ORDER_MASK)) - 1
        offset = (slots[row] - start + 1) & mask
        while cells[start + offset, STAMP] != 0:
            if count < out.shape[0]:
                out[count] = cells[start + offset, KEY]
            count += 1
            offset = (offset + 1) & mask
    return count
