"""Encodes Arrow or numpy columns to Avro rows with a kernel generated for the schema.

Flow: result columns of a sink, or events of a generator -> [Encoder] -> bytes of n rows -> Kafka.

Invariants
  E1  Bytes equal those of fastavro for the same values: the shortest form of every integer.
  E2  Every column is converted and checked before the first byte is written: a value that does not
      fit its field raises, it is never cut.
  E3  The buffer is allocated at its upper bound once, so the kernel never checks for room.

Source: Apache Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import from_dtype, types
from numpy.typing import NDArray

from service.avro.kernel_cache import Kernel, load_kernel
from service.avro.kernels import put_bits, put_long, put_span, source_of
from service.avro.schema import AvroField, AvroType, Kind, RecordSchema
from service.errors import DataError, SchemaError

Column: TypeAlias = NDArray[np.generic] | pa.Array

_SPANS = (Kind.STRING, Kind.BYTES, Kind.FIXED)
#: (Arrow type a column is cast to, numpy type handed to the kernel, most bytes a value takes).
_VALUES: dict[Kind, tuple[pa.DataType, type[np.generic], int]] = {
    Kind.INT: (pa.int32(), np.int32, 5),
    Kind.LONG: (pa.int64(), np.int64, 10),
    Kind.ENUM: (pa.string(), np.int32, 5),
    Kind.BOOLEAN: (pa.bool_(), np.uint8, 1),
    Kind.FLOAT: (pa.float32(), np.uint32, 4),
    Kind.DOUBLE: (pa.float64(), np.uint64, 8),
}
#: A length, or the index of a branch, takes at most so many bytes in a buffer below 2 GiB.
_LENGTH_BYTES = 5
_BRANCH_BYTES = 1


@dataclass(frozen=True, slots=True)
class _Part:
    """What one field hands to the kernel."""

    field: AvroField
    #: (prefix of the argument's name, numba type), in the order of the kernel's arguments.
    arguments: tuple[tuple[str, types.Type], ...]


class Encoder:
    """Writes rows of one schema. Made by `compile_encoder`; has no state of its own."""

    def __init__(self, schema: RecordSchema, kernel: Kernel) -> None:
        """Pair the `kernel` with the `schema` it was generated for."""
        self._schema = schema
        self._kernel = kernel

    def encode(
        self, columns: Mapping[str, Column], prefix: bytes = b""
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Encode n rows.

        Args:
            columns: one column of n entries for every field; others are ignored. Arrow arrays may
                hold nulls where the field allows them; numpy arrays hold none.
            prefix: put before every row, for example `wire.header(id)`.

        Returns:
            The bytes of all rows and n + 1 offsets: row i is data[offsets[i]:offsets[i + 1]].

        Raises:
            DataError: a column is missing, has another length, or a value does not fit its field.

        Cost: 20 to 100 ns a row; a handful of Python calls, however many rows.
        """
        rows = self._rows(columns)
        arguments: list[NDArray[np.generic]] = []
        bound = rows * len(prefix)
        for field in self._schema.fields:
            prepared, most = _prepare(field, columns[field.name])
            arguments += prepared
            bound += most
        data = np.empty(bound, dtype=np.uint8)
        offsets = np.zeros(rows + 1, dtype=np.int64)
        self._kernel(np.frombuffer(prefix, dtype=np.uint8), data, offsets, *arguments)
        return data[: offsets[rows]], offsets

    def warm(self) -> None:
        """Run on no rows, so that the first real batch finds everything loaded."""
        nothing = {
            field.name: pa.nulls(0, _arrow_type(field.type.present))
            for field in self._schema.fields
        }
        self.encode(nothing)

    def _rows(self, columns: Mapping[str, Column]) -> int:
        names = [field.name for field in self._schema.fields]
        missing = [name for name in names if name not in columns]
        if missing:
            raise DataError(f"{self._schema.fullname}: no column for {', '.join(missing)}")
        lengths = {name: len(columns[name]) for name in names}
        if len(set(lengths.values())) != 1:
            raise DataError(f"{self._schema.fullname}: columns of different lengths: {lengths}")
        return lengths[names[0]]


def compile_encoder(schema: RecordSchema) -> Encoder:
    """Generate, compile or fetch the kernel that writes rows of `schema`.

    Raises:
        SchemaError: the schema has no fields, or some that no kernel covers.

    Cost: see `load_kernel`.
    """
    if schema.not_covered:
        raise SchemaError(f"{schema.fullname}: not covered: {', '.join(schema.not_covered)}")
    if not schema.fields:
        raise SchemaError(f"{schema.fullname} has no fields; there is nothing to encode")
    parts = [_part(field) for field in schema.fields]
    signature: list[types.Type] = [_BYTES, _writable(np.uint8), _writable(np.int64)]
    signature += [kind for part in parts for _, kind in part.arguments]
    kernel = load_kernel(f"encode_{schema.name}", _source(parts), tuple(signature))
    return Encoder(schema, kernel)


def _arrow_type(of: AvroType) -> pa.DataType:
    if of.kind in _SPANS:
        return pa.string() if of.kind is Kind.STRING else pa.binary()
    return pa.null() if of.kind is Kind.NULL else _VALUES[of.kind][0]


def _read_only(dtype: type[np.generic]) -> types.Array:
    return types.Array(from_dtype(np.dtype(dtype)), 1, "C", readonly=True)


def _writable(dtype: type[np.generic]) -> types.Array:
    return types.Array(from_dtype(np.dtype(dtype)), 1, "C")


_BYTES = _read_only(np.uint8)


