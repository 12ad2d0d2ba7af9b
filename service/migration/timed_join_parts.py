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
from service.dataflow.timed_join_vertices import (
    BestWithinVertex,
    IntervalJoinVertex,
    WindowJoinVertex,
    window_names,
)
from service.errors import GraphError, UsageError
from service.migration.keyed_parts import KeyedParts
from service.statestore.best_within import BestWithin, Choice
from service.statestore.join import SIDE
from service.statestore.pairing import WINDOW, Interval, PairProgram, Windows
from service.statestore.row_format import is_typed
from service.statestore.timed_row_store import SidedProgram, TimedRowProgram, TimedRowStore
from service.statestore.window_semi_join import SemiProgram

#: The vertices that `timed_join_parts` takes.
TimedJoinVertex = BestWithinVertex | IntervalJoinVertex | WindowJoinVertex


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
    others = schemas[1]
    if isinstance(vertex, WindowJoinVertex):
        window_names(vertex, [tuple(schema.names) for schema in schemas])
        if vertex.semi:
            others = pa.schema([others.field(right)])
    output = _output(vertex, key, schemas[0], others)
    columns = form.schema.names
    program: TimedRowProgram | SidedProgram
    if isinstance(vertex, WindowJoinVertex) and vertex.semi:
        program, columns = _semi(vertex, key, times, form, output)
        needed = [times[0].column], [times[1].column]
    elif isinstance(vertex, BestWithinVertex):
        program, needed = _best_within(vertex, key, schemas, times, form, output)
    else:
        program = _pairs(vertex, key, times, form, output)
        needed = [times[0].column], [times[1].column]
    return KeyedParts(
        columns,
        [key],
        TimedRowStore(vertex.name, program, bin_bits),
        program.output,
        key,
        replace(form, vertex=vertex.name, required=needed),
        late=program.output,
        sorted=_needs_order(vertex, schemas[0]),
    )


def _needs_order(vertex: TimedJoinVertex, left: pa.Schema) -> bool:
    """Whether the rows of one time must come in order for what leaves to be the same."""
    if isinstance(vertex, BestWithinVertex):
        # Left rows, whose order matters, are put in order where the best is chosen.
        return any(pa.types.is_fixed_size_list(kind) for kind in left.types)
    return not (isinstance(vertex, WindowJoinVertex) and vertex.semi)


def _best_within(
    vertex: BestWithinVertex,
    key: str,
    schemas: Sequence[pa.Schema],
    times: Sequence[EventTime],
    form: Tagged,
    output: pa.Schema,
) -> tuple[BestWithin, tuple[list[str], list[str]]]:
    """The program, and of each side the columns that may hold no null."""
    left, _ = schemas
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
    try:
        program = BestWithin(key, *form.names, choice, output)
    except UsageError as error:
        raise GraphError(f"{vertex.name!r}: {error}") from error
    return program, needed


def _pairs(
    vertex: IntervalJoinVertex | WindowJoinVertex,
    key: str,
    times: Sequence[EventTime],
    form: Tagged,
    output: pa.Schema,
) -> PairProgram:
    near: Interval | Windows
    if isinstance(vertex, IntervalJoinVertex):
        near = Interval(vertex.lower, vertex.upper)
    else:
        near = Windows(vertex.size, vertex.every)
        output = _with_window(output)
    return PairProgram(
        key,
        *form.names,
        (form.named(0, times[0].column), form.named(1, times[1].column)),
        near,
        output,
        offsets=(times[0].offset, times[1].offset),
        outer=isinstance(vertex, IntervalJoinVertex) and vertex.outer,
    )


def _semi(
    vertex: WindowJoinVertex,
    key: str,
    times: Sequence[EventTime],
    form: Tagged,
    output: pa.Schema,
) -> tuple[SemiProgram, list[str]]:
    """The program, and the columns that it reads: of the right side the event time only."""
    right = form.named(1, times[1].column)
    program = SemiProgram(
        key,
        form.names[0],
        (form.named(0, times[0].column), right),
        Windows(vertex.size, vertex.every),
        _with_window(output),
        (times[0].offset, times[1].offset),
    )
    return program, [key, SIDE, *form.names[0], right]


def _with_window(output: pa.Schema) -> pa.Schema:
    return pa.schema([*output, *((name, pa.int64()) for name in WINDOW)])


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
