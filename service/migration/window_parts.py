"""What F and S of windows need.

Flow: a windowed vertex, the columns and the event time of what it reads -> [window_aggregate] ->
timed_parts -> lowering.
"""

from __future__ import annotations

import pyarrow as pa

from service.dataflow.event_time import EventTime
from service.dataflow.operators import columns_of
from service.dataflow.window_values import END, START, Given, panes_of
from service.dataflow.window_vertices import WindowAggregateVertex
from service.errors import GraphError
from service.migration.keyed_parts import KeyedParts
from service.statestore.aggregate import AggregateProgram
from service.statestore.panes import Panes
from service.statestore.window_form import WindowForm
from service.statestore.window_store import WindowStore


def window_aggregate(
    vertex: WindowAggregateVertex, key: str, schema: pa.Schema, time: EventTime, bin_bits: int
) -> KeyedParts:
    """The parts of aggregates over windows, whose state is kept under the column `key`.

    Raises:
        GraphError: a column is missing, has a type that cannot be read, or a length is no whole
            number of the event time's unit.
    """
    form = _form_of(vertex, key, schema, time)
    read = [aggregate.column for aggregate in vertex.aggregates.values()]
    columns = [*form.columns, *(name for name in read if name is not None)]
    kinds = dict(zip(schema.names, schema.types, strict=True))
    program = AggregateProgram(key, dict(vertex.aggregates), kinds)
    store = WindowStore(vertex.name, form, program, bin_bits)
    columns = list(dict.fromkeys([key, *columns]))
    return KeyedParts(columns, columns, store, store.schema, key, sorted=program.is_order_sensitive)


def _form_of(
    vertex: WindowAggregateVertex, key: str, schema: pa.Schema, time: EventTime
) -> WindowForm:
    """How the store finds the window of a row."""
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
        hidden=(START, END),
    )
