"""Windows give what a person finds row by row, whatever batches, watermarks and moves there are.

Cannot catch: what S does with rows and watermarks; tests of the whole cluster do.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from service.statestore.aggregate import AggregateProgram, Count, Max, Mean, Min, Sum
from service.statestore.distinct_values import ValueLines
from service.statestore.panes import Panes
from service.statestore.timed import ALL, NEVER
from service.statestore.window_form import WindowForm, in_windows
from service.statestore.window_store import WindowStore
from tests.fakes.windows import Model, Row, Slots, windows_of

BITS = 2
ALL_KINDS = {"n": Count(), "total": Sum("v"), "low": Min("v"), "top": Max("v"), "mean": Mean("v")}


def store_of(
    size: int, every: int, lateness: int = 0, hash_bits: int = 64, *, distinct: bool = False
) -> WindowStore:
    values = ValueLines("different", "v", pa.int64()) if distinct else None
    form = WindowForm("key", Panes.of(size, every, lateness), "time", values=values)
    program = AggregateProgram("key", ALL_KINDS, {"v": "int64"})
    outputs = [*ALL_KINDS, "different"] if distinct else None
    return WindowStore("counts", form, program, BITS, outputs=outputs, hash_bits=hash_bits)


#: Times that windows of these sizes meet often, on both sides of 1970.
TIMES = st.integers(-30, 60)
ROWS = st.lists(st.tuples(st.integers(0, 12), TIMES, st.integers(-5, 5)), max_size=12)
HOW = st.sampled_from(["extract", "give up", "copied", "group", "group copied", "stage"])
MOVES = st.lists(st.tuples(st.integers(0, 3), HOW), max_size=2)
#: Rows of a time, by how much the watermark rises then, moves after that, and whether all restart.
STEPS = st.lists(st.tuples(ROWS, st.integers(0, 15), MOVES, st.integers(0, 5)), max_size=10)
SIZES = st.sampled_from([(10, 10), (1, 1), (10, 2), (10, 4), (7, 3), (6, 1), (9, 6)])


@given(
    sizes=SIZES,
    lateness=st.sampled_from([0, 0, 3, 20]),
    start=st.integers(-30, 0),
    steps=STEPS,
    hash_bits=st.sampled_from([64, 10]),
    distinct=st.booleans(),
)
def test_any_batches_watermarks_and_moves_give_what_a_person_finds(
    sizes: tuple[int, int],
    lateness: int,
    start: int,
    steps: list[tuple[list[Row], int, list[tuple[int, str]], int]],
    hash_bits: int,
    distinct: bool,
) -> None:
    size, every = sizes
    model = Model(size, every, lateness, distinct)

    def make() -> WindowStore:
        return store_of(size, every, lateness, hash_bits, distinct=distinct)

    slots = Slots.of(make(), make())
    watermark = NEVER
    for epoch, (rows, rise, moves, restart) in enumerate(steps):
        given, late = slots.apply(rows, epoch, watermark)
        expected, expected_late = model.apply(rows)
        assert Counter(given) == Counter(expected)
        assert Counter(late) == Counter(expected_late)
        if rise:
            watermark = start if watermark == NEVER else watermark + rise
            assert Counter(slots.fire(epoch, watermark)) == Counter(model.fire(watermark))
        for bin_id, how in moves:
            if how == "stage":
                slots.stage(bin_id)
            else:
                slots.move(bin_id, how)
        if restart == 0:
            slots.restart(make)
    assert Counter(slots.fire(99, ALL)) == Counter(model.fire(ALL))
    for store in slots.stores:
        left = [bin_id for bin_id in range(store.bins) if store.rows(bin_id)]
        assert all(store.copier.staged(bin_id) is not None for bin_id in left)


@given(rows=ROWS, until=st.lists(st.integers(-40, 90), max_size=4), sizes=SIZES)
def test_firing_in_steps_gives_the_same_rows_in_the_same_order_as_at_once(
    rows: list[Row], until: list[int], sizes: tuple[int, int]
) -> None:
    steps, once = (Slots.of(store_of(*sizes), store_of(*sizes)) for _ in range(2))
    for slots in (steps, once):
        slots.apply(rows, 1, NEVER)
    found = [row for number, mark in enumerate(sorted(until)) for row in steps.fire(number, mark)]
    at_once = once.fire(1, max(until, default=NEVER))
    assert found == at_once
    assert [(row[2], row[0]) for row in found] == sorted((row[2], row[0]) for row in found)


EDGES = st.one_of(st.integers(NEVER, NEVER + 20), st.integers(ALL - 20, ALL), st.integers(-20, 20))


@given(times=st.lists(EDGES, min_size=1, max_size=8), sizes=SIZES)
def test_times_at_the_ends_of_int64_are_in_windows_that_are_cut_off_there(
    times: list[int], sizes: tuple[int, int]
) -> None:
    size, every = sizes
    store = store_of(size, every)
    model = Model(size, every, 0)
    slots = Slots.of(store, store_of(size, every))
    rows = [(number, time, number) for number, time in enumerate(times)]
    assert slots.apply(rows, 1, NEVER) == ([], [])
    model.apply(rows)
    for watermark in (NEVER + 5, NEVER + 6, 0, 3, ALL - 3, ALL - 2, ALL):
        assert Counter(slots.fire(1, watermark)) == Counter(model.fire(watermark))
    assert store.row_count == 0


@given(times=st.lists(EDGES, max_size=8), sizes=SIZES)
def test_each_row_is_in_the_windows_a_person_finds(
    times: list[int], sizes: tuple[int, int]
) -> None:
    size, every = sizes
    found = in_windows(np.array(times, dtype=np.int64), Panes.of(size, every))
    pairs = zip(*(line.tolist() for line in found), strict=True)
    expected = [
        (number, start, end)
        for number, time in enumerate(times)
        for start, end in windows_of(time, size, every)
    ]
    assert Counter(pairs) == Counter(expected)
