"""Rows of typed values as cells of 8 bytes: how they are laid out, and the way to Arrow and back.

Flow: a batch's columns -> [RowFormat.encode] -> rows of cells -> RowTable keeps them in its bins;
addresses of rows in a table's heap -> [RowFormat.decode] -> Arrow arrays.

A row is its head (size, link), a cell of null bits for each 64 columns, the values of fixed width,
widest first so that each is aligned, and then the bytes of its texts, each from a cell's beginning.

Invariants
  RF1  What is decoded equals what was encoded: values, nulls, also within fixed lists, and types.
  RF2  Cells that hold no value are zero, so equal rows are equal cells, but for values under nulls.
Cost: about 1 ns a value of fixed width each way; a copy of each text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateError, UsageError
from service.statestore import _row_cells, _row_order

Int64s = NDArray[np.int64]

_ROW_BYTES_MAX = 8 * _row_cells.SIZE_MASK
_TEXT_BYTES_MAX = 2**31 - 1
_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
}


@dataclass(frozen=True, slots=True)
class Records:
    """Encoded rows, one behind the other."""

    cells: Int64s
    #: Where each begins, and where the last one ends.
    bounds: Int64s

    def __len__(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True, slots=True)
class _Part:
    """`count` values of `width` bytes in every row, `place` widths behind its beginning."""

    width: int
    count: int
    place: int


@dataclass(frozen=True, slots=True)
class _Column:
    """Where a column's values are in a row."""

    kind: pa.DataType
    #: Cell and bit that say it is null.
    word: int
    bit: int
    values: _Part
    #: Of a list, which of its elements are there.
    valid: _Part | None


def is_typed(kind: pa.DataType) -> bool:
    """Whether a column of this type can be kept in rows of cells.

    That is true of bool, all integers and floats, dates, times, durations, decimals, text and
    bytes, and of lists of fixed length of those that have a fixed width.
    """
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size > 0 and _is_fixed(kind.value_type)
    return _is_fixed(kind) or is_text(kind)


