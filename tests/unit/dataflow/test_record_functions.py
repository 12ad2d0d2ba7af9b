"""Functions of single records: order, columns as declared, and who is lost when one raises."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.record_functions import FilterRows, FlatMapRows, MapRows, schema_of

GIVEN = pa.schema([("a", pa.int64()), ("s", pa.string())])
MADE = schema_of({"n": pa.int64(), "t": pa.string()})


def rows(*values: int | None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"a": v, "s": str(v)} for v in values], schema=GIVEN)


def double(record: dict) -> dict:
    return {"n": 2 * record["a"], "t": record["s"]}


@given(st.lists(st.integers(-(2**62), 2**61)))
def test_results_stand_in_the_order_of_the_records(values: list[int]) -> None:
    batch = rows(*values)
    assert MapRows(double, MADE)(batch).to_pylist() == [double(r) for r in batch.to_pylist()]
    kept = FilterRows(lambda r: r["a"] % 2 == 0)(batch)
    assert kept.to_pylist() == [r for r in batch.to_pylist() if r["a"] % 2 == 0]
    flat = FlatMapRows(lambda r: [double(r)] * (r["a"] % 3), MADE)(batch)
    assert flat.to_pylist() == [double(r) for r in batch.to_pylist() for _ in range(r["a"] % 3)]


def test_no_record_means_no_call_and_the_declared_columns() -> None:
    def never(record: dict) -> dict:
        raise AssertionError(record)

    for function in (MapRows(never, MADE), FlatMapRows(never, MADE)):
        assert function(rows()).schema.equals(MADE)
    assert FilterRows(never)(rows()).schema.equals(GIVEN)


def test_a_schema_may_be_given_as_it_is() -> None:
    assert schema_of(MADE) is MADE


@pytest.mark.parametrize(
    ("result", "error", "text"),
    [
        ({"n": 1}, KeyError, "'t'"),
        ({"n": 1, "t": "x", "z": 0}, ValueError, r"columns \['z'\], which were not declared"),
        ({"n": "x", "t": "x"}, pa.ArrowInvalid, "Could not convert"),
        ({"n": 1, "t": 2}, pa.ArrowTypeError, "Expected bytes"),
        (None, TypeError, "not subscriptable"),
    ],
)
def test_a_result_that_is_not_as_declared_raises(result, error, text: str) -> None:
    with pytest.raises(error, match=text):
        MapRows(lambda record: result, MADE)(rows(1, 2))


def test_a_filter_says_true_or_false() -> None:
    with pytest.raises(pa.ArrowInvalid):
        FilterRows(lambda record: "yes")(rows(1))


def invert(record: dict) -> dict:
    return {"n": 60 // record["a"], "t": record["s"]}


def test_sifting_loses_the_records_that_raise_and_no_others() -> None:
    made, refused = MapRows(invert, MADE).sifted(rows(1, 0, 3, None, 5))
    assert made.column("n").to_pylist() == [60, 20, 12]
    assert [(row, type(error)) for row, error in refused] == [
        (1, ZeroDivisionError),
        (3, TypeError),
    ]


@given(st.lists(st.integers(-3, 3)))
def test_sifting_gives_what_mapping_the_good_records_gives(values: list[int]) -> None:
    made, refused = FlatMapRows(lambda r: [invert(r)] * 2, MADE).sifted(rows(*values))
    good = [value for value in values if value]
    assert made.to_pylist() == [invert(r) for r in rows(*good).to_pylist() for _ in range(2)]
    assert [row for row, _ in refused] == [i for i, value in enumerate(values) if not value]
