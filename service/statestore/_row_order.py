"""A total order of typed rows, compared where they lie: which of two that are equally good is less.

Flow: RowFormat.ordering -> [compare], called by kernels that must choose between rows.

Rows are compared column by column: numbers, dates and decimals by value, texts and bytes byte by
byte, false before true; nulls come last. Floats that are equal but differ in their bits, as -0.0
and 0.0, are told apart, so that rows which compare as equal are equal.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.statestore._layout import Int64s
from service.statestore._row_cells import TEXT_MASK, TEXT_SHIFT

#: How the elements of a column compare. Parts of a `WIDE` number count from the last, the highest.
UNSIGNED, SIGNED, FLOAT, TEXT, WIDE = 0, 1, 2, 3, 4
#: Lines of an ordering: where the null bit is, then how and where the values are.
WORD, BIT, HOW, WIDTH, PLACE, COUNT = 0, 1, 2, 3, 4, 5

_LEAST = np.iinfo(np.int64).min
_GREATEST = np.iinfo(np.int64).max


@njit(inline="always")
def _element(cells: Int64s, row: int, place: int, width: int, how: int) -> int:
    """An element as a number that compares as it does."""
    byte = place * width
    bits = cells[row + (byte >> 3)]
    if width < 8:
        # To the top and down again, with the sign or without.
        spare = np.int64(64 - 8 * width)
        bits = bits << (spare - 8 * (byte & 7))
        if how == UNSIGNED:
            return np.int64(np.uint64(bits) >> np.uint64(spare))  # type: ignore[return-value]  # numba's int
        bits = bits >> spare
        if how == FLOAT and bits < 0:
            bits = bits ^ ((np.int64(1) << (np.int64(8 * width) - 1)) - 1)
        return bits  # type: ignore[no-any-return]  # numba's int
    if how == UNSIGNED:
        return bits ^ _LEAST  # type: ignore[no-any-return]  # numba's int
    if how == FLOAT and bits < 0:
        return bits ^ _GREATEST  # type: ignore[no-any-return]  # numba's int
    return bits  # type: ignore[no-any-return]  # numba's int


@njit(inline="always")
def _byte(cells: Int64s, row: int, start: int, byte: int) -> int:
    return (cells[row + start + (byte >> 3)] >> (8 * (byte & 7))) & 255  # type: ignore[no-any-return]  # numba's int


@njit(cache=True, nogil=True)
def compare(one: Int64s, row: int, other: Int64s, with_row: int, columns: NDArray[np.int64]) -> int:
    """Below 0 if the row of `one` comes first, above 0 if that of `other` does, 0 if equal."""
    for number in range(columns.shape[0]):
        word, bit = columns[number, WORD], columns[number, BIT]
        null = (one[row + word] >> bit) & 1
        if null != (other[with_row + word] >> bit) & 1:
            return 1 if null else -1
        if null:
            continue
        how, place = columns[number, HOW], columns[number, PLACE]
        if how == TEXT:
            mine, theirs = one[row + place], other[with_row + place]
            length, their_length = mine & TEXT_MASK, theirs & TEXT_MASK
            start, their_start = mine >> TEXT_SHIFT, theirs >> TEXT_SHIFT
            for byte in range(min(length, their_length)):
                a = _byte(one, row, start, byte)
                b = _byte(other, with_row, their_start, byte)
                if a != b:
                    return -1 if a < b else 1
            if length != their_length:
                return -1 if length < their_length else 1
            continue
        count, width = columns[number, COUNT], columns[number, WIDTH]
        for element in range(count):
            at, kind = place + element, how
            if how == WIDE:
                at = place + count - 1 - element
                kind = SIGNED if element == 0 else UNSIGNED
            x = _element(one, row, at, width, kind)
            y = _element(other, with_row, at, width, kind)
            if x != y:
                return -1 if x < y else 1
    return 0
