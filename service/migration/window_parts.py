"""What F and S of windows need.

Flow: a windowed vertex, the columns and the event time of what it reads -> [window_aggregate] ->
timed_parts -> lowering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from service.dataflow.event_time import EventTime
from service.dataflow.operators import columns_of
from service.dataflow.window_values import END, START, TOGETHER, Given, Session, panes_of
from service.dataflow.window_vertices import (
    WindowAggregateVertex,
    WindowFoldVertex,
    WindowTopVertex,
    WindowVertex,
)
from service.errors import GraphError
from service.migration.keyed_parts import KeyedParts
from service.migration.session_parts import session_aggregate, session_fold, session_top
from service.statestore.aggregate import Aggregate, AggregateProgram, Count
from service.statestore.distinct_values import DistinctCount, ValueLines
from service.statestore.object_rows import OBJECTS
from service.statestore.panes import Panes
from service.statestore.process_program import forms_of
from service.statestore.process_store import ProcessStore
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.window_fold import FoldProgram, WindowFold
from service.statestore.window_form import WindowForm
from service.statestore.window_store import WindowStore
from service.statestore.window_top import WindowTop

_ROWS = "window.rows"


def window_aggregate(
    vertex: WindowAggregateVertex, key: str, schema: pa.Schema, time: EventTime, bin_bits: int
) -> KeyedParts:
    """The parts of aggregates over windows, whose state is kept under the column `key`.

    Raises:
        GraphError: a column is missing, has a type that cannot be read, or a length is no whole
            number of the event time's unit.
    """
    kinds = dict(zip(schema.names, schema.types, strict=True))
    folded: dict[str, Aggregate] = {}
    counted: dict[str, str] = {}
    for name, aggregate in vertex.aggregates.items():
        if isinstance(aggregate, DistinctCount):
            counted[name] = aggregate.column
        else:
            folded[name] = aggregate
    # What has no other number has this one, which nobody is given.
    program = AggregateProgram(key, folded or {_ROWS: Count()}, kinds)
    values = None
    for output, column in counted.items():
        if column not in kinds:
            raise GraphError(
                f"{vertex.name!r} needs column {column!r}; the stream has {columns_of(schema)}"
            )
        values = ValueLines(output, column, kinds[column])
    if isinstance(vertex.window, Session):
        return session_aggregate(vertex, key, time, bin_bits, program, values)
    form = replace(_form_of(vertex, key, schema, time), values=values)
    store = WindowStore(vertex.name, form, program, bin_bits, outputs=[*vertex.aggregates])
    read = [key, *form.columns, *program.input_columns]
    columns = list(dict.fromkeys(read))
    return KeyedParts(columns, columns, store, store.schema, key, sorted=program.is_order_sensitive)


def window_top(
    vertex: WindowTopVertex, key: str, schema: pa.Schema, time: EventTime, bin_bits: int
) -> KeyedParts:
    """The parts of the greatest rows of windows; raises as `window_aggregate`."""
    if vertex.by not in schema.names:
        raise GraphError(
            f"{vertex.name!r} needs column {vertex.by!r}; the stream has {columns_of(schema)}"
        )
    if key not in schema.names:
        # Of keys that are text the column of their hashes has their place.
        place = schema.get_field_index(vertex.key)
        schema = schema.set(place, pa.field(key, pa.int64()))
    if isinstance(vertex.window, Session):
        return session_top(vertex, key, schema, time, bin_bits)
    form = _form_of(vertex, key, schema, time)
    program = WindowTop(
        form, schema, vertex.by, vertex.count, ties=vertex.ties, lowest=vertex.lowest
    )
    columns = list(dict.fromkeys([key, *schema.names]))
    required = list(dict.fromkeys([*form.columns, vertex.by]))
    store = TimedRowStore(vertex.name, program, bin_bits)
    # Which of equal rows come first decides only where not all of them are given.
    return KeyedParts(
        columns,
        required,
        store,
        program.output,
        key,
        sorted=not vertex.ties,
        combine=program.contending if vertex.ties else None,
    )


def window_fold(
    vertex: WindowFoldVertex, key: str, schema: pa.Schema, time: EventTime, bin_bits: int
) -> KeyedParts:
    """The parts of a user's fold over windows; raises as `window_aggregate`."""
    form, window = vertex.value, vertex.window
    # What the flow has added to the rows is not among what the function is given.
    added: tuple[str, ...] = ()
    if not vertex.grouped and not isinstance(window, Given):
        added = (TOGETHER,) if isinstance(window, Session) else (START, END)
    read = (form,) if isinstance(form, str) else form
    if read is None:
        read = tuple(name for name in schema.names if name not in added)
    # Rows name the one window that they are in: they came so, or the flow sees to it.
    named = isinstance(window, Given) or START in added
    bounds = (START, END) if named else ()
    for name in read:
        if name not in schema.names:
            raise GraphError(
                f"{vertex.name!r} needs column {name!r}; the stream has {columns_of(schema)}"
            )

    def row_of(values: Sequence[Any]) -> Any:
        own = values[len(bounds) :]
        if isinstance(form, str):
            return own[0]
        return tuple(own) if form is not None else dict(zip(read, own, strict=True))

    if isinstance(window, Session):
        return session_fold(vertex, key, time, bin_bits, read, row_of)
    windows = _form_of(vertex, key, schema, time)
    # Of all rows the key is their window's start, which is not given twice.
    own = bounds[1:] if key == START else (START, END)
    fold = WindowFold(
        windows.panes,
        vertex.outputs.names,
        vertex.function,
        vertex.initial,
        row_of,
        given=named,
        bounds=len(own),
    )
    outputs = pa.schema([*((name, pa.int64()) for name in own), *vertex.outputs])
    program = FoldProgram(
        forms_of(vertex.name, key, (*bounds, *read), outputs, None),
        fold.on_row,
        fold.on_timer,
        END if named else time.column,
        0 if named else time.offset,
        0,
        windows,
    )
    store = ProcessStore(vertex.name, program, bin_bits, OBJECTS)
    required = list(dict.fromkeys(windows.columns))
    columns = list(dict.fromkeys([*required, *read]))
    output = pa.schema([pa.field(key, pa.int64()), *outputs])
    return KeyedParts(columns, required, store, output, key)


def _form_of(vertex: WindowVertex, key: str, schema: pa.Schema, time: EventTime) -> WindowForm:
    """How the store finds the window of a row."""
    assert not isinstance(vertex.window, Session), "they have no panes"
    panes = panes_of(vertex.name, vertex.window, vertex.lateness, time.unit)
    if vertex.grouped and not isinstance(vertex.window, Given):
        return WindowForm(key, panes, time.column, time.offset)
    for name in (START, END):
        if name not in schema.names or schema.field(name).type != pa.int64():
            raise GraphError(
                f"{vertex.name!r} needs an int64 column {name!r}; the stream has "
                f"{columns_of(schema)}"
            )
    if isinstance(vertex.window, Given):
        return WindowForm(key, panes)
    # Of all rows: each comes once for every window that it is in.
    return WindowForm(
        key,
        Panes.given(panes.lateness),
        once=(panes, time.column),
        offset=time.offset,
    )
