"""What F and S of sessions need.

Flow: a vertex whose windows are sessions -> [session_aggregate, session_top, session_fold] ->
window_parts -> lowering. Sessions of all rows together are those of one key, which the flow has
added to the rows and nobody is told of: they are in one bin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from service.dataflow.event_time import EventTime, in_unit
from service.dataflow.window_values import END, START, TOGETHER, Session
from service.dataflow.window_vertices import (
    WindowAggregateVertex,
    WindowFoldVertex,
    WindowTopVertex,
    WindowVertex,
)
from service.migration.keyed_parts import KeyedParts
from service.statestore.aggregate import AggregateProgram
from service.statestore.distinct_values import ValueLines
from service.statestore.object_rows import OBJECTS
from service.statestore.process_program import forms_of
from service.statestore.process_store import ProcessStore
from service.statestore.session_fold import SessionFold, SessionFoldProgram
from service.statestore.session_rows import SessionForm
from service.statestore.session_top import SessionTop
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.window_sessions import WindowSessions


def session_aggregate(
    vertex: WindowAggregateVertex,
    key: str,
    time: EventTime,
    bin_bits: int,
    program: AggregateProgram,
    values: ValueLines | None,
) -> KeyedParts:
    """The parts of aggregates, and perhaps of a count of different `values`, over sessions.

    Raises:
        GraphError: a length is no whole number of the event time's unit.
    """
    form = _form_of(vertex, key, time)
    sessions = WindowSessions(form, program, values, [*vertex.aggregates])
    read = [*program.input_columns, *([] if values is None else [values.column])]
    columns = list(dict.fromkeys([key, time.column, *read]))
    store = TimedRowStore(vertex.name, sessions, bin_bits)
    return KeyedParts(
        columns,
        columns,
        store,
        sessions.output,
        key,
        sorted=program.is_order_sensitive,
        hidden=_hidden(vertex),
    )


def session_top(
    vertex: WindowTopVertex, key: str, schema: pa.Schema, time: EventTime, bin_bits: int
) -> KeyedParts:
    """The parts of the greatest rows of sessions, of rows with the columns of `schema`.

    Raises:
        GraphError: as `session_aggregate`.
        UsageError: a column has a type that cannot be ranked or kept.
    """
    form = _form_of(vertex, key, time)
    program = SessionTop(
        form, schema, vertex.by, vertex.count, ties=vertex.ties, lowest=vertex.lowest
    )
    # Rows that cannot be best are sent, too: they make their session longer.
    return KeyedParts(
        list(dict.fromkeys([key, *schema.names])),
        list(dict.fromkeys([key, time.column, vertex.by])),
        TimedRowStore(vertex.name, program, bin_bits),
        program.output,
        key,
        sorted=not vertex.ties,
        hidden=_hidden(vertex),
    )


def session_fold(
    vertex: WindowFoldVertex,
    key: str,
    time: EventTime,
    bin_bits: int,
    read: Sequence[str],
    row_of: Callable[[Sequence[Any]], Any],
) -> KeyedParts:
    """The parts of a user's fold over sessions, of rows of which these columns are read.

    Raises:
        GraphError: as `session_aggregate`.
    """
    form = _form_of(vertex, key, time)
    assert vertex.merge is not None, "the flow refuses sessions without"
    fold = SessionFold(
        form.gap,
        form.lateness,
        vertex.outputs.names,
        vertex.function,
        vertex.merge,
        vertex.initial,
        row_of,
    )
    outputs = pa.schema([(START, pa.int64()), (END, pa.int64()), *vertex.outputs])
    program = SessionFoldProgram(
        forms_of(vertex.name, key, tuple(read), outputs, None),
        fold.on_rows,
        fold.on_timer,
        time.column,
        time.offset,
        form.lateness,
        form.gap,
        vertex.grouped,
    )
    own = [pa.field(key, pa.int64())] if vertex.grouped else []
    return KeyedParts(
        list(dict.fromkeys([key, *read, time.column])),
        [key, time.column],
        ProcessStore(vertex.name, program, bin_bits, OBJECTS),
        pa.schema([*own, *outputs]),
        key,
        hidden=_hidden(vertex),
    )


def _form_of(vertex: WindowVertex, key: str, time: EventTime) -> SessionForm:
    assert isinstance(vertex.window, Session), "others have panes"
    gap = in_unit(vertex.window.gap, time.unit, f"gap of the sessions of {vertex.name!r}")
    late = in_unit(vertex.lateness, time.unit, f"allowed_lateness of {vertex.name!r}")
    return SessionForm(key, time.column, time.offset, gap, late, vertex.grouped)


def _hidden(vertex: WindowVertex) -> str | None:
    return None if vertex.grouped else TOGETHER