class RowFormat:
    """The layout of rows with the columns of a schema."""

    def __init__(self, schema: pa.Schema) -> None:
        """Lay rows out.

        Raises:
            UsageError: a column's type is none of those that `is_typed` names.
        """
        self.schema = schema
        for field in schema:
            if not is_typed(field.type):
                raise UsageError(
                    f"column {field.name!r} of type {field.type} cannot be kept as typed state; "
                    "cast it to a number, a text, or a list of fixed length of numbers"
                )
        words = (len(schema) + 63) // 64
        shapes: list[tuple[int, int]] = []
        for field in schema:
            shapes.append(_shape_of(field.type))
            if pa.types.is_fixed_size_list(field.type):
                shapes.append((1, field.type.list_size))
        parts, nbytes = _parts_of(shapes, 8 * (1 + words))
        #: Cells of a row without its texts.
        self.cells_least = (nbytes + 7) // 8
        self._columns = [
            _Column(
                field.type,
                1 + number // 64,
                number % 64,
                next(parts),
                next(parts) if pa.types.is_fixed_size_list(field.type) else None,
            )
            for number, field in enumerate(schema)
        ]

    @property
    def text_places(self) -> list[int]:
        """Cells of a row that say where a text is."""
        return [column.values.place for column in self._columns if is_text(column.kind)]

    def place_of(self, name: str) -> int:
        """The cell of a row that has the values of this column of 64-bit numbers or times."""
        values: _Part = self._columns[self.schema.names.index(name)].values
        assert (values.width, values.count) == (8, 1), f"column {name!r} is one cell"
        return values.place

    def ordering(self) -> NDArray[np.int64]:
        """The columns as `_row_order.compare` takes them."""
        lines = []
        for column in self._columns:
            parts = [(_compared(column.kind), column.values)]
            if column.valid is not None:
                parts.append((_row_order.UNSIGNED, column.valid))
            lines += [
                (column.word, column.bit, how, part.width, part.place, part.count)
                for how, part in parts
            ]
        return np.array(lines, dtype=np.int64).reshape(len(lines), _row_order.COUNT + 1)

    def encode(self, arrays: Sequence[pa.Array], rows: int) -> Records:
        """Rows of the columns' values, `rows` of them.

        Raises:
            StateError: a row has more than 128 MiB.
        """
        sizes = np.full(rows, self.cells_least, dtype=np.int64)
        texts = {}
        for number, (column, array) in enumerate(zip(self._columns, arrays, strict=True)):
            assert array.type == column.kind, "columns have the format's types"
            if is_text(column.kind):
                texts[number] = offsets, _ = texts_of(array)
                sizes += (np.diff(offsets) + 7) >> 3
        bounds = np.zeros(rows + 1, dtype=np.int64)
        np.cumsum(sizes, out=bounds[1:])
        if rows and int(sizes.max()) > _row_cells.SIZE_MASK:
            raise StateError(
                f"a row to keep has {8 * int(sizes.max())} bytes, more than {_ROW_BYTES_MAX}; keep "
                "a reference to what is this large in place of the value"
            )
        cells = np.zeros(int(bounds[-1]), dtype=np.int64)
        starts = bounds[:-1]
        cells[starts] = sizes
        behind = np.full(rows, self.cells_least, dtype=np.int64)
        for number, (column, array) in enumerate(zip(self._columns, arrays, strict=True)):
            if array.null_count:
                nulls = array.is_null().to_numpy(zero_copy_only=False).view(np.uint8)
                _row_cells.set_nulls(nulls, starts, column.word, column.bit, cells)
            if number in texts:
                offsets, data = texts[number]
                _row_cells.put_texts(data, offsets, starts, behind, column.values.place, cells)
                continue
            values, valid = _values_of(array)
            _put(column.values, values, starts, cells)
            if column.valid is not None and valid is not None:
                # Elements that are not there are 1, so that rows without any stay zero (RF2).
                _put(column.valid, valid, starts, cells)
        return Records(cells, bounds)

    def decode(self, cells: Int64s, addresses: Int64s) -> list[pa.Array]:
        """The columns of the rows that begin at these cells, in this order.

        Raises:
            StateError: a column of texts has more than 2 GiB.
        """
        return [self._decoded(column, cells, addresses) for column in self._columns]

    def _decoded(self, column: _Column, cells: Int64s, addresses: Int64s) -> pa.Array:
        rows = len(addresses)
        valid = np.empty(rows, dtype=np.uint8)
        missing = _row_cells.valid_of(cells, addresses, column.word, column.bit, valid)
        validity = _bitmap(valid) if missing else None
        if is_text(column.kind):
            return _text_array(column, cells, addresses, validity)
        values = _taken(column.values, cells, addresses)
        if column.valid is None:
            return _fixed_array(column.kind, rows, values, validity)
        nulls = _taken(column.valid, cells, addresses)
        elements = _fixed_array(
            column.kind.value_type,
            rows * column.kind.list_size,
            values,
            _bitmap(nulls == 0) if nulls.any() else None,
        )
        return pa.Array.from_buffers(column.kind, rows, [validity], children=[elements])


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are text or bytes of any length."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def _is_fixed(kind: pa.DataType) -> bool:
    if pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind):
        return bool(kind.byte_width > 0)
    return bool(
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_temporal(kind)
        or pa.types.is_decimal128(kind)
        or pa.types.is_decimal256(kind)
    )


def _compared(kind: pa.DataType) -> int:
    """How values of this type, or of a list's elements, compare."""
    if is_text(kind):
        return _row_order.TEXT
    if pa.types.is_fixed_size_list(kind):
        return _compared(kind.value_type)
    if pa.types.is_decimal(kind):
        return _row_order.WIDE
    if pa.types.is_floating(kind):
        return _row_order.FLOAT
    unsigned = pa.types.is_boolean(kind) or pa.types.is_unsigned_integer(kind)
    if unsigned or pa.types.is_fixed_size_binary(kind):
        return _row_order.UNSIGNED
    return _row_order.SIGNED


