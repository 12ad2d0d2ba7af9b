"""What F and S of joins within event time need.

Flow: a vertex of `timed_join_vertices` and what it reads -> [timed_join_parts] -> timed_parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from service.dataflow.event_time import EventTime, unit_of
from service.dataflow.keyed import joined_names
from service.dataflow.operators import columns_of
from service.dataflow.sides import Tagged, tagged
from service.dataflow.timed_join_vertices import BestWithinVertex
from service.errors import GraphError, UsageError
from service.migration.keyed_parts import KeyedParts
from service.statestore.best_within import BestWithin, Choice
from service.statestore.row_format import is_typed
from service.statestore.timed_row_store import TimedRowStore

#: The vertices that `timed_join_parts` takes.
TimedJoinVertex = BestWithinVertex


def timed_join_parts(
    vertex: TimedJoinVertex,
    key: str,
    schemas: Sequence[pa.Schema],
    times: Sequence[EventTime],
    bin_bits: int,
) -> KeyedParts:
    """The parts of a join, whose store is a `TimedStore`.

    Raises:
        GraphError: a column is missing or has a type that the join cannot read.
    """
    left, right = vertex.keys
    form = tagged((left, right), schemas)
    for side, (schema, own) in enumerate(zip(schemas, vertex.keys, strict=True)):
        for field in schema:
            if field.name != own and not is_typed(field.type):
                raise GraphError(
                    f"{vertex.name!r} would keep column {field.name!r} of type {field.type}, which "
                    "joins within event time cannot; cast it, or leave it out before key_by"
                )
        _require_time(vertex.name, schema, times[side])
    return _best_within(vertex, key, schemas, times, bin_bits, form)


def _best_within(
    vertex: BestWithinVertex,
    key: str,
    schemas: Sequence[pa.Schema],
    times: Sequence[EventTime],
    bin_bits: int,
    form: Tagged,
) -> KeyedParts:
    left, right = schemas
    needed = (
        [times[0].column, vertex.until, *([] if vertex.at_least is None else [vertex.at_least])],
        [times[1].column, vertex.by],
    )
    for schema, names in zip(schemas, needed, strict=True):
        for name in names:
            if name not in schema.names:
                raise GraphError(
                    f"{vertex.name!r} needs column {name!r}; the stream has {columns_of(schema)}"
                )
    if unit_of(left.field(vertex.until), times[0].unit, vertex.name) != times[0].unit:
        raise GraphError(
            f"{vertex.name!r}: {vertex.until!r} of type {left.field(vertex.until).type} is not in "
            f"the unit of the event time {times[0].column!r}, {times[0].unit}; cast it"
        )
    choice = Choice(
        (form.named(0, times[0].column), form.named(1, times[1].column)),
        form.named(0, vertex.until),
        form.named(1, vertex.by),
        None if vertex.at_least is None else form.named(0, vertex.at_least),
        once=vertex.once,
        outer=vertex.outer,
        offsets=(times[0].offset, times[1].offset),
    )
    output = _output(vertex, key, left, right)
    try:
        program = BestWithin(key, *form.names, choice, output)
    except UsageError as error:
        raise GraphError(f"{vertex.name!r}: {error}") from error
    return KeyedParts(
        form.schema.names,
        [key],
        TimedRowStore(vertex.name, program, bin_bits),
        output,
        key,
        replace(form, vertex=vertex.name, required=needed),
        # Rows of one time are put in order by the program, where their order matters.
        sorted=any(pa.types.is_fixed_size_list(kind) for kind in left.types),
    )


def _output(vertex: TimedJoinVertex, key: str, left: pa.Schema, right: pa.Schema) -> pa.Schema:
    """The key, the other columns of the left side, those of the right."""
    _, *names = joined_names(vertex, left.names, right.names)
    own, other = vertex.keys
    kinds = [
        *(field.type for field in left if field.name != own),
        *(field.type for field in right if field.name != other),
    ]
    return pa.schema([(key, pa.int64()), *zip(names, kinds, strict=True)])


def _require_time(vertex: str, schema: pa.Schema, time: EventTime) -> None:
    if time.column not in schema.names:
        raise GraphError(
            f"{vertex!r} needs the event time {time.column!r}; the stream has {columns_of(schema)}"
        )
    unit_of(schema.field(time.column), time.unit, vertex)
