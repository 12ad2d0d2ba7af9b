"""Best within, by kernels, gives what a brute-force model gives, whatever the order and the moves.

Rows of both sides come in any order, some too late; watermarks rise as they like; between two
epochs bins move one by one to another store, which may be behind, or are stored and read back.
The model looks at all rows that came on time at once.
"""

from __future__ import annotations

import math

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from service.statestore.best_within import BestWithin, Choice
from service.statestore.columns import KEY_ID
from service.statestore.join import LEFT, RIGHT, SIDE
from service.statestore.text_keys import key_hashes
from service.statestore.timed import NEVER
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.timed_text import TimedTextStore
from tests.fakes.timed_stores import BITS, MOVING, STEPS, play, reached

TIMES = st.integers(0, 12)
LEFTS = st.tuples(st.just(LEFT), st.integers(0, 2), TIMES, TIMES, st.integers(0, 3))
RIGHTS = st.tuples(
    st.just(RIGHT),
    st.integers(0, 2),
    TIMES,
    st.integers(0, 4),
    st.sampled_from([None, "", "a", "ab", "b" * 9]),
)
EPOCHS = st.lists(
    st.tuples(st.lists(st.one_of(LEFTS, RIGHTS, RIGHTS), max_size=8), STEPS), max_size=8
)
FLOATS = {0: -0.0, 1: 0.0, 2: 1.5, 3: math.inf, 4: math.nan}


class Case:
    """One way in which the columns may be."""

    def __init__(self, *, texts, floats, floor, outer, once=False):
        self.texts, self.floats, self.floor, self.outer, self.once = (
            texts,
            floats,
            floor,
            outer,
            once,
        )
        self.rank = pa.float64() if floats else pa.int64()
        self.key = KEY_ID if texts else "k"
        stamp = pa.timestamp("ms")
        self.lefts = [("join.0.t", stamp), ("join.0.until", stamp), ("join.0.least", self.rank)]
        self.rights = [("join.1.t", stamp), ("join.1.by", self.rank), ("join.1.x", pa.string())]

    def store(self):
        out = pa.schema([(self.key, pa.int64()), *self.lefts, *self.rights])
        choice = Choice(
            ("join.0.t", "join.1.t"),
            "join.0.until",
            "join.1.by",
            "join.0.least" if self.floor else None,
            once=self.once,
            outer=self.outer,
        )
        names = [[name for name, _ in side] for side in (self.lefts, self.rights)]
        store = TimedRowStore("best", BestWithin(self.key, *names, choice, out), BITS)
        return TimedTextStore(store, "k", pa.string()) if self.texts else store

    def number(self, value):
        return FLOATS[value] if self.floats else value

    def named(self, key):
        return f"key {key}" if self.texts else key

    def batch(self, rows):
        columns = {name: [] for name, _ in (*self.lefts, *self.rights)}
        for side, _, time, *rest in rows:
            own = self.lefts if side == LEFT else self.rights
            first, second = rest
            values = (
                (time, first, self.number(second))
                if side == LEFT
                else (time, self.number(first), second)
            )
            for column in columns.values():
                column.append(None)
            for (name, _), value in zip(own, values, strict=True):
                columns[name][-1] = value
        kinds = dict([*self.lefts, *self.rights])
        keys = pa.array(
            [self.named(key) for _, key, *_ in rows], pa.string() if self.texts else pa.int64()
        )
        made = {
            "k": keys,
            SIDE: pa.array([row[0] for row in rows], pa.int64()),
            **{name: pa.array(values, kinds[name]) for name, values in columns.items()},
        }
        if self.texts:
            made[KEY_ID] = pa.array(key_hashes(keys))
        return pa.record_batch(made)


def came_on_time(epochs):
    """Rows that came on time with their epochs, late rows, and the watermark after each epoch."""
    watermark, on_time, late, marks = NEVER, [], [], []
    for number, (rows, (rise, _)) in enumerate(epochs):
        for row in (row for row in rows if row[0] == LEFT):
            tardy = min(row[2], row[3]) < watermark
            late.append(row) if tardy else on_time.append((number, row))
        for row in (row for row in rows if row[0] == RIGHT):
            # An interval that an earlier watermark closed is gone.
            held = any(holds(left, row) and left[3] > watermark for _, left in on_time)
            tardy = row[2] < watermark and not held
            late.append(row) if tardy else on_time.append((number, row))
        watermark = reached(watermark, rise)
        marks.append(watermark)
    return on_time, late, marks


def holds(left, right):
    sides = (left[0], right[0]) == (LEFT, RIGHT)
    return sides and left[1] == right[1] and left[2] <= right[2] < left[3]


