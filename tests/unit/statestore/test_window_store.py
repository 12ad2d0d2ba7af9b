"""Stores of windows: given windows, windows of all rows, text keys, and what is refused.

Cannot catch: what batches, watermarks and moves may do together; tests/property/test_windows.py
does.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.errors import StateCorrupt, StateError, UsageError
from service.hashing import bins_of
from service.statestore.aggregate import Aggregate, AggregateProgram, Count, Max, Mean, Sum
from service.statestore.columns import KEY_ID
from service.statestore.distinct_values import ValueLines
from service.statestore.panes import Panes
from service.statestore.text_keys import key_hashes
from service.statestore.timed import ALL, NEVER
from service.statestore.window_form import END, START, WindowForm, in_windows
from service.statestore.window_store import WindowStore
from service.statestore.window_text import TextWindowStore
from tests.fakes.windows import batch, listed

BITS = 2


def store_of(
    form: WindowForm, kinds: dict[str, str] | None = None, **aggregates: Aggregate
) -> WindowStore:
    program = AggregateProgram(form.key, aggregates or {"n": Count()}, kinds or {"v": "int64"})
    return WindowStore("counts", form, program, BITS)


def regular(size: int, every: int, lateness: int = 0) -> WindowForm:
    return WindowForm("key", Panes.of(size, every, lateness), "time")


def given_rows(*rows: tuple[int, int, int]) -> pa.RecordBatch:
    names = ("key", START, END)
    columns = list(zip(*rows, strict=True))
    return pa.record_batch(
        {name: pa.array(column, pa.int64()) for name, column in zip(names, columns, strict=True)}
    )


def test_windows_that_rows_name_may_end_together_and_begin_apart() -> None:
    store = store_of(WindowForm("key", Panes.given()))
    rows = given_rows((1, 0, 10), (1, 5, 10), (1, 0, 10), (2, 0, 20))
    store.apply_at(rows, (1,), NEVER)
    assert not store.due(9)
    assert listed(store.fire(10, (1,))) == [(1, 0, 10, 2), (1, 5, 10, 1)]
    assert listed(store.fire(ALL, (2,))) == [(2, 0, 20, 1)]
    late = store.apply_at(rows, (3,), 10).late
    assert late is not None
    assert listed(late) == [(1, 0, 10), (1, 5, 10), (1, 0, 10)]


def test_given_windows_of_all_rows_have_their_start_as_key() -> None:
    store = store_of(WindowForm(START, Panes.given()))
    store.apply_at(given_rows((1, 0, 10), (2, 0, 10), (3, -5, 10)), (1,), NEVER)
    found = store.fire(10, (1,))
    assert found.schema.names == [START, END, "n"]
    assert listed(found) == [(-5, 10, 1), (0, 10, 2)]


def test_rows_of_all_keys_that_are_late_for_some_windows_only_are_not_told_late() -> None:
    panes = Panes.of(10, 5)
    form = WindowForm(START, Panes.given(), once=(panes, "time"))
    store = store_of(form)
    times = np.array([3, 7, 12])
    which, starts, ends = in_windows(times, panes)
    rows = pa.record_batch({"time": times[which], START: starts, END: ends})
    given = store.apply_at(rows, (1,), 10)
    assert given.late is not None
    # 3 is in [-5, 5) and [0, 10), both over; of 7 one window is.
    assert given.late.to_pydict() == {"time": [3], START: [0], END: [10]}
    assert listed(store.fire(ALL, (1,))) == [(5, 15, 2), (10, 20, 1)]


def test_a_closed_window_is_given_again_within_the_lateness() -> None:
    store = store_of(regular(10, 10, lateness=5), total=Sum("v"))
    store.apply_at(batch([(1, 3, 7)]), (1,), NEVER)
    assert listed(store.fire(10, (1,))) == [(1, 0, 10, 7)]
    again = store.apply_at(batch([(1, 4, 1), (2, 4, 1)]), (2,), 14)
    assert again.late is None
    assert listed(again.rows) == [(1, 0, 10, 8), (2, 0, 10, 1)]
    assert listed(store.fire(15, (2,))) == []
    assert store.row_count == 0
    late = store.apply_at(batch([(1, 4, 1)]), (3,), 15)
    assert late.late is not None
    assert late.rows.num_rows == 0


def test_a_sum_that_does_not_fit_changes_nothing() -> None:
    store = store_of(regular(10, 10), total=Sum("v"))
    most = 2**63 - 1
    store.apply_at(batch([(1, 3, most)]), (1,), NEVER)
    with pytest.raises(StateError, match="'total'.* for key 1 "):
        store.apply_at(batch([(2, 3, 1), (1, 4, 1)]), (2,), NEVER)
    assert listed(store.fire(ALL, (3,))) == [(1, 0, 10, most)]


def test_panes_whose_sum_does_not_fit_are_an_error_and_their_mean_is_not() -> None:
    most = 2**63 - 1
    rows = batch([(1, 1, most), (1, 6, most)])
    store = store_of(regular(10, 5), total=Sum("v"))
    store.apply_at(rows, (1,), NEVER)
    with pytest.raises(StateError, match="does not fit"):
        store.fire(10, (1,))
    store = store_of(regular(10, 5), mean=Mean("v"), top=Max("v"))
    store.apply_at(rows, (1,), NEVER)
    assert listed(store.fire(10, (1,))) == [
        (1, -5, 5, float(most), most),
        (1, 0, 10, float(most), most),
    ]


@pytest.mark.parametrize(
    ("values", "different"),
    [
        (pa.array(["a", "b", "", "a", "a" * 9, "a" * 8 + "b"]), 5),
        (pa.array([b"a", b"a\0", b"", b"\0", b"a", b"a"]), 4),
        (pa.array([0.0, -0.0, float("nan"), float("nan"), 1.0, 1.0]), 3),
        (pa.array([True, False, True, True, True, True]), 2),
        (pa.array([1, 2, 3, 4, 5, 5], pa.timestamp("s")), 5),
    ],
)
def test_different_values_of_a_window_are_counted_whatever_their_type(
    values: pa.Array, different: int
) -> None:
    counted = ValueLines("users", "user", values.type)
    form = WindowForm("key", Panes.of(10, 5), "time", values=counted)
    program = AggregateProgram("key", {"n": Count()}, {})
    store = WindowStore("counts", form, program, BITS, outputs=["users", "n"])
    keys, times = pa.array([1] * 6, pa.int64()), pa.array([1, 2, 3, 6, 7, 8], pa.int64())
    rows = pa.record_batch([keys, times, values], names=["key", "time", "user"])
    store.apply_at(rows, (1,), NEVER)
    store.fire(5, (1,))
    assert listed(store.fire(10, (2,))) == [(1, 0, 10, different, 6)]


def test_values_of_a_window_that_a_row_names_are_counted_by_start_too() -> None:
    form = WindowForm("key", Panes.given(5), values=ValueLines("d", "v", pa.int64()))
    program = AggregateProgram("key", {"n": Count()}, {})
    store = WindowStore("counts", form, program, BITS, outputs=["d"])
    rows = given_rows((1, 0, 10), (1, 5, 10), (1, 0, 10), (1, 0, 10))
    values = pa.array([7, 7, 8, 8], pa.int64())
    store.apply_at(rows.append_column("v", values), (1,), NEVER)
    assert listed(store.fire(10, (1,))) == [(1, 0, 10, 2), (1, 5, 10, 1)]
    more = given_rows((1, 5, 10)).append_column("v", pa.array([9], pa.int64()))
    assert listed(store.apply_at(more, (2,), 12).rows) == [(1, 5, 10, 2)]


def test_values_of_lists_are_not_counted() -> None:
    with pytest.raises(UsageError, match="counts values of column 'v', which is list"):
        ValueLines("d", "v", pa.list_(pa.int64()))


def test_keys_without_entries_are_told_from_those_with_some() -> None:
    store = store_of(regular(10, 5))
    store.apply_at(batch([(1, 3, 0), (2, 13, 0)]), (1,), NEVER)
    keys = np.array([3, 1, 2, 3])
    assert store.unused(keys).tolist() == [3, 3]
    store.fire(10, (1,))
    assert set(store.fired.tolist()) == {1}
    assert store.unused(keys).tolist() == [3, 1, 3]


def test_firing_some_bins_leaves_the_others() -> None:
    store = store_of(regular(10, 5))
    keys = range(20)
    store.apply_at(batch([(key, 3, 0) for key in keys]), (1,), NEVER)
    bins = bins_of(np.arange(20), BITS).tolist()
    some = store.fire(10, (1,), frozenset({0, 2}))
    mine = sorted(key for key in keys if bins[key] in (0, 2))
    assert listed(some) == [(key, start, start + 10, 1) for start in (-5, 0) for key in mine]
    assert store.due(10)
    rest = store.fire(10, (1,))
    assert sorted({row[0] for row in listed(rest)}) == sorted(set(keys) - set(mine))
    assert store.row_count == 0


def test_an_entry_under_an_id_that_is_not_its_own_is_refused() -> None:
    store, other = store_of(regular(10, 10)), store_of(regular(10, 10))
    store.apply_at(batch([(1, 3, 0)]), (1,), NEVER)
    keys, values = store.stored_rows(np.arange(4))
    cells = np.frombuffer(values[0].tobytes(), dtype="<i8").copy()
    # Another pane under the same id.
    cells[2] += 1
    with pytest.raises(StateCorrupt, match="which is not its"):
        other.load_rows(keys, [cells.tobytes()])


def test_windows_of_text_keys_are_found_again_after_a_restart_and_a_move() -> None:
    def make() -> TextWindowStore:
        return TextWindowStore(store_of(WindowForm(KEY_ID, Panes.of(10, 5), "time")), "name", TEXT)

    names = [f"key {number}" for number in range(20)]
    store, other = make(), make()
    # Of bins without windows a checkpoint has nothing.
    assert [len(each) for each in store.stored_rows(np.arange(4))] == [0, 0]
    store.apply_at(named(names, [3] * 20), (1,), NEVER)
    store.apply_at(named(names[:2], [9] * 2), (2,), NEVER)
    assert len(listed(store.fire(5, (2,)))) == 20
    again = make()
    keys, values = store.stored_rows(np.arange(4))
    assert len(keys) == store.row_count
    for start in range(0, len(keys), 7):
        again.load_rows(keys[start : start + 7], values[start : start + 7].tolist())
    for bin_id in (1, 3):
        assembler = other.assembler(bin_id)
        for chunk in again.give_up(bin_id, cut=9):
            assembler.feed(chunk)
        other.install(bin_id, assembler)
    found = [row for each in (again, other) for row in listed(each.fire(10, (3,)))]
    expected = [(name, 0, 10, 1 + (name in names[:2])) for name in names]
    assert sorted(found) == sorted(expected)
    rest = [row for each in (again, other) for row in listed(each.fire(ALL, (4,)))]
    assert sorted(rest) == [(name, 5, 15, 1) for name in names[:2]]
    # Keys without windows are forgotten, texts and all.
    assert again.keys.table.key_count == other.keys.table.key_count == 0


def test_the_text_beside_a_mark_is_taken_for_no_key() -> None:
    def make() -> TextWindowStore:
        panes = Panes.of(10, 5, 20)
        return TextWindowStore(store_of(WindowForm(KEY_ID, panes, "time")), "name", TEXT)

    names = [f"key {number}" for number in range(20)]
    store = make()
    store.apply_at(named(names, [3] * 20), (1,), NEVER)
    # Each bin has given a window, and remembers it.
    assert len(listed(store.fire(5, (2,)))) == 20
    keys, values = store.stored_rows(np.arange(4))
    assert len(keys) == 24
    for backwards in (False, True):
        again = make()
        # By keys, as files have them, in parts or backwards.
        order = np.argsort(keys)[:: -1 if backwards else 1]
        for start in range(0, len(keys), 7):
            part = order[start : start + 7]
            again.load_rows(keys[part], values[part].tolist())
        assert again.keys.table.key_count == 20
        assert sorted(listed(again.fire(10, (3,)))) == sorted((name, 0, 10, 1) for name in names)


TEXT = pa.string()


def named(names: list[str], times: list[int]) -> pa.RecordBatch:
    keys = pa.array(names, TEXT)
    columns = [keys, pa.array(times, pa.int64()), pa.array(key_hashes(keys))]
    return pa.record_batch(columns, names=["name", "time", KEY_ID])
