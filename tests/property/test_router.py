"""F's kernels against a plain reading of the rule: the owner of the key's bin, order kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.grouping import _FEW, parts_of
from service.hashing import bins_of
from service.migration.router import _aim

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int, list[int], int]:
    bin_bits = draw(st.integers(0, 6))
    peers = draw(st.integers(1, _FEW + 2))
    size = 1 << bin_bits
    owners = draw(st.lists(st.integers(0, peers - 1), min_size=size, max_size=size))
    return draw(st.lists(INT64, max_size=300)), bin_bits, owners, peers


@pytest.mark.parametrize("plain", [True, False])
@given(case=cases())
def test_every_row_goes_to_the_owner_of_its_bin_and_order_is_kept(
    case: tuple[list[int], int, list[int], int], plain: bool
) -> None:
    keys, bin_bits, owners, peers = case
    array = np.array(keys, dtype=np.int64)
    target = np.empty(len(keys), dtype=np.uint32)
    _aim(array, bin_bits, np.array(owners, dtype=np.int32), target)
    numbers = list(range(len(keys)))
    row = pa.array(numbers, pa.int64()) if plain else pa.array(map(str, numbers), pa.string())
    parts = parts_of(pa.record_batch({"key": array, "row": row}), target, peers)
    found = {worker: [int(n) for n in part["row"].to_pylist()] for part, worker in parts}
    expected: dict[int, list[int]] = {}
    for number, bin_ in enumerate(bins_of(array, bin_bits).tolist()):
        expected.setdefault(owners[bin_], []).append(number)
    assert found == expected
