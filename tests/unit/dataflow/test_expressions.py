"""Expressions and masks: right on every batch, types kept, what is no column value refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from service.dataflow.expressions import Projection, mask_of, on_frames
from service.dataflow.masks import Keep, checked_mask
from service.errors import GraphError

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.float64()), ("s", pa.string())])
ROWS = pa.RecordBatch.from_pydict(
    {"a": [1, None, 3], "b": [0.5, 1.5, 2.5], "s": ["x", "y", None]}, schema=SCHEMA
)
EMPTY = ROWS.slice(0, 0)

CONDITIONS = [
    lambda rows: pc.greater(rows["a"], 1),
    pc.field("a") > 1,
    pl.col("a") > 1,
    lambda rows: np.array([False, False, True]),
    lambda rows: pl.Series([False, None, True]),
    lambda rows: pa.chunked_array([[False, None], [True]]),
]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_rows_are_kept_where_the_condition_is_true_and_not_where_it_is_null(condition) -> None:
    kept = Keep(mask_of("f", condition))(ROWS)
    assert kept.to_pylist() == [{"a": 3, "b": 2.5, "s": None}]
    assert kept.schema.equals(SCHEMA)


@pytest.mark.parametrize("condition", CONDITIONS[:3])
def test_a_condition_works_on_an_empty_batch(condition) -> None:
    assert Keep(mask_of("f", condition))(EMPTY).equals(EMPTY)


def test_a_batch_that_is_kept_whole_is_the_same_batch() -> None:
    assert Keep(lambda rows: pa.array([True] * 3))(ROWS) is ROWS
    assert Keep(lambda rows: pa.array([False, None, False]))(ROWS).num_rows == 0


def test_a_mask_made_of_an_empty_list_fits_an_empty_batch() -> None:
    assert checked_mask(pa.array([]), EMPTY).type == pa.bool_()


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (pa.array([True]), "the mask has 1 values for 3 rows"),
        (pa.array([1, 2, 3]), "must hold booleans, not int64"),
        ([True, False, True], "must be an array of booleans, not list"),
    ],
)
def test_what_is_no_mask_is_refused(mask, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        Keep(lambda rows: mask)(ROWS)


def test_a_condition_that_is_neither_function_nor_expression_is_refused() -> None:
    with pytest.raises(GraphError, match="'f' needs a function of batches or an Arrow or Polars"):
        mask_of("f", "a > 1")


def select(*columns, **named):
    return Projection.of("p", columns, named)


@pytest.mark.parametrize("rows", [ROWS, EMPTY, ROWS.slice(1, 1)])
def test_columns_arrow_and_polars_expressions_stand_in_the_order_given(rows) -> None:
    projection = select(
        "s",
        pl.col("a") * 2,
        ["b", pl.col("s").str.to_uppercase().alias("loud")],
        renamed="a",
        arrow=pc.field("a") + 1,
        polars=pl.col("b") + 1,
        const=pl.lit(7, dtype=pl.Int64),
        other=pc.scalar(8),
    )
    names = ("s", "a", "b", "loud", "renamed", "arrow", "polars", "const", "other")
    assert projection.names == names
    made = projection.select()(rows)
    assert tuple(made.schema.names) == names
    assert made.schema.types == [
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.string(),
        *[pa.int64()] * 2,
        pa.float64(),
        *[pa.int64()] * 2,
    ]
    for record, given in zip(made.to_pylist(), rows.to_pylist(), strict=True):
        a, s = given["a"], given["s"]
        assert record == {
            "s": s,
            "a": None if a is None else 2 * a,
            "b": given["b"],
            "loud": None if s is None else s.upper(),
            "renamed": a,
            "arrow": None if a is None else a + 1,
            "polars": given["b"] + 1,
            "const": 7,
            "other": 8,
        }


def test_only_constants_make_as_many_rows_as_there_are() -> None:
    made = select(x=pl.lit("v"), y=pl.lit(1)).select()
    assert made(ROWS).to_pylist() == [{"x": "v", "y": 1}] * 3
    assert made(EMPTY).num_rows == 0


def test_columns_swapped_by_name_are_swapped() -> None:
    made = select(a="b", b="a").select()(ROWS)
    assert made.column("a").equals(ROWS.column("b"))
    assert made.column("b").equals(ROWS.column("a"))


def test_columns_passed_on_are_not_copied() -> None:
    for made in (select("a").select(), select(z="a").select(), select(n=pl.lit(1)).add()):
        first = made(ROWS).column(0)
        assert first.buffers()[1].address == ROWS.column("a").buffers()[1].address


def test_polars_reads_the_memory_of_the_batch() -> None:
    seen = []

    def look(frame: pl.DataFrame) -> pl.DataFrame:
        seen.append(frame["b"].to_numpy(allow_copy=False))
        return frame

    on_frames(look)(ROWS)
    assert seen[0].ctypes.data == ROWS.column("b").buffers()[1].address


def test_with_columns_replaces_in_place_and_appends() -> None:
    made = select(pl.col("a") + 1, s=pc.field("b"), new="a").add()(ROWS)
    # Each expression sees the columns as they came.
    assert made.to_pydict() == {
        "a": [2, None, 4],
        "b": [0.5, 1.5, 2.5],
        "s": [0.5, 1.5, 2.5],
        "new": [1, None, 3],
    }


def test_an_expression_of_several_columns_leaves_the_names_unknown() -> None:
    projection = select(pl.all().name.suffix("_x"))
    assert projection.names is None
    assert projection.select()(ROWS).schema.names == ["a_x", "b_x", "s_x"]


@pytest.mark.parametrize("rows", [EMPTY])
@pytest.mark.parametrize("together", [[], [pl.col("b")]])
def test_what_is_computed_over_a_whole_batch_is_refused(rows, together) -> None:
    made = select(*together, n=pl.col("a").sum()).select()
    with pytest.raises(ValueError, match="gives one value for a whole batch"):
        made(rows)
    with pytest.raises(ValueError, match="gives one value for a whole batch"):
        Keep(mask_of("f", pl.col("a").any()))(rows)


@pytest.mark.parametrize(
    ("columns", "named", "text"),
    [
        ([], {}, "'p' names no columns"),
        (["a", "a"], {}, r"'p' makes a column twice: \['a', 'a'\]"),
        (["a"], {"a": pl.lit(1)}, "makes a column twice"),
        ([pc.field("a") + 1], {}, r"'p': give the Arrow expression .* a name"),
        ([7], {}, "'p': 7 is neither the name of a column nor an expression"),
    ],
)
def test_what_cannot_be_selected_is_refused(columns, named, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        Projection.of("p", columns, named)


def test_nested_text_has_the_types_arrow_gives_it() -> None:
    made = select(
        parts=pl.concat_list("s", "s"), both=pl.struct("a", t=pl.concat_list("s"))
    ).select()
    for rows in (ROWS, EMPTY):
        assert made(rows).schema.types == [
            pa.list_(pa.string()),
            pa.struct([("a", pa.int64()), ("t", pa.list_(pa.string()))]),
        ]
    assert made(ROWS).column("parts").to_pylist() == [["x", "x"], ["y", "y"], [None, None]]


def test_a_function_of_frames_is_a_function_of_batches() -> None:
    made = on_frames(lambda frame: frame.select(pl.col("s"), twice=pl.col("a") * 2))
    for rows in (ROWS, EMPTY):
        assert made(rows).schema.equals(pa.schema([("s", pa.string()), ("twice", pa.int64())]))
    assert made(ROWS).to_pydict() == {"s": ["x", "y", None], "twice": [2, None, 6]}
    with pytest.raises(TypeError, match=r"must return a polars\.DataFrame, not LazyFrame"):
        on_frames(lambda frame: frame.lazy())(ROWS)
