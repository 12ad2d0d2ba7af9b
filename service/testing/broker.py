"""What outlives a crash: inputs, results others have seen, the log, statuses, checkpoints.

Flow: test -> [KitBroker] inputs -> StandaloneJob -> [KitBroker] results -> test. It stands where
Kafka and the state folder stand, and keeps what they would keep: bytes of records, and files.

Invariants
  TB1  Rows stay where they were put: a position means the same rows in every generation.
  TB2  Log records, manifests and statuses pass through their real encoding.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from service.dataflow.connectors import LocalSource
from service.dataflow.flow import Flow
from service.dataflow.vertices import KafkaSink, SinkVertex, SourceVertex
from service.egress.encoders import RowEncoder, encoder_of
from service.egress.producer import require_fit, require_key
from service.errors import GraphError, UsageError
from service.hashing import bins_of
from service.ids import Slot
from service.ingest.decoders import source_columns
from service.ingest.registry import FolderRegistry
from service.ingest.shape import Columns, Rows, rows_as, schema_of
from service.migration.horizon import LogFollower
from service.migration.records import (
    LogRecord,
    ManifestRecord,
    StatusRecord,
    decode_log,
    decode_manifest,
    decode_status,
    encode,
)
from service.standalone.surroundings import Remains
from service.testing.schedule import Schedule


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """One row of a sink as others see it.

    Attributes:
        row: its columns.
        writer: who wrote it, such as `worker-1`; `gateway-0` where no keyed vertex is above.
        bin: the bin of its key; None for a sink without a key.
    """

    row: dict[str, object]
    writer: str
    bin: int | None


class _Partition:
    """Rows by position, in batches (TB1)."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        #: Position of each batch's first row.
        self._starts: list[int] = []
        self.end = 0

    def append(self, rows: pa.RecordBatch) -> None:
        self._batches.append(rows)
        self._starts.append(self.end)
        self.end += rows.num_rows

    def read(self, position: int, most: int | None) -> pa.RecordBatch | None:
        """Rows from there on: those that were put together, or `most` of all that are there."""
        if position >= self.end:
            return None
        place = bisect_right(self._starts, position) - 1
        first = self._batches[place].slice(position - self._starts[place])
        if most is None:
            return first
        pieces = [first]
        while sum(piece.num_rows for piece in pieces) < most and place + 1 < len(self._batches):
            place += 1
            pieces.append(self._batches[place])
        return pa.concat_batches(pieces).slice(0, most)


