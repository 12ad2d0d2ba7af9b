"""What each aggregate keeps and emits, on cases small enough to compute by hand.

Cannot catch: errors that show only with many keys or long runs; the properties cover those.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.errors import StateError, UsageError
from service.statestore.aggregate import AggregateProgram, Count, Max, Min, Oldest, Sum
from service.statestore.arena import KeyedTable

TOP = 2**63 - 1


def table_of(program):
    return KeyedTable(2, program.state_columns)


def apply(program, table, keys, version=1, **values):
    arrays = {name: np.array(column) for name, column in values.items()}
    keys, outputs = program.apply(table, np.array(keys, dtype=np.int64), arrays, version)
    return keys.tolist(), {name: column.tolist() for name, column in outputs.items()}


def sum_program():
    return AggregateProgram("k", {"total": Sum("v")}, {"v": "int64"})


def test_a_batch_gives_one_row_per_key_in_order_of_first_occurrence_with_the_new_values():
    program = AggregateProgram(
        "auction",
        {
            "bids": Count(),
            "total": Sum("price"),
            "highest": Max("price"),
            "lowest": Min("price"),
            "oldest": Oldest("date_time"),
        },
        {"price": "int64", "date_time": "int64", "url": "string"},
    )
    table = table_of(program)
    keys, outputs = apply(program, table, [7, 3, 7], price=[10, 5, -2], date_time=[30, 20, 40])
    assert keys == [7, 3]
    assert outputs == {
        "bids": [2, 1],
        "total": [8, 5],
        "highest": [10, 5],
        "lowest": [-2, 5],
        "oldest": [30, 20],
    }
    keys, outputs = apply(program, table, [3, 7], 2, price=[1, 100], date_time=[90, 80])
    assert keys == [3, 7]
    assert outputs == {
        "bids": [2, 3],
        "total": [6, 108],
        "highest": [5, 100],
        "lowest": [1, -2],
        "oldest": [90, 80],
    }


def test_oldest_is_not_kept_in_state():
    program = AggregateProgram("k", {"n": Count(), "old": Oldest("t")}, {"t": "int64"})
    assert [spec.name for spec in program.state_columns] == ["n"]


def test_a_program_names_each_input_column_once():
    program = AggregateProgram(
        "k",
        {"n": Count(), "s": Sum("b"), "m": Max("a"), "o": Oldest("b")},
        dict.fromkeys("ab", "int64"),
    )
    assert program.input_columns == ("b", "a")
    assert program.output_dtypes == dict.fromkeys(["n", "s", "m", "o"], "int64")


def test_an_empty_batch_gives_no_rows():
    program = sum_program()
    keys, outputs = program.apply(
        table_of(program), np.empty(0, np.int64), {"v": np.empty(0, np.int64)}, 1
    )
    assert len(keys) == 0
    assert len(outputs["total"]) == 0


def test_columns_that_arrow_made_are_read_without_a_copy_of_their_rows():
    program = AggregateProgram("k", {"m": Max("v"), "s": Sum("v")}, {"v": "float64"})
    keys = pa.array([1, 2, 1]).to_numpy()
    values = pa.array([0.5, 2.0, 1.5]).to_numpy()
    assert not keys.flags.writeable
    found, outputs = program.apply(table_of(program), keys, {"v": values}, 1)
    assert found.tolist() == [1, 2]
    assert outputs["m"].tolist() == [1.5, 2.0]
    assert outputs["s"].tolist() == [2.0, 2.0]


def test_outputs_do_not_change_with_later_batches():
    program = sum_program()
    table = table_of(program)
    _, first = program.apply(table, np.array([1]), {"v": np.array([5])}, 1)
    program.apply(table, np.array([1]), {"v": np.array([5])}, 2)
    assert first["total"].tolist() == [5]


@pytest.mark.parametrize(("start", "step"), [(TOP, 1), (-TOP - 1, -1)])
def test_a_sum_that_does_not_fit_is_refused_with_column_and_key(start, step):
    program = sum_program()
    table = table_of(program)
    apply(program, table, [41, 42], v=[0, start])
    with pytest.raises(StateError, match=r"'total' of column 'v' for key 42 .* 64-bit"):
        apply(program, table, [41, 42], 2, v=[7, step])


def test_a_refused_batch_changes_no_aggregate_and_no_version():
    program = sum_program()
    table = table_of(program)
    apply(program, table, [41, 42], 5, v=[1, TOP])
    with pytest.raises(StateError):
        apply(program, table, [41, 42, 43], 6, v=[7, 1, 1])
    slots = table.lookup(np.array([41, 42, 43]))
    assert table.column("total")[slots].tolist() == [1, TOP, 0]
    versions = {
        key: version
        for bin_id in range(4)
        for rows in [table.extract(bin_id)]
        for key, version in zip(rows.keys.tolist(), rows.versions.tolist())
    }
    assert versions == {41: 5, 42: 5, 43: 0}


def test_a_sum_that_leaves_64_bits_and_comes_back_within_a_batch_is_exact():
    program = sum_program()
    table = table_of(program)
    assert apply(program, table, [1] * 4, v=[TOP, TOP, -TOP, -5]) == ([1], {"total": [TOP - 5]})


def test_a_nan_poisons_a_sum_and_is_ignored_by_greatest_and_least():
    program = AggregateProgram(
        "k", {"s": Sum("v"), "hi": Max("v"), "lo": Min("v")}, {"v": "float64"}
    )
    _, outputs = apply(program, table_of(program), [1, 1, 1], v=[1.0, float("nan"), 2.0])
    assert np.isnan(outputs["s"][0])
    assert outputs["hi"] == [2.0]
    assert outputs["lo"] == [1.0]


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({}, "at least one output"),
        ({"k": Count()}, "name of the key"),
        ({"s": Sum("missing")}, "'missing', which is missing"),
        ({"s": Max("url")}, "'url', which is string"),
        ({"version": Count()}, "choose another name"),
    ],
)
def test_a_program_that_cannot_work_is_refused_when_it_is_made(outputs, reason):
    with pytest.raises(UsageError, match=reason):
        AggregateProgram("k", outputs, {"url": "string", "v": "int64"})
