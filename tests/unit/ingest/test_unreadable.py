"""The end of a batch is found by trying offsets, whatever its size, and in few tries (UB1, UB2)."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from service.ingest.unreadable import end_of_batch

OFFSETS = st.integers(0, 1 << 40)


@given(first=OFFSETS, size=st.integers(1, 1 << 31), behind=st.integers(0, 1 << 31))
def test_the_end_is_found_in_few_tries(first, size, behind):
    tried = []

    def is_within(offset):
        tried.append(offset)
        return offset < first + size

    end = first + size + behind
    assert end_of_batch(first, end, is_within) == first + size
    assert all(first < offset < end for offset in tried)
    assert len(tried) <= 1 + 2 * math.log2(size + 1)


def test_a_batch_of_one_record_takes_one_try():
    tried = []
    assert end_of_batch(7, 100, lambda offset: tried.append(offset) or False) == 8
    assert tried == [8]


def test_the_last_batch_of_a_partition_takes_none_behind_its_end():
    assert end_of_batch(7, 8, lambda _: 1 / 0) == 8
