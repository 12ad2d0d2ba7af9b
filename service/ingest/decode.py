"""Turns the records of one poll into columns of one record type, and sorts out the rest.

Flow: RawRecords -> [RecordDecoder] -> Decoded: rows for the source, reasons for dead letters.

A topic may hold several record types, and one type several schema versions. Two kernels read the
headers and group the rows by schema id; each wanted schema has a decoder; the pieces, if several,
are put back into the order in which they were read.

Invariants
  X1  Every record is exactly one of: a row, skipped (another record type), rejected (a reason).
  X2  Rows keep the order of the poll, whatever schemas they were written with.
  X3  A bad record costs only itself: its neighbours' values do not depend on it.
  X4  Python runs per poll, per distinct schema id and per *bad* record, never per good one.
  X5  The columns' types are fixed when the decoder is made; a schema that disagrees is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numba import njit, types
from numpy.typing import NDArray

from service.avro.decoder import compile_decoder
from service.avro.row_error import RowError
from service.avro.schema import RecordSchema
from service.avro.wire import HEADER_BYTES, MAGIC, NO_SCHEMA, read_header, split_header
from service.errors import SchemaError
from service.ingest.nested import NestedDecoder, column_type
from service.ingest.records import RawRecords
from service.ingest.registry import CACHE_MAX, SchemaRegistry, UnknownSchema


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a record may cost."""

    #: Bytes of a value with its header; a larger one is rejected before anything is read of it.
    record_bytes_max: int = 1 << 20


#: A schema of more fields is read without a kernel of its own: to compile one takes longer than a
#: process may be silent, and whoever registers schemas could ask for it.
COMPILED_FIELDS_MAX = 256

#: Reasons to reject a record that say nothing about its type.
OF_NO_TYPE = frozenset(
    {
        "null_value",
        "empty_value",
        "too_large",
        "bad_magic",
        "truncated_header",
        "bad_schema_id",
        "unknown_schema",
        "bad_schema",
        "bad_json",
        "no_object",
    }
)


class Rejected(NamedTuple):
    """Why a record is no row."""

    #: Index in the poll.
    row: int
    #: One word of a fixed set, fit for a metric's label.
    reason: str
    #: The reason in words.
    detail: str


@dataclass(frozen=True)
class Decoded:
    """What became of one poll (X1)."""

    #: The poll.
    raw: RawRecords
    #: The wanted rows, in the order read, and the index of each in the poll.
    rows: pa.RecordBatch
    members: NDArray[np.int64]
    #: The bad records, in the order read.
    rejected: list[Rejected]
    #: Number of records of other types.
    skipped: int

    @cached_property
    def partitions(self) -> NDArray[np.int32]:
        """The partition each of `rows` came from. Cost: see `RawRecords.partitions`."""
        return self.raw.partitions[self.members]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """The offset each of `rows` came from. Cost: see `RawRecords.offsets`."""
        return self.raw.offsets[self.members]


