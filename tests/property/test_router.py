"""F's kernel against a plain reading of the rule: the owner of the key's bin, order kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.hashing import bins_of
from service.migration.router import _route

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int, list[int], int]:
    bin_bits = draw(st.integers(0, 6))
    peers = draw(st.integers(1, 7))
    size = 1 << bin_bits
    owners = draw(st.lists(st.integers(0, peers - 1), min_size=size, max_size=size))
    return draw(st.lists(INT64, max_size=300)), bin_bits, owners, peers


@given(cases())
def test_every_row_goes_to_the_owner_of_its_bin_and_order_is_kept(
    case: tuple[list[int], int, list[int], int],
) -> None:
    keys, bin_bits, owners, peers = case
    counts = np.zeros(peers, dtype=np.int64)
    order = np.full(len(keys), -1, dtype=np.int64)
    table = np.array(owners, dtype=np.int32)
    array = np.array(keys, dtype=np.int64)
    _route(array, bin_bits, table, counts, order)
    expected = [owners[bin_] for bin_ in bins_of(array, bin_bits).tolist()]
    assert counts.tolist() == [expected.count(peer) for peer in range(peers)]
    by_owner = [[row for row, owner in enumerate(expected) if owner == p] for p in range(peers)]
    assert order.tolist() == [row for rows in by_owner for row in rows]
