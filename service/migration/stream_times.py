"""The event time of each stream once its columns' types are known.

Flow: lowering, vertex by vertex -> [stream_time] -> the event times that timed vertices are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from service.dataflow.event_time import EventTime, unit_of
from service.dataflow.row_vertices import Side, SideVertex
from service.dataflow.time_paths import event_time_behind
from service.dataflow.vertices import SourceVertex, TimedVertex, Vertex, upstreams_of
from service.errors import GraphError
from service.statestore.columns import KEY_ID


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


def heard_sources(vertices: Sequence[Vertex]) -> dict[int, tuple[int, ...]]:
    """Numbers of the sources above each vertex with event time: it hears what they know of it.

    No loop lies between them, as event time does not leave one.
    """
    above: list[frozenset[int]] = []
    for number, vertex in enumerate(vertices):
        ups = [up for up in upstreams_of(vertex) if 0 <= up < number]
        own = {number} if isinstance(vertex, SourceVertex) else set[int]()
        above.append(frozenset(own).union(*(above[up] for up in ups)))
    return {
        number: tuple(sorted(above[number]))
        for number, vertex in enumerate(vertices)
        if isinstance(vertex, TimedVertex)
    }


def late_of(vertices: Sequence[Vertex]) -> frozenset[int]:
    """Vertices whose late rows the flow asks for."""
    return frozenset(
        vertex.upstream
        for vertex in vertices
        if isinstance(vertex, SideVertex) and vertex.side is Side.LATE
    )


def with_late(columns: Sequence[str], given: pa.Schema) -> list[str]:
    """The columns F sends, and all others of the stream, as its late rows are wanted whole.

    Hashes of keys that are text stay the last (SF1 of `stateful`).
    """
    hashes = [name for name in columns if name == KEY_ID]
    named = [name for name in columns if name != KEY_ID]
    return [*dict.fromkeys([*named, *given.names]), *hashes]
