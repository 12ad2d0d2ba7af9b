"""A user's fold of windows gives what a person finds, whatever batches, watermarks and moves.

Cannot catch: what S does with rows and watermarks; tests of whole jobs do.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import megaphone as mp
from service.dataflow.event_time import EventTime
from service.dataflow.vertices import MapVertex
from service.errors import GraphError, UserFunctionError
from service.migration.stateful import keyed_parts
from service.statestore.process_store import ProcessStore
from service.statestore.timed import ALL, NEVER
from tests.fakes.windows import Model, Row, Slots, batch, listed

SCHEMA = pa.schema([(name, pa.int64()) for name in ("key", "time", "v")])
NUMBERS = {"n": pa.int64(), "total": pa.int64(), "low": pa.int64(), "top": pa.int64()}


def numbers(before: Any, value: int) -> dict[str, int]:
    if not before:
        return {"n": 1, "total": value, "low": value, "top": value}
    return {
        "n": before["n"] + 1,
        "total": before["total"] + value,
        "low": min(before["low"], value),
        "top": max(before["top"], value),
    }


def windows(window: Any, lateness: int = 0) -> mp.WindowedStream[mp.Stream]:
    source = mp.KafkaSource(["rows"], "row", ["key", "time", "v"])
    rows = mp.Flow("f").source("rows", source, watermarks=mp.Watermarks("time"))
    return rows.key_by("key").window(window, allowed_lateness=f"{lateness}ms")


def store_of(stream: mp.Stream, schema: pa.Schema = SCHEMA) -> ProcessStore:
    parts = keyed_parts(stream.flow.vertices[-1], [schema], 2, [EventTime("time", "ms")])
    assert isinstance(parts.store, ProcessStore)
    assert parts.schema.names == [*(stream.columns or ())]
    return parts.store


TIMES = st.integers(-30, 60)
ROWS = st.lists(st.tuples(st.integers(0, 6), TIMES, st.integers(-5, 5)), max_size=10)
MOVES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["extract", "give up"])), max_size=2)
STEPS = st.lists(st.tuples(ROWS, st.integers(0, 15), MOVES, st.integers(0, 5)), max_size=8)


@given(
    steps=STEPS,
    sizes=st.sampled_from([(10, 10), (10, 4), (6, 1)]),
    lateness=st.sampled_from([0, 0, 7]),
)
def test_any_batches_watermarks_and_moves_give_what_a_person_finds(
    steps: Any, sizes: tuple[int, int], lateness: int
) -> None:
    size, every = sizes

    def make() -> ProcessStore:
        window = mp.sliding(f"{size}ms", every=f"{every}ms")
        stream = windows(window, lateness)
        return store_of(stream.fold("f", numbers, initial=dict, value="v", schema=NUMBERS))

    slots, model, watermark = Slots.of(make(), make()), Model(size, every, lateness), NEVER
    for epoch, (rows, rise, moves, restart) in enumerate(steps):
        found, late = slots.apply(rows, epoch, watermark)
        expected, expected_late = model.apply(rows)
        # Given again for each row; the last one of each window is that of the time.
        assert {row[:3]: row for row in found} == {row[:3]: row[:-1] for row in expected}
        assert Counter(late) == Counter(expected_late)
        if rise:
            watermark = -20 if watermark == NEVER else watermark + rise
            fired = [row[:-1] for row in model.fire(watermark)]
            assert Counter(slots.fire(epoch, watermark)) == Counter(fired)
        for bin_id, how in moves:
            slots.move(bin_id, how)
        if restart == 0:
            slots.restart(make)
    fired = [row[:-1] for row in model.fire(ALL)]
    assert Counter(slots.fire(99, ALL)) == Counter(fired)
    assert all(store.row_count == 0 for store in slots.stores)


def last(before: Row | None, row: Row) -> Row:
    return row


def of_all_rows(window: Any, lateness: int) -> mp.Stream:
    source = mp.KafkaSource(["rows"], "row", ["key", "time", "v"])
    rows = mp.Flow("f").source("rows", source, watermarks=mp.Watermarks("time"))
    together = rows.window(window, allowed_lateness=f"{lateness}ms")
    return together.fold("f", numbers, initial=dict, value="v", schema=NUMBERS)


@given(
    steps=STEPS,
    sizes=st.sampled_from([(10, 10), (10, 4), (6, 1)]),
    lateness=st.sampled_from([0, 0, 7]),
)
def test_windows_of_all_rows_are_folded_wherever_each_is(
    steps: Any, sizes: tuple[int, int], lateness: int
) -> None:
    """Each window is under its start, so those of different starts move by themselves."""
    size, every = sizes
    window = mp.sliding(f"{size}ms", every=f"{every}ms")
    assign = of_all_rows(window, lateness).flow.vertices[1]
    assert isinstance(assign, MapVertex)
    schema = assign.function(batch([])).schema

    def make() -> ProcessStore:
        return store_of(of_all_rows(window, lateness), schema)

    slots, model, watermark = Slots.of(make(), make()), Model(size, every, lateness), NEVER
    slots.key, slots.prepared = "window_start", assign.function
    for epoch, (rows, rise, moves, restart) in enumerate(steps):
        found, late = slots.apply(rows, epoch, watermark)
        expected, expected_late = model.apply([(0, time, value) for _, time, value in rows])
        # Given again for each row; the last one of each window is that of the time.
        assert {row[:2]: row for row in found} == {row[1:3]: row[1:-1] for row in expected}
        assert Counter(row[1:] for row in late) == Counter(row[1:] for row in expected_late)
        if rise:
            watermark = -20 if watermark == NEVER else watermark + rise
            fired = [row[1:-1] for row in model.fire(watermark)]
            assert Counter(slots.fire(epoch, watermark)) == Counter(fired)
        for bin_id, how in moves:
            slots.move(bin_id, how)
        if restart == 0:
            slots.restart(make)
    fired = [row[1:-1] for row in model.fire(ALL)]
    assert Counter(slots.fire(99, ALL)) == Counter(fired)
    assert all(store.row_count == 0 for store in slots.stores)


def test_windows_that_rows_name_are_folded_as_they_name_them() -> None:
    source = mp.KafkaSource(["rows"], "row", ["key", "time", "v"])
    rows = mp.Flow("f").source("rows", source, watermarks=mp.Watermarks("time"))
    counts = rows.key_by("key").window(mp.tumbling("10ms")).aggregate("c", n=mp.count())
    again = counts.key_by("key").window(mp.given())
    stream = again.fold("all", lambda a, b: a + b, initial=int, value="n", schema={"n": pa.int64()})
    names = ["key", "window_start", "window_end", "n"]
    schema = pa.schema([(name, pa.int64()) for name in names])
    parts = keyed_parts(stream.flow.vertices[-1], [schema], 2, [EventTime("window_end", "ms", -1)])
    store = parts.store
    assert isinstance(store, ProcessStore)
    given_rows = [(1, 0, 10, 3), (1, 5, 10, 4), (1, 0, 10, 5)]
    columns = [pa.array(column, pa.int64()) for column in zip(*given_rows, strict=True)]
    store.apply_at(pa.record_batch(columns, schema=schema), (1,), NEVER)
    assert listed(store.fire(10, (1,))) == [(1, 0, 10, 8), (1, 5, 10, 4)]


def test_windows_of_all_rows_that_name_them_are_told_apart_by_start_and_end() -> None:
    source = mp.KafkaSource(["rows"], "row", ["key", "time", "v"])
    rows = mp.Flow("f").source("rows", source, watermarks=mp.Watermarks("time"))
    counts = rows.key_by("key").window(mp.tumbling("10ms")).aggregate("c", n=mp.count())
    again = counts.window(mp.given())
    stream = again.fold(
        "all",
        lambda seen, row: [*seen, *row.values()],
        initial=list,
        schema={"seen": pa.list_(pa.int64())},
    )
    names = ["key", "window_start", "window_end", "n"]
    schema = pa.schema([(name, pa.int64()) for name in names])
    parts = keyed_parts(stream.flow.vertices[-1], [schema], 2, [EventTime("window_end", "ms", -1)])
    assert parts.schema.names == ["window_start", "window_end", "seen"]
    store = parts.store
    assert isinstance(store, ProcessStore)
    given_rows = [(1, 0, 10, 3), (2, 0, 20, 4), (3, 0, 10, 5)]
    columns = [pa.array(column, pa.int64()) for column in zip(*given_rows, strict=True)]
    store.apply_at(pa.record_batch(columns, schema=schema), (1,), NEVER)
    # The rows are the user's own, windows and all.
    assert listed(store.fire(10, (1,))) == [(0, 10, [1, 0, 10, 3, 3, 0, 10, 5])]
    assert listed(store.fire(20, (1,))) == [(0, 20, [2, 0, 20, 4])]


def test_of_all_rows_the_function_is_not_given_what_the_flow_has_added() -> None:
    source = mp.KafkaSource(["rows"], "row", ["key", "time", "v"])
    rows = mp.Flow("f").source("rows", source, watermarks=mp.Watermarks("time"))
    stream = rows.window(mp.tumbling("10ms")).fold(
        "f", lambda _, row: " ".join(row), initial=str, schema={"names": pa.string()}
    )
    assign = stream.flow.vertices[1]
    assert isinstance(assign, MapVertex)
    sent = assign.function(batch([(1, 3, 7)]))
    store = store_of(stream, sent.schema)
    store.apply_at(sent, (1,), NEVER)
    assert listed(store.fire(10, (1,))) == [(0, 10, "key time v")]


def test_the_function_is_given_what_value_says() -> None:
    stream = windows(mp.tumbling("10ms"))
    types = {"last": pa.int64()}
    whole = store_of(stream.fold("a", lambda _, row: row["v"], initial=int, schema=types))
    pair = store_of(
        stream.fold("b", lambda _, row: row[1], initial=int, value=("key", "v"), schema=types)
    )
    for store in (whole, pair):
        store.apply_at(batch([(1, 3, 7)]), (1,), NEVER)
        assert listed(store.fire(10, (1,))) == [(1, 0, 10, 7)]


def test_what_does_not_fit_the_columns_is_an_error_with_the_vertex() -> None:
    stream = windows(mp.tumbling("10ms"))
    types = {"a": pa.int64(), "b": pa.int64()}
    store = store_of(stream.fold("both", lambda _, v: v, initial=int, value="v", schema=types))
    store.apply_at(batch([(1, 3, 7)]), (1,), NEVER)
    with pytest.raises(UserFunctionError, match="'both'"):
        store.fire(10, (1,))


def test_what_cannot_be_folded_is_refused() -> None:
    stream = windows(mp.tumbling("10ms"))
    with pytest.raises(GraphError, match="is no function"):
        stream.fold("f", 3, initial=int, schema={"n": pa.int64()})  # type: ignore[arg-type]  # 3 is no function
    for schema in ({}, {"key": pa.int64()}, {"window_end": pa.int64()}):
        with pytest.raises(GraphError, match="name at least one"):
            stream.fold("f", last, initial=int, schema=schema)
