"""Decodes Avro bodies to Arrow columns with a kernel generated for the schema.

Flow: RawRecords -> wire.split_header -> [Decoder] -> columns + one code per row -> ingest.decode.

The kernel reads each row at its own offset, writes the wanted fields into column buffers and steps
over the others. Strings are noted as spans first and copied by a second, common kernel, which also
checks them; so generated kernels stay small and compile fast.

Invariants
  D1  A row is good only if its fields take exactly the bytes of its own span: no byte of another
      row is ever read, so two bad rows cannot make up for one another.
  D2  Every column has n entries whatever the rows hold; entries of a row with a code mean nothing.
  D3  Nothing read from a row is used as a length or an index before it is checked.
  D4  Columns have canonical types (int and long: int64; float and double: float64; string and
      enum: string; bytes and fixed: binary), so two schemas of one record give equal columns.

Source: Apache Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import from_dtype, types
from numpy.typing import NDArray

from service.avro.kernel_cache import Kernel, load_kernel
from service.avro.kernels import gather, read_bits, read_length, read_long, source_of
from service.avro.row_error import RowError
from service.avro.schema import AvroField, AvroType, Kind, RecordSchema
from service.avro.wire import frozen
from service.errors import SchemaError

_SPANS = (Kind.STRING, Kind.BYTES, Kind.FIXED)
#: numpy type of the values a kernel writes, floats as their bits; a boolean is a bit in a bitmap.
_VALUES: dict[Kind, type[np.generic]] = {
    Kind.INT: np.int64,
    Kind.LONG: np.int64,
    Kind.FLOAT: np.uint32,
    Kind.DOUBLE: np.uint64,
    Kind.BOOLEAN: np.uint8,
    Kind.ENUM: np.int32,
}
#: Bytes of text in one column that 32-bit Arrow offsets can address.
_TEXT_BYTES_MAX = 2**31 - 1


def arrow_type(of: AvroType) -> pa.DataType:
    """The canonical Arrow type of a flat Avro type (D4).

    Raises:
        SchemaError: the type is nested; ingest.decode knows those.
    """
    kind = of.present.kind
    if kind in (Kind.INT, Kind.LONG):
        return pa.int64()
    if kind in (Kind.FLOAT, Kind.DOUBLE):
        return pa.float64()
    if kind in (Kind.STRING, Kind.ENUM):
        return pa.string()
    if kind in (Kind.BYTES, Kind.FIXED):
        return pa.binary()
    if kind in (Kind.BOOLEAN, Kind.NULL):
        return pa.bool_() if kind is Kind.BOOLEAN else pa.null()
    raise SchemaError(f"type {kind} is not covered by the kernels")


@dataclass(frozen=True, slots=True)
class _Column:
    """What the kernel fills for one projected field, in the order of its arguments."""

    field: AvroField
    #: (prefix of the argument's name, numpy type, whether one bit a row is enough).
    buffers: tuple[tuple[str, type[np.generic], bool], ...]

    def allocate(self, rows: int) -> dict[str, NDArray[np.generic]]:
        """Zeroed buffers for `rows` rows (D2), by prefix."""
        return {
            prefix: np.zeros((rows + 7) // 8 if bits else rows, dtype=dtype)
            for prefix, dtype, bits in self.buffers
        }


def _column(field: AvroField) -> _Column:
    kind = field.type.present.kind
    buffers: list[tuple[str, type[np.generic], bool]] = []
    if field.type.null_branch >= 0:
        buffers.append(("valid", np.uint8, True))
    if kind in _SPANS:
        buffers += [("begin", np.int64, False), ("length", np.int32, False)]
    elif kind is not Kind.NULL:
        buffers.append(("value", _VALUES[kind], kind is Kind.BOOLEAN))
    return _Column(field, tuple(buffers))


def _source(schema: RecordSchema, wanted: Sequence[str]) -> str:
    """Text of the kernel that reads the `wanted` fields of `schema`."""
    arguments = ["data", "starts", "ends", "codes"]
    for number, name in enumerate(wanted):
        arguments += [f"{buffer[0]}{number}" for buffer in _column(schema.field(name)).buffers]
    lines = [f"def kernel({', '.join(arguments)}):"]
    lines += _indented(1, "size = data.shape[0]", "for row in range(starts.shape[0]):")
    lines += _indented(2, "at = starts[row]", "end = ends[row]")
    lines += _refuse(2, "at < 0 or end < at or end > size", RowError.OUT_OF_BOUNDS)
    for field in schema.fields:
        number = wanted.index(field.name) if field.name in wanted else -1
        lines += [f"        # {field.name}", *_read_field(field.type, number)]
    lines += _indented(2, "if at != end:", "    codes[row] = TRAILING_BYTES")
    return source_of(read_long, read_length, read_bits) + "\n\n" + "\n".join(lines) + "\n"


def _indented(indent: int, *lines: str) -> list[str]:
    return ["    " * indent + line for line in lines]


def _refuse(indent: int, condition: str, error: RowError) -> list[str]:
    return _indented(indent, f"if {condition}:", f"    codes[row] = {error.name}", "    continue")


def _read_checked(indent: int, target: str, reader: str) -> list[str]:
    """Read `target` and give up the row if the reader answers an error."""
    return _indented(
        indent,
        f"{target}, at = {reader}(data, at, end)",
        "if at < 0:",
        "    codes[row] = -at",
        "    continue",
    )


def _read_field(of: AvroType, number: int) -> list[str]:
    if of.null_branch < 0:
        return _read_value(of, number, 2)
    lines = _read_checked(2, "branch", "read_long")
    lines += _indented(2, f"if branch == {1 - of.null_branch}:")
    if number >= 0:
        lines += _indented(3, f"valid{number}[row >> 3] |= 1 << (row & 7)")
    lines += _read_value(of.present, number, 3) or _indented(3, "pass")
    lines += _indented(2, f"elif branch != {of.null_branch}:")
    return lines + _indented(3, "codes[row] = BAD_UNION_INDEX", "continue")


def _read_value(of: AvroType, number: int, indent: int) -> list[str]:
    """Lines that step over one value and, if `number` is not -1, keep it."""
    lines: list[str] = []
    if of.kind in (Kind.INT, Kind.LONG, Kind.ENUM):
        lines += _read_checked(indent, "value", "read_long")
        if of.kind is Kind.INT:
            bad = "value < -2147483648 or value > 2147483647"
            lines += _refuse(indent, bad, RowError.INT_OUT_OF_RANGE)
        if of.kind is Kind.ENUM:
            bad = f"value < 0 or value >= {len(of.symbols)}"
            lines += _refuse(indent, bad, RowError.BAD_ENUM_INDEX)
        return lines + _keep(number, indent, "value", "value")
    if of.kind in (Kind.STRING, Kind.BYTES):
        lines += _read_checked(indent, "length", "read_length")
        lines += _keep(number, indent, "begin", "at") + _keep(number, indent, "length", "length")
        return lines + _indented(indent, "at += length")
    width = {Kind.BOOLEAN: 1, Kind.FLOAT: 4, Kind.DOUBLE: 8, Kind.NULL: 0}.get(of.kind, of.size)
    if width:
        lines += _refuse(indent, f"end - at < {width}", RowError.TRUNCATED)
    if of.kind is Kind.BOOLEAN:
        lines += _refuse(indent, "data[at] > 1", RowError.BAD_BOOLEAN)
        if number >= 0:
            lines += _indented(indent, f"value{number}[row >> 3] |= data[at] << (row & 7)")
    elif of.kind in (Kind.FLOAT, Kind.DOUBLE):
        lines += _keep(number, indent, "value", f"read_bits(data, at, {width})")
    elif of.kind is Kind.FIXED:
        lines += _keep(number, indent, "begin", "at") + _keep(number, indent, "length", str(width))
    return lines + (_indented(indent, f"at += {width}") if width else [])


def _keep(number: int, indent: int, prefix: str, expression: str) -> list[str]:
    return _indented(indent, f"{prefix}{number}[row] = {expression}") if number >= 0 else []


class Decoder:
    """Reads the wanted fields of one schema. Made by `compile_decoder`; has no state of its own."""

    def __init__(self, columns: Sequence[_Column], kernel: Kernel) -> None:
        """Pair the `kernel` with the `columns` it fills, in the order of its arguments."""
        self._columns = tuple(columns)
        self._kernel = kernel
        #: Canonical types of the columns (D4), in the order asked for.
        self.arrow_schema = pa.schema(
            [(each.field.name, arrow_type(each.field.type)) for each in columns]
        )

    def decode(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[dict[str, pa.Array], NDArray[np.uint8]]:
        """Decode n rows.

        Args:
            data: bytes of all rows.
            starts: where the body of each row begins, after the wire header.
            ends: where it ends (exclusive). Spans may lie in any order.

        Returns:
            The columns by field name, n entries each, and n `RowError` codes. Entries of rows
            with a code other than 0 mean nothing (D2).

        Raises:
            SchemaError: one column would hold 2 GiB of text or more; decode fewer rows at once.

        Cost: 30 to 120 ns a row; a handful of Python calls, however many rows.
        """
        rows = starts.shape[0]
        data = frozen(data)
        codes = np.zeros(rows, dtype=np.uint8)
        buffers = [column.allocate(rows) for column in self._columns]
        arguments = [array for each in buffers for array in each.values()]
        self._kernel(data, starts, ends, codes, *arguments)
        columns = {
            column.field.name: _array(column.field.type, rows, filled, data, codes)
            for column, filled in zip(self._columns, buffers, strict=True)
        }
        return columns, codes

    def warm(self) -> None:
        """Run on no rows, so that the first real batch does not wait for compilation."""
        nothing = np.zeros(0, dtype=np.int64)
        self.decode(np.zeros(0, dtype=np.uint8), nothing, nothing)


def _array(
    of: AvroType,
    rows: int,
    filled: dict[str, NDArray[np.generic]],
    data: NDArray[np.uint8],
    codes: NDArray[np.uint8],
) -> pa.Array:
    """The Arrow array over the `filled` buffers; only text is copied, and floats are widened."""
    kind = of.present.kind
    valid = pa.py_buffer(filled["valid"]) if "valid" in filled else None
    if kind is Kind.NULL:
        return pa.nulls(rows)
    if kind in _SPANS:
        offsets, text = _text(of, rows, filled, data, codes)
        return pa.Array.from_buffers(arrow_type(of), rows, [valid, offsets, text])
    values = filled["value"]
    if kind is Kind.FLOAT:
        # A signalling NaN is a value like any other here; numpy would warn.
        with np.errstate(invalid="ignore"):
            values = values.view(np.float32).astype(np.float64)
    if kind is Kind.ENUM:
        places = pa.Array.from_buffers(pa.int32(), rows, [valid, pa.py_buffer(values)])
        return pa.DictionaryArray.from_arrays(places, list(of.present.symbols)).cast(pa.string())
    return pa.Array.from_buffers(arrow_type(of), rows, [valid, pa.py_buffer(values)])


def _text(
    of: AvroType,
    rows: int,
    filled: dict[str, NDArray[np.generic]],
    data: NDArray[np.uint8],
    codes: NDArray[np.uint8],
) -> tuple[pa.Buffer, pa.Buffer]:
    begin, length = filled["begin"].view(np.int64), filled["length"].view(np.int32)
    total = int(length.sum(dtype=np.int64))
    if total > _TEXT_BYTES_MAX:
        raise SchemaError(f"{total} bytes of text in one batch; decode fewer rows at once")
    offsets = np.zeros(rows + 1, dtype=np.int32)
    text = np.empty(total, dtype=np.uint8)
    is_text = of.present.kind is Kind.STRING
    gather(data, begin, length, is_text, codes, offsets, text)
    return pa.py_buffer(offsets), pa.py_buffer(text)


def compile_decoder(schema: RecordSchema, fields: Sequence[str]) -> Decoder:
    """Generate, compile or fetch the kernel that reads `fields` of `schema`.

    Args:
        schema: what the rows were written with.
        fields: names of the wanted fields, each once; the columns come in this order.

    Raises:
        SchemaError: a field is unknown or named twice, or the schema has fields that no kernel
            covers (`schema.not_covered`).

    Cost: see `load_kernel`.
    """
    if schema.not_covered:
        raise SchemaError(f"{schema.fullname}: not covered: {', '.join(schema.not_covered)}")
    if len(set(fields)) != len(fields):
        raise SchemaError(f"fields of {schema.fullname} are asked for twice: {', '.join(fields)}")
    columns = [_column(schema.field(name)) for name in fields]
    signature = [_READ_ONLY, _array_of(np.int64), _array_of(np.int64), _array_of(np.uint8)]
    signature += [_array_of(dtype) for each in columns for _, dtype, _ in each.buffers]
    source = _source(schema, list(fields))
    return Decoder(columns, load_kernel(f"decode_{schema.name}", source, tuple(signature)))


_READ_ONLY = types.Array(types.uint8, 1, "C", readonly=True)


def _array_of(dtype: type[np.generic]) -> types.Array:
    return types.Array(from_dtype(np.dtype(dtype)), 1, "C")
