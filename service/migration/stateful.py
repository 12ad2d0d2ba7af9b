"""What F and S of each kind of keyed vertex need: columns to send, a store, the output's columns.

Flow: a keyed vertex and the schemas it reads -> [keyed_parts] -> lowering, which places F and S.

Invariants
  SF1  F sends what S reads and nothing else, the key first.
  SF2  Columns that kernels read as plain numbers may hold no null, nor may any key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from service.dataflow.keyed import joined_names
from service.dataflow.operators import columns_of
from service.dataflow.sides import Tagged, tagged
from service.dataflow.vertices import (
    AggregateVertex,
    DistinctVertex,
    JoinVertex,
    KeyedVertex,
    Order,
    StatefulMapVertex,
)
from service.errors import GraphError
from service.migration.ordered import sorted_rows
from service.statestore.aggregate import AggregateProgram
from service.statestore.distinct import DistinctProgram
from service.statestore.hosted import HostedStore
from service.statestore.join import JoinProgram
from service.statestore.object_join import ObjectJoin
from service.statestore.object_store import ObjectStore
from service.statestore.row_format import is_typed
from service.statestore.row_store import RowStore
from service.statestore.stateful_map import StatefulMap
from service.statestore.vertex_store import VertexStore


@dataclass(frozen=True, slots=True)
class KeyedParts:
    """The parts of one keyed vertex."""

    #: Columns that F sends (SF1).
    columns: list[str]
    #: Those of them that may hold no null (SF2).
    required: list[str]
    store: HostedStore
    #: Columns of the output.
    schema: pa.Schema
    #: What makes one stream of two; only of a join.
    sides: Tagged | None = None


def keyed_parts(vertex: KeyedVertex, schemas: Sequence[pa.Schema], bin_bits: int) -> KeyedParts:
    """The parts of `vertex`, which reads streams with these `schemas`.

    Raises:
        GraphError: a column is missing or has a type that the vertex cannot read.
    """
    keys = vertex.keys if isinstance(vertex, JoinVertex) else (vertex.key,)
    for key, schema in zip(keys, schemas, strict=True):
        _require_key(vertex.name, key, schema)
    parts = _parts_of(vertex, schemas, bin_bits)
    if vertex.order is Order.ORDERED:
        given = schemas[0] if parts.sides is None else parts.sides.schema
        _require_sortable(vertex.name, [given.field(name) for name in parts.columns])
    return parts


def _parts_of(vertex: KeyedVertex, schemas: Sequence[pa.Schema], bin_bits: int) -> KeyedParts:
    match vertex:
        case AggregateVertex():
            return _aggregate(vertex, schemas[0], bin_bits)
        case StatefulMapVertex():
            return _stateful_map(vertex, schemas[0], bin_bits)
        case DistinctVertex():
            names = schemas[0].names
            store = VertexStore(vertex.name, DistinctProgram(vertex.key, names), bin_bits)
            return KeyedParts(_key_first(vertex.key, names), [vertex.key], store, schemas[0])
        case JoinVertex():
            return _join(vertex, schemas, bin_bits)


def _aggregate(vertex: AggregateVertex, schema: pa.Schema, bin_bits: int) -> KeyedParts:
    read = (aggregate.column for aggregate in vertex.aggregates.values())
    columns = _key_first(vertex.key, [name for name in read if name is not None])
    kinds = dict(zip(schema.names, schema.types, strict=True))
    program = AggregateProgram(vertex.key, dict(vertex.aggregates), kinds)
    return KeyedParts(
        columns,
        columns,
        VertexStore(vertex.name, program, bin_bits),
        pa.schema([(vertex.key, pa.int64()), *program.output_types.items()]),
    )


def _stateful_map(vertex: StatefulMapVertex, schema: pa.Schema, bin_bits: int) -> KeyedParts:
    read = (vertex.value,) if isinstance(vertex.value, str) else vertex.value or schema.names
    for name in read:
        if name not in schema.names:
            raise GraphError(
                f"{vertex.name!r} needs column {name!r}; the stream has {columns_of(schema)}"
            )
    program = StatefulMap(
        vertex.name,
        vertex.key,
        vertex.function,
        vertex.value,
        vertex.outputs,
        vertex.initial,
        vertex.flat,
    )
    return KeyedParts(
        _key_first(vertex.key, read),
        [vertex.key],
        ObjectStore(vertex.name, program, bin_bits, vertex.codec),
        pa.schema([pa.field(vertex.key, pa.int64()), *vertex.outputs]),
    )


def _join(vertex: JoinVertex, schemas: Sequence[pa.Schema], bin_bits: int) -> KeyedParts:
    left, right = schemas
    names = joined_names(vertex, left.names, right.names)
    others = [
        field.type
        for key, schema in zip(vertex.keys, schemas, strict=True)
        for field in schema
        if field.name != key
    ]
    output = pa.schema(list(zip(names, [pa.int64(), *others], strict=True)))
    form = tagged(vertex.keys, schemas)
    store: HostedStore
    if all(is_typed(kind) for kind in others):
        store = RowStore(vertex.name, JoinProgram(vertex.key, *form.names, output), bin_bits)
    else:
        store = ObjectStore(vertex.name, ObjectJoin(vertex.key, *form.names, output), bin_bits)
    return KeyedParts(form.schema.names, [vertex.key], store, output, form)


def _key_first(key: str, names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([key, *names]))


def _require_key(vertex: str, key: str, schema: pa.Schema) -> None:
    if key not in schema.names or schema.field(key).type != pa.int64():
        raise GraphError(
            f"{vertex!r} needs an int64 column {key!r} as its key; "
            f"the stream has {columns_of(schema)}"
        )


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
