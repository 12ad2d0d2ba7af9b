"""Joins within event time: what is kept at the edges, which random rows seldom hit.

Cannot catch: what a whole history gives; tests/property/test_statestore_best_within.py and
test_statestore_pairing.py do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from service.statestore.best_within import WAITING, BestWithin, Choice
from service.statestore.join import LEFT, RIGHT, SIDE
from service.statestore.pairing import Windows
from service.statestore.timed import ALL, NEVER
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.window_semi_join import SemiProgram

LEFTS, RIGHTS = ["l.at", "l.until"], ["r.at", "r.by", "r.text"]
INT = pa.int64()
#: Side, key, event time, and `until` or `by`; a text of the right side.
Row = tuple[int, int, int, int, str]


def rows_of(*rows: Row) -> pa.RecordBatch:
    def column(side: int, values: Sequence[object], kind: pa.DataType) -> pa.Array:
        kept = [v if row[0] == side else None for v, row in zip(values, rows, strict=True)]
        return pa.array(kept, kind)

    sides, keys, times, numbers, texts = zip(*rows, strict=True)
    return pa.record_batch(
        {
            "k": pa.array(keys, INT),
            SIDE: pa.array(sides, INT),
            "l.at": column(LEFT, times, INT),
            "l.until": column(LEFT, numbers, INT),
            "r.at": column(RIGHT, times, INT),
            "r.by": column(RIGHT, numbers, INT),
            "r.text": column(RIGHT, texts, pa.string()),
        }
    )


def best_store(*, once: bool = False) -> TimedRowStore:
    kinds = [*((name, INT) for name in ("k", *LEFTS, "r.at", "r.by")), ("r.text", pa.string())]
    choice = Choice(("l.at", "r.at"), "l.until", "r.by", once=once)
    return TimedRowStore("best", BestWithin("k", LEFTS, RIGHTS, choice, pa.schema(kinds)), 0)


def waiting(store: TimedRowStore, key: int) -> int:
    return len(store.table.find(np.array([key]), WAITING))


def test_a_right_row_at_the_watermark_still_waits_for_a_left_one() -> None:
    store = best_store()
    store.apply_at(rows_of((RIGHT, 1, 1, 7, "first")), (0,), NEVER)
    store.apply_at(rows_of((RIGHT, 1, 3, 9, "second")), (1,), NEVER)
    # The first one is let go; the second one lies at the watermark.
    store.fire(3, (1,))
    assert waiting(store, 1) == 1
    store.apply_at(rows_of((LEFT, 1, 3, 5, "")), (2,), 3)
    store.fire(4, (2,))
    assert waiting(store, 1) == 0
    assert store.fire(5, (3,)).to_pylist() == [
        {"k": 1, "l.at": 3, "l.until": 5, "r.at": 3, "r.by": 9, "r.text": "second"}
    ]
    assert (store.row_count, store.due(ALL)) == (0, False)


def test_a_right_row_that_the_watermark_of_its_own_time_lets_go_never_waits() -> None:
    store = best_store()
    store.apply_at(rows_of((RIGHT, 1, 2, 7, "gone"), (RIGHT, 1, 3, 9, "waits")), (0,), NEVER, 3)
    assert waiting(store, 1) == 1
    store.apply_at(rows_of((RIGHT, 1, 5, 1, "last"), (LEFT, 1, 3, 4, "")), (1,), 3, ALL)
    assert waiting(store, 1) == 1
    assert [row["r.text"] for row in store.fire(ALL, (1,)).to_pylist()] == ["waits"]
    assert (store.row_count, store.due(ALL)) == (0, False)


def test_intervals_that_come_behind_one_whose_best_row_grew_are_found() -> None:
    store = best_store()
    # Room in the bin, so that nothing is laid out anew in between.
    store.apply_at(rows_of(*((RIGHT, 2, 50, n, "x" * 50) for n in range(64))), (0,), NEVER)
    store.apply_at(rows_of((LEFT, 1, 0, 20, ""), (LEFT, 1, 0, 21, "")), (1,), NEVER)
    store.apply_at(rows_of((RIGHT, 1, 1, 5, "y" * 9)), (2,), NEVER)
    store.apply_at(rows_of((LEFT, 1, 2, 22, "")), (3,), NEVER)
    store.apply_at(rows_of((RIGHT, 1, 3, 4, "z")), (4,), NEVER)
    given = store.fire(30, (5,)).to_pylist()
    assert [(row["l.until"], row["r.text"]) for row in given] == [
        (20, "y" * 9),
        (21, "y" * 9),
        (22, "z"),
    ]


def test_with_the_promise_of_one_left_row_nothing_waits_behind_it() -> None:
    kept = {}
    for once in (False, True):
        store = best_store(once=once)
        store.apply_at(rows_of((RIGHT, 1, 5, 1, "early")), (0,), NEVER)
        assert waiting(store, 1) == 1
        store.apply_at(rows_of((LEFT, 1, 0, 9, ""), (RIGHT, 1, 6, 0, "low")), (1,), NEVER)
        store.apply_at(rows_of(*((RIGHT, 1, 7, n, "n") for n in range(50))), (2,), NEVER)
        kept[once] = waiting(store, 1)
        (row,) = store.fire(9, (3,)).to_pylist()
        assert (row["r.by"], row["r.at"]) == (49, 7)
    assert kept == {False: 52, True: 0}


def semi_store() -> TimedRowStore:
    names = ["k", *LEFTS, "window_start", "window_end"]
    program = SemiProgram(
        "k", LEFTS, ("l.at", "r.at"), Windows(10, 10), pa.schema([(name, INT) for name in names])
    )
    return TimedRowStore("semi", program, 0)


def test_of_a_window_that_closes_with_its_time_nothing_is_kept() -> None:
    store = semi_store()
    rows = [(RIGHT, 1, 3), (LEFT, 1, 4), (LEFT, 2, 5), (RIGHT, 1, 12), (LEFT, 2, 13)]
    given = store.apply_at(rows_of(*((*row, 0, "") for row in rows)), (0,), NEVER, 10)
    assert given.rows["l.at"].to_pylist() == [4]
    kept = [
        [len(store.table.find(np.array([key]), side)) for side in (LEFT, RIGHT)] for key in (1, 2)
    ]
    assert kept == [[0, 1], [1, 0]]
    later = store.apply_at(rows_of((LEFT, 1, 14, 0, ""), (RIGHT, 2, 15, 0, "")), (1,), 10, ALL)
    assert sorted(later.rows["l.at"].to_pylist()) == [13, 14]
    assert store.fire(ALL, (1,)).num_rows == 0
    assert (store.row_count, store.due(ALL)) == (0, False)


def test_a_window_keeps_one_mark_of_the_right_side_and_no_left_row_that_left() -> None:
    store = semi_store()
    kept = []
    for epoch in range(5):
        rights = [(RIGHT, 1, at, 0, "") for at in range(10)]
        given = store.apply_at(rows_of(*rights, (LEFT, 1, epoch, 0, "")), (epoch,), NEVER)
        assert given.rows["window_start"].to_pylist() == [0]
        kept.append([len(store.table.find(np.array([1]), side)) for side in (LEFT, RIGHT)])
    assert kept == [[0, 1]] * 5
    late = store.apply_at(rows_of((RIGHT, 1, 9, 0, ""), (LEFT, 1, 3, 0, "")), (6,), 10).late
    assert late is not None
    assert late["l.at"].to_pylist() == [None, 3]
    store.fire(10, (6,))
    assert (store.row_count, store.due(ALL)) == (0, False)
