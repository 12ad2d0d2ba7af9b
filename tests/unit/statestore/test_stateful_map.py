"""A function with state over rows: what it is given, what it may return, what a failure says.

Cannot catch: how fast it is; tests/bench/bench_objects.py says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from service.errors import UserFunctionError
from service.statestore.object_rows import Objects
from service.statestore.stateful_map import RowForm, StatefulMap

INT = pa.schema([("out", pa.int64())])
TWO = pa.schema([("one", pa.int64()), ("two", pa.string())])
ROWS = pa.RecordBatch.from_pydict(
    {
        "key": pa.array([1, 2, 1], pa.int64()),
        "price": pa.array([10, None, 30], pa.int64()),
        "name": pa.array(["a", "b", None]),
        "weight": pa.array([0.5, 1.5, 2.5]),
    }
)


def applied(
    function: Callable[[Any, Any], Any],
    value: RowForm = "price",
    outputs: pa.Schema = INT,
    *,
    flat: bool = False,
    rows: pa.RecordBatch = ROWS,
) -> dict[str, list[Any]]:
    program = StatefulMap("v", "key", function, value, outputs, None, flat)
    found = program.apply(Objects(), rows["key"].to_pylist(), rows, (7, 1))
    assert found.schema == pa.schema([pa.field("key", pa.int64()), *outputs])
    columns: dict[str, list[Any]] = found.to_pydict()
    return columns


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ("price", [10, None, 30]),
        ("weight", [0.5, 1.5, 2.5]),
        ("name", ["a", "b", None]),
        (("name", "key"), [("a", 1), ("b", 2), (None, 1)]),
        (
            None,
            [
                {"key": 1, "price": 10, "name": "a", "weight": 0.5},
                {"key": 2, "price": None, "name": "b", "weight": 1.5},
                {"key": 1, "price": 30, "name": None, "weight": 2.5},
            ],
        ),
    ],
)
def test_a_row_is_a_value_a_tuple_or_a_dict(value: RowForm, given: list[Any]) -> None:
    seen = []
    applied(lambda state, row: (seen.append(row), None), value)
    assert seen == given
    assert all(type(one) is type(other) for one, other in zip(seen, given, strict=True))


def test_outputs_leave_in_the_order_of_rows_and_none_is_left_out() -> None:
    assert applied(lambda state, row: (state, row)) == {"key": [1, 1], "out": [10, 30]}
    assert applied(lambda state, row: (state, None)) == {"key": [], "out": []}


def test_several_columns_are_tuples_or_dicts() -> None:
    expected = {"key": [1, 1], "one": [10, 30], "two": ["x", None]}
    tuples = {10: (10, "x"), None: None, 30: (30, None)}
    assert applied(lambda state, row: (state, tuples[row]), outputs=TWO) == expected
    dicts = {10: {"two": "x", "one": 10}, None: None, 30: {"one": 30, "two": None}}
    assert applied(lambda state, row: (state, dicts[row]), outputs=TWO) == expected
    assert applied(lambda state, row: (state, None), outputs=TWO) == {
        "key": [],
        "one": [],
        "two": [],
    }


def test_any_number_of_outputs_a_row() -> None:
    def some(state: None, price: int | None) -> tuple[None, Iterator[int] | list[int] | None]:
        if price is None:
            return None, None
        return None, (price + each for each in range(price // 10)) if price > 10 else [1, 2]

    assert applied(some, flat=True) == {"key": [1, 1, 1, 1, 1], "out": [1, 2, 30, 31, 32]}
    none = applied(lambda state, row: (state, []), flat=True, outputs=TWO)
    assert none == {"key": [], "one": [], "two": []}


def test_the_state_goes_from_row_to_row_of_a_key() -> None:
    """A function sees what its last call for the key returned, in the order of the rows."""
    objects = Objects()
    program = StatefulMap("v", "key", lambda s, r: ((*(s or ()), r), len(s or ())), "price", INT)
    program.apply(objects, [1, 2, 1], ROWS, (1,))
    assert objects.states == {1: (10, 30), 2: (None,)}
    assert sorted(objects.came) == [1, 2]
    found = program.apply(objects, [1, 2, 1], ROWS, (1,))
    assert found["out"].to_pylist() == [2, 1, 3]


def test_no_rows_give_no_rows() -> None:
    for value in ("price", ("price", "name"), None):
        assert applied(lambda s, r: 1 // 0, value, rows=ROWS.slice(0, 0)) == {"key": [], "out": []}


def raising(state: None, row: int) -> Iterator[int]:
    yield 1
    raise KeyError("late")


@pytest.mark.parametrize(
    ("function", "outputs", "flat", "said"),
    [
        (lambda s, r: (s, 1 // (r - 10)), INT, False, "ZeroDivisionError for key 1: .*at .7, 1."),
        (lambda s, r: 5, INT, False, r"TypeError for key 1: it must return a pair, \(state, outp"),
        (lambda s, r: (1, 2, 3), INT, False, r"key 1: it must return a pair, \(state, output\)"),
        (lambda s, r: (s, "x"), INT, False, "key 1: its output 'x' does not fit column 'out' of"),
        (lambda s, r: (s, 2**70), INT, False, "does not fit column 'out' of type int64"),
        (lambda s, r: (s, 1 if r == 10 else "x"), INT, False, "for key 2: its output 'x' does not"),
        (lambda s, r: (s, (1,)), TWO, False, "must be a tuple of 2 values, .'one', 'two'."),
        (lambda s, r: (s, {"one": 1}), TWO, False, "does not fit column 'one'.*'two'"),
        (lambda s, r: (s, 5), TWO, False, "outputs must be all tuples or all dicts"),
        (lambda s, r: (s, raising(s, r)), INT, True, "KeyError for key 1: 'late'"),
        (lambda s, r: (s, 5), INT, True, "TypeError for key 1: 'int' object is not iterable"),
    ],
)
def test_a_failure_names_vertex_time_rows_and_key(
    function: Callable[[Any, Any], Any], outputs: pa.Schema, flat: bool, said: str
) -> None:
    with pytest.raises(UserFunctionError, match=said) as caught:
        applied(function, outputs=outputs, flat=flat)
    assert "'v'" in str(caught.value)
    assert "(7, 1) has 3 rows" in str(caught.value)
    assert caught.value.vertex == "v"
