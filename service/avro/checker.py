"""Checks rows of nested schemas before fastavro sees them.

Flow: bodies of a schema the kernels do not cover -> [Checker] -> codes -> fastavro, good rows only.

fastavro is lenient where we must not be: it takes negative indices of unions and enums, integers of
any length, blocks whose size is wrong, and does not say how many bytes it read. So one kernel walks
every row along the schema, laid out as a table, and lets through only what is well formed.

Invariants
  H1  A row passes only if it follows the schema and takes exactly its own bytes.
  H2  The walk ends: every step into an array or map takes at least one byte (schema A3), and the
      stack is bounded by the schema's depth (schema A1, A2).

Source: Apache Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.avro.kernels import Place, is_utf8, read_length, read_long
from service.avro.row_error import RowError
from service.avro.schema import AvroType, Kind, RecordSchema
from service.avro.wire import frozen

OUT_OF_BOUNDS = int(RowError.OUT_OF_BOUNDS)
TRUNCATED = int(RowError.TRUNCATED)
TRAILING_BYTES = int(RowError.TRAILING_BYTES)
INT_OUT_OF_RANGE = int(RowError.INT_OUT_OF_RANGE)
BAD_LENGTH = int(RowError.BAD_LENGTH)
BAD_UNION_INDEX = int(RowError.BAD_UNION_INDEX)
BAD_BOOLEAN = int(RowError.BAD_BOOLEAN)
BAD_ENUM_INDEX = int(RowError.BAD_ENUM_INDEX)
BAD_UTF8 = int(RowError.BAD_UTF8)

# How a type is laid out in the table: (what, number, first child's place).
_SKIP, _BOOL, _INT, _LONG, _BYTES, _TEXT, _ENUM, _UNION, _ARRAY, _MAP, _RECORD = range(11)
_WHAT = {
    Kind.NULL: _SKIP,
    Kind.BOOLEAN: _BOOL,
    Kind.INT: _INT,
    Kind.LONG: _LONG,
    Kind.FLOAT: _SKIP,
    Kind.DOUBLE: _SKIP,
    Kind.BYTES: _BYTES,
    Kind.STRING: _TEXT,
    Kind.ENUM: _ENUM,
    Kind.FIXED: _SKIP,
    Kind.UNION: _UNION,
    Kind.ARRAY: _ARRAY,
    Kind.MAP: _MAP,
    Kind.RECORD: _RECORD,
}
_WIDTHS = {Kind.FLOAT: 4, Kind.DOUBLE: 8}


class Checker:
    """Knows one schema, of any shape; see the module."""

    def __init__(self, schema: RecordSchema) -> None:
        self._table, self._children = _laid_out(schema.type)
        #: Frames of a walk: one for each record, array or map around a value.
        self._depth = schema.type.depth + 1

    def check(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """RowError codes of n rows, given as in `Decoder.decode`.

        Cost: about 10 ns a value.
        """
        codes = np.zeros(starts.shape[0], dtype=np.uint8)
        stack = np.zeros((self._depth, 3), dtype=np.int64)
        _check(frozen(data), starts, ends, self._table, self._children, stack, codes)
        return codes


def _laid_out(root: AvroType) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The types below `root` as rows (what, number, first child), and the list of children.

    Named types are shared, so each is laid out once. Row 0 is the root.
    """
    places: dict[int, int] = {id(root): 0}
    order, rows, children = [root], [], list[int]()
    for of in order:  # Grows while it is walked.
        below = of.branches + tuple(field.type for field in of.fields)
        number = len(below) or len(of.symbols) or of.size or _WIDTHS.get(of.kind, 0)
        rows.append((_WHAT[of.kind], number, len(children)))
        for child in below:
            if id(child) not in places:
                places[id(child)] = len(order)
                order.append(child)
            children.append(places[id(child)])
    return np.array(rows, dtype=np.int64), np.array(children or [0], dtype=np.int64)


