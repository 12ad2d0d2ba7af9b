"""What F and S of each kind of keyed vertex need: columns to send, a store, the output's columns.

Flow: a keyed vertex and the schemas it reads -> [keyed_parts] -> lowering, which places F and S.

Invariants
  SF1  F sends what S reads and nothing else, the key first; of keys that are text the hashes last.
  SF2  Columns that kernels read as plain numbers may hold no null, nor may any key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from service.dataflow.event_time import EventTime
from service.dataflow.keyed import joined_names
from service.dataflow.operators import columns_of
from service.dataflow.sides import tagged
from service.dataflow.vertices import (
    AggregateVertex,
    DistinctVertex,
    JoinVertex,
    KeyedVertex,
    Order,
    StatefulMapVertex,
    TimedVertex,
)
from service.errors import GraphError
from service.migration.keyed_parts import KeyedParts
from service.migration.ordered import sorted_rows
from service.migration.timed_parts import TimedInputs, timed_parts
from service.statestore.aggregate import AggregateProgram
from service.statestore.columns import KEY_ID
from service.statestore.distinct import DistinctProgram
from service.statestore.hosted import HostedStore
from service.statestore.join import JoinProgram
from service.statestore.object_join import ObjectJoin
from service.statestore.object_store import ObjectStore
from service.statestore.row_format import is_text, is_typed
from service.statestore.row_store import RowStore
from service.statestore.stateful_map import StatefulMap
from service.statestore.text_store import TextKeyedStore
from service.statestore.timed_text import TimedKeyedStore, TimedTextStore
from service.statestore.vertex_store import VertexStore
from service.statestore.window_store import WindowStore
from service.statestore.window_text import TextWindowStore


def keyed_parts(
    vertex: KeyedVertex,
    schemas: Sequence[pa.Schema],
    bin_bits: int,
    times: Sequence[EventTime] = (),
) -> KeyedParts:
    """The parts of `vertex`, which reads streams with these `schemas` and event `times`.

    Raises:
        GraphError: a column is missing or has a type that the vertex cannot read.
    """
    keys = vertex.keys if isinstance(vertex, JoinVertex | TimedVertex) else (vertex.key,)
    kinds = [_key_type(vertex.name, key, schema) for key, schema in zip(keys, schemas, strict=True)]
    if len(set(kinds)) > 1:
        raise GraphError(
            f"{vertex.name!r} joins {keys[0]!r} of type {kinds[0]} with {keys[1]!r} of type "
            f"{kinds[1]}; cast one of them before key_by"
        )
    if is_text(kinds[0]):
        parts = _parts_of(vertex, KEY_ID, schemas, bin_bits, times)
        parts = _by_text(parts, vertex.key, kinds[0])
    else:
        parts = _parts_of(vertex, vertex.key, schemas, bin_bits, times)
    if vertex.order is Order.ORDERED and parts.sorted:
        given = schemas[0] if parts.sides is None else parts.sides.schema
        named = [name for name in parts.columns if name != KEY_ID]
        _require_sortable(vertex.name, [given.field(name) for name in named])
    return parts


def _parts_of(
    vertex: KeyedVertex,
    key: str,
    schemas: Sequence[pa.Schema],
    bin_bits: int,
    times: Sequence[EventTime],
) -> KeyedParts:
    """The parts, where `key` is the column of integers under which state is kept."""
    match vertex:
        case AggregateVertex():
            return _aggregate(vertex, key, schemas[0], bin_bits)
        case StatefulMapVertex():
            return _stateful_map(vertex, key, schemas[0], bin_bits)
        case DistinctVertex():
            names = schemas[0].names
            store = VertexStore(vertex.name, DistinctProgram(key, names), bin_bits)
            return KeyedParts(_key_first(key, names), [key], store, schemas[0], key)
        case JoinVertex():
            return _join(vertex, key, schemas, bin_bits)
        case TimedVertex():
            return timed_parts(vertex, TimedInputs(key, schemas, times, bin_bits))


def _by_text(parts: KeyedParts, key: str, kind: pa.DataType) -> KeyedParts:
    """The parts of a vertex that knows its keys by ids, for keys that are text."""
    store: HostedStore
    if isinstance(parts.store, WindowStore):
        store = TextWindowStore(parts.store, key, kind)
    elif isinstance(parts.store, TimedKeyedStore):
        store = TimedTextStore(parts.store, key, kind)
    else:
        assert isinstance(parts.store, VertexStore | RowStore | ObjectStore), "it knows integers"
        store = TextKeyedStore(parts.store, key, kind)
    return replace(
        parts,
        columns=[*_key_first(key, [name for name in parts.columns if name != KEY_ID]), KEY_ID],
        required=_key_first(key, [name for name in parts.required if name != KEY_ID]),
        store=store,
        schema=_with_text(parts.schema, key, kind),
        late=None if parts.late is None else _with_text(parts.late, key, kind),
        text_key=key,
        # F knows hashes only, and two keys may have one.
        combine=None,
    )


def _with_text(schema: pa.Schema, key: str, kind: pa.DataType) -> pa.Schema:
    """Columns where the key stands in the place of its id."""
    return pa.schema([pa.field(key, kind) if field.name == KEY_ID else field for field in schema])


def _aggregate(vertex: AggregateVertex, key: str, schema: pa.Schema, bin_bits: int) -> KeyedParts:
    read = (aggregate.column for aggregate in vertex.aggregates.values())
    columns = _key_first(key, [name for name in read if name is not None])
    kinds = dict(zip(schema.names, schema.types, strict=True))
    program = AggregateProgram(key, dict(vertex.aggregates), kinds)
    return KeyedParts(
        columns,
        columns,
        VertexStore(vertex.name, program, bin_bits),
        pa.schema([(key, pa.int64()), *program.output_types.items()]),
        key,
    )


def _stateful_map(
    vertex: StatefulMapVertex, key: str, schema: pa.Schema, bin_bits: int
) -> KeyedParts:
    read = (vertex.value,) if isinstance(vertex.value, str) else vertex.value or schema.names
    for name in read:
        if name not in schema.names:
            raise GraphError(
                f"{vertex.name!r} needs column {name!r}; the stream has {columns_of(schema)}"
            )
    program = StatefulMap(
        vertex.name,
        key,
        vertex.function,
        vertex.value,
        vertex.outputs,
        vertex.initial,
        vertex.flat,
    )
    return KeyedParts(
        _key_first(key, read),
        [key],
        ObjectStore(vertex.name, program, bin_bits, vertex.codec),
        pa.schema([pa.field(key, pa.int64()), *vertex.outputs]),
        key,
    )


def _join(vertex: JoinVertex, key: str, schemas: Sequence[pa.Schema], bin_bits: int) -> KeyedParts:
    left, right = schemas
    _, *names = joined_names(vertex, left.names, right.names)
    others = [
        field.type
        for own, schema in zip(vertex.keys, schemas, strict=True)
        for field in schema
        if field.name != own
    ]
    output = pa.schema([(key, pa.int64()), *zip(names, others, strict=True)])
    form = tagged(vertex.keys, schemas)
    store: HostedStore
    if all(is_typed(kind) for kind in others):
        store = RowStore(vertex.name, JoinProgram(key, *form.names, output), bin_bits)
    else:
        store = ObjectStore(vertex.name, ObjectJoin(key, *form.names, output), bin_bits)
    return KeyedParts(form.schema.names, [key], store, output, key, form)


def _key_first(key: str, names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([key, *names]))


def _key_type(vertex: str, key: str, schema: pa.Schema) -> pa.DataType:
    kind = schema.field(key).type if key in schema.names else None
    if kind != pa.int64() and (kind is None or not is_text(kind)):
        raise GraphError(
            f"{vertex!r} needs an int64 column {key!r} as its key, or one of text or bytes; "
            f"the stream has {columns_of(schema)}"
        )
    return kind


def _require_sortable(vertex: str, fields: Sequence[pa.Field]) -> None:
    for field in fields:
        both = pa.schema([pa.field("key", pa.int64()), field.with_name("column")])
        try:
            sorted_rows([pa.RecordBatch.from_pylist([], schema=both)])
        except pa.ArrowException as error:
            raise GraphError(
                f"{vertex!r} is ordered, and rows of one time are put in order by their columns, "
                f"but column {field.name!r} of type {field.type} has no order; cast it, take it "
                "apart before key_by, or leave it out"
            ) from error
