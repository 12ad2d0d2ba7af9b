"""Arrow expressions by kernels: the same values as by Arrow's engine, or not by kernels at all."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.arrow_kernels import kernels_of
from service.dataflow.expressions import Projection

SCHEMA = pa.schema(
    [("a", pa.int64()), ("small", pa.int8()), ("f", pa.float64()), ("s", pa.string())]
)
NUMBERS = st.one_of(st.none(), st.integers(-9, 9))
#: Exact however they are added and multiplied: the engine may do so in another order.
QUARTERS = st.integers(-36, 36).map(lambda number: number / 4)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "a": NUMBERS,
            "small": NUMBERS,
            "f": st.one_of(st.none(), QUARTERS),
            "s": st.one_of(st.none(), st.text(max_size=3)),
        }
    ),
    max_size=5,
)


def numbers(depth: int) -> st.SearchStrategy[pc.Expression]:
    leaves = st.one_of(
        st.sampled_from(["a", "small", "f"]).map(pc.field),
        st.integers(-5, 5).map(pc.scalar),
        QUARTERS.map(pc.scalar),
    )
    if depth == 0:
        return leaves
    inner = numbers(depth - 1)
    return st.one_of(
        leaves,
        st.builds(pc.add, inner, inner),
        st.builds(pc.multiply_checked, inner, inner),
        st.builds(pc.negate, inner),
        st.builds(lambda x: x.cast(pa.float64()), inner),
        st.builds(lambda x, safe: x.cast(pa.int64(), safe=safe), inner, st.booleans()),
    )


def conditions(depth: int) -> st.SearchStrategy[pc.Expression]:
    texts = st.one_of(st.just(pc.field("s")), st.text(max_size=3).map(pc.scalar))
    compare = st.sampled_from([pc.equal, pc.not_equal, pc.less, pc.less_equal, pc.greater])
    leaves = st.one_of(
        st.builds(lambda f, x, y: f(x, y), compare, numbers(1), numbers(1)),
        st.builds(lambda f, x, y: f(x, y), compare, texts, texts),
        st.booleans().map(pc.scalar),
    )
    if depth == 0:
        return leaves
    inner = conditions(depth - 1)
    return st.one_of(
        leaves,
        st.builds(lambda x, y: x & y, inner, inner),
        st.builds(lambda x, y: x | y, inner, inner),
        st.builds(lambda x: ~x, inner),
    )


def by_engine(expression: pc.Expression, rows: pa.RecordBatch) -> pa.Array:
    source = acero.TableSourceNodeOptions(pa.Table.from_batches([rows]))
    plan = acero.Declaration(
        "project",
        acero.ProjectNodeOptions([expression], ["x"]),
        [acero.Declaration("table_source", source)],
    )
    return plan.to_table(use_threads=False).column("x").combine_chunks()


@given(st.one_of(numbers(2), conditions(2)), RECORDS)
def test_values_and_types_are_those_of_the_engine(expression, records) -> None:
    rows = pa.RecordBatch.from_pylist(records, schema=SCHEMA)
    try:
        expected = by_engine(expression, rows)
    except pa.ArrowException as error:
        with pytest.raises(type(error)):
            Projection.of("p", [], {"x": expression}).select()(rows)
        return
    found = Projection.of("p", [], {"x": expression}).select()(rows).column("x")
    assert found.type == expected.type
    assert found.equals(expected)


@pytest.mark.parametrize(
    "expression",
    [
        pc.field("a") > 5,
        (pc.field("a") * 2 + 1 != pc.field("small")) & ~(pc.field("s") == 'q"\\,(x) '),
        pc.utf8_upper(pc.field("s")),
        pc.coalesce(pc.field("a"), pc.field("small"), pc.scalar(7)),
        pc.field("f") >= -0.5,
        pc.field("f") < 1e6,
        (pc.field("f") < 1e6) & (pc.field("a") > 5),
        pc.field("a").cast(pa.int32()),
        pc.multiply(pc.field("a").cast(pa.float64(), safe=False), 0.5),
        pc.field("a"),
    ],
)
def test_the_usual_ones_are_computed_by_kernels(expression) -> None:
    assert kernels_of(expression) is not None


@pytest.mark.parametrize(
    "expression",
    [
        pc.field("a").cast(pa.decimal128(12, 2)),
        pc.field("f").cast(options=pc.CastOptions(pa.int64(), allow_float_truncate=True)),
        pc.field("a").isin([1, 2]),
        pc.field("a").is_null(),
        pc.field("x", "y"),
        pc.field("add"),
        pc.field("with blanks") > 1,
        pc.field("(") > 1,
        pc.field("5") > 1,
        pc.field("true"),
        pc.field("{") > 1,
        pc.scalar(pa.scalar(5, pa.int8())) < pc.field("a"),
        pc.field("a") > pc.scalar(None),
        pc.field("a") + pc.scalar(pa.scalar(1, pa.duration("s"))),
    ],
)
def test_what_cannot_be_read_for_sure_is_left_to_the_engine(expression) -> None:
    assert kernels_of(expression) is None


def test_a_literal_takes_the_type_of_a_narrower_column_as_in_the_engine() -> None:
    rows = pa.RecordBatch.from_pylist([{"small": 1}, {"small": None}], schema=SCHEMA)
    made = Projection.of("p", [], {"x": pc.field("small") + 1}).select()(rows)
    assert made.schema.field("x").type == pa.int8()
    assert made.to_pydict() == {"x": [2, None]}
