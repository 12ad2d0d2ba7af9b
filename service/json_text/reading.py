"""The kernel that reads the members of many JSON objects into columns.

Flow: bytes of a poll -> [read_objects] -> values, spans of text and a code per record ->
`service.json_text.decoder`.

Invariants
  JR1  A record is GOOD only if it is one JSON object to its last byte, with every column that must
       be there, of its type. What the kernel cannot judge is left to the slow way, never guessed.
  JR2  Members come in any order; of two with one key the last one counts.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.json_text.scanning import (
    FALSE,
    NULL,
    TRUE,
    Bytes,
    Place,
    is_word,
    read_double,
    read_long,
    read_time,
    skip_blank,
    skip_text,
    skip_value,
)

#: What became of a record.
GOOD, SLOW, SKIPPED = 0, 1, 2
#: Kinds of columns.
LONG, DOUBLE, BOOL, TIME, TEXT = 0, 1, 2, 3, 4
#: Columns of one source that the kernel can tell apart.
COLUMNS_MAX = 64
_QUOTE, _COMMA, _COLON, _BEGIN, _END = 34, 44, 58, 123, 125
#: Where reading stands in an object: before a member, behind its end, or before something else.
_MORE, _DONE, _LOST = 1, 0, -1


@njit(nogil=True, forceinline=True)
def _open(data: Bytes, at: Place, end: Place) -> tuple[Place, int]:
    """Into an object: the place of its first member, or behind it."""
    at = skip_blank(data, at, end)
    if at >= end or data[np.uint64(at)] != _BEGIN:
        return at, _LOST
    at = skip_blank(data, at + 1, end)
    if at < end and data[np.uint64(at)] == _END:
        return at + 1, _DONE
    return at, _MORE


@njit(nogil=True, forceinline=True)
def _next(data: Bytes, at: Place, end: Place) -> tuple[Place, int]:
    """From behind a member to the next one, or behind the object."""
    at = skip_blank(data, at, end)
    if at < end and data[np.uint64(at)] == _COMMA:
        return skip_blank(data, at + 1, end), _MORE
    if at < end and data[np.uint64(at)] == _END:
        return at + 1, _DONE
    return at, _LOST


@njit(nogil=True, forceinline=True)
def _key(data: Bytes, at: Place, end: Place) -> tuple[Place, Place, Place]:
    """Where a member's key begins and ends, and where its value is, or -1."""
    key = at + 1
    if at >= end or data[np.uint64(at)] != _QUOTE:
        return key, key, -1
    at = skip_text(data, key, end)
    if at < 0:
        return key, key, -1
    last = at - 1
    at = skip_blank(data, at, end)
    if at >= end or data[np.uint64(at)] != _COLON:
        return key, last, -1
    return key, last, skip_blank(data, at + 1, end)


@njit(nogil=True, forceinline=True)
def _is_name(data: Bytes, at: Place, size: Place, names: Bytes, first: Place, last: Place) -> bool:
    if last - first != size:
        return False
    for place in range(size):
        if data[np.uint64(at + place)] != names[np.uint64(first + place)]:
            return False
    return True


@njit(nogil=True, forceinline=True)
def _column(
    data: Bytes,
    at: Place,
    size: Place,
    names: Bytes,
    name_ends: NDArray[np.int64],
    guess: int,
) -> int:
    """The column of a key, or -1; members mostly come in the order of the columns."""
    columns = name_ends.shape[0]
    for turn in range(columns):
        place = guess + turn
        if place >= columns:
            place -= columns
        first = name_ends[place - 1] if place else 0
        if _is_name(data, at, size, names, first, name_ends[place]):
            return place
    return -1


@njit(nogil=True)
def _enter(data: Bytes, at: Place, end: Place, inside: Bytes) -> tuple[Place, Place]:
    """Where the object under the member `inside` begins: of the last one of that name.

    Returns:
        Its place, and the end of the outer object; the first is -2 if there is none or null, -1 if
        it is for the slow way to say.
    """
    found, wrong = np.int64(-2), (np.int64(-1), np.int64(-1))
    at, state = _open(data, at, end)
    while state == _MORE:
        key, last, at = _key(data, at, end)
        if at < 0:
            return wrong
        if _is_name(data, key, last - key, inside, 0, inside.shape[0]):
            found = np.int64(at)
            if is_word(data, at, end, NULL):
                found = np.int64(-2)
            elif at >= end or data[at] != _BEGIN:
                return wrong
        at = skip_value(data, at, end)
        if at < 0:
            return wrong
        at, state = _next(data, at, end)
    return (found, np.int64(at)) if state == _DONE else wrong