def _part(field: AvroField) -> _Part:
    kind = field.type.present.kind
    arguments: list[tuple[str, types.Type]] = []
    if field.type.null_branch >= 0:
        arguments.append(("valid", _BYTES))
    if kind in _SPANS:
        arguments += [("offsets", _read_only(np.int32)), ("text", _BYTES)]
    elif kind is not Kind.NULL:
        arguments.append(("value", _read_only(_VALUES[kind][1])))
    return _Part(field, tuple(arguments))


def _source(parts: list[_Part]) -> str:
    names = [f"{prefix}{at}" for at, part in enumerate(parts) for prefix, _ in part.arguments]
    lines = [
        f"def kernel({', '.join(['prefix', 'out', 'offsets', *names])}):",
        "    at = np.int64(0)",
        "    for row in range(offsets.shape[0] - 1):",
        "        at = put_span(out, at, prefix, 0, prefix.shape[0])",
    ]
    for number, part in enumerate(parts):
        lines += [f"        # {part.field.name}", *_write_field(part.field.type, number)]
    lines.append("        offsets[row + 1] = at")
    return source_of(put_long, put_bits, put_span) + "\n\n" + "\n".join(lines) + "\n"


def _write_field(of: AvroType, number: int) -> list[str]:
    if of.null_branch < 0:
        return [f"        {line}" for line in _write_value(of, number)]
    return [
        f"        if valid{number}[row]:",
        f"            at = put_long(out, at, np.int64({1 - of.null_branch}))",
        *[f"            {line}" for line in _write_value(of.present, number)],
        "        else:",
        f"            at = put_long(out, at, np.int64({of.null_branch}))",
    ]


def _write_value(of: AvroType, number: int) -> list[str]:
    if of.kind is Kind.NULL:
        return []
    if of.kind in (Kind.INT, Kind.LONG, Kind.ENUM):
        return [f"at = put_long(out, at, np.int64(value{number}[row]))"]
    if of.kind in (Kind.BOOLEAN, Kind.FLOAT, Kind.DOUBLE):
        return [f"at = put_bits(out, at, value{number}[row], {_VALUES[of.kind][2]})"]
    span = [f"start = np.int64(offsets{number}[row])", f"end = np.int64(offsets{number}[row + 1])"]
    if of.kind is not Kind.FIXED:
        span.append("at = put_long(out, at, end - start)")
    return [*span, f"at = put_span(out, at, text{number}, start, end)"]


def _prepare(field: AvroField, column: Column) -> tuple[list[NDArray[np.generic]], int]:
    """The kernel's arguments for one column, checked (E2), and the most bytes it can take (E3)."""
    array, nullable = _converted(field, column), field.type.null_branch >= 0
    arguments: list[NDArray[np.generic]] = []
    most = 0
    if nullable:
        arguments.append(_numpy(array.is_valid().cast(pa.uint8()), np.uint8))
        most = len(array) * _BRANCH_BYTES
    elif array.null_count and field.type.kind is not Kind.NULL:
        raise DataError(f"field {field.name} cannot be null; {array.null_count} values are")
    kind = field.type.present.kind
    if kind in _SPANS:
        offsets, text = _spans(array)
        return [*arguments, offsets, text], most + text.shape[0] + len(array) * _LENGTH_BYTES
    if kind is Kind.NULL:
        return arguments, most
    _, dtype, widest = _VALUES[kind]
    if kind is Kind.BOOLEAN:
        array = array.cast(pa.uint8())
    return [*arguments, _numpy(array, dtype)], most + len(array) * widest


def _converted(field: AvroField, column: Column) -> pa.Array:
    """The column as an array of the type that the field's values have.

    Raises:
        DataError: a value does not fit (E2).
    """
    of = field.type.present
    try:
        array = column if isinstance(column, pa.Array) else pa.array(column)
        wanted = _arrow_type(of)
        # A cast to the same type copies nothing but costs 3 us, five times a batch.
        given, array = array, array if array.type.equals(wanted) else array.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise DataError(f"column {field.name} does not fit Avro {of.kind}: {error}") from error
    if of.kind is Kind.ENUM:
        return _enum_places(field, array)
    if of.kind is Kind.FLOAT and _infinite(array) != _infinite(given):
        raise DataError(f"column {field.name} does not fit Avro float: a value is too large")
    if of.kind is Kind.FIXED:
        sizes = pc.min_max(pc.binary_length(array)).as_py()
        if any(size not in (None, of.size) for size in sizes.values()):
            raise DataError(f"column {field.name}: every value must have {of.size} bytes")
    return array


def _infinite(array: pa.Array) -> int:
    """How many values are infinite; integers never are."""
    if not pa.types.is_floating(array.type):
        return 0
    return int(pc.sum(pc.is_inf(array), min_count=0).as_py())


def _enum_places(field: AvroField, array: pa.Array) -> pa.Array:
    symbols = field.type.present.symbols
    places = pc.index_in(array, value_set=pa.array(symbols, pa.string()))
    if places.null_count != array.null_count:
        raise DataError(f"column {field.name} holds a value that is none of: {', '.join(symbols)}")
    return places


def _numpy(array: pa.Array, dtype: type[np.generic]) -> NDArray[np.generic]:
    """The values as a contiguous, aligned numpy array; nulls become zeros."""
    if array.null_count:
        array = array.fill_null(0)
    values = array.to_numpy(zero_copy_only=False).view(dtype)
    return np.require(values, requirements=["C", "A"])


def _spans(array: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Offsets and bytes of a string or binary array; a slice keeps to its own part of the bytes."""
    _, offsets_buffer, text_buffer = array.buffers()
    if offsets_buffer is None or len(array) == 0:
        return np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.uint8)
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)
    offsets = offsets[array.offset : array.offset + len(array) + 1]
    text = np.frombuffer(text_buffer or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    return np.require(offsets - offsets[0], requirements=["C", "A"]), text
