"""Keyed operators lowered: what F sends and S gives, wrong columns refused; and what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.flow import Flow, Stream, count
from service.dataflow.sides import SidesOperator
from service.dataflow.vertices import KafkaSource, KeyedVertex, Order
from service.errors import GraphError
from service.migration.stateful import KeyedParts, keyed_parts
from tests.fakes.ports import Ports
from tests.unit.migration.test_lowering import SINK, begun, lowered, number_of

SCHEMA = pa.schema(
    [("s", pa.string()), ("a", pa.int64()), ("f", pa.float64()), ("l", pa.list_(pa.int64()))]
)
INT = {"out": pa.int64()}


def parts_of(
    write: Callable[[Stream], Stream], schema: pa.Schema = SCHEMA, reads: int = 1
) -> KeyedParts:
    flow = Flow("job")
    stream = flow.source("in", KafkaSource(["t"], "r", schema.names))
    vertex = flow.vertices[write(stream).vertex]
    assert isinstance(vertex, KeyedVertex)
    return keyed_parts(vertex, [schema] * reads, 3)


def identity(state: object, row: object) -> tuple[object, object]:
    return state, row


def test_f_sends_the_key_first_and_what_is_read() -> None:
    mapped = parts_of(lambda s: s.key_by("a").stateful_map("m", identity, schema=INT, value="f"))
    assert (mapped.columns, mapped.required) == (["a", "f"], ["a"])
    whole = parts_of(lambda s: s.key_by("a").stateful_map("m", identity, schema=INT))
    assert whole.columns == ["a", "s", "f", "l"]
    first = parts_of(lambda s: s.key_by("a").distinct("d"))
    assert (first.columns, first.schema) == (["a", "s", "f", "l"], SCHEMA)
    counted = parts_of(lambda s: s.key_by("a").aggregate("c", n=count()))
    assert (counted.columns, counted.required) == (["a"], ["a"])


def test_an_ordered_vertex_needs_columns_with_an_order() -> None:
    ordered = Order.ORDERED
    with pytest.raises(GraphError, match=r"'d' is ordered, .*column 'l' of type list.*no order"):
        parts_of(lambda s: s.key_by("a").distinct("d", order=ordered))
    views = pa.schema([("a", pa.int64()), ("v", pa.string_view())])
    with pytest.raises(GraphError, match="column 'v' of type string_view has no order; cast it"):
        parts_of(lambda s: s.key_by("a").distinct("d", order=ordered), views)
    parts_of(lambda s: s.key_by("a").aggregate("c", n=count(), order=ordered))
    parts_of(
        lambda s: s.key_by("a").stateful_map("m", identity, schema=INT, value="s", order=ordered)
    )


def test_keys_are_of_one_type_on_both_sides() -> None:
    with pytest.raises(GraphError, match="'j' joins 'a' of type int64 with 's' of type string"):
        parts_of(lambda s: s.key_by("a").join("j", s.key_by("s")), reads=2)
    with pytest.raises(GraphError, match="'m' needs an int64 column 'f' as its key"):
        parts_of(lambda s: s.key_by("f").stateful_map("m", identity, schema=INT))


def test_a_column_that_the_stream_turned_out_not_to_have_is_named() -> None:
    def write(stream: Stream) -> Stream:
        unknown = stream.map_batches("map", lambda rows: rows)
        return unknown.key_by("a").stateful_map("m", identity, schema=INT, value="zz")

    with pytest.raises(GraphError, match="'m' needs column 'zz'; the stream has"):
        parts_of(write)


def test_a_join_is_lowered_to_one_that_tags_f_and_s() -> None:
    _, stream = begun()
    stream.key_by("a").join("pairs", stream.key_by("b")).sink("out", SINK)
    plan = lowered(stream.flow)
    names = [operator.name for operator in plan.dataflow.operators]
    assert names == ["control", "in", "pairs.both", "pairs.F", "pairs.S", "out"]
    assert list(plan.hosts) == list(plan.routers) == ["pairs"]
    out = number_of(plan, "out")
    assert plan.hosts["pairs"].gate == []
    assert plan.hosts["pairs"].near == {plan.dataflow.target(out, 0), plan.dataflow.source(out, 0)}


# What they do -----------------------------------------------------------------------------------

PAIR = pa.schema([("k", pa.int64()), ("v", pa.string())])
#: (side, key, value)
TAGGED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.text("ab", max_size=2)))


@given(TAGGED, st.lists(st.integers(0, 30)), st.booleans())
def test_a_join_gives_each_pair_once_whatever_comes_first(
    rows: list[tuple[int, int, str]], cuts: list[int], bare: bool
) -> None:
    """`bare`: the right side has no column but its key."""
    right = PAIR if not bare else pa.schema([("k", pa.int64())])
    flow = Flow("job")
    one = flow.source("one", KafkaSource(["one"], "r", PAIR.names)).key_by("k")
    other = flow.source("two", KafkaSource(["two"], "r", right.names)).key_by("k")
    vertex = flow.vertices[one.join("pairs", other).vertex]
    assert isinstance(vertex, KeyedVertex)
    parts = keyed_parts(vertex, [PAIR, right], 3)
    assert parts.sides is not None
    found = []
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    for start, end in pairwise(bounds):
        batches = [
            parts.sides.of(_batch(run, (PAIR, right)[side]), side)
            for side, run in _runs(rows[start:end])
        ]
        pairs = parts.store.apply_rows(pa.concat_batches(batches), (1,))
        assert pairs.schema == parts.schema
        found += [tuple(row.values()) for row in pairs.to_pylist()]
    lefts = [row for row in rows if row[0] == 0]
    rights = [row for row in rows if row[0] == 1]
    expected = [
        (key, value) if bare else (key, value, match)
        for _, key, value in lefts
        for _, other_key, match in rights
        if other_key == key
    ]
    assert sorted(found) == sorted(expected)


def _runs(rows: Sequence[tuple[int, int, str]]) -> list[tuple[int, list[tuple[int, int, str]]]]:
    runs: list[tuple[int, list[tuple[int, int, str]]]] = []
    for row in rows:
        if not runs or runs[-1][0] != row[0]:
            runs.append((row[0], []))
        runs[-1][1].append(row)
    return runs


def _batch(rows: Sequence[tuple[int, int, str]], schema: pa.Schema) -> pa.RecordBatch:
    columns = {"k": [key for _, key, _ in rows], "v": [value for *_, value in rows]}
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def test_the_operator_that_tags_keeps_times_and_waits_for_room() -> None:
    parts = parts_of(lambda s: s.key_by("k").join("j", s.key_by("k")), PAIR, reads=2)
    assert parts.sides is not None
    ports = Ports(SidesOperator(parts.sides), inputs=2, outputs=1, paths=[(0, 0), (1, 0)])
    ports.put(1, 7, _batch([(1, 5, "r")], PAIR))
    ports.put(0, 9, _batch([(0, 6, "l")], PAIR))
    ports.full.add(0)
    assert ports.step() == []
    ports.full.clear()
    rows = []
    for sent in ports.step():
        assert isinstance(sent.payload, pa.RecordBatch)
        rows.append((sent.time, list(sent.payload.to_pylist()[0].values())))
    assert rows == [((9,), [6, 0, "l", None]), ((7,), [5, 1, None, "r"])]


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.text("ab", max_size=2)))))
def test_distinct_gives_the_first_row_of_each_key(batches: list[list[tuple[int, str]]]) -> None:
    schema = pa.schema([("v", pa.string()), ("k", pa.int64())])
    parts = parts_of(lambda s: s.key_by("k").distinct("d"), schema)
    found: list[tuple[int, str]] = []
    for rows in batches:
        batch = _batch([(0, *row) for row in rows], PAIR).select(parts.columns)
        result = parts.store.apply_rows(batch, (1,))
        assert result.schema == schema
        found += zip(result["k"].to_pylist(), result["v"].to_pylist(), strict=True)
    expected: dict[int, str] = {}
    for key, value in (row for rows in batches for row in rows):
        expected.setdefault(key, value)
    assert found == list(expected.items())
    assert parts.store.row_count == len(expected)
    assert parts.store.rows_per_bin().dtype == np.int64
