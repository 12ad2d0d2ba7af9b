"""Columns of every type that typed rows take, as Hypothesis draws them."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
from hypothesis import strategies as st

#: Type -> its values; those that are floats are drawn as such.
VALUES: dict[pa.DataType, st.SearchStrategy[object]] = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.uint8(): st.integers(0, 2**8 - 1),
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.uint16(): st.integers(0, 2**16 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.integers(-(2**40), 2**50),
    pa.duration("ms"): st.integers(-(2**40), 2**40),
    pa.time64("us"): st.times(),
    pa.decimal128(20, 3): st.integers(-(10**19), 10**19).map(lambda n: Decimal(n).scaleb(-3)),
    pa.decimal256(40, 0): st.integers(-(10**39), 10**39).map(Decimal),
    pa.binary(5): st.binary(min_size=5, max_size=5),
    pa.string(): st.text(max_size=20),
    pa.binary(): st.binary(max_size=20),
    pa.large_string(): st.text(max_size=20),
    pa.large_binary(): st.binary(max_size=20),
}
LISTED = (pa.bool_(), pa.int16(), pa.float64(), pa.decimal128(20, 3), pa.binary(5))
for _kind in LISTED:
    VALUES[pa.list_(_kind, 3)] = st.lists(st.none() | VALUES[_kind], min_size=3, max_size=3)


@st.composite
def schemas(draw: st.DrawFn) -> pa.Schema:
    """Up to six columns of these types."""
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), max_size=6))
    return pa.schema([(f"c{number}", kind) for number, kind in enumerate(kinds)])


def arrays_of(schema: pa.Schema, rows: int) -> st.SearchStrategy[list[pa.Array]]:
    """Columns of a schema with `rows` values, nulls among them, perhaps part of a longer array."""
    return st.tuples(*(_array_of(field.type, rows) for field in schema)).map(list)


@st.composite
def _array_of(draw: st.DrawFn, kind: pa.DataType, rows: int) -> pa.Array:
    before = draw(st.integers(0, 9))
    some = draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=5))
    values = [some[number % len(some)] for number in range(before + rows + 1)]
    return pa.array(values, kind).slice(before, rows)