@njit(nogil=True)
def _leaf(data: NDArray[np.uint8], at: Place, end: Place, what: int, number: int) -> Place:
    """Step over a value without children: the position after it, or minus a RowError."""
    if what == _SKIP:
        return at + number if number <= end - at else -TRUNCATED
    if what == _BOOL:
        if at >= end:
            return -TRUNCATED
        return at + 1 if data[at] <= 1 else -BAD_BOOLEAN
    if what in (_BYTES, _TEXT):
        length, at = read_length(data, at, end)
        if at >= 0 and what == _TEXT and not is_utf8(data, at, at + length):
            return -BAD_UTF8
        return at + length if at >= 0 else at
    value, at = read_long(data, at, end)
    if at >= 0 and what == _INT and (value < -2147483648 or value > 2147483647):
        return -INT_OUT_OF_RANGE
    if at >= 0 and what == _ENUM and (value < 0 or value >= number):
        return -BAD_ENUM_INDEX
    return at


@njit(nogil=True)
def _open_block(data: NDArray[np.uint8], at: Place, end: Place, frame: NDArray[np.int64]) -> Place:
    """End a block of an array or map and open the next: the position behind its head, or an error.

    A negative count is followed by the size of the block, which must turn out right.
    """
    if frame[2] not in (-1, at):
        return -BAD_LENGTH
    items, at = read_long(data, at, end)
    frame[1], frame[2] = items, -1
    if at >= 0 and items < 0:
        size, at = read_length(data, at, end)
        frame[1], frame[2] = -items, at + size
    # Every item takes at least one byte (schema A3). The least integer stays negative when negated.
    if at >= 0 and (frame[1] < 0 or frame[1] > end - at):
        return -BAD_LENGTH
    return at


@njit(nogil=True)
def _chosen(
    data: NDArray[np.uint8],
    at: Place,
    end: Place,
    table: NDArray[np.int64],
    children: NDArray[np.int64],
    place: Place,
) -> tuple[Place, Place]:
    """The branch that a union at `place` holds, any other type as it is: (place, position)."""
    if at < 0 or table[place, 0] != _UNION:
        return place, at
    branch, at = read_long(data, at, end)
    if at < 0:
        return place, at
    if branch < 0 or branch >= table[place, 1]:
        return place, -BAD_UNION_INDEX
    return children[table[place, 2] + branch], at


@njit(nogil=True)
def _walk(
    data: NDArray[np.uint8],
    at: Place,
    end: Place,
    table: NDArray[np.int64],
    children: NDArray[np.int64],
    stack: NDArray[np.int64],
) -> Place:
    """Step over one record: the position after it, or minus a RowError."""
    # A frame is (place in the table, children or items left, where the block must end or -1).
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, table[0, 1], -1
    frames = 1
    while frames > 0 and at >= 0:
        frame = stack[frames - 1]
        what, number, first = table[frame[0], 0], table[frame[0], 1], table[frame[0], 2]
        if frame[1] == 0:
            if what != _RECORD:
                at = _open_block(data, at, end, frame)
            if frame[1] == 0:
                frames -= 1
            continue
        frame[1] -= 1
        if what == _MAP:
            at = _leaf(data, at, end, _TEXT, 0)
        child = first if what != _RECORD else first + number - frame[1] - 1
        child, at = _chosen(data, at, end, table, children, children[child])
        if at >= 0 and table[child, 0] < _ARRAY:
            at = _leaf(data, at, end, table[child, 0], table[child, 1])
        elif at >= 0:
            stack[frames, 0], stack[frames, 2] = child, -1
            stack[frames, 1] = table[child, 1] if table[child, 0] == _RECORD else 0
            frames += 1
    return at


@njit(cache=True, nogil=True)
def _check(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    table: NDArray[np.int64],
    children: NDArray[np.int64],
    stack: NDArray[np.int64],
    codes: NDArray[np.uint8],
) -> None:
    for row in range(starts.shape[0]):
        start, end = starts[row], ends[row]
        if start < 0 or end < start or end > data.shape[0]:
            codes[row] = OUT_OF_BOUNDS
            continue
        at = _walk(data, start, end, table, children, stack)
        if at < 0:
            codes[row] = -at
        elif at != end:
            codes[row] = TRAILING_BYTES
