"""Joins within event time lowered: what F sends and S gives, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from service.dataflow.event_time import EventTime, Watermarks
from service.dataflow.flow import Flow, Stream
from service.dataflow.vertices import KafkaSource, KeyedVertex
from service.dataflow.window_values import sliding, tumbling
from service.errors import GraphError
from service.migration.keyed_parts import KeyedParts
from service.migration.stateful import keyed_parts
from service.statestore.columns import KEY_ID
from service.statestore.slot_database import SlotDatabase
from service.statestore.tiers import back_stores
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.timed_text import TimedTextStore

INT = pa.int64()
LEFT = {"id": INT, "at": INT, "expires": INT, "reserve": INT}
RIGHT = {"auction": INT, "price": INT, "at": INT}
TIMES = (EventTime("at", "ms"), EventTime("at", "ms"))


def streams(left: dict[str, pa.DataType], right: dict[str, pa.DataType]) -> tuple[Stream, Stream]:
    flow = Flow("job")
    time = Watermarks("at")
    return (
        flow.source("a", KafkaSource(["a"], "auction", list(left)), watermarks=time),
        flow.source("b", KafkaSource(["b"], "bid", list(right)), watermarks=time),
    )


def parts_of(
    stream: Stream, left: dict[str, pa.DataType], right: dict[str, pa.DataType]
) -> KeyedParts:
    vertex = stream.flow.vertices[stream.vertex]
    assert isinstance(vertex, KeyedVertex)
    schemas = [pa.schema(list(left.items())), pa.schema(list(right.items()))]
    return keyed_parts(vertex, schemas, 3, TIMES)


def best(
    left: dict[str, pa.DataType] | None = None,
    right: dict[str, pa.DataType] | None = None,
    **other: Any,
) -> KeyedParts:
    left, right = left or LEFT, right or RIGHT
    auctions, bids = streams(left, right)
    given = {"until": "expires", "by": "price", "at_least": "reserve", **other}
    won = auctions.key_by("id").best_within("won", bids.key_by("auction"), **given)
    return parts_of(won, left, right)


def test_best_within_sends_tagged_rows_and_gives_both_sides() -> None:
    parts = best()
    assert parts.columns[:2] == ["id", "join.side"]
    assert parts.required == ["id"]
    assert isinstance(parts.store, TimedRowStore)
    assert not parts.sorted
    names = ["id", "at", "expires", "reserve", "price", "at_right"]
    assert parts.schema == pa.schema([(name, INT) for name in names])
    text = best({**LEFT, "id": pa.string()}, {**RIGHT, "auction": pa.string()})
    assert isinstance(text.store, TimedTextStore)
    assert text.schema.field("id").type == pa.string()
    assert text.columns[-1] == KEY_ID


def test_a_null_in_a_column_that_decides_is_refused_where_it_comes_in() -> None:
    sides = best().sides
    assert sides is not None
    rows = {name: pa.array([1], INT) for name in RIGHT}
    assert sides.of(pa.record_batch(rows), 1).num_rows == 1
    for name in ("price", "at"):
        holed = pa.record_batch({**rows, name: pa.array([None], INT)})
        with pytest.raises(GraphError, match=f"'won' was given 1 nulls in column '{name}'"):
            sides.of(holed, 1)
    lefts = {name: pa.array([1], INT) for name in LEFT}
    for name in ("at", "expires", "reserve"):
        holed = pa.record_batch({**lefts, name: pa.array([None], INT)})
        with pytest.raises(GraphError, match=f"'won' was given 1 nulls in column '{name}'"):
            sides.of(holed, 0)


def test_columns_of_types_that_do_not_fit_are_named() -> None:
    with pytest.raises(GraphError, match="'won': what is best is decided by .* these are string"):
        best(right={**RIGHT, "price": pa.string()}, at_least=None)
    with pytest.raises(GraphError, match="'won': .* these are double and int64; cast them"):
        best(right={**RIGHT, "price": pa.float64()})
    with pytest.raises(GraphError, match="'won' would keep column 'l' of type list<item: int64>"):
        best(right={**RIGHT, "l": pa.list_(INT)})
    with pytest.raises(GraphError, match=r"'expires' of type timestamp\[us\] is not in the unit"):
        best(left={**LEFT, "expires": pa.timestamp("us")})
    with pytest.raises(GraphError, match="'won' takes column 'at' for its event time"):
        best(left={**LEFT, "at": pa.string()})
    fixed = pa.list_(INT, 2)
    with pytest.raises(GraphError, match="column 'join.0.l' of type .* has no order"):
        best(left={**LEFT, "l": fixed})


def test_what_waits_for_a_watermark_may_wait_on_disk(tmp_path: Path) -> None:
    for keys in (INT, pa.string()):
        store = best({**LEFT, "id": keys}, {**RIGHT, "auction": keys}).store
        assert isinstance(store, TimedRowStore | TimedTextStore)
        database = SlotDatabase(tmp_path / str(keys), 1 << 20)
        back_stores({"won": store}, database)
        assert database.tables == [store.tier]
        database.close()


def test_joins_of_pairs_give_both_sides_and_their_window() -> None:
    auctions, bids = streams(LEFT, RIGHT)
    keyed = auctions.key_by("id"), bids.key_by("auction")
    cut = [side.window(sliding("10s", every="5s")) for side in keyed]
    near = keyed[0].interval_join("near", keyed[1], lower="-1s", upper="1s", how="left")
    names = ["id", "at", "expires", "reserve", "price", "at_right"]
    parts = parts_of(near, LEFT, RIGHT)
    assert parts.schema == pa.schema([(name, INT) for name in names])
    assert parts.sorted
    windows = cut[0].join("windows", cut[1])
    assert windows.columns == (*names, "window_start", "window_end")
    assert windows.event_time == EventTime("window_end", "ms", -1)
    assert parts_of(windows, LEFT, RIGHT).schema.names == list(windows.columns or ())
    holed = pa.record_batch({name: pa.array([None if name == "at" else 1], INT) for name in RIGHT})
    assert parts.sides is not None
    with pytest.raises(GraphError, match="'near' was given 1 nulls in column 'at'"):
        parts.sides.of(holed, 1)


def test_a_semi_join_sends_and_gives_the_left_side_only() -> None:
    right = {**RIGHT, "l": INT, "expires": INT}
    auctions, bids = streams(LEFT, right)
    cut = [side.window(tumbling("10s")) for side in (auctions.key_by("id"), bids.key_by("auction"))]
    chosen = cut[0].join("chosen", cut[1], how="semi", suffix="")
    # Which rows leave does not depend on the order of those of one time.
    assert not parts_of(chosen, LEFT, right).sorted
    assert chosen.columns == (*LEFT, "window_start", "window_end")
    assert chosen.late("late").columns == chosen.columns
    parts = parts_of(chosen, LEFT, right)
    assert parts.schema.names == list(chosen.columns)
    assert parts.late == parts.schema
    names = ["join.0.at", "join.0.expires", "join.0.reserve", "join.1.at"]
    assert parts.columns == ["id", "join.side", *names]


@pytest.mark.parametrize("how", ["inner", "semi"])
def test_a_window_of_the_input_is_in_the_way_of_the_output_s(how: str) -> None:
    left = {**LEFT, "window_end": INT}
    auctions, bids = streams(left, RIGHT)
    cut = [side.window(tumbling("10s")) for side in (auctions.key_by("id"), bids.key_by("auction"))]
    with pytest.raises(GraphError, match="'windows' would have two columns 'window_end'"):
        cut[0].join("windows", cut[1], how=how)
    unknown = auctions.map_batches("map", lambda rows: rows).key_by("id").window(tumbling("10s"))
    windows = unknown.join("windows", cut[1], how=how)
    assert windows.columns is None
    with pytest.raises(GraphError, match="'windows' would have two columns 'window_end'"):
        parts_of(windows, left, RIGHT)
