"""Kernels between columns of values and rows of cells. One call handles a column of a batch.

Flow: Arrow's buffers -> RowFormat -> [scatter, put_texts] -> rows; addresses of rows -> [gather,
take_texts] -> Arrow's buffers.

Cells are seen as elements of a column's own width: `scale` of them are one cell, and a value lies
`place` elements behind the beginning of its row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.statestore import _row_signatures as kinds

Int64s = NDArray[np.int64]
Bytes = NDArray[np.uint8]
#: Values as unsigned numbers of their width.
Bits = NDArray[np.unsignedinteger[Any]]

#: A row's first cell is link << LINK_SHIFT | size: where the next row of its chain begins, in cells
#: of the bin's heap, and how many cells it takes.
LINK_SHIFT = 24
SIZE_MASK = (1 << LINK_SHIFT) - 1
#: A text's cell is start << TEXT_SHIFT | length: its first cell in the row, and its bytes.
TEXT_SHIFT = 32
TEXT_MASK = (1 << TEXT_SHIFT) - 1
#: What comparing finds.
ABSENT, SAME, OTHER = 0, 1, 2


@njit(kinds.SCATTER, cache=True, nogil=True)
def scatter(values: Bits, count: int, starts: Int64s, scale: int, place: int, out: Bits) -> None:
    """Put `count` values of each row where the row begins, plus `place`."""
    for row in range(starts.shape[0]):
        first = starts[row] * scale + place
        for element in range(count):
            out[first + element] = values[row * count + element]


@njit(kinds.GATHER, cache=True, nogil=True)
def gather(cells: Bits, addresses: Int64s, scale: int, place: int, count: int, out: Bits) -> None:
    """Take `count` values of each row: the reverse of `scatter`."""
    for row in range(addresses.shape[0]):
        first = addresses[row] * scale + place
        for element in range(count):
            out[row * count + element] = cells[first + element]


@njit(kinds.SET_NULLS, cache=True, nogil=True)
def set_nulls(nulls: Bytes, starts: Int64s, word: int, bit: int, cells: Int64s) -> None:
    """Set the bit in the row's cell `word` where the value is null."""
    for row in range(starts.shape[0]):
        if nulls[row]:
            cells[starts[row] + word] |= np.int64(1) << bit


@njit(kinds.VALID_OF, cache=True, nogil=True)
def valid_of(cells: Int64s, addresses: Int64s, word: int, bit: int, valid: Bytes) -> int:
    """Write whether the value is there, 1 or 0; returns how many are not."""
    nulls = 0
    for row in range(addresses.shape[0]):
        null = (cells[addresses[row] + word] >> bit) & 1
        valid[row] = 1 - null
        nulls += null
    return nulls


@njit(kinds.PUT_TEXTS, cache=True, nogil=True)
def put_texts(
    data: Bytes, offsets: Int64s, starts: Int64s, behind: Int64s, place: int, cells: Int64s
) -> None:
    """Put a text into each row.

    Args:
        data: the texts' bytes.
        offsets: where each begins and ends in `data`, n + 1.
        starts: first cell of each row.
        behind: cells of each row that are in use; raised by those of its text.
        place: the cell that says where the text is.
        cells: out, zero where the texts go.
    """
    out = cells.view(np.uint8)
    for row in range(starts.shape[0]):
        begin = offsets[row]
        length = offsets[row + 1] - begin
        cells[starts[row] + place] = behind[row] << TEXT_SHIFT | length
        first = (starts[row] + behind[row]) * 8
        for byte in range(length):
            out[first + byte] = data[begin + byte]
        behind[row] += (length + 7) >> 3


@njit(kinds.TEXT_ENDS, cache=True, nogil=True)
def text_ends(cells: Int64s, addresses: Int64s, place: int, offsets: Int64s) -> None:
    """Offsets of the texts of these rows, laid one behind the other: n + 1."""
    offsets[0] = 0
    for row in range(addresses.shape[0]):
        length = cells[addresses[row] + place] & TEXT_MASK
        offsets[row + 1] = offsets[row] + length


@njit(kinds.TAKE_TEXTS, cache=True, nogil=True)
def take_texts(
    cells: Int64s, raw: Bytes, addresses: Int64s, place: int, offsets: Int64s, out: Bytes
) -> None:
    """Copy the texts of these rows to `out`, by the offsets of `text_ends`; `raw` is `cells`."""
    for row in range(addresses.shape[0]):
        address = addresses[row]
        first = (address + (cells[address + place] >> TEXT_SHIFT)) * 8
        begin = offsets[row]
        for byte in range(offsets[row + 1] - begin):
            out[begin + byte] = raw[first + byte]


@njit(kinds.COMPARE_TEXTS, cache=True, nogil=True)
def compare_texts(
    cells: Int64s,
    raw: Bytes,
    addresses: Int64s,
    place: int,
    data: Bytes,
    offsets: Int64s,
    rows: Int64s,
    out: Bytes,
) -> None:
    """Compare the texts of rows of cells with some of a batch.

    Args:
        cells: where the rows are; `raw` is the same.
        raw: bytes of `cells`.
        addresses: of each row, or -1 where there is none.
        place: the cell that says where the text is.
        data: the batch's texts.
        offsets: where each begins and ends in `data`.
        rows: which of them to compare, as many as there are addresses.
        out: ABSENT, SAME or OTHER for each address.
    """
    for number in range(addresses.shape[0]):
        address = addresses[number]
        if address < 0:
            out[number] = ABSENT
            continue
        begin, end = offsets[rows[number]], offsets[rows[number] + 1]
        where = cells[address + place]
        first = (address + (where >> TEXT_SHIFT)) * 8
        same = where & TEXT_MASK == end - begin
        byte = 0
        while same and byte < end - begin:
            same = raw[first + byte] == data[begin + byte]
            byte += 1
        out[number] = SAME if same else OTHER


@njit(kinds.CHECK, cache=True, nogil=True)
def first_wrong(cells: Int64s, ends: Int64s, counts: Int64s, texts: Int64s, least: Int64s) -> int:
    """Check rows that came from outside, so that no kernel leaves them.

    Args:
        cells: rows one behind the other; those of a key together, group by group.
        ends: where the rows of each key end.
        counts: groups x keys, how many rows.
        texts: groups x columns, the cells that say where a text is; padded with -1.
        least: cells of a row of each group without its texts.

    Returns:
        The number of the first key whose rows are not whole, or -1.
    """
    at = np.int64(0)
    for key in range(ends.shape[0]):
        end = ends[key]
        if end < at or end > cells.shape[0]:
            return key
        for group in range(counts.shape[0]):
            for _ in range(counts[group, key]):
                if at >= end:
                    return key
                size = cells[at]
                if size < least[group] or size > SIZE_MASK or at + size > end:
                    return key
                for column in range(texts.shape[1]):
                    place = texts[group, column]
                    if place < 0:
                        break
                    start = cells[at + place] >> TEXT_SHIFT
                    length = cells[at + place] & TEXT_MASK
                    if start < least[group] or start + ((length + 7) >> 3) > size:
                        return key
                at += size
        if at != end:
            return key
    return -1 if at == cells.shape[0] else ends.shape[0] - 1