class KitBroker:
    """The durable side of one tested job; the `Surroundings` of its generations."""

    def __init__(
        self,
        flow: Flow,
        bin_bits: int,
        partitions: int,
        schemas: Mapping[str, Columns],
        registry: Path | None,
        schedule: Schedule,
    ) -> None:
        """Put the rows of sources that have their own where the others' will come.

        Raises:
            GraphError: a schema is none.
            UsageError: a schema is given for no source; there is no such registry.
            SchemaError: the registry lacks a source's record type.
        """
        self.sources = {v.name: v for v in flow.vertices if isinstance(v, SourceVertex)}
        self.sinks = {v.name: v for v in flow.vertices if isinstance(v, SinkVertex)}
        self.records: dict[str, list[OutputRecord]] = {name: [] for name in self.sinks}
        self.statuses: dict[str, StatusRecord] = {}
        self._bin_bits = bin_bits
        self._schedule = schedule
        self._log: list[bytes] = []
        #: Manifests of all checkpoints, oldest first.
        self.manifests: list[bytes] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._registry = None if registry is None else FolderRegistry(registry)
        self._encoders: dict[str, RowEncoder] = {}
        self._inputs = {
            (topic, number): _Partition()
            for vertex in self.sources.values()
            for topic in vertex.inputs
            for number in range(partitions)
        }
        unknown = set(schemas) - set(self.sources)
        if unknown:
            raise UsageError(
                f"schemas names {sorted(unknown)}; the flow has the sources {sorted(self.sources)}"
            )
        self._schemas = {
            name: _declared(name, schema_of(columns), self.sources[name].connector.fields)
            for name, columns in schemas.items()
        }
        for name, vertex in self.sources.items():
            connector = vertex.connector
            if isinstance(connector, LocalSource):
                self._schemas[name] = connector.schema()
                for rows in connector.batches():
                    self._inputs[name, 0].append(rows)
            elif self._registry is not None and name not in self._schemas:
                self._schemas[name] = source_columns(connector, self._registry)

    # For the test ------------------------------------------------------------------------------

    @property
    def unknown(self) -> list[str]:
        """Sources whose columns nobody has told yet."""
        return [name for name in self.sources if name not in self._schemas]

    def put(self, source: str, rows: Sequence[Rows], partition: int) -> None:
        """Append rows to an input; the first ones tell its columns if nothing else has.

        Raises:
            UsageError: there is no such source or partition.
            GraphError: a row does not fit.
        """
        vertex = self.sources.get(source)
        if vertex is None:
            raise UsageError(f"no source {source!r}; the flow has {sorted(self.sources)}")
        topic = vertex.inputs[0]
        if (topic, partition) not in self._inputs:
            count = sum(each == topic for each, _ in self._inputs)
            raise UsageError(f"no partition {partition}; each topic has {count}")
        whose = f"source {source!r}"
        schema = self._schemas.get(source)
        fields = vertex.connector.fields
        if schema is None and fields is not None:
            # What a KafkaSource does not take may be of any type, or of several.
            rows = [_taken(row, fields) for row in rows]
        for batch in rows_as(rows, schema, whose):
            if fields is not None:
                _require(batch, fields, whose)
            self._schemas.setdefault(source, batch.schema)
            if batch.num_rows:
                self._inputs[topic, partition].append(batch)

    def remains(self) -> Remains:
        """What a new generation finds (TB2)."""
        manifest = decode_manifest(self.manifests[-1]) if self.manifests else None
        history = LogFollower()
        for data in self._log[0 if manifest is None else manifest.log_offset :]:
            history.apply(decode_log(data))
        return Remains(history, manifest, dict(self.statuses))

    def state_dir(self) -> Path:
        """Folder of the checkpoints, made when it is first asked for."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="megaphone-test-")
        return Path(self._folder.name)

    def close(self) -> None:
        """Remove the checkpoints."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # For the job -------------------------------------------------------------------------------

    def schema_of(self, vertex: SourceVertex) -> pa.Schema:
        """Columns of a source."""
        return self._schemas[vertex.name]

    def open_sink(self, vertex: SinkVertex, columns: pa.Schema) -> None:
        """See that the columns fit the sink, as a worker does at start.

        Raises:
            GraphError: they do not.
            SchemaError: the registry lacks the sink's schema.
        """
        connector = vertex.connector
        if not isinstance(connector, KafkaSink):
            return
        if self._registry is None:
            require_key(connector.topic, connector.key, columns)
            return
        if vertex.name not in self._encoders:
            self._encoders[vertex.name] = encoder_of(connector, self._registry.schema)
        encoder = self._encoders[vertex.name]
        require_fit(connector.topic, connector.key, encoder, columns)

    def read(self, topic: str, partition: int, position: int) -> pa.RecordBatch | None:
        """Rows from `position` on, cut as the schedule says."""
        return self._inputs[topic, partition].read(position, self._schedule.portion())

    def at_end(self, topic: str, partition: int, position: int) -> bool:
        """Never: a test may always send more."""
        return False

    def store(self, writer: Slot, vertex: SinkVertex, rows: pa.RecordBatch) -> None:
        """Rows are there to be seen, encoded if there are schemas.

        Raises:
            DataError: a value does not fit the sink's schema.
        """
        encoder = self._encoders.get(vertex.name)
        if encoder is not None:
            encoder.encode(dict(zip(rows.schema.names, rows.columns, strict=True)))
        bins: list[int | None] = [None] * rows.num_rows
        if isinstance(vertex.connector, KafkaSink):
            keys = rows.column(vertex.connector.key).to_numpy(zero_copy_only=False)
            bins = bins_of(np.ascontiguousarray(keys, np.int64), self._bin_bits).tolist()
        self.records[vertex.name].extend(
            OutputRecord(row, str(writer), number)
            for row, number in zip(rows.to_pylist(), bins, strict=True)
        )

    def keep(self, record: LogRecord) -> int:
        """Append to the log."""
        self._log.append(encode(record))
        return len(self._log) - 1

    def publish(self, status: StatusRecord) -> None:
        """Keep the newest status of a request."""
        self.statuses[status.id] = decode_status(encode(status))

    def keep_manifest(self, manifest: ManifestRecord) -> None:
        """From here the next generation goes on."""
        self.manifests.append(encode(manifest))


def _declared(source: str, schema: pa.Schema, fields: Sequence[str] | None) -> pa.Schema:
    """A declared schema in the order in which the source takes its columns."""
    if fields is None:
        return schema
    missing = [name for name in fields if name not in schema.names]
    if missing:
        raise GraphError(f"schemas[{source!r}] lacks {missing}; the source takes {list(fields)}")
    return pa.schema([schema.field(name) for name in fields])


def _taken(rows: Rows, fields: Sequence[str]) -> Rows:
    """What a source takes of some rows, in its order."""
    if isinstance(rows, Mapping):
        return {name: rows[name] for name in fields if name in rows}
    if isinstance(rows, pa.RecordBatch | pa.Table):
        return rows.select([name for name in fields if name in rows.schema.names])
    return rows


def _require(batch: pa.RecordBatch, fields: Sequence[str], whose: str) -> None:
    missing = [name for name in fields if name not in batch.schema.names]
    if missing:
        raise GraphError(
            f"{whose} takes {list(fields)}, but its first row lacks {missing}; write None where a "
            "value is missing"
        )
