"""The event time of each stream once its columns' types are known.

Flow: lowering, vertex by vertex -> [stream_time] -> the event times that timed vertices are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from service.dataflow.event_time import EventTime, unit_of
from service.dataflow.time_paths import event_time_behind
from service.dataflow.vertices import SourceVertex, Vertex
from service.errors import GraphError


def stream_time(
    vertex: Vertex, given: Sequence[EventTime | None], schema: pa.Schema | None
) -> EventTime | None:
    """The event time of what `vertex` gives, `schema`, from those of what it reads.

    A column that was made to something else, or to another unit than that of the watermarks, is no
    event time any more.

    Raises:
        GraphError: a source's event time is none of its columns, or is no integer and no timestamp.
    """
    time = event_time_behind(vertex, given, None if schema is None else schema.names)
    if time is None or schema is None:
        return None
    if isinstance(vertex, SourceVertex):
        if time.column not in schema.names:
            raise GraphError(
                f"source {vertex.name!r}: the event time {time.column!r} is none of its columns "
                f"{schema.names}"
            )
        return replace(time, unit=unit_of(schema.field(time.column), time.unit, vertex.name))
    kind = schema.field(time.column).type
    keeps = kind == pa.int64() or (pa.types.is_timestamp(kind) and kind.unit == time.unit)
    return time if keeps else None