def merit(case, left, right):
    """What is compared of a right row in the interval, the least being best; None: no match."""
    by, least = case.number(right[3]), case.number(left[4])
    if math.isnan(by) or (case.floor and not by >= least):
        return None
    sign = math.copysign(1, by) if case.floats else 0
    return -by, right[2], sign, (1, "") if right[4] is None else (0, right[4])


def expected(case, epochs):
    """Results, each with its epoch, and late rows, by looking at everything; in no order."""
    on_time, late, marks = came_on_time(epochs)
    results = []
    for came, left in on_time:
        if left[0] != LEFT:
            continue
        closed = next((at for at in range(came, len(epochs)) if marks[at] >= left[3]), len(epochs))
        claimed = [
            (merit(case, left, right), right)
            for when, right in on_time
            if when <= closed and holds(left, right)
        ]
        best = min((pair for pair in claimed if pair[0] is not None), default=(None, None))[1]
        if best is not None or case.outer:
            results.append((closed, left, best))
    return results, late


def shown(case, left, right):
    """A result as the store gives it, its floats so that NaN and -0.0 can be compared."""
    row = [case.named(left[1]), left[2], left[3], repr(case.number(left[4]))]
    if right is None:
        return (*row, None, "None", None)
    return (*row, right[2], repr(case.number(right[3])), right[4])


def given_by(rows):
    columns = [
        column.view(pa.int64()).to_pylist()
        if pa.types.is_timestamp(column.type)
        else list(map(repr, column.to_pylist()))
        if number in (3, 5)
        else column.to_pylist()
        for number, column in enumerate(rows.columns)
    ]
    return list(zip(*columns, strict=True))


def played(case, epochs, moving):
    """Results with their epochs, and late rows, of stores that play them."""
    batches = [(case.batch(rows), step) for rows, step in epochs]
    given = play(case.store, case.key, batches, moving)
    assert not any(rows.num_rows for _, rows in given.applied)
    results = []
    for number, rows in given.fired:
        fired = given_by(rows)
        order = [(row[2], row[0]) for row in fired]
        assert case.texts or order == sorted(order)
        results += [(number, row) for row in fired]
    return results, [row for rows in given.late for row in given_by(rows)]


def in_any_order(rows):
    return sorted(rows, key=repr)


CASES = st.builds(
    Case, texts=st.booleans(), floats=st.booleans(), floor=st.booleans(), outer=st.booleans()
)


@settings(deadline=None)
@given(CASES, EPOCHS, MOVING)
def test_equals_a_model_that_sees_all_rows_at_once(case, epochs, moving):
    results, late = played(case, epochs, moving)
    wanted, tardy = expected(case, epochs)
    assert in_any_order(results) == in_any_order(
        (closed, shown(case, left, best)) for closed, left, best in wanted
    )
    assert len(late) == len(tardy)


#: One key, few times and few values: rows that are equally good come all the time.
CLOSE = st.one_of(
    st.tuples(st.just(LEFT), st.just(1), st.integers(0, 2), st.integers(2, 4), st.just(0)),
    *2
    * [
        st.tuples(
            st.just(RIGHT),
            st.just(1),
            st.integers(0, 2),
            st.integers(0, 1),
            st.sampled_from([None, "", "a", "ab", "ab" * 8, "b"]),
        )
    ],
)
CLOSE_EPOCHS = st.lists(
    st.tuples(
        st.lists(CLOSE, max_size=6),
        st.tuples(st.sampled_from([0, 0, 0, 1]), st.sampled_from(["stay", "stay", "move"])),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(CLOSE_EPOCHS, MOVING)
def test_of_rows_equally_good_the_least_is_chosen_whenever_it_comes(epochs, moving):
    case = Case(texts=False, floats=False, floor=True, outer=False)
    results, _ = played(case, epochs, moving)
    wanted, _ = expected(case, epochs)
    assert in_any_order(results) == in_any_order(
        (closed, shown(case, left, best)) for closed, left, best in wanted
    )


@settings(deadline=None, max_examples=50)
@given(EPOCHS, MOVING, st.booleans())
def test_a_promise_that_is_kept_changes_nothing(epochs, moving, outer):
    """Of each key the first left row only: then `once` gives what the general form gives."""
    seen: set[int] = set()
    kept = []
    for rows, step in epochs:
        some = []
        for row in rows:
            if row[0] == LEFT:
                if row[1] in seen:
                    continue
                seen.add(row[1])
            some.append(row)
        kept.append((some, step))
    given = [
        played(
            Case(texts=False, floats=False, floor=True, outer=outer, once=once),
            kept,
            moving,
        )
        for once in (False, True)
    ]
    assert given[0][0] == given[1][0]
    assert in_any_order(given[0][1]) == in_any_order(given[1][1])
