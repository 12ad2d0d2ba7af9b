"""The best rows of windows, and sessions: what a person finds, whatever moves and batches.

Cannot catch: what S does with rows and watermarks; tests of whole jobs do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StateError, UsageError
from service.statestore.aggregate import AggregateProgram, Count, Mean, Min, Sum
from service.statestore.panes import Panes
from service.statestore.timed import ALL, NEVER
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.window_form import END, START, WindowForm
from service.statestore.window_sessions import WindowSessions
from service.statestore.window_top import WindowTop
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


def best(rows: list[Row], count: int, *, ties: bool, lowest: bool) -> list[Row]:
    ordered = sorted(rows, key=lambda row: row[2] if lowest else -row[2])
    kept = ordered[:count]
    return [row for row in ordered if row[2] == kept[-1][2] or row in kept] if ties else kept


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


# Sessions ---------------------------------------------------------------------------------------

KINDS = {"n": Count(), "total": Sum("v"), "low": Min("v"), "mean": Mean("v")}


def sessions_of(gap: int, lateness: int = 0) -> TimedRowStore:
    program = AggregateProgram("key", KINDS, {"v": "int64"})
    return TimedRowStore("s", WindowSessions("key", "time", 0, gap, lateness, program), BITS)


class Sessions:
    """Sessions row by row; each is a list of rows."""

    def __init__(self, gap: int, lateness: int) -> None:
        self.gap, self.lateness = gap, lateness
        self.open: list[list[Row]] = []

    def bounds(self, rows: list[Row]) -> tuple[int, int]:
        times = [row[1] for row in rows]
        return min(times), max(times) + self.gap

    def apply(self, rows: list[Row], watermark: int) -> tuple[list[Any], list[Row]]:
        fresh = [[row] for row in rows]
        together = [list(rows) for rows in self.open] + fresh
        merged = True
        while merged:
            merged = False
            for first in together:
                for other in together:
                    start, end = self.bounds(first)
                    begin, stop = self.bounds(other)
                    near = first is not other and first[0][0] == other[0][0]
                    if near and start < stop and begin < end:
                        first.extend(other)
                        together.remove(other)
                        merged = True
                        break
                if merged:
                    break
        late = [rows for rows in together if self.bounds(rows)[1] + self.lateness <= watermark]
        kept = [rows for rows in together if rows not in late]
        changed = [rows for rows in kept if rows not in self.open]
        self.open = kept
        again = [self.result(rows) for rows in changed if self.bounds(rows)[1] <= watermark]
        return again, [row for rows in late for row in rows]

    def fire(self, before: int, watermark: int) -> list[Any]:
        ends = [(self.bounds(rows)[1], rows) for rows in self.open]
        given = [self.result(rows) for end, rows in ends if before < end <= watermark]
        over = watermark - self.lateness if watermark != ALL else ALL
        self.open = [rows for end, rows in ends if end > over]
        return given

    def result(self, rows: list[Row]) -> tuple[Any, ...]:
        values = [row[2] for row in rows]
        total = sum(values)
        return (
            rows[0][0],
            *self.bounds(rows),
            len(rows),
            total,
            min(values),
            total / len(values),
        )


@given(steps=STEPS, gap=st.sampled_from([1, 4, 10]), lateness=st.sampled_from([0, 0, 6]))
def test_sessions_are_what_a_person_puts_together(steps: Any, gap: int, lateness: int) -> None:
    def make() -> TimedRowStore:
        return sessions_of(gap, lateness)

    slots, model, watermark = Slots.of(make(), make()), Sessions(gap, lateness), NEVER
    for epoch, (rows, rise, moves, restart) in enumerate(steps):
        given, late = slots.apply(rows, epoch, watermark)
        expected, expected_late = model.apply(rows, watermark)
        assert Counter(given) == Counter(expected)
        assert Counter(late) == Counter(expected_late)
        if rise:
            before, watermark = watermark, -20 if watermark == NEVER else watermark + rise
            found = slots.fire(epoch, watermark)
            assert Counter(found) == Counter(model.fire(before, watermark))
        for bin_id, how in moves:
            slots.move(bin_id, how)
        if restart == 0:
            slots.restart(make)
    assert Counter(slots.fire(99, ALL)) == Counter(model.fire(watermark, ALL))
    assert all(store.row_count == 0 for store in slots.stores)


def test_a_session_at_the_end_of_int64_is_cut_off_there() -> None:
    store = sessions_of(10)
    store.apply_at(batch([(1, ALL - 3, 1), (1, ALL, 2), (2, NEVER, 3)]), (1,), NEVER)
    assert listed(store.fire(0, (1,))) == [(2, NEVER, NEVER + 10, 1, 3, 3, 3.0)]
    assert listed(store.fire(ALL, (2,))) == [(1, ALL - 3, ALL, 2, 3, 1, 1.5)]


def test_a_session_whose_sum_does_not_fit_changes_nothing() -> None:
    store = sessions_of(10)
    store.apply_at(batch([(1, 3, ALL)]), (1,), NEVER)
    with pytest.raises(StateError, match="does not fit"):
        store.apply_at(batch([(1, 4, 1)]), (2,), NEVER)
    assert [row[:5] for row in listed(store.fire(ALL, (3,)))] == [(1, 3, 13, 1, ALL)]
    assert np.all(store.rows_per_bin() == 0)
    assert store.program.output.names[:3] == ["key", START, END]
