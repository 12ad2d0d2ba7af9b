"""Exchange, for few workers and for many: both ways of grouping rows, against the definition."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.dataflow.grouping import _FEW
from service.dataflow.spreading import ExchangeOperator
from service.hashing import mix64


def worker_of(value: int, workers: int) -> int:
    return (int(mix64(np.uint64(value & ((1 << 64) - 1)))) >> 32) * workers >> 32


def batch(rows: int, *, nulls: bool) -> pa.RecordBatch:
    random = np.random.default_rng(rows)
    columns = {
        "key": pa.array(random.integers(-(1 << 62), 1 << 62, rows + 3)),
        "number": pa.array(random.random(rows + 3)),
        "at": pa.array(np.arange(rows + 3), pa.timestamp("us")),
    }
    if nulls:
        columns["text"] = pa.array([None if n % 3 else str(n) for n in range(rows + 3)])
    # A slice: what was cut off in front must not be read.
    return pa.record_batch(columns).slice(3)


@pytest.mark.parametrize("workers", [2, 3, _FEW, _FEW + 1, 64])
@pytest.mark.parametrize("rows", [0, 1, 5, 1000])
@pytest.mark.parametrize("nulls", [False, True])
def test_each_worker_gets_its_rows_in_their_order(workers: int, rows: int, nulls: bool) -> None:
    given = batch(rows, nulls=nulls)
    found = {worker: part for part, worker in ExchangeOperator("key", workers)._parts(given)}
    expected: dict[int, list[dict[str, object]]] = {}
    for row in given.to_pylist():
        expected.setdefault(worker_of(row["key"], workers), []).append(row)
    assert {worker: part.to_pylist() for worker, part in found.items()} == expected
    assert all(part.schema.equals(given.schema) for part in found.values())


def test_a_batch_for_the_last_worker_alone_is_passed_on_as_it_is() -> None:
    key = next(n for n in range(1000) if worker_of(n, 4) == 3)
    given = pa.record_batch({"key": [key] * 3, "n": [1, 2, 3]})
    ((part, worker),) = ExchangeOperator("key", 4)._parts(given)
    assert worker == 3
    assert part.equals(given)
