"""Decimal text of products: exact for every long.

Claims: DT1.
"""

from __future__ import annotations

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from service.nexmark.decimals import thousandths_of

_LONGS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(_LONGS | st.none()), st.integers(1, 999), st.integers(0, 3))
@example([2**63 - 1, -(2**63), 0, None], 999, 1)
@example([1, -1, 999, 1000], 1, 0)
def test_it_is_what_decimals_say_also_of_a_slice(numbers, thousandths, cut):
    column = pa.array(numbers, pa.int64()).slice(cut)
    wanted = [None if each is None else _text(each * thousandths) for each in numbers[cut:]]
    assert thousandths_of(column, thousandths).to_pylist() == wanted


def _text(thousandths):
    digits = str(abs(thousandths)).rjust(4, "0")
    sign = "-" if thousandths < 0 else ""
    return f"{sign}{digits[:-3]}.{digits[-3:]}"