class _RowDecoder(Protocol):
    @property
    def arrow_schema(self) -> pa.Schema: ...

    def decode(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[dict[str, pa.Array], NDArray[np.uint8]]: ...


@dataclass(frozen=True, slots=True)
class _Refused:
    """A schema whose rows cannot be taken."""

    reason: str
    detail: str


#: What is done with the rows of one schema id: decoded, refused, or (None) skipped.
_Treatment = _RowDecoder | _Refused | None


class RecordDecoder:
    """Decodes the records of one type. Owned by one thread."""

    def __init__(
        self,
        registry: SchemaRegistry,
        record: str,
        fields: Sequence[str],
        limits: DecodeLimits | None = None,
        topics: Sequence[str] = (),
    ) -> None:
        """Prepare to decode `fields` of the records named `record`.

        Args:
            registry: resolves schema ids.
            record: name of the record type, with or without its namespace.
            fields: columns wanted, in this order.
            limits: what a record may cost.
            topics: where the records are read; helps some registries to find the newest schema.

        Raises:
            SchemaError: the registry has no such record, or the record no such field.
            RegistryUnavailable: the registry does not answer.

        Cost: compiles a kernel, or fetches it from the disk (`service.avro.kernel_cache`).
        """
        self._registry = registry
        self._record = record
        self._fields = list(fields)
        self._limits = limits or DecodeLimits()
        #: By canonical text: many ids may name one schema.
        self._decoders: dict[str, _RowDecoder] = {}
        #: By id, of schemas that the registry knows; unknown ids are not kept, they may appear.
        self._treatments: dict[int, _Treatment] = {}
        if not fields:
            raise SchemaError(f"no fields of record {record!r} are asked for")
        newest = registry.find(record, topics)
        #: Names and types of the columns (X5).
        self.arrow_schema = columns_of(newest, fields)
        self._decoder_of(newest)

    def warm(self) -> None:
        """Run on no records, so that the first poll does not wait for compilation."""
        nothing, none = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8)
        split_header(none, nothing, nothing)
        for decoder in self._decoders.values():
            decoder.decode(none, nothing, nothing)

    def decode(self, raw: RawRecords) -> Decoded:
        """Decode one poll.

        Raises:
            RegistryUnavailable: a new schema id came and the registry does not answer; nothing is
                lost, the same records may be decoded again later.

        Cost: 30 to 130 ns a record of flat schemas, and 30 us.
        """
        rejected: list[Rejected] = []
        pieces: list[_Piece] = []
        skipped = 0
        for group in _grouped(raw, self._limits.record_bytes_max):
            if group.schema_id == NO_SCHEMA:
                rejected += [self._without_header(raw, row) for row in group.members.tolist()]
                continue
            treatment = self._treatment(group.schema_id)
            if treatment is None:
                skipped += len(group.members)
            elif isinstance(treatment, _Refused):
                reason, detail = treatment.reason, treatment.detail
                rejected += [Rejected(row, reason, detail) for row in group.members.tolist()]
            else:
                pieces.append(self._piece(treatment, raw, group, rejected))
        rejected.sort()
        rows, members = self._in_order(pieces)
        return Decoded(raw, rows, members, rejected, skipped)

    def _piece(
        self, decoder: _RowDecoder, raw: RawRecords, group: _Group, rejected: list[Rejected]
    ) -> _Piece:
        """Decode the rows of `group`; bad ones are appended to `rejected`."""
        columns, codes = decoder.decode(raw.values, group.starts, group.ends)
        rows = pa.RecordBatch.from_arrays(list(columns.values()), schema=self.arrow_schema)
        if not codes.any():
            return _Piece(rows, group.members)
        for place in np.flatnonzero(codes).tolist():
            error = RowError(codes[place])
            rejected.append(Rejected(int(group.members[place]), error.slug, error.text))
        good = np.flatnonzero(codes == RowError.OK)
        return _Piece(rows.take(pa.array(good)), group.members[good])

    def _in_order(self, pieces: list[_Piece]) -> _Piece:
        """The rows of all pieces in the order in which they were read (X2)."""
        if not pieces:
            nothing = [pa.array([], field.type) for field in self.arrow_schema]
            rows = pa.RecordBatch.from_arrays(nothing, schema=self.arrow_schema)
            return _Piece(rows, np.zeros(0, dtype=np.int64))
        if len(pieces) == 1:
            return pieces[0]
        members = np.concatenate([piece.members for piece in pieces])
        order = np.argsort(members, kind="stable")
        rows = pa.concat_batches([piece.rows for piece in pieces]).take(pa.array(order))
        return _Piece(rows, members[order])

    def _without_header(self, raw: RawRecords, row: int) -> Rejected:
        start, size = int(raw.starts[row]), int(raw.ends[row] - raw.starts[row])
        if raw.null[row]:
            return Rejected(row, "null_value", "record has no value")
        if size == 0:
            return Rejected(row, "empty_value", "value is empty")
        if size > self._limits.record_bytes_max:
            most = self._limits.record_bytes_max
            return Rejected(row, "too_large", f"value has {size} bytes; at most {most} are read")
        first = int(raw.values[start])
        if first != MAGIC:
            return Rejected(row, "bad_magic", f"value begins with 0x{first:02x}, not with 0x00")
        if size < HEADER_BYTES:
            return Rejected(row, "truncated_header", f"value has {size} bytes; the header has 5")
        return Rejected(row, "bad_schema_id", "schema id is negative")

    def _treatment(self, schema_id: int) -> _Treatment:
        if schema_id in self._treatments:
            return self._treatments[schema_id]
        try:
            schema = self._registry.schema(schema_id)
        except UnknownSchema as error:
            return _Refused("unknown_schema", str(error))
        except SchemaError as error:
            found: _Treatment = _Refused("bad_schema", f"schema id {schema_id}: {error}")
        else:
            found = self._wanted(schema, schema_id) if schema.is_named(self._record) else None
        if len(self._treatments) >= CACHE_MAX:
            self._treatments.clear()
        self._treatments[schema_id] = found
        return found

    def _wanted(self, schema: RecordSchema, schema_id: int) -> _RowDecoder | _Refused:
        """How to decode rows of `schema`, unless it does not give the columns (X5)."""
        try:
            types = columns_of(schema, self._fields)
        except SchemaError as error:
            return _Refused("missing_field", f"schema id {schema_id}: {error}")
        for name, found, needed in zip(
            self._fields, types.types, self.arrow_schema.types, strict=True
        ):
            if found != needed:
                detail = f"schema id {schema_id}: field {name!r} is {found}, not {needed}"
                return _Refused("wrong_type", detail)
        return self._decoder_of(schema)

    def _decoder_of(self, schema: RecordSchema) -> _RowDecoder:
        key = schema.canonical()
        if key not in self._decoders:
            nested = bool(schema.not_covered) or len(schema.fields) > COMPILED_FIELDS_MAX
            make = NestedDecoder if nested else compile_decoder
            self._decoders[key] = make(schema, self._fields)
        return self._decoders[key]


