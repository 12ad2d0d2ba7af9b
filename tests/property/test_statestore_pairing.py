"""Joins in an interval and in windows give what a brute-force model gives, whatever the order.

Rows of both sides come in any order, some too late; watermarks rise as they like; bins move between
two stores, which are stored and read back. The model looks at every pair of rows that were on time.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from service.statestore.columns import KEY_ID
from service.statestore.join import LEFT, RIGHT, SIDE
from service.statestore.pairing import WINDOW, Interval, PairProgram, Windows
from service.statestore.text_keys import key_hashes
from service.statestore.timed import ALL, NEVER
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.timed_text import TimedTextStore
from service.statestore.window_semi_join import SemiProgram
from tests.fakes.timed_stores import BITS, MOVING, STEPS, play, reached

ROWS = st.tuples(st.sampled_from([LEFT, RIGHT]), st.integers(0, 2), st.integers(-3, 14))
EPOCHS = st.lists(st.tuples(st.lists(ROWS, max_size=8), STEPS), max_size=7)
INTERVALS = st.tuples(st.integers(-5, 5), st.integers(0, 5)).map(
    lambda pair: Interval(pair[0], pair[0] + pair[1])
)
WINDOWS = st.tuples(st.integers(1, 4), st.integers(0, 3)).map(
    lambda pair: Windows(pair[0] + pair[1], pair[0])
)
#: What windows say of event times is the same whatever is added to them.
OFFSET = -1
SIDES = (["join.0.t", "join.0.n"], ["join.1.t", "join.1.n"])


def store_of(near, *, texts, outer):
    key = KEY_ID if texts else "k"
    named = [(name, pa.int64()) for name in (key, *SIDES[0], *SIDES[1])]
    windows = WINDOW if isinstance(near, Windows) else ()
    out = pa.schema([*named, *((name, pa.int64()) for name in windows)])
    times = (SIDES[LEFT][0], SIDES[RIGHT][0])
    program = PairProgram(key, *SIDES, times, near, out, offsets=(OFFSET, 0), outer=outer)
    store = TimedRowStore("near", program, BITS)
    return TimedTextStore(store, "k", pa.string()) if texts else store


def named(key, texts):
    return f"key {key}" if texts else key


def batch_of(rows, texts, first):
    """Tagged rows, each with a number of its own."""
    keys = pa.array([named(key, texts) for _, key, _ in rows], pa.string() if texts else pa.int64())
    made = {"k": keys, SIDE: pa.array([side for side, _, _ in rows], pa.int64())}
    for side, (time, number) in enumerate(SIDES):
        mine = [own == side for own, _, _ in rows]
        shift = OFFSET if side == LEFT else 0
        times = [at - shift if own else None for own, (_, _, at) in zip(mine, rows, strict=True)]
        numbers = [first + place if own else None for place, own in enumerate(mine)]
        made[time] = pa.array(times, pa.int64())
        made[number] = pa.array(numbers, pa.int64())
    if texts:
        made[KEY_ID] = pa.array(key_hashes(keys))
    return pa.record_batch(made)


def windows_of(near, time):
    return {
        start
        for start in range(-40 * near.every, 41 * near.every, near.every)
        if start <= time < start + near.size
    }


def is_late(near, time, watermark):
    if isinstance(near, Interval):
        return time < watermark
    return max(windows_of(near, time)) + near.size <= watermark


def common(near, left, right, watermark):
    """What the two rows share: nothing, themselves, or windows that are open."""
    if isinstance(near, Interval):
        return [()] if near.lower <= right - left <= near.upper else []
    shared = windows_of(near, left) & windows_of(near, right)
    return [(start, start + near.size) for start in sorted(shared) if start + near.size > watermark]


def expected(near, epochs):
    """Pairs as (epoch, numbers, window), lone left rows as (epoch, number), late rows' numbers."""
    watermark, on_time, late, marks, before = NEVER, [], [], [], []
    number = 0
    for epoch, (rows, (rise, _)) in enumerate(epochs):
        for row in rows:
            tardy = is_late(near, row[2], watermark)
            late.append(number) if tardy else on_time.append((epoch, number, row))
            number += 1
        before.append(watermark)
        watermark = reached(watermark, rise)
        marks.append(watermark)
    pairs, met = [], set()
    for (came, left, one), (when, right, other) in product(on_time, on_time):
        if (one[0], other[0]) != (LEFT, RIGHT) or one[1] != other[1]:
            continue
        epoch = max(came, when)
        for window in common(near, one[2], other[2], before[epoch]):
            pairs.append((epoch, (left, right), window))
            met.add(left)
    alone = []
    for came, left, one in on_time:
        if one[0] == LEFT and left not in met and isinstance(near, Interval):
            # The first watermark that says no right row can come.
            gone = one[2] + near.upper + 1
            later = (at for at in range(came, len(epochs)) if marks[at] >= gone)
            alone.append((next(later, len(epochs)), left))
    return pairs, alone, late


def played(near, epochs, moving, *, texts, outer):
    batches, number = [], 0
    for rows, step in epochs:
        batches.append((batch_of(rows, texts, number), step))
        number += len(rows)
    return play(
        lambda: store_of(near, texts=texts, outer=outer), KEY_ID if texts else "k", batches, moving
    )


