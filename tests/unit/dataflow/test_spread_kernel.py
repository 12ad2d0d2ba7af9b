"""The kernel behind exchange: both of its ways of sorting, against the definition."""

from __future__ import annotations

import numpy as np
import pytest

from service.dataflow.spreading import _FEW, _spread
from service.hashing import mix64


def half(value: int) -> int:
    return int(mix64(np.uint64(value & ((1 << 64) - 1)))) >> 32


@pytest.mark.parametrize("workers", [1, 2, 3, _FEW, _FEW + 1, 64])
@pytest.mark.parametrize("rows", [0, 1, 5, 1000])
def test_rows_are_grouped_by_worker_in_their_order(workers: int, rows: int) -> None:
    values = np.random.default_rng(rows).integers(-(1 << 62), 1 << 62, rows)
    counts, order = np.zeros(workers, dtype=np.int64), np.empty(rows + 1, dtype=np.int64)
    _spread(values, counts, order)
    expected = [half(value) * workers >> 32 for value in values.tolist()]
    assert counts.tolist() == [expected.count(worker) for worker in range(workers)]
    assert order[:-1].tolist() == sorted(range(rows), key=lambda row: expected[row])


def test_a_batch_for_the_last_worker_alone_is_no_overrun() -> None:
    value = next(n for n in range(1000) if half(n) >> 30 == 3)
    counts, order = np.zeros(4, dtype=np.int64), np.full(4, -7, dtype=np.int64)
    _spread(np.full(3, value), counts, order)
    assert counts.tolist() == [0, 0, 0, 3]
    assert order[:-1].tolist() == [0, 1, 2]
