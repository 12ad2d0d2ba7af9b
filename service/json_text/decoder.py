"""Decodes JSON objects to Arrow columns: a kernel for what is usual, Python for the rest.

Flow: bytes of a poll -> [JsonDecoder] -> columns, a code per record, reasons -> ingest.json_decode.

The kernel takes records whose text has no escapes, whose numbers need no care, and whose columns
are longs, doubles, booleans, times and text. What it leaves is read one by one with msgspec, which
also finds what is wrong with it; both give the same columns.

Invariants
  JD1  Every record is good, skipped, or bad with a reason; a bad one costs only itself.
  JD2  Values are exact: an integer beyond 64 bits, a fraction for an integer and a number for a
       text are wrong, not bent. A double is the nearest to what was written.
  JD3  What is wrong with a part that no column needs is wrong all the same, but for the UTF-8 of
       its text.
Measured on bids of 157 bytes, all 7 columns, processor time a record in one run: this kernel 340
ns, msgspec and columns from its objects 1,320, pyarrow.json 970, polars 760. The last two give up
the whole poll for one bad record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.avro.kernels import gather
from service.avro.wire import frozen
from service.json_text.reading import (
    BOOL,
    COLUMNS_MAX,
    DOUBLE,
    GOOD,
    LONG,
    SKIPPED,
    SLOW,
    TEXT,
    TIME,
    read_objects,
)

#: Beyond the kernel: records with such a column are all read the slow way.
_OTHER = -1
_KINDS: dict[pa.DataType, int] = {
    pa.int64(): LONG,
    pa.float64(): DOUBLE,
    pa.bool_(): BOOL,
    pa.string(): TEXT,
}
_PLAIN: dict[pa.DataType, type] = {pa.int64(): int, pa.float64(): float, pa.string(): str}
_IS_OF: dict[type, Callable[[pa.DataType], bool]] = {
    bool: pa.types.is_boolean,
    str: pa.types.is_string,
    float: pa.types.is_floating,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LONG_MIN, _LONG_MAX = -(1 << 63), (1 << 63) - 1
#: Bytes of text in one column that 32-bit offsets can address.
_TEXT_BYTES_MAX = (1 << 31) - 1


class BadJson(NamedTuple):
    """Why a record is no row: its number among those given, one word, and the reason in words."""

    row: int
    reason: str
    detail: str


class _Wrong(Exception):
    """A record is no row; the arguments are one word and the reason in words."""


class _Skip(Exception):
    """A record is of another type."""


@dataclass(frozen=True)
class JsonRows:
    """What became of some records (JD1)."""

    #: The good ones, and their numbers among those given.
    rows: pa.RecordBatch
    members: NDArray[np.int64]
    bad: list[BadJson]
    skipped: int


@dataclass(frozen=True)
class JsonDecoder:
    """Reads some members of JSON objects.

    Args:
        schema: columns; one that is not nullable must be there and not null.
        times: int64 columns that may also be ISO 8601 text, which becomes milliseconds since 1970;
            without an offset it is taken for UTC.
        inside: the member that holds the object to read; a record without it, or with null, is
            skipped. Empty: the record is the object.
    """

    schema: pa.Schema
    times: frozenset[str] = frozenset()
    inside: str = ""
    _kinds: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _names: NDArray[np.uint8] = field(init=False, repr=False, compare=False)
    _name_ends: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    #: Each column, its name, and the Python type whose values are the column's.
    _plain: tuple[tuple[pa.Field, str, type | None], ...] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Prepare what the kernel is told of the columns."""
        kinds = [
            TIME if each.name in self.times else _KINDS.get(each.type, _OTHER)
            for each in self.schema
        ]
        names = [each.encode() for each in self.schema.names]
        object.__setattr__(self, "_kinds", np.array(kinds, dtype=np.int64))
        object.__setattr__(self, "_names", _bytes(b"".join(names)))
        ends = np.cumsum([len(each) for each in names], dtype=np.int64)
        object.__setattr__(self, "_name_ends", ends)
        plain = [(each, each.name, _PLAIN.get(each.type)) for each in self.schema]
        object.__setattr__(self, "_plain", tuple(plain))

    def decode(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> JsonRows:
        """Decode n records: record i is data[starts[i]:ends[i]].

        Cost: see the module for usual records; 2 to 5 us for others and for bad ones.
        """
        count = len(starts)
        codes = np.full(count, SLOW, dtype=np.uint8)
        if len(self.schema) <= COLUMNS_MAX and not (self._kinds == _OTHER).any():
            quick = self._by_kernel(frozen(data), starts, ends, codes)
        else:
            quick = _nothing(self.schema)
        good = np.flatnonzero(codes == GOOD)
        skipped = int((codes == SKIPPED).sum())
        slow = np.flatnonzero(codes == SLOW)
        if not len(slow):
            rows = quick if len(good) == count else quick.take(pa.array(good))
            return JsonRows(rows, good, [], skipped)
        bad: list[BadJson] = []
        found: list[list[object]] = []
        members: list[int] = []
        for row in slow.tolist():
            try:
                found.append(self._one(data[starts[row] : ends[row]].tobytes()))
                members.append(row)
            except _Skip:
                skipped += 1
            except _Wrong as wrong:
                reason, detail = wrong.args
                bad.append(BadJson(row, reason, detail))
        if found:
            columns = zip(*found, strict=True)
            arrays = [pa.array(list(of), each.type) for of, each in zip(columns, self.schema)]
            late = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
            both = pa.concat_batches([quick.take(pa.array(good)), late])
            order = np.argsort(np.concatenate([good, members]), kind="stable")
            rows = both.take(pa.array(order))
            good = np.sort(np.concatenate([good, np.array(members, dtype=np.int64)]))
        else:
            rows = quick.take(pa.array(good))
        return JsonRows(rows, good, bad, skipped)

    def warm(self) -> None:
        """Run on no records, so that the first poll does not wait for compilation."""
        nothing = np.zeros(0, dtype=np.int64)
        self.decode(np.zeros(0, dtype=np.uint8), nothing, nothing)

    def _by_kernel(
        self,
        data: NDArray[np.uint8],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        codes: NDArray[np.uint8],
    ) -> pa.RecordBatch:
        """All records as rows, of which those with the code GOOD mean something."""
        shape = (len(self.schema), len(starts))
        values, begins = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        lengths, valid = np.zeros(shape, np.int32), np.zeros(shape, np.bool_)
        nullable = np.array([each.nullable for each in self.schema], dtype=np.bool_)
        inside = _bytes(self.inside.encode())
        read_objects(
            *(data, starts, ends, inside, self._names, self._name_ends, self._kinds, nullable),
            *(codes, values, begins, lengths, valid),
        )
        columns = []
        for place, kind in enumerate(self._kinds.tolist()):
            mask = _mask(valid[place]) if nullable[place] else None
            if kind == TEXT:
                columns.append(_text(data, begins[place], lengths[place], codes, mask))
                continue
            numbers: NDArray[np.generic] = values[place]
            if kind == BOOL:
                numbers = np.packbits(values[place] != 0, bitorder="little")
            buffers = [mask, pa.py_buffer(numbers)]
            columns.append(pa.Array.from_buffers(self.schema.types[place], shape[1], buffers))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _one(self, text: bytes) -> list[object]:
        """The columns of one record, or what is wrong with it."""
        try:
            given = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _Wrong("bad_json", f"value is no JSON: {error}") from error
        if not isinstance(given, dict):
            raise _Wrong("no_object", f"value is {_called(given)}, not an object")
        if self.inside:
            given = given.get(self.inside)
            if given is None:
                raise _Skip
            if not isinstance(given, dict):
                detail = f"member {self.inside!r} is {_called(given)}, not an object"
                raise _Wrong("wrong_type", detail)
        values: list[object] = []
        for column, name, plain in self._plain:
            value = given.get(name)
            # What is of the column's type needs no further look.
            if type(value) is not plain or (type(value) is int and not _fits(value)):
                value = self._value(column, given)
            values.append(value)
        return values

    def _value(self, column: pa.Field, given: Mapping[str, object]) -> object:
        value = given.get(column.name)
        if value is None:
            if column.nullable:
                return None
            if column.name not in given:
                raise _Wrong("missing_field", f"field {column.name!r} is missing")
        elif column.name in self.times:
            return _time(column.name, value)
        return _as(column.name, column.type, value)


def _as(name: str, wanted: pa.DataType, value: object) -> object:
    """A value of a JSON record as the type of its column (JD2)."""
    match value:
        case bool() | str() | float():
            if _IS_OF[type(value)](wanted):
                return value
        case int():
            if pa.types.is_floating(wanted):
                return _double(name, value)
            if pa.types.is_integer(wanted):
                if not _fits(value):
                    raise _Wrong("out_of_range", f"field {name!r} is {value}, beyond 64 bits")
                return value
        case list() | dict() if pa.types.is_nested(wanted):
            return _nested(name, wanted, value)
    raise _Wrong("wrong_type", f"field {name!r} is {_called(value)}, not {wanted}")


def _nested(name: str, wanted: pa.DataType, value: list[object] | dict[str, object]) -> object:
    """A list, struct or map, of which each part is of its type or null."""

    def inner(name: str, of: pa.DataType, each: object) -> object:
        return None if each is None else _as(name, of, each)

    match value:
        case list() if pa.types.is_list(wanted):
            return [inner(name, wanted.value_type, each) for each in value]
        case dict() if pa.types.is_struct(wanted):
            return {
                each.name: inner(f"{name}.{each.name}", each.type, value.get(each.name))
                for each in wanted
            }
        case dict() if pa.types.is_map(wanted):
            return [(key, inner(name, wanted.item_type, each)) for key, each in value.items()]
    raise _Wrong("wrong_type", f"field {name!r} is {_called(value)}, not {wanted}")


def _fits(value: int) -> bool:
    return _LONG_MIN <= value <= _LONG_MAX


def _double(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _Wrong("out_of_range", f"field {name!r} is beyond the doubles") from None


def _time(name: str, value: object) -> object:
    """Milliseconds since 1970 of a number or an ISO 8601 text."""
    if not isinstance(value, str):
        return _as(name, pa.int64(), value)
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise _Wrong("bad_time", f"field {name!r} is {value!r}, no time in ISO 8601") from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return (time - _EPOCH) // _MILLISECOND


def _called(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return f"the number {value}"
        case str():
            return "a text"
        case list():
            return "an array"
        case _:
            return "an object"


def _bytes(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, dtype=np.uint8)


def _mask(valid: NDArray[np.bool_]) -> pa.Buffer | None:
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def _text(
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    lengths: NDArray[np.int32],
    codes: NDArray[np.uint8],
    mask: pa.Buffer | None,
) -> pa.Array:
    """Copies the spans of good rows; text that is no UTF-8 makes its row one for the slow way."""
    count = len(begins)
    offsets = np.zeros(count + 1, dtype=np.int32)
    text = np.empty(int(lengths.sum(dtype=np.int64)), dtype=np.uint8)
    assert len(text) <= _TEXT_BYTES_MAX, "a poll has less text than offsets can address"
    gather(data, begins, lengths, True, codes, offsets, text)
    codes[codes > SKIPPED] = SLOW
    buffers = [mask, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), count, buffers)


def _nothing(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], each.type) for each in schema], schema=schema)
