"""What F and S of each kind of vertex with event time need.

Flow: a timed vertex, schemas and event times of what it reads -> [timed_parts] -> stateful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from service.dataflow.event_time import EventTime, in_unit
from service.dataflow.operators import columns_of
from service.dataflow.process_vertex import ProcessVertex
from service.dataflow.timed_join_vertices import (
    BestWithinVertex,
    IntervalJoinVertex,
    WindowJoinVertex,
)
from service.dataflow.vertices import TimedVertex
from service.dataflow.window_vertices import (
    WindowAggregateVertex,
    WindowFoldVertex,
    WindowTopVertex,
)
from service.errors import GraphError
from service.migration.keyed_parts import KeyedParts
from service.migration.timed_join_parts import timed_join_parts
from service.migration.window_parts import window_aggregate, window_fold, window_top
from service.statestore.process_program import ProcessProgram, forms_of
from service.statestore.process_store import ProcessStore


@dataclass(frozen=True, slots=True)
class TimedInputs:
    """What a timed vertex reads, and where its state is kept."""

    #: The column of integers under which state is kept: the key, or KEY_ID of keys that are text.
    key: str
    #: Of the streams it reads.
    schemas: Sequence[pa.Schema]
    #: Their event times, one each, all in one unit.
    times: Sequence[EventTime]
    #: The store has 2**bin_bits bins.
    bin_bits: int


def timed_parts(vertex: TimedVertex, given: TimedInputs) -> KeyedParts:
    """The parts, whose store is a `TimedStore`; raises as `stateful.keyed_parts`."""
    match vertex:
        case BestWithinVertex() | IntervalJoinVertex() | WindowJoinVertex():
            return timed_join_parts(vertex, given.key, given.schemas, given.times, given.bin_bits)
        case WindowAggregateVertex():
            (schema,), (time,) = given.schemas, given.times
            return window_aggregate(vertex, given.key, schema, time, given.bin_bits)
        case WindowFoldVertex():
            (schema,), (time,) = given.schemas, given.times
            return window_fold(vertex, given.key, schema, time, given.bin_bits)
        case WindowTopVertex():
            (schema,), (time,) = given.schemas, given.times
            return window_top(vertex, given.key, schema, time, given.bin_bits)
        case ProcessVertex():
            return _process(vertex, given)
        case _:
            raise GraphError(
                f"{vertex.name!r} is a {type(vertex).__name__}, which this version cannot run; it "
                f"reads {[columns_of(schema) for schema in given.schemas]}"
            )


def _process(vertex: ProcessVertex, given: TimedInputs) -> KeyedParts:
    (schema,), (time,) = given.schemas, given.times
    read = (vertex.value,) if isinstance(vertex.value, str) else vertex.value or schema.names
    for name in read:
        if name not in schema.names:
            raise GraphError(
                f"{vertex.name!r} needs column {name!r}; the stream has {columns_of(schema)}"
            )
    program = ProcessProgram(
        forms_of(vertex.name, given.key, vertex.value, vertex.outputs, vertex.initial),
        vertex.on_row,
        vertex.on_timer,
        time.column,
        time.offset,
        in_unit(vertex.allowed_lateness, time.unit, f"{vertex.name!r}: allowed_lateness"),
    )
    columns = list(dict.fromkeys([given.key, *read, time.column]))
    return KeyedParts(
        columns,
        [given.key, time.column],
        ProcessStore(vertex.name, program, given.bin_bits, vertex.codec),
        pa.schema([pa.field(given.key, pa.int64()), *vertex.outputs]),
        given.key,
    )
