"""One number out of each result, as kernels: a field of an Avro record or of a JSON object.

Flow: Payloads -> [AvroField | JsonField] -> one int64 per payload, UNREADABLE where there is none.
Pure.

Invariants
  FI1  A payload that is no record of the schema, of exactly its length, is UNREADABLE, and costs
       only itself.
  FI2  A JSON field is found as `"name":` and nowhere else: inside a text its quotes would be
       escaped. The first one counts, at whatever depth.

Source: Avro 1.12 "Binary encoding"; RFC 8259.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from loadgen.payloads import Payloads

UNREADABLE = np.iinfo(np.int64).min
Int = int | np.int64
_HEADER_BYTES = 5
_NEVER_NULL = -1

# How a field is passed over.
_LONG = 0
_SIZED = 1  # a length, then as many bytes
_FIXED = 2

_SIZES = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class FieldReader(Protocol):
    """Takes a number out of each payload."""

    def values(self, payloads: Payloads) -> NDArray[np.int64]:
        """The number in each payload, or UNREADABLE."""
        ...


class FieldUnknown(Exception):
    """The schema has no such field, or one of a type that is no number or cannot be passed over."""


class AvroField:
    """A long or int field of records with one schema.

    Raises:
        FieldUnknown: see there.
    """

    def __init__(self, schema: Mapping[str, object], schema_id: int, name: str) -> None:
        fields = cast("list[dict[str, object]]", schema["fields"])
        names = [str(field["name"]) for field in fields]
        if name not in names:
            raise FieldUnknown(f"the schema has no field {name}; it has {', '.join(names)}")
        steps = [_step(str(field["name"]), field["type"]) for field in fields]
        self._steps = np.array(steps, dtype=np.int64)
        self._wanted = names.index(name)
        if steps[self._wanted][0] != _LONG:
            raise FieldUnknown(f"field {name} is {fields[self._wanted]['type']}, no long or int")
        self._schema_id = schema_id

    def values(self, payloads: Payloads) -> NDArray[np.int64]:
        """The number in each payload, or UNREADABLE. Cost: 20 to 70 ns each."""
        out = np.empty(len(payloads), dtype=np.int64)
        places = (payloads.data, payloads.starts, payloads.ends)
        _avro(*places, self._steps, self._wanted, self._schema_id, out)
        return out


class JsonField:
    """A whole number in JSON objects."""

    def __init__(self, name: str) -> None:
        self._pattern = np.frombuffer(f'"{name}":'.encode(), dtype=np.uint8)

    def values(self, payloads: Payloads) -> NDArray[np.int64]:
        """The number in each payload, or UNREADABLE. Cost: 1 ns a byte before it."""
        out = np.empty(len(payloads), dtype=np.int64)
        _json(payloads.data, payloads.starts, payloads.ends, self._pattern, out)
        return out


def _step(name: str, kind: object) -> tuple[int, int, int]:
    """(how to pass a field over, fixed size, branch of null)."""
    null = _NEVER_NULL
    if isinstance(kind, list) and len(kind) == 2 and "null" in kind:
        null = kind.index("null")
        kind = kind[1 - null]
    if isinstance(kind, dict):
        if kind.get("type") == "fixed":
            return _FIXED, int(kind["size"]), null
        kind = kind.get("type")  # a logical type over a plain one
    if kind in ("long", "int"):
        return _LONG, 0, null
    if kind in ("string", "bytes"):
        return _SIZED, 0, null
    if isinstance(kind, str) and kind in _SIZES:
        return _FIXED, _SIZES[kind], null
    raise FieldUnknown(f"field {name} is {kind}, which cannot be passed over")


@njit(inline="always")
def _varint(data: NDArray[np.uint8], at: Int, end: Int) -> tuple[Int, Int]:
    """(value, place behind it), the place -1 if there is none."""
    bits = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(data[at])
        at += 1
        bits |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), -1


@njit(inline="always")
def _long_or_past(
    data: NDArray[np.uint8], at: Int, end: Int, how: Int, size: Int, null: Int
) -> tuple[Int, Int]:
    """(the long of a field, place behind it); UNREADABLE if it is another, -1 if cut short."""
    if null != _NEVER_NULL:
        branch, at = _varint(data, at, end)
        if at < 0 or branch == null:
            return UNREADABLE, at
    if how == _FIXED:
        return UNREADABLE, at + size
    value, at = _varint(data, at, end)
    if how == _LONG or at < 0:
        return value, at
    return UNREADABLE, at + value if 0 <= value <= end - at else -1


@njit(cache=True)
def _avro(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    steps: NDArray[np.int64],
    wanted: int,
    schema_id: int,
    out: NDArray[np.int64],
) -> None:
    for i in range(ends.shape[0]):
        out[i] = UNREADABLE
        at: Int = starts[i]
        end = ends[i]
        if end - at < _HEADER_BYTES or data[at] != 0:
            continue
        number: Int = 0
        for byte in range(1, _HEADER_BYTES):
            number = number << 8 | np.int64(data[at + byte])
        if number != schema_id:
            continue
        at += _HEADER_BYTES
        found: Int = np.int64(UNREADABLE)
        for field in range(steps.shape[0]):
            how, size, null = steps[field, 0], steps[field, 1], steps[field, 2]
            value, at = _long_or_past(data, at, end, how, size, null)
            if at < 0:
                break
            if field == wanted:
                found = value
        if at == end:
            out[i] = found


@njit(cache=True)
def _json(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    pattern: NDArray[np.uint8],
    out: NDArray[np.int64],
) -> None:
    width = pattern.shape[0]
    for i in range(ends.shape[0]):
        out[i] = UNREADABLE
        end = ends[i]
        at = starts[i]
        found = False
        while not found and at + width < end:
            found = True
            for k in range(width):
                if data[at + k] != pattern[k]:
                    found = False
                    break
            at += width if found else 1
        if not found:
            continue
        while at < end and data[at] == 32:
            at += 1
        negative = at < end and data[at] == 45
        at += 1 if negative else 0
        value = np.int64(0)
        digits = 0
        while at < end and 48 <= data[at] <= 57 and digits < 19:
            value = value * 10 + np.int64(data[at]) - 48
            digits += 1
            at += 1
        # Of a number, only the end of its object or another member may follow.
        whole = at < end and (data[at] == 44 or data[at] == 125 or data[at] == 32)
        if digits > 0 and whole and value >= 0:
            out[i] = -value if negative else value