def _shape_of(kind: pa.DataType) -> tuple[int, int]:
    """Width of a value's elements and their number."""
    if is_text(kind):
        return 8, 1
    if pa.types.is_fixed_size_list(kind):
        width, each = _shape_of(kind.value_type)
        return width, each * kind.list_size
    if pa.types.is_boolean(kind):
        return 1, 1
    if pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind):
        return 1, kind.byte_width
    width = min(kind.bit_width // 8, 8)
    return width, kind.bit_width // 8 // width


def _parts_of(shapes: Sequence[tuple[int, int]], begin: int) -> tuple[Iterator[_Part], int]:
    """The parts of these shapes from byte `begin` on, in the order given; then where they end."""
    parts: dict[int, _Part] = {}
    for number in sorted(range(len(shapes)), key=lambda number: -shapes[number][0]):
        width, count = shapes[number]
        parts[number] = _Part(width, count, begin // width)
        begin += width * count
    return (parts[number] for number in range(len(shapes))), begin


def _put(part: _Part, values: NDArray[Any], starts: Int64s, cells: Int64s) -> None:
    width = _UNSIGNED[part.width]
    _row_cells.scatter(
        values.view(width), part.count, starts, 8 // part.width, part.place, cells.view(width)
    )


def _taken(part: _Part, cells: Int64s, addresses: Int64s) -> NDArray[Any]:
    width = _UNSIGNED[part.width]
    out = np.empty(len(addresses) * part.count, dtype=width)
    _row_cells.gather(cells.view(width), addresses, 8 // part.width, part.place, part.count, out)
    return out


def _values_of(array: pa.Array) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """The elements of a column of fixed width, and 1 for each that a list lacks."""
    kind = array.type
    if not pa.types.is_fixed_size_list(kind):
        return _elements_of(array), None
    size = kind.list_size
    elements = array.values.slice(array.offset * size, len(array) * size)
    lacks = None
    if elements.null_count:
        lacks = elements.is_null().to_numpy(zero_copy_only=False).view(np.uint8)
    return _elements_of(elements), lacks


def _elements_of(array: pa.Array) -> NDArray[Any]:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    width, count = _shape_of(array.type)
    kind = np.dtype(_UNSIGNED[width])
    data = array.buffers()[1]
    if data is None:
        return np.zeros(len(array) * count, dtype=kind)
    return _aligned(np.frombuffer(data, kind, len(array) * count, array.offset * count * width))


def texts_of(array: pa.Array) -> tuple[Int64s, NDArray[np.uint8]]:
    """Offsets of the texts, n + 1, nulls being empty, and their bytes."""
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    if array.null_count:
        array = array.fill_null(pa.scalar("", array.type))
    _, ends, data = array.buffers()
    if ends is None or not len(array):
        return np.zeros(len(array) + 1, dtype=np.int64), np.empty(0, dtype=np.uint8)
    kind = np.dtype(np.int64 if wide else np.int32)
    offsets = np.frombuffer(ends, kind, len(array) + 1, array.offset * kind.itemsize)
    empty = data is None or not data.size
    bytes_of = np.empty(0, dtype=np.uint8) if empty else np.frombuffer(data, np.uint8)
    return _aligned(offsets.astype(np.int64)), bytes_of


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    """The array where kernels can read it: Arrow may read a message that begins anywhere."""
    return array if array.flags.aligned else array.copy()


def _bitmap(valid: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def _fixed_array(
    kind: pa.DataType, rows: int, values: NDArray[Any], validity: pa.Buffer | None
) -> pa.Array:
    if pa.types.is_boolean(kind):
        bits = [validity, _bitmap(values)]
        return pa.Array.from_buffers(kind, rows, bits)
    return pa.Array.from_buffers(kind, rows, [validity, pa.py_buffer(values)])


def _text_array(
    column: _Column, cells: Int64s, addresses: Int64s, validity: pa.Buffer | None
) -> pa.Array:
    rows, place = len(addresses), column.values.place
    offsets = np.empty(rows + 1, dtype=np.int64)
    _row_cells.text_ends(cells, addresses, place, offsets)
    total = int(offsets[-1])
    wide = pa.types.is_large_string(column.kind) or pa.types.is_large_binary(column.kind)
    if total > _TEXT_BYTES_MAX and not wide:
        raise StateError(
            f"{rows} rows have {total} bytes of text in one column, more than an Arrow column "
            f"holds ({_TEXT_BYTES_MAX}); cast it to large_string, or filter before the join"
        )
    data = np.empty(total, dtype=np.uint8)
    _row_cells.take_texts(cells, cells.view(np.uint8), addresses, place, offsets, data)
    ends = offsets if wide else offsets.astype(np.int32)
    return pa.Array.from_buffers(
        column.kind, rows, [validity, pa.py_buffer(ends), pa.py_buffer(data)]
    )
