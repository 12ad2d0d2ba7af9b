"""Sessions give what a person puts together, whatever batches, watermarks, moves and restarts.

Every form of them is made as a flow says it, and compared with rows put together two by two.
Cannot catch: what S does with rows and watermarks; tests of whole jobs do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import megaphone as mp
from service.dataflow.event_time import EventTime
from service.dataflow.window_values import TOGETHER
from service.dataflow.window_vertices import WindowVertex, put_together
from service.errors import GraphError, StateError, UserFunctionError
from service.migration.keyed_parts import KeyedParts
from service.migration.stateful import keyed_parts
from service.statestore.timed import ALL, NEVER, TimedStore
from tests.fakes.sessions import Numbered, Result, Sessions, best, in_order_of_coming
from tests.fakes.windows import Slots, batch, listed

SCHEMA = pa.schema([(name, pa.int64()) for name in ("key", "time", "v")])
AGGREGATES = {
    "n": mp.count(),
    "total": mp.total("v"),
    "different": mp.distinct_count("v"),
    "low": mp.lowest("v"),
    "mean": mp.mean("v"),
}

Windowed = mp.WindowedStream[mp.Stream]
TIMES = st.integers(-30, 60)
ROWS = st.lists(st.tuples(st.integers(0, 3), TIMES, st.integers(-3, 3)), max_size=12)
HOW = st.sampled_from(["extract", "give up", "copied"])
MOVES = st.lists(st.tuples(st.integers(0, 3), HOW), max_size=3)
#: Rows of a time, by how much the watermark rises then, moves after that, and whether all restart.
STEPS = st.lists(st.tuples(ROWS, st.integers(0, 15), MOVES, st.integers(0, 5)), max_size=8)
GAPS = st.sampled_from([1, 4, 10])
LATENESS = st.sampled_from([0, 0, 6, 25])


def windowed(
    gap: int, lateness: int = 0, *, grouped: bool = True, fields: Sequence[str] = SCHEMA.names
) -> Windowed:
    source = mp.KafkaSource(["rows"], "row", fields)
    rows = mp.Flow("f").source("rows", source, watermarks=mp.Watermarks("time"))
    stream = rows.key_by("key") if grouped else rows
    return stream.window(mp.session(gap=f"{gap}ms"), allowed_lateness=f"{lateness}ms")


def parts_of(stream: mp.Stream, schema: pa.Schema = SCHEMA) -> KeyedParts:
    """The parts of the last vertex, which may have its key added by the flow."""
    vertex = stream.flow.vertices[-1]
    assert isinstance(vertex, WindowVertex)
    if vertex.keys == (TOGETHER,):
        schema = put_together(pa.RecordBatch.from_pylist([], schema=schema)).schema
    parts = keyed_parts(vertex, [schema], 2, [EventTime("time", "ms")])
    assert parts.schema.names == [*(stream.columns or ())]
    return parts


def store_of(stream: mp.Stream, schema: pa.Schema = SCHEMA) -> TimedStore:
    store = parts_of(stream, schema).store
    assert isinstance(store, TimedStore)
    return store


# What a session gives, by the flow and by hand --------------------------------------------------


@dataclass(frozen=True)
class Form:
    """What is computed of sessions."""

    add: Callable[[Windowed], mp.Stream]
    result: Callable[[bool], Result]
    #: Whether rows stand for their sessions one by one, so that their order says something.
    ordered: bool = False


def _numbers(grouped: bool) -> Result:
    def result(rows: Numbered, start: int, end: int) -> list[tuple[Any, ...]]:
        values = [row[2] for _, row in rows]
        own = (rows[0][1][0],) if grouped else ()
        total, different = sum(values), len(set(values))
        mean = total / len(values)
        return [(*own, start, end, len(values), total, different, min(values), mean)]

    return result


def _different(grouped: bool) -> Result:
    def result(rows: Numbered, start: int, end: int) -> list[tuple[Any, ...]]:
        own = (rows[0][1][0],) if grouped else ()
        return [(*own, start, end, len({row[2] for _, row in rows}))]

    return result


def _best_of(count: int, *, ties: bool, lowest: bool) -> Callable[[bool], Result]:
    def result(rows: Numbered, start: int, end: int) -> list[tuple[Any, ...]]:
        found = best(in_order_of_coming(rows), count, ties=ties, lowest=lowest)
        return [(*row, start, end) for row in found]

    return lambda _: result


def _listed(grouped: bool) -> Result:
    def result(rows: Numbered, start: int, end: int) -> list[tuple[Any, ...]]:
        own = (rows[0][1][0],) if grouped else ()
        return [(*own, start, end, " ".join(str(row[2]) for _, row in rows))]

    return result


def joined(before: str, value: int) -> str:
    return f"{before} {value}".strip()


def both(earlier: str, later: str) -> str:
    return f"{earlier} {later}"


def top(count: int, *, ties: bool = True, lowest: bool = False) -> Form:
    return Form(
        lambda windows: windows.top("s", by="v", n=count, ties=ties, lowest=lowest),
        _best_of(count, ties=ties, lowest=lowest),
    )


def folded(windows: Windowed) -> mp.Stream:
    """The values in order: it shows which session came before which."""
    return windows.fold(
        "s", joined, merge=both, initial=str, value="v", schema={"values": pa.string()}
    )


FORMS = {
    "numbers": Form(lambda windows: windows.aggregate("s", **AGGREGATES), _numbers),
    "different values alone": Form(
        lambda windows: windows.aggregate("s", different=mp.distinct_count("v")), _different
    ),
    "the best": top(1),
    "the two best, first come": top(2, ties=False),
    "the least, and all that are equal": top(2, lowest=True),
    "a fold": Form(folded, _listed),
}


@pytest.mark.parametrize("grouped", [True, False], ids=["of a key", "of all rows"])
@pytest.mark.parametrize("name", FORMS)
@given(steps=STEPS, gap=GAPS, lateness=LATENESS)
def test_sessions_are_what_a_person_puts_together(
    name: str, grouped: bool, steps: Any, gap: int, lateness: int
) -> None:
    form = FORMS[name]

    def make() -> TimedStore:
        return store_of(form.add(windowed(gap, lateness, grouped=grouped)))

    model = Sessions(gap, lateness, form.result(grouped), grouped=grouped)
    slots, watermark = Slots.of(make(), make()), NEVER
    if not grouped:
        slots.key, slots.prepared = TOGETHER, put_together
    for epoch, (rows, rise, moves, restart) in enumerate(steps):
        # As S gives them.
        found, late = slots.apply(sorted(rows), epoch, watermark)
        expected, expected_late = model.apply(sorted(rows), watermark)
        assert Counter(found) == Counter(expected)
        assert Counter(late) == Counter(expected_late)
        if rise:
            before, watermark = watermark, -20 if watermark == NEVER else watermark + rise
            assert Counter(slots.fire(epoch, watermark)) == Counter(model.fire(before, watermark))
        for bin_id, how in moves:
            slots.move(bin_id, how)
        if restart == 0:
            slots.restart(make)
    assert Counter(slots.fire(99, ALL)) == Counter(model.fire(watermark, ALL))
    assert all(store.row_count == 0 for store in slots.stores)


@pytest.mark.parametrize("name", FORMS)
@given(rows=ROWS, until=st.lists(st.integers(-40, 90), max_size=4), gap=GAPS)
def test_firing_in_steps_gives_the_same_rows_in_the_same_order_as_at_once(
    name: str, rows: Any, until: list[int], gap: int
) -> None:
    steps, once = (store_of(FORMS[name].add(windowed(gap))) for _ in range(2))
    for store in (steps, once):
        store.apply_at(batch(sorted(rows)), (1,), NEVER)
    found = [row for mark in sorted(until) for row in listed(steps.fire(mark, (2,)))]
    at_once = listed(once.fire(max(until, default=NEVER), (2,)))
    assert found == at_once


def test_sessions_that_become_one_between_two_moves_keep_the_order_of_coming() -> None:
    def make() -> TimedStore:
        return store_of(top(2, ties=False).add(windowed(10)))

    slots = Slots.of(make(), make())
    slots.apply([(1, 30, 5)], 1, NEVER)
    slots.apply([(1, 10, 5)], 2, NEVER)
    (bin_id,) = [each for each in range(4) if slots.stores[0].rows(each)]
    slots.move(bin_id, "give up")
    # The session that came later is made longer, and so is the earlier one; then they meet.
    slots.apply([(1, 12, 5)], 3, NEVER)
    slots.apply([(1, 33, 5)], 4, NEVER)
    slots.move(bin_id, "extract")
    slots.restart(make)
    slots.apply([(1, 21, 0)], 5, NEVER)
    assert slots.fire(6, ALL) == [(1, 30, 5, 10, 43), (1, 10, 5, 10, 43)]


def test_a_fold_is_given_earlier_sessions_first_and_then_the_rows_of_the_time() -> None:
    store = store_of(folded(windowed(10)))
    store.apply_at(batch([(1, 30, 1), (1, 10, 2)]), (1,), NEVER)
    store.apply_at(batch([(1, 50, 3)]), (2,), NEVER)
    store.apply_at(batch([(1, 19, 4), (1, 25, 5)]), (3,), NEVER)
    assert listed(store.fire(ALL, (4,))) == [(1, 10, 40, "2 1 4 5"), (1, 50, 60, "3")]


def test_a_row_that_is_late_by_itself_counts_where_another_of_its_time_reaches_on() -> None:
    for name, form in FORMS.items():
        stores = [store_of(form.add(windowed(10))) for _ in range(2)]
        alone = stores[0].apply_at(batch([(1, 85, 1)]), (1,), 100)
        assert alone.late is not None, name
        assert listed(alone.late) == [(1, 85, 1)], name
        held = stores[1].apply_at(batch([(1, 85, 1), (1, 94, 2), (2, 86, 3)]), (1,), 100)
        assert held.rows.num_rows == 0, name
        assert held.late is not None, name
        assert listed(held.late) == [(2, 86, 3)], name
        assert stores[1].row_count == 1, name


@pytest.mark.parametrize("name", FORMS)
def test_a_session_at_the_end_of_int64_is_cut_off_there(name: str) -> None:
    store = store_of(FORMS[name].add(windowed(10)))
    store.apply_at(batch([(1, ALL - 3, 1), (1, ALL, 2), (2, NEVER, 3)]), (1,), NEVER)
    store.apply_at(batch([(1, ALL - 1, 2)]), (2,), NEVER)
    expected = {
        "numbers": [(2, NEVER, NEVER + 10, 1, 3, 1, 3, 3.0)],
        "different values alone": [(2, NEVER, NEVER + 10, 1)],
        "a fold": [(2, NEVER, NEVER + 10, "3")],
    }
    assert listed(store.fire(0, (2,))) == expected.get(name, [(2, NEVER, 3, NEVER, NEVER + 10)])
    last = {
        "numbers": [(1, ALL - 3, ALL, 3, 5, 2, 1, 5 / 3)],
        "different values alone": [(1, ALL - 3, ALL, 2)],
        "a fold": [(1, ALL - 3, ALL, "1 2 2")],
        "the best": [(1, ALL, 2, ALL - 3, ALL), (1, ALL - 1, 2, ALL - 3, ALL)],
        "the two best, first come": [(1, ALL, 2, ALL - 3, ALL), (1, ALL - 1, 2, ALL - 3, ALL)],
    }
    rows = [(1, ALL - 3, 1, ALL - 3, ALL), *last["the best"]]
    assert listed(store.fire(ALL, (3,))) == last.get(name, rows)
    assert store.row_count == 0


def test_a_session_whose_sum_does_not_fit_changes_nothing() -> None:
    store = store_of(FORMS["numbers"].add(windowed(10)))
    store.apply_at(batch([(1, 3, ALL)]), (1,), NEVER)
    with pytest.raises(StateError, match="does not fit"):
        store.apply_at(batch([(1, 4, 1)]), (2,), NEVER)
    assert [row[:6] for row in listed(store.fire(ALL, (3,)))] == [(1, 3, 13, 1, ALL, 1)]
    assert np.all(store.rows_per_bin() == 0)


@pytest.mark.parametrize(
    ("kind", "values", "different"),
    [
        (pa.string(), ["a", "b", "", "a", "b"], 3),
        (pa.float64(), [0.0, -0.0, float("nan"), float("nan"), 1.5], 3),
        (pa.timestamp("us"), [1, 2, 2, 1, 1], 2),
        (pa.bool_(), [True, True, True, True, True], 1),
    ],
    ids=str,
)
def test_values_of_any_countable_type_are_told_apart(
    kind: pa.DataType, values: list[Any], different: int
) -> None:
    schema = SCHEMA.set(2, pa.field("v", kind))
    stream = windowed(10).aggregate("s", different=mp.distinct_count("v"), n=mp.count())
    store = store_of(stream, schema)
    numbers = [pa.array([1] * 5, pa.int64()), pa.array([0, 30, 10, 20, 40], pa.int64())]
    rows = pa.record_batch([*numbers, pa.array(values, kind)], schema=schema)
    # Rows at 0, 10, 20, 30, 40 touch without overlapping; those at 5, 15, 25, 35 join them.
    store.apply_at(rows, (1,), NEVER)
    between = [pa.array([1] * 4, pa.int64()), pa.array([5, 15, 25, 35], pa.int64())]
    more = pa.record_batch([*between, pa.array(values[:4], kind)], schema=schema)
    store.apply_at(more, (2,), NEVER)
    assert listed(store.fire(ALL, (3,))) == [(1, 0, 50, different, 9)]


def test_the_best_rows_are_kept_whole_and_may_have_any_type() -> None:
    kinds = [("name", pa.string()), ("when", pa.timestamp("us")), ("v", pa.float64())]
    schema = pa.schema([("key", pa.int64()), ("time", pa.int64()), *kinds])
    store = store_of(windowed(10, fields=schema.names).top("s", by="v"), schema)
    columns = [
        pa.array([1, 1, 1], pa.int64()),
        pa.array([3, 4, 30], pa.int64()),
        pa.array([None, "b", "c"]),
        pa.array([1, None, 3], pa.timestamp("us")),
        pa.array([2.5, float("nan"), -1.0]),
    ]
    store.apply_at(pa.record_batch(columns, schema=schema), (1,), NEVER)
    found = store.fire(ALL, (2,))
    assert found.schema.names[:5] == schema.names
    assert found.to_pylist()[0]["name"] is None
    assert found["v"].to_pylist() == [2.5, -1.0]


def test_what_a_fold_of_sessions_is_given_and_gives() -> None:
    windows = windowed(10, grouped=False)
    types = {"times": pa.string(), "n": pa.int64()}
    stream = windows.fold(
        "s",
        lambda before, row: (f"{before[0]} {row['time']} {sorted(row)}", before[1] + 1),
        merge=lambda a, b: (a[0] + b[0], a[1] + b[1]),
        initial=lambda: ("", 0),
        schema=types,
    )
    store = store_of(stream)
    store.apply_at(put_together(batch([(1, 3, 7), (2, 5, 8)])), (1,), NEVER)
    own = "['key', 'time', 'v']"
    assert listed(store.fire(ALL, (2,))) == [(3, 15, f" 3 {own} 5 {own}", 2)]


def test_a_merge_that_raises_is_named_with_its_vertex() -> None:
    def never(earlier: str, later: str) -> str:
        raise ValueError("cannot be")

    windows = windowed(10)
    types = {"values": pa.string()}
    store = store_of(windows.fold("s", joined, merge=never, initial=str, value="v", schema=types))
    store.apply_at(batch([(1, 0, 1), (1, 15, 2)]), (1,), NEVER)
    with pytest.raises(UserFunctionError, match="'s'.*cannot be"):
        store.apply_at(batch([(1, 8, 3)]), (2,), NEVER)


def test_rows_that_cannot_be_best_are_sent_as_they_make_sessions_longer() -> None:
    assert parts_of(windowed(10).top("s", by="v")).combine is None
    assert parts_of(windowed(10, grouped=False).top("s", by="v")).hidden == TOGETHER


def test_what_cannot_be_folded_is_refused() -> None:
    types = {"values": pa.string()}
    with pytest.raises(GraphError, match=r"of sessions needs merge=\.\.\."):
        windowed(10).fold("s", joined, initial=str, value="v", schema=types)
    with pytest.raises(GraphError, match="3 is no function"):
        windowed(10).fold("s", joined, merge=3, initial=str, schema=types)  # type: ignore[arg-type]  # a number is no merge
    others: Windowed = mp.WindowedStream(windowed(10)._on, "key", mp.tumbling("1s"), "0s")
    with pytest.raises(GraphError, match="only sessions become one"):
        others.fold("s", joined, merge=both, initial=str, schema=types)
