"""Aggregates over columns of any numeric type: the right values, in the right types."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import FormatMismatch, UsageError
from service.statestore.aggregate import AggregateProgram, Count, Max, Min, Oldest, Sum
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.number_types import number_type
from service.statestore.vertex_store import VertexStore
from tests.fakes.typed_rows import VALUES

NUMBERS = [kind for kind in VALUES if number_type(kind) is not None]
SUMMED = [kind for kind in NUMBERS if number_type(kind).summed is not None]


def store_of(kind, **outputs):
    return VertexStore("v", AggregateProgram("k", outputs, {"c": kind}), 2)


def batch_of(keys, values, kind):
    return pa.RecordBatch.from_arrays(
        [pa.array(keys, pa.int64()), pa.array(values, kind)], names=["k", "c"]
    )


@given(st.data(), st.sampled_from(NUMBERS))
def test_greatest_and_least_have_their_columns_type(data, kind):
    rows = data.draw(st.lists(st.tuples(st.integers(0, 2), VALUES[kind]), min_size=1))
    store = store_of(kind, top=Max("c"), low=Min("c"), old=Oldest("c"), n=Count())
    found = store.apply_rows(batch_of(*zip(*rows, strict=True), kind), (1,))
    found.validate(full=True)
    assert found.schema.types == [pa.int64(), kind, kind, kind, pa.int64()]
    values = {}
    for key, value in zip(*batch_of(*zip(*rows, strict=True), kind).to_pydict().values()):
        values.setdefault(key, []).append(value)
    assert found.to_pylist() == [
        {"k": key, "top": max(of), "low": min(of), "old": min(of), "n": len(of)}
        for key, of in values.items()
    ]


@pytest.mark.parametrize(
    ("kind", "values", "total", "of"),
    [
        (pa.bool_(), [True, False, True], 2, pa.int64()),
        (pa.int8(), [127, 127, -1], 253, pa.int64()),
        (pa.uint32(), [2**32 - 1] * 3, 3 * 2**32 - 3, pa.int64()),
        (pa.float32(), [0.5, 0.25, 2.0**30], 2.0**30 + 0.75, pa.float64()),
        (pa.float16(), [1.0, 0.5, 0.5], 2.0, pa.float64()),
        (pa.duration("s"), [1, 2, 3], dt.timedelta(seconds=6), pa.duration("s")),
    ],
)
def test_a_sum_is_as_wide_as_it_can_be(kind, values, total, of):
    store = store_of(kind, total=Sum("c"))
    store.apply_rows(batch_of([1], values[:1], kind), (1,))
    found = store.apply_rows(batch_of([1] * 2, values[1:], kind), (2,))
    assert found.schema.field("total").type == of
    assert found["total"].to_pylist() == [total]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.uint64(), "the sum of column 'c', which is uint64; cast it to int64 or float64"),
        (pa.date32(), r"the sum of column 'c', which is date32.*; count it, or take its greatest"),
        (pa.string(), "column 'c', which is string; columns of numbers, booleans and times are"),
        (pa.decimal128(20, 3), r"which is decimal128\(20, 3\)"),
    ],
)
def test_what_cannot_be_summed_is_refused(kind, text):
    with pytest.raises(UsageError, match=text):
        store_of(kind, total=Sum("c"))


def test_state_of_a_column_whose_type_has_changed_is_refused(tmp_path: Path):
    before = store_of(pa.timestamp("s"), top=Max("c"))
    before.apply_rows(batch_of([1], [5], pa.timestamp("s")), (1,))
    files = write_checkpoint(tmp_path, 3, {"v": before}, range(4))
    read_checkpoint(tmp_path, files, {"v": store_of(pa.timestamp("s"), top=Max("c"))})
    with pytest.raises(FormatMismatch, match=r"top: timestamp\[s\]\) but .* timestamp\[us\]"):
        read_checkpoint(tmp_path, files, {"v": store_of(pa.timestamp("us"), top=Max("c"))})


def test_sums_of_types_that_are_kept_alike_are_the_same_state():
    assert len(SUMMED) < len(NUMBERS)
    kinds = {str(number_type(kind).summed) for kind in SUMMED}
    assert kinds == {"int64", "double", "duration[ms]"}
