"""How the records of a source become columns: by its format, and where in a record they are.

Flow: KafkaSource of a flow -> [decoder_of] -> SourceDecoder -> SourceFeed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from service.dataflow.vertices import KafkaSource
from service.ingest.decode import Decoded, DecodeLimits, RecordDecoder, columns_of
from service.ingest.json_decode import JsonRecordDecoder, json_columns, record_inside
from service.ingest.records import RawRecords
from service.ingest.registry import SchemaRegistry


class SourceDecoder(Protocol):
    """Turns polls into columns; each record is a row, skipped, or rejected with a reason."""

    @property
    def arrow_schema(self) -> pa.Schema:
        """Names and types of the columns."""
        ...

    def warm(self) -> None:
        """Run on no records, so that the first poll does not wait for compilation."""
        ...

    def decode(self, raw: RawRecords) -> Decoded:
        """Decode one poll.

        Raises:
            RegistryUnavailable: a schema is needed and the registry does not answer; the same
                records may be decoded again later.
        """
        ...


class InsideDecoder:
    """Avro records that lie in a field of another record."""

    def __init__(self, source: KafkaSource, registry: SchemaRegistry, limits: DecodeLimits) -> None:
        """Prepare to decode the outer record's field."""
        columns = source_columns(source, registry)
        outer = [source.inside]
        self._outer = RecordDecoder(registry, source.record, outer, limits, source.topics)
        self.arrow_schema = columns

    def warm(self) -> None:
        """Run on no records."""
        self._outer.warm()

    def decode(self, raw: RawRecords) -> Decoded:
        """Decode one poll. Cost: as nested Avro, 3 to 10 us a record."""
        found = self._outer.decode(raw)
        held = found.rows.column(0)
        here = np.flatnonzero(held.is_valid().to_numpy(zero_copy_only=False))
        taken = held.take(pa.array(here))
        arrays = [taken.field(name) for name in self.arrow_schema.names]
        return replace(
            found,
            rows=pa.RecordBatch.from_arrays(arrays, schema=self.arrow_schema),
            members=found.members[here],
            skipped=found.skipped + len(held) - len(here),
        )


def decoder_of(
    source: KafkaSource, registry: SchemaRegistry, limits: DecodeLimits
) -> SourceDecoder:
    """What decodes the records of a source.

    Raises:
        SchemaError: the registry has no such record, or the record no such field.
        GraphError: a declared type is none.
        RegistryUnavailable: the registry does not answer.

    Cost: compiles a kernel, or fetches it from the disk.
    """
    if source.format == "json":
        return JsonRecordDecoder(source, registry, limits)
    if source.inside:
        return InsideDecoder(source, registry, limits)
    return RecordDecoder(registry, source.record, source.fields, limits, source.topics)


def source_columns(source: KafkaSource, registry: SchemaRegistry) -> pa.Schema:
    """Names and types of a source's columns, without a decoder.

    Raises:
        SchemaError, GraphError, RegistryUnavailable: as `decoder_of`.
    """
    if source.format == "json":
        return pa.schema([(each.name, each.type) for each in json_columns(source, registry)])
    schema = registry.find(source.record, source.topics)
    if source.inside:
        schema = record_inside(schema, source.inside)
    return columns_of(schema, source.fields)
