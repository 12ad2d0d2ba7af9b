"""Typed rows and keys that are text as a checkpoint names and keeps them, without their flow.

Flow: columns of a StoredVertex -> [formats_of, text_key_of] -> a blank store; a stored value ->
[rows_in, split_text] -> JSON. Types stand in columns by Arrow's own names: [type_named] is the way
back.

Invariants
  RK1  `type_named` gives the type of every name that a typed column can have, and no other.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa

from service.errors import FormatMismatch, StateCorrupt
from service.statestore import object_json
from service.statestore.row_format import RowFormat, is_text, is_typed

#: How the type of a column of rows begins, and that of a key.
ROW_OF, KEY_OF = "row of ", "key of "
#: The column of a group of rows without columns.
NO_COLUMN = "nothing"

Columns = Sequence[tuple[str, str]]

_LENGTH = struct.Struct("<Q")
_UNITS = ("s", "ms", "us", "ns")
_PLAIN = {
    str(kind): kind
    for kind in (
        *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.date64()),
        *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary()),
        *(pa.time32(unit) for unit in _UNITS[:2]),
        *(pa.time64(unit) for unit in _UNITS[2:]),
        *(pa.timestamp(unit) for unit in _UNITS),
        *(pa.duration(unit) for unit in _UNITS),
        pa.month_day_nano_interval(),
        # As stores name what they keep as it is.
        *(pa.int64(), pa.float64()),
    )
} | {"float64": pa.float64()}
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=(.+)\]")
_DECIMAL = re.compile(r"decimal(128|256)\((\d+), (-?\d+)\)")
_FIXED = re.compile(r"fixed_size_binary\[(\d+)\]")
_LIST = re.compile(r"fixed_size_list<(.+?): (.+?)( not null)?>\[(\d+)\]")


def type_named(name: str) -> pa.DataType | None:
    """The type with this name, if typed state can have it (RK1)."""
    kind = _PLAIN.get(name)
    if kind is not None:
        return kind
    if found := _ZONED.fullmatch(name):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.fullmatch(name):
        decimal = pa.decimal128 if found[1] == "128" else pa.decimal256
        return decimal(int(found[2]), int(found[3]))
    if found := _FIXED.fullmatch(name):
        return pa.binary(int(found[1]))
    if found := _LIST.fullmatch(name):
        of = type_named(found[2])
        if of is None:
            return None
        kind = pa.list_(pa.field(found[1], of, nullable=found[3] is None), int(found[4]))
        return kind if is_typed(kind) else None
    return None


def row_columns(formats: Sequence[RowFormat]) -> tuple[tuple[str, str], ...]:
    """Columns of groups of rows as a checkpoint names them: the group's number, then the name."""
    found = []
    for group, form in enumerate(formats):
        found += [(f"{group}.{field.name}", f"{ROW_OF}{field.type}") for field in form.schema]
        if not len(form.schema):
            found.append((f"{group}.", f"{ROW_OF}{NO_COLUMN}"))
    return tuple(found)


def formats_of(columns: Columns) -> list[RowFormat] | None:
    """The formats that `row_columns` named; None if the columns are not of rows.

    Raises:
        FormatMismatch: a column has a type that this version does not know.
    """
    if not columns or not all(kind.startswith(ROW_OF) for _, kind in columns):
        return None
    groups: dict[str, list[tuple[str, pa.DataType]]] = {}
    for name, kind in columns:
        group, _, column = name.partition(".")
        fields = groups.setdefault(group, [])
        known = type_named(kind.removeprefix(ROW_OF))
        if known is not None:
            fields.append((column, known))
        elif kind != f"{ROW_OF}{NO_COLUMN}":
            raise FormatMismatch(
                f"rows have a column {column!r} of type {kind.removeprefix(ROW_OF)!r}, which this "
                "version does not know; use the version that wrote them"
            )
    return [RowFormat(pa.schema(fields)) for fields in groups.values()]


def text_key_of(columns: Columns) -> pa.Field | None:
    """Name and type of a key that is text; None where keys are integers."""
    if not columns or not columns[0][1].startswith(KEY_OF):
        return None
    kind = type_named(columns[0][1].removeprefix(KEY_OF))
    return pa.field(columns[0][0], kind) if kind is not None and is_text(kind) else None


def split_text(value: bytes) -> tuple[bytes, bytes]:
    """The cells of the key in a stored value of state under text, and the rest of the value.

    Raises:
        StateCorrupt: it is no such value.
    """
    length = _LENGTH.unpack_from(value)[0] if len(value) >= _LENGTH.size else -1
    end = _LENGTH.size + length
    if length < 0 or length % 8 or end > len(value):
        raise StateCorrupt(f"a stored key has {length} of {len(value)} bytes")
    return value[_LENGTH.size : end], value[end:]


def rows_in(value: bytes, formats: Sequence[RowFormat]) -> list[list[dict[str, object]]]:
    """The rows of each group in a stored value of typed rows, ready for JSON.

    Raises:
        StateCorrupt: it is no such value.
    """
    lead = 1 + len(formats)
    if len(value) % 8 or len(value) < 8 * lead:
        raise StateCorrupt(f"a stored key has {len(value)} bytes of rows")
    numbers = np.frombuffer(value, dtype="<i8").astype(np.int64)
    cells, at = numbers[lead:], 0
    groups = []
    for form, count in zip(formats, numbers[1:lead].tolist(), strict=True):
        addresses = []
        for _ in range(count):
            size = int(cells[at]) if at < len(cells) else 0
            if size < form.cells_least or at + size > len(cells):
                raise StateCorrupt("a stored key has rows that are not whole")
            addresses.append(at)
            at += size
        columns = form.decode(cells, np.array(addresses, dtype=np.int64))
        names = form.schema.names
        listed = [[as_json(each) for each in column.to_pylist()] for column in columns]
        groups.append(
            [dict(zip(names, (column[row] for column in listed))) for row in range(count)]
        )
    return groups


def as_json(value: object) -> object:
    """A value of a typed column, as JSON can hold it."""
    match value:
        case date() | datetime() | time():
            return value.isoformat()
        case timedelta() | Decimal():
            return str(value)
        case list():
            return [as_json(each) for each in value]
        case _:
            return object_json.plain(value)
