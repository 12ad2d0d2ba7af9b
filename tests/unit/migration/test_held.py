"""Rows that wait: none is lost, none is doubled, and they leave in the order they came."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.operator import Capability, Ledger
from service.migration.held import WaitingRows

BINS = 4

#: Per batch the bins of its rows; per release the bins that stop waiting.
BATCHES = st.lists(st.lists(st.integers(0, BINS - 1), min_size=1, max_size=8), max_size=8)
RELEASES = st.permutations(range(BINS))


def waiting() -> WaitingRows:
    return WaitingRows(100, Capability(0, (100,), Ledger()), (100,))


def batch(places: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(places, pa.int64())], names=["place"])


@given(BATCHES, RELEASES, st.integers(1, 10))
def test_rows_of_released_bins_leave_in_order_and_the_rest_stays(
    batches: list[list[int]], releases: list[int], most: int
) -> None:
    store = waiting()
    bin_of: list[int] = []
    for number, bins in enumerate(batches):
        places = list(range(len(bin_of), len(bin_of) + len(bins)))
        bin_of += bins
        store.add(batch(places), np.array(bins, dtype=np.int32), (101 + number,))
    waits = np.ones(BINS, dtype=np.bool_)
    left: list[int] = []
    for released in releases:
        waits[released] = False
        while (rows := store.take(waits, most)) is not None:
            assert rows.num_rows > 0
            left += rows.column("place").to_pylist()
        gone = set(releases[: releases.index(released) + 1])
        assert sorted(left) == [place for place, bin_ in enumerate(bin_of) if bin_ in gone]
    assert store.parts == []
    assert store.size == 0
    for bin_ in range(BINS):
        places = [place for place in left if bin_of[place] == bin_]
        assert places == sorted(places)


@given(BATCHES.filter(bool), st.integers(1, 10))
def test_no_batch_is_begun_once_enough_rows_were_taken(batches: list[list[int]], most: int) -> None:
    store = waiting()
    for bins in batches:
        store.add(batch(list(range(len(bins)))), np.array(bins, dtype=np.int32), (101,))
    largest = max(map(len, batches))
    rows = store.take(np.zeros(BINS, dtype=np.bool_), most)
    assert rows is not None
    assert rows.num_rows < most + largest


def test_the_latest_time_of_any_row_is_remembered() -> None:
    store = waiting()
    for epoch in (105, 120, 110):
        store.add(batch([0]), np.zeros(1, dtype=np.int32), (epoch,))
    assert store.latest == (120,)


def test_a_row_before_its_right_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="HR1"):
        waiting().add(batch([0]), np.zeros(1, dtype=np.int32), (99,))