def columns_of(schema: RecordSchema, fields: Sequence[str]) -> pa.Schema:
    """Names and types of the columns that decoding `fields` of `schema` gives.

    Raises:
        SchemaError: a field is unknown, or its values are of several types.
    """
    return pa.schema([(name, column_type(schema, name)) for name in fields])


class _Piece(NamedTuple):
    """Decoded rows and their indices in the poll, ascending."""

    rows: pa.RecordBatch
    members: NDArray[np.int64]


class _Group(NamedTuple):
    """Rows of one schema id: their indices in the poll, ascending, and where their bodies lie."""

    schema_id: int
    members: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


#: Schema ids told apart by the kernel; a poll with more of them is sorted instead.
_DISTINCT_MAX = 64


def _grouped(raw: RawRecords, bytes_max: int) -> list[_Group]:
    """The rows by schema id; those that are too large count as having none."""
    rows = len(raw)
    if not rows:
        return []
    groups = np.empty(rows, dtype=np.int32)
    distinct = np.empty(_DISTINCT_MAX, dtype=np.int32)
    count = _number(raw.values, raw.starts, raw.ends, bytes_max, groups, distinct)
    if count < 0:
        schema_ids, _ = split_header(raw.values, raw.starts, raw.ends)
        schema_ids[raw.ends - raw.starts > bytes_max] = NO_SCHEMA
        distinct, inverse = np.unique(schema_ids, return_inverse=True)
        groups, count = inverse.astype(np.int32), len(distinct)
    if count == 1:
        starts = raw.starts + HEADER_BYTES
        return [_Group(int(distinct[0]), np.arange(rows), starts, raw.ends)]
    members, starts, ends = np.empty((3, rows), dtype=np.int64)
    bounds = np.zeros(count + 1, dtype=np.int64)
    _sort(groups, raw.starts, raw.ends, bounds, members, starts, ends)
    edges = bounds.tolist()
    return [
        _Group(int(distinct[group]), members[first:last], starts[first:last], ends[first:last])
        for group, (first, last) in enumerate(pairwise(edges))
    ]


_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_INT64, _INT32 = types.Array(types.int64, 1, "C"), types.Array(types.int32, 1, "C")


@njit(
    types.int64(_BYTES, _INT64, _INT64, types.int64, _INT32, _INT32),
    cache=True,
    nogil=True,
)
def _number(
    values: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    bytes_max: int,
    groups: NDArray[np.int32],
    distinct: NDArray[np.int32],
) -> int:
    """Number the distinct ids by first occurrence: how many, or -1 if `distinct` is too small."""
    count, last = 0, 0
    for row in range(starts.shape[0]):
        schema_id = np.int32(NO_SCHEMA)
        if ends[row] - starts[row] <= bytes_max:
            schema_id = read_header(values, starts[row], ends[row])
        if count == 0 or distinct[last] != schema_id:
            last = 0
            while last < count and distinct[last] != schema_id:
                last += 1
            if last == distinct.shape[0]:
                return -1
            if last == count:
                distinct[count] = schema_id
                count += 1
        groups[row] = last
    return count


@njit(
    types.void(_INT32, _INT64, _INT64, _INT64, _INT64, _INT64, _INT64),
    cache=True,
    nogil=True,
)
def _sort(
    groups: NDArray[np.int32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    bounds: NDArray[np.int64],
    members: NDArray[np.int64],
    body_starts: NDArray[np.int64],
    body_ends: NDArray[np.int64],
) -> None:
    """Counting sort: group g has places bounds[g] to bounds[g + 1] of the last three, ascending."""
    for row in range(groups.shape[0]):
        bounds[groups[row] + 1] += 1
    for group in range(bounds.shape[0] - 1):
        bounds[group + 1] += bounds[group]
    places = bounds.copy()
    for row in range(groups.shape[0]):
        place = places[groups[row]]
        places[groups[row]] += 1
        members[place] = row
        body_starts[place] = starts[row] + HEADER_BYTES
        body_ends[place] = ends[row]