@njit(nogil=True, forceinline=True)
def _number(
    data: Bytes,
    at: Place,
    end: Place,
    kind: int,
    bits: NDArray[np.int64],
    real: NDArray[np.float64],
) -> tuple[np.int64, Place]:
    """A long, a time, a boolean, or the bits of a double (`bits` is the memory of `real`)."""
    if kind == LONG or (kind == TIME and data[np.uint64(at)] != _QUOTE):
        return read_long(data, at, end)
    if kind == TIME:
        return read_time(data, at + 1, end)
    if kind == DOUBLE:
        real[0], at = read_double(data, at, end)
        return bits[0], np.int64(at)
    if is_word(data, at, end, TRUE):
        return np.int64(1), np.int64(at + 4)
    if is_word(data, at, end, FALSE):
        return np.int64(0), np.int64(at + 5)
    return np.int64(0), np.int64(-1)


@njit(nogil=True, forceinline=True)
def _keep(
    data: Bytes,
    at: Place,
    end: Place,
    column: int,
    row: int,
    kind: int,
    may_be_null: bool,
    values: NDArray[np.int64],
    begins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    valid: NDArray[np.bool_],
    bits: NDArray[np.int64],
    real: NDArray[np.float64],
) -> Place:
    """Put the value at `at` into its column; the place behind it, or -1."""
    byte = data[np.uint64(at)]
    valid[column, row] = byte != NULL[0]
    lengths[column, row] = 0
    if byte == NULL[0]:
        return np.int64(at + 4 if may_be_null and is_word(data, at, end, NULL) else -1)
    if kind != TEXT:
        values[column, row], at = _number(data, at, end, kind, bits, real)
        return np.int64(at)
    if byte != _QUOTE:
        return np.int64(-1)
    begins[column, row] = at + 1
    behind = skip_text(data, at + 1, end)
    lengths[column, row] = max(behind - 2 - at, 0)
    return np.int64(behind)


@njit(nogil=True, forceinline=True)
def _needed(nullable: NDArray[np.bool_]) -> np.uint64:
    """A bit for each column that must be there."""
    needed = np.uint64(0)
    for column in range(nullable.shape[0]):
        if not nullable[column]:
            needed |= np.uint64(1) << np.uint64(column)
    return needed


@njit(cache=True, nogil=True)
def read_objects(
    data: Bytes,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    inside: Bytes,
    names: Bytes,
    name_ends: NDArray[np.int64],
    kinds: NDArray[np.int64],
    nullable: NDArray[np.bool_],
    codes: Bytes,
    values: NDArray[np.int64],
    begins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    valid: NDArray[np.bool_],
) -> None:
    """Read n records.

    Args:
        data: bytes of all records.
        starts: where each begins.
        ends: and ends.
        inside: name of the member that holds the record, or nothing.
        names: names of the columns, one behind the other.
        name_ends: where each ends in `names`.
        kinds: of each column.
        nullable: whether a column may be null or missing.
        codes: n; receives GOOD, SLOW or SKIPPED.
        values: columns x n zeros; receives longs, times, booleans, and doubles by their bits.
        begins: columns x n; receives where text begins in `data`.
        lengths: columns x n zeros; receives its bytes.
        valid: columns x n falses; receives whether there is a value.
    """
    needed = _needed(nullable)
    real = np.empty(1, dtype=np.float64)
    bits = real.view(np.int64)
    for row in range(starts.shape[0]):
        codes[row] = SLOW
        at: Place = starts[row]
        behind: Place = np.int64(-1)
        end = ends[row]
        if inside.shape[0]:
            at, behind = _enter(data, at, end, inside)
            if behind < 0 or skip_blank(data, behind, end) != end:
                continue
            if at < 0:
                codes[row] = SKIPPED
                continue
        found, guess = np.uint64(0), 0
        at, state = _open(data, at, end)
        while state == _MORE:
            key, last, at = _key(data, at, end)
            if at < 0 or at >= end:
                state = _LOST
                break
            column = _column(data, key, last - key, names, name_ends, guess)
            if column < 0:
                at = skip_value(data, at, end)
            else:
                guess = column + 1 if column + 1 < kinds.shape[0] else 0
                found |= np.uint64(1) << np.uint64(column)
                kind, may_be_null = kinds[column], nullable[column]
                at = _keep(
                    *(data, at, end, column, row, kind, may_be_null),
                    *(values, begins, lengths, valid, bits, real),
                )
            if at < 0:
                state = _LOST
                break
            at, state = _next(data, at, end)
        if state != _DONE or found & needed != needed:
            continue
        # A record under a member was walked to its outer end already.
        if behind >= 0 or skip_blank(data, at, end) == end:
            codes[row] = GOOD
