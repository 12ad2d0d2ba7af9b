"""Keyed operators as they are written: their columns, and what is refused there."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from service.dataflow.flow import Flow, KeyedStream, Stream, count
from service.dataflow.vertices import JoinVertex, KafkaSource, KeyedVertex, Order, StatefulMapVertex
from service.drawing import table_of
from service.errors import GraphError, NotYetSupported
from tests.unit.dataflow.test_flow import SINK

INT = {"out": pa.int64()}


@pytest.fixture
def flow() -> Flow:
    return Flow("job")


@pytest.fixture
def bids(flow: Flow) -> KeyedStream:
    return flow.source("bids", KafkaSource(["bids"], "bid", ["a", "b"])).key_by("a")


@pytest.fixture
def others(flow: Flow) -> Stream:
    return flow.source("others", KafkaSource(["others"], "other", ["a", "b", "c"]))


def identity(state: object, row: object) -> tuple[object, object]:
    return state, row


def test_each_has_the_columns_it_gives(flow: Flow, bids: KeyedStream, others: Stream) -> None:
    given = {
        "mapped": bids.stateful_map("mapped", identity, schema=INT, value="b"),
        "flat": bids.stateful_flat_map("flat", identity, schema=INT, value=["b", "a"]),
        "first": bids.distinct("first"),
        "joined": bids.join("joined", others.key_by("b"), suffix="2"),
        "counted": bids.aggregate("counted", n=count(), order=Order.ORDERED),
    }
    assert {name: stream.columns for name, stream in given.items()} == {
        "mapped": ("a", "out"),
        "flat": ("a", "out"),
        "first": ("a", "b"),
        "joined": ("a", "b", "a2", "c"),
        "counted": ("a", "n"),
    }
    keyed = [vertex for vertex in flow.vertices if isinstance(vertex, KeyedVertex)]
    assert [vertex.name for vertex in keyed] == list(given)
    assert [vertex.order for vertex in keyed] == [Order.EAGER] * 4 + [Order.ORDERED]


def test_unknown_columns_stay_unknown(flow: Flow, bids: KeyedStream, others: Stream) -> None:
    unknown = others.map_batches("unknown", lambda rows: rows).key_by("x")
    assert unknown.distinct("first").columns is None
    assert bids.join("joined", unknown).columns is None
    assert bids.join("same", bids).columns == ("a", "b", "b_right")


def test_what_a_drawing_says_of_them(flow: Flow, bids: KeyedStream, others: Stream) -> None:
    bids.join("joined", others.key_by("b"), order=Order.ORDERED).sink("out", SINK)
    bids.distinct("first").sink("out2", SINK)
    bids.stateful_map("mapped", identity, schema=INT).sink("out3", SINK)
    lines = table_of(flow).splitlines()
    for words in (
        ["joined", "join", "workers", "bids, others", "a = b, ordered"],
        ["first", "distinct", "workers", "bids", "by a"],
        ["mapped", "stateful map", "workers", "bids", "by a: out"],
    ):
        (line,) = (line for line in lines if line.startswith(words[0]))
        assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"schema": {}}, "'m' has no output column"),
        ({"schema": {"a": pa.int64()}}, "an output is named like the key 'a'"),
        ({"schema": {"x": int}}, "column 'x' has type .* use a pyarrow type"),
        ({"schema": INT, "value": "z"}, "'m' needs column 'z'"),
        ({"schema": INT, "value": ["b", "z"]}, "'m' needs column 'z'"),
        ({"schema": INT, "value": []}, "value names no column"),
        ({"schema": INT, "initial": 0}, "initial is 0, which cannot be called"),
        ({"schema": INT, "function": 5}, "5 is no function"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_flow_is_written(
    bids: KeyedStream, arguments: dict[str, Any], said: str
) -> None:
    function = arguments.pop("function", identity)
    with pytest.raises(GraphError, match=said):
        bids.stateful_map("m", function, **arguments)


def test_a_join_is_refused_where_it_cannot_be(bids: KeyedStream, others: Stream) -> None:
    with pytest.raises(NotYetSupported, match="how='left' of join 'j' is not supported"):
        bids.join("j", others.key_by("a"), how="left")
    with pytest.raises(GraphError, match=r"would have two columns 'b'.*another suffix than ''"):
        bids.join("j", others.key_by("a"), suffix="")
    stranger = Flow("other").source("in", KafkaSource(["t"], "r", ["a"])).key_by("a")
    with pytest.raises(GraphError, match="a stream of flow 'other' was used in 'job'"):
        bids.join("j", stranger)


def test_streams_of_different_loops_are_not_joined(flow: Flow, others: Stream) -> None:
    def body(inside: Stream) -> tuple[Stream, Stream]:
        joined = inside.key_by("a").join("j", others.key_by("a"))
        return joined.select("again", "a", "b", "c"), joined

    with pytest.raises(GraphError, match="'j' reads .* which lie in different loops"):
        others.iterate("loop", body)


def test_forms_of_rows_are_kept_as_values(flow: Flow, bids: KeyedStream) -> None:
    bids.stateful_map("m", identity, schema=INT, value=["b"], initial=list)
    (vertex,) = (each for each in flow.vertices if isinstance(each, StatefulMapVertex))
    assert (vertex.value, vertex.flat, vertex.initial) == (("b",), False, list)
    assert JoinVertex("j", ("a", "b"), (0, 1), "_right").key == "a"
