"""What a job without Kafka has around it, where processes have Kafka, files and sockets.

Flow: LocalEnds of a run, or the test kit's broker -> [Surroundings] -> StandaloneJob.

Invariants
  SU1  What was read at a position is there as long as anybody may ask for it again; whoever keeps
       no checkpoint is asked once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from service.dataflow.flow import Flow
from service.dataflow.flow_shape import stateful_of
from service.dataflow.row_vertices import delays_of
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.ids import Slot
from service.migration.founding import JobShape
from service.migration.horizon import LogFollower
from service.migration.records import LogRecord, ManifestRecord, StatusRecord


class Surroundings(Protocol):
    """What a job without Kafka has around it."""

    def schema_of(self, vertex: SourceVertex) -> pa.Schema:
        """Columns of a source."""
        ...

    def open_sink(self, vertex: SinkVertex, columns: pa.Schema) -> None:
        """A process will write rows of these columns; called once for each that will."""
        ...

    def read(self, topic: str, partition: int, position: int) -> pa.RecordBatch | None:
        """Some rows from `position` on; None if there is none now."""
        ...

    def at_end(self, topic: str, partition: int, position: int) -> bool:
        """Whether there will be nothing behind `position`."""
        ...

    def store(self, writer: Slot, vertex: SinkVertex, rows: pa.RecordBatch) -> None:
        """Rows are there for others to see."""
        ...

    def keep(self, record: LogRecord) -> int:
        """Append to the accepted log; returns the offset."""
        ...

    def publish(self, status: StatusRecord) -> None:
        """A request has come so far."""
        ...

    def keep_manifest(self, manifest: ManifestRecord) -> None:
        """The stop's checkpoint is complete."""
        ...


@dataclass(frozen=True, slots=True)
class Remains:
    """What earlier generations left."""

    history: LogFollower
    manifest: ManifestRecord | None
    answered: Mapping[str, StatusRecord]


def shape_of(
    flow: Flow, *, workers: int, gateways: int, bins: int, partitions: int, until_end: bool
) -> JobShape:
    """The shape of a job each of whose inputs has so many partitions."""
    inputs = [
        topic
        for vertex in flow.vertices
        if isinstance(vertex, SourceVertex)
        for topic in vertex.inputs
    ]
    return JobShape(
        bins=bins,
        workers=workers,
        gateways=gateways,
        vertices=stateful_of(flow.vertices),
        sink_groups=workers,
        start={topic: [0] * partitions for topic in inputs},
        until_end=until_end,
        delays=delays_of(flow.vertices),
    )