def check(near, epochs, moving, *, texts, outer):
    given = played(near, epochs, moving, texts=texts, outer=outer)
    pairs, alone, late = expected(near, epochs)
    found = [
        (epoch, (row[SIDES[LEFT][1]], row[SIDES[RIGHT][1]]), tuple(row[each] for each in windows))
        for epoch, rows in given.applied
        for windows in [[name for name in WINDOW if name in rows.schema.names]]
        for row in rows.to_pylist()
    ]
    assert sorted(found) == sorted(pairs)
    lone = []
    for epoch, rows in given.fired:
        order = [(row[SIDES[LEFT][0]], row["k"]) for row in rows.to_pylist()]
        assert texts or order == sorted(order)
        assert all(row[name] is None for row in rows.to_pylist() for name in SIDES[RIGHT])
        lone += [(epoch, row[SIDES[LEFT][1]]) for row in rows.to_pylist()]
    assert sorted(lone) == (sorted(alone) if outer else [])
    tardy = [
        row[SIDES[LEFT][1]] if row[SIDES[RIGHT][1]] is None else row[SIDES[RIGHT][1]]
        for rows in given.late
        for row in rows.to_pylist()
    ]
    assert sorted(tardy) == late


@settings(deadline=None)
@given(INTERVALS, EPOCHS, MOVING, st.booleans(), st.booleans())
def test_rows_of_an_interval_meet_as_in_a_model(near, epochs, moving, texts, outer):
    check(near, epochs, moving, texts=texts, outer=outer)


@settings(deadline=None)
@given(WINDOWS, EPOCHS, MOVING, st.booleans())
def test_rows_of_a_window_meet_as_in_a_model(near, epochs, moving, texts):
    check(near, epochs, moving, texts=texts, outer=False)


def semi_of(windows, *, texts):
    key = KEY_ID if texts else "k"
    out = pa.schema([(name, pa.int64()) for name in (key, *SIDES[0], *WINDOW)])
    times = (SIDES[LEFT][0], SIDES[RIGHT][0])
    program = SemiProgram(key, SIDES[LEFT], times, windows, out, (OFFSET, 0))
    store = TimedRowStore("semi", program, BITS)
    return TimedTextStore(store, "k", pa.string()) if texts else store


@settings(deadline=None)
@given(WINDOWS, EPOCHS, MOVING, st.booleans())
def test_left_rows_leave_once_a_window_that_has_a_right_row(near, epochs, moving, texts):
    batches, number = [], 0
    for rows, step in epochs:
        batches.append((batch_of(rows, texts, number), step))
        number += len(rows)
    given = play(lambda: semi_of(near, texts=texts), KEY_ID if texts else "k", batches, moving)
    pairs, _, late = expected(near, epochs)
    first: dict[tuple[int, tuple[int, int]], int] = {}
    for epoch, (left, _), window in sorted(pairs):
        first.setdefault((left, window), epoch)
    found = [
        (epoch, row[SIDES[LEFT][1]], (row[WINDOW[0]], row[WINDOW[1]]))
        for epoch, rows in given.applied
        for row in rows.to_pylist()
    ]
    assert sorted(found) == sorted((epoch, *which) for which, epoch in first.items())
    assert not any(rows.num_rows for _, rows in given.fired)
    assert sum(rows.num_rows for rows in given.late) == len(late)


EDGES = [NEVER, NEVER + 1, -1, 0, ALL - 1, ALL]


def within(number):
    return min(max(number, NEVER), ALL)


@given(
    st.sampled_from(EDGES),
    st.sampled_from(EDGES),
    st.sampled_from([(-5, 7), (0, ALL), (NEVER + 1, 3)]),
)
def test_an_interval_at_the_ends_of_numbers_ends_where_numbers_do(left, right, bounds):
    near = Interval(*bounds)
    ends = near.ends(LEFT, np.array([left])), near.ends(RIGHT, np.array([right]))
    lower, upper = bounds
    assert ends[LEFT].tolist() == [within(within(left + upper) + 1)]
    assert ends[RIGHT].tolist() == [within(within(right - lower) + 1)]
    pairs, _ = near.meet(np.array([left]), np.array([right]), NEVER)
    assert len(pairs) == (within(left + lower) <= right <= within(left + upper))


@given(st.lists(st.sampled_from(EDGES), min_size=1), st.sampled_from([(6, 2), (ALL, ALL), (1, 1)]))
def test_windows_at_the_ends_of_numbers_are_in_order(times, lengths):
    near, given = Windows(*lengths), np.sort(np.array(times, dtype=np.int64))
    ends = near.ends(LEFT, given).tolist()
    assert ends == sorted(ends)
    assert all(end > time or end == ALL for end, time in zip(ends, given.tolist()))
    for other in EDGES:
        _, (starts, closing) = near.meet(given, np.full(len(given), other), NEVER)
        assert ((starts < closing) | (starts == ALL)).all()
        assert (starts <= other).all() or other < NEVER + near.size


def test_a_window_lets_its_rows_go_when_it_closes_and_an_interval_soon_after():
    rows = [(LEFT, 1, 0), (LEFT, 1, 5), (RIGHT, 1, 11)]
    store = store_of(Windows(10, 10), texts=False, outer=False)
    store.apply_at(batch_of(rows, False, 0), (0,), NEVER)
    store.fire(9, (0,))
    assert store.table.counts_at(store.table.index.lookup(np.array([1])), LEFT).tolist() == [2]
    store.fire(10, (1,))
    assert store.table.counts_at(store.table.index.lookup(np.array([1])), LEFT).tolist() == [0]
    assert store.row_count == 1
    store.fire(20, (2,))
    assert store.row_count == 0
    assert store.total_nbytes == 0
