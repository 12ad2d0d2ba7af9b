"""Turns the JSON records of one poll into columns, and sorts out the rest.

Flow: RawRecords -> [JsonRecordDecoder] -> Decoded, as `service.ingest.decode` does for Avro (X1 to
X3 hold here too); the kernel and its slow way are in `service.json_text`.

Invariants
  JI1  Columns have the types that the same fields have in Avro, so that a flow does not see how its
       records were written.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from service.avro.schema import AvroType, Kind, RecordSchema
from service.dataflow.vertices import KafkaSource
from service.errors import GraphError, SchemaError
from service.ingest.decode import Decoded, DecodeLimits, Rejected, columns_of
from service.ingest.records import RawRecords
from service.ingest.registry import SchemaRegistry
from service.json_text.decoder import JsonDecoder


class JsonRecordDecoder:
    """Decodes JSON objects. Owned by one thread."""

    def __init__(self, source: KafkaSource, registry: SchemaRegistry, limits: DecodeLimits) -> None:
        """Prepare to decode what `source` asks for.

        Raises:
            SchemaError: the registry has no schema for it, or the schema no such field.
            GraphError: a declared type is none, or a time is no integer.
            RegistryUnavailable: the registry does not answer.
        """
        self._limits = limits
        needed = json_columns(source, registry)
        #: Names and types of the columns; in Arrow all may be null, as those of Avro.
        self.arrow_schema = pa.schema([(each.name, each.type) for each in needed])
        self._decoder = JsonDecoder(needed, frozenset(source.times), source.inside)

    def warm(self) -> None:
        """Run on no records, so that the first poll does not wait for compilation."""
        self._decoder.warm()

    def decode(self, raw: RawRecords) -> Decoded:
        """Decode one poll. Cost: see `JsonDecoder`."""
        rejected = list(self._unread(raw))
        starts, ends, places = raw.starts, raw.ends, None
        if rejected:
            places = np.delete(np.arange(len(raw)), [each.row for each in rejected])
            starts, ends = starts[places], ends[places]
        found = self._decoder.decode(raw.values, starts, ends)
        members = found.members if places is None else places[found.members]
        rejected += [
            Rejected(row if places is None else int(places[row]), reason, detail)
            for row, reason, detail in found.bad
        ]
        rejected.sort()
        rows = pa.RecordBatch.from_arrays(found.rows.columns, schema=self.arrow_schema)
        return Decoded(raw, rows, members, rejected, found.skipped)

    def _unread(self, raw: RawRecords) -> Iterator[Rejected]:
        """Records of which nothing is read."""
        for row in np.flatnonzero(raw.null).tolist():
            yield Rejected(row, "null_value", "record has no value")
        most = self._limits.record_bytes_max
        sizes = raw.ends - raw.starts
        for row in np.flatnonzero(sizes > most).tolist():
            detail = f"value has {sizes[row]} bytes; at most {most} are read"
            yield Rejected(row, "too_large", detail)


def json_columns(source: KafkaSource, registry: SchemaRegistry) -> pa.Schema:
    """Columns of a JSON source; those that must be there are not nullable.

    Raises:
        SchemaError, GraphError, RegistryUnavailable: see `JsonRecordDecoder`.
    """
    if source.types:
        columns = pa.schema([_declared(name, source.types[name]) for name in source.fields])
    else:
        schema = registry.find(source.record, source.topics)
        if source.inside:
            schema = record_inside(schema, source.inside)
        columns = pa.schema(
            [
                each.with_nullable(schema.field(each.name).type.null_branch >= 0)
                for each in columns_of(schema, source.fields)
            ]
        )
    for name in source.times:
        if columns.field(name).type != pa.int64():
            raise GraphError(
                f"time {name!r} is {columns.field(name).type}; ISO 8601 text becomes an int64 "
                "column of milliseconds, so declare it as that"
            )
    return columns


def _declared(name: str, of: str) -> pa.Field:
    try:
        kind = pa.type_for_alias(of.removesuffix("?"))
    except (ValueError, AttributeError) as error:
        raise GraphError(
            f"field {name!r}: {of!r} is no type; use int64, float64, bool or string, with a ? "
            "behind it if it may be null or missing"
        ) from error
    return pa.field(name, kind, nullable=of.endswith("?"))


def record_inside(schema: RecordSchema, name: str) -> RecordSchema:
    """The schema of the record in a field.

    Raises:
        SchemaError: there is no such field, or no record in it.
    """
    of: AvroType = schema.field(name).type.present
    if of.kind is not Kind.RECORD:
        raise SchemaError(f"field {name!r} of {schema.fullname} holds no record")
    return RecordSchema(of)
