"""Exchange and broadcast: every row where it belongs, in order, and what is sent fits the room."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.spreading import BroadcastOperator, ExchangeOperator
from tests.fakes.ports import Ports

SCHEMA = pa.schema([("k", pa.int64()), ("n", pa.int64())])


def rows(keys: list[int | None], kind: pa.DataType | None = None) -> pa.RecordBatch:
    column = pa.array(keys, kind or pa.int64())
    return pa.RecordBatch.from_arrays([column, pa.array(range(len(keys)))], ["k", "n"])


def spread(batch: pa.RecordBatch, workers: int) -> dict[int, list[tuple[int, int]]]:
    """(k, n) of the rows that each worker gets."""
    logic = ExchangeOperator("k", workers)
    ports = Ports(logic, inputs=1, outputs=1, paths=[(0, 0)], routed=[0], peers=workers + 1)
    ports.put(0, 20, batch)
    sent = ports.step()
    assert all(each.time == (20,) for each in sent)
    assert len({each.peer for each in sent}) == len(sent)
    return {each.peer: [tuple(row.values()) for row in each.payload.to_pylist()] for each in sent}


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(1, 9))
def test_every_row_goes_to_one_worker_that_its_value_names_in_order(
    keys: list[int], workers: int
) -> None:
    got = spread(rows(keys), workers)
    assert sorted(n for found in got.values() for _, n in found) == list(range(len(keys)))
    for worker, found in got.items():
        assert 0 <= worker < workers
        assert [n for _, n in found] == sorted(n for _, n in found)
        assert all(keys[n] == k for k, n in found)
    homes: dict[int, set[int]] = {}
    for worker, found in got.items():
        for k, _ in found:
            homes.setdefault(k, set()).add(worker)
    assert all(len(workers) == 1 for workers in homes.values())
    # SP1: the value alone decides.
    alone = {k: next(iter(spread(rows([k]), workers))) for k in homes}
    assert {k: {worker} for k, worker in alone.items()} == homes


def test_many_values_are_spread_evenly() -> None:
    got = spread(rows(list(range(30_000))), 3)
    assert all(9_500 < len(found) < 10_500 for found in got.values())


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()])
def test_all_integers_go_where_their_value_goes(kind: pa.DataType) -> None:
    keys = [0, 1, 5, 90, 127]
    assert spread(rows(keys, kind), 4) == spread(rows(keys), 4)


def test_a_null_goes_where_nought_goes() -> None:
    ((worker, found),) = spread(rows([None, 0, None]), 8).items()
    assert found == [(None, 0), (0, 1), (None, 2)]
    assert spread(rows([0]), 8) == {worker: [(0, 0)]}


def test_the_largest_unsigned_values_are_spread_as_well() -> None:
    got = spread(rows([2**64 - 1, 2**63], pa.uint64()), 2)
    assert sorted(n for found in got.values() for _, n in found) == [0, 1]


def test_a_broadcast_sends_every_row_to_every_worker_and_to_no_gateway() -> None:
    logic = BroadcastOperator(3)
    ports = Ports(logic, inputs=1, outputs=1, paths=[(0, 0)], routed=[0], peers=5, peer=4)
    ports.put(0, 20, rows([7, 8]))
    assert [(s.peer, s.time, s.payload.num_rows) for s in ports.step()] == [
        (worker, (20,), 2) for worker in range(3)
    ]


@pytest.mark.parametrize("logic", [ExchangeOperator("k", 2), BroadcastOperator(2)])
def test_without_room_nothing_is_taken(logic) -> None:
    ports = Ports(logic, inputs=1, outputs=1, paths=[(0, 0)], routed=[0], peers=2)
    ports.full.add(0)
    ports.put(0, 20, rows([1, 2]))
    assert ports.step() == []
    assert ports.inputs[0].bytes
    ports.full.clear()
    assert ports.step()
