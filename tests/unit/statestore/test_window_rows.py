"""The best rows of windows are what a person finds, whatever moves and batches.

Cannot catch: what S does with rows and watermarks; tests of whole jobs do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UsageError
from service.statestore.panes import Panes
from service.statestore.timed import ALL, NEVER
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.window_form import START, WindowForm
from service.statestore.window_top import WindowTop
from tests.fakes.sessions import best
from tests.fakes.windows import Row, Slots, batch, listed, windows_of

BITS = 2
ROW_TYPES = pa.schema([(name, pa.int64()) for name in ("key", "time", "v")])
TIMES = st.integers(-30, 60)
ROWS = st.lists(st.tuples(st.integers(0, 3), TIMES, st.integers(-3, 3)), max_size=12)
MOVES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["extract", "give up"])), max_size=2)
STEPS = st.lists(st.tuples(ROWS, st.integers(0, 15), MOVES, st.integers(0, 5)), max_size=8)


def top_of(
    size: int, every: int, count: int, *, ties: bool, lowest: bool = False, lateness: int = 0
) -> TimedRowStore:
    form = WindowForm("key", Panes.of(size, every, lateness), "time")
    program = WindowTop(form, ROW_TYPES, "v", count, ties=ties, lowest=lowest)
    return TimedRowStore("top", program, BITS)


def played(
    slots: Slots, make: Any, steps: list[tuple[list[Row], int, list[tuple[int, str]], int]]
) -> tuple[list[Any], list[Row], list[tuple[int, int, list[Row]]]]:
    """Results, late rows, and (watermark before, watermark, rows) of each time."""
    watermark, results, late, story = NEVER, [], [], []
    for epoch, (rows, rise, moves, restart) in enumerate(steps):
        # As S gives them.
        given, told = slots.apply(sorted(rows), epoch, watermark)
        results += given
        late += told
        before = watermark
        if rise:
            watermark = -20 if watermark == NEVER else watermark + rise
            results += slots.fire(epoch, watermark)
        story.append((before, watermark, sorted(rows)))
        for bin_id, how in moves:
            slots.move(bin_id, how)
        if restart == 0:
            slots.restart(make)
    results += slots.fire(99, ALL)
    return results, late, story


@given(
    steps=STEPS,
    sizes=st.sampled_from([(10, 10), (10, 4), (6, 1)]),
    count=st.integers(1, 3),
    ties=st.booleans(),
    lowest=st.booleans(),
)
def test_each_window_gives_its_best_rows(
    steps: Any, sizes: tuple[int, int], count: int, ties: bool, lowest: bool
) -> None:
    def make() -> TimedRowStore:
        return top_of(*sizes, count, ties=ties, lowest=lowest)

    slots = Slots.of(make(), make())
    results, late, story = played(slots, make, steps)
    windows: dict[tuple[int, int, int], list[Row]] = defaultdict(list)
    tardy = []
    for before, _, rows in story:
        for row in rows:
            there = [window for window in windows_of(row[1], *sizes) if window[1] > before]
            for start, end in there:
                windows[row[0], start, end].append(row)
            if not there:
                tardy.append(row)
    expected = [
        (*row, start, end)
        for (_, start, end), rows in windows.items()
        for row in best(rows, count, ties=ties, lowest=lowest)
    ]
    assert Counter(results) == Counter(expected)
    assert Counter(late) == Counter(tardy)
    assert all(store.row_count == 0 for store in slots.stores)


@given(
    steps=STEPS,
    sizes=st.sampled_from([(10, 10), (10, 4), (6, 1)]),
    count=st.integers(1, 3),
    lowest=st.booleans(),
    lateness=st.sampled_from([0, 7]),
)
def test_what_others_of_its_batch_keep_from_being_best_changes_no_result(
    steps: Any, sizes: tuple[int, int], count: int, lowest: bool, lateness: int
) -> None:
    def make() -> TimedRowStore:
        return top_of(*sizes, count, ties=True, lowest=lowest, lateness=lateness)

    def thinned(rows: list[Row]) -> list[Row]:
        program = make().program
        assert isinstance(program, WindowTop)
        kept = listed(program.contending(batch(rows))) if rows else rows
        assert not Counter(kept) - Counter(rows)
        return kept

    whole, _, _ = played(Slots.of(make(), make()), make, steps)
    fewer = [(thinned(rows), *others) for rows, *others in steps]
    found, _, _ = played(Slots.of(make(), make()), make, fewer)
    assert Counter(found) == Counter(whole)


def test_of_a_batch_only_rows_that_may_be_best_are_sent() -> None:
    program = top_of(10, 10, 1, ties=True).program
    assert isinstance(program, WindowTop)
    rows = batch([(1, 3, 7), (1, 4, 9), (1, 5, 9), (2, 3, 1), (1, 13, 2)])
    assert listed(program.contending(rows)) == [(1, 4, 9), (1, 5, 9), (2, 3, 1), (1, 13, 2)]


def test_a_window_whose_best_row_comes_late_is_given_again_whole() -> None:
    store = top_of(10, 10, 1, ties=True, lateness=5)
    store.apply_at(batch([(1, 3, 7), (1, 4, 7), (1, 5, 6)]), (1,), NEVER)
    assert listed(store.fire(10, (1,))) == [(1, 3, 7, 0, 10), (1, 4, 7, 0, 10)]
    assert store.apply_at(batch([(1, 2, 6)]), (2,), 12).rows.num_rows == 0
    again = store.apply_at(batch([(1, 2, 8)]), (3,), 14)
    assert listed(again.rows) == [(1, 2, 8, 0, 10)]
    assert listed(store.fire(15, (3,))) == []
    assert store.row_count == 0


def test_rows_of_any_type_are_kept_whole_and_nan_is_never_best() -> None:
    kinds = [("window_start", pa.int64()), ("window_end", pa.int64()), ("x", pa.float64())]
    schema = pa.schema([*kinds, ("name", pa.string()), ("when", pa.timestamp("us"))])
    form = WindowForm(START, Panes.given())
    store = TimedRowStore("top", WindowTop(form, schema, "x", 2, ties=True, lowest=False), BITS)
    values = [float("nan"), -0.0, 0.0, -1.5, -2.5]
    rows = pa.record_batch(
        [
            pa.array([0] * 5, pa.int64()),
            pa.array([10] * 5, pa.int64()),
            pa.array(values),
            pa.array(["n", None, "", "a", "b"]),
            pa.array([1, 2, None, 4, 5], pa.timestamp("us")),
        ],
        schema=schema,
    )
    store.apply_at(rows.slice(0, 4), (1,), NEVER)
    store.apply_at(rows.slice(4), (2,), NEVER)
    found = store.fire(10, (2,))
    assert found.schema == schema
    assert found["name"].to_pylist() == [None, ""]
    assert found["when"].to_pylist()[1] is None


def test_the_least_float_is_found_and_nan_is_not_it() -> None:
    schema = pa.schema([("key", pa.int64()), ("time", pa.int64()), ("v", pa.float64())])
    form = WindowForm("key", Panes.of(10, 10), "time")
    store = TimedRowStore("top", WindowTop(form, schema, "v", 1, ties=True, lowest=True), BITS)
    values = pa.array([float("nan"), 2.0, -float("inf"), 1.0])
    numbers = pa.array([1, 1, 1, 1], pa.int64())
    store.apply_at(pa.record_batch([numbers, numbers, values], schema=schema), (1,), NEVER)
    assert store.fire(ALL, (1,))["v"].to_pylist() == [-float("inf")]


def test_rows_cannot_be_ranked_by_text() -> None:
    schema = pa.schema([("key", pa.int64()), ("time", pa.int64()), ("v", pa.string())])
    with pytest.raises(UsageError, match="cannot be ranked by column 'v', which is string"):
        WindowTop(WindowForm("key", Panes.of(1, 1), "time"), schema, "v", 1, ties=True, lowest=True)
