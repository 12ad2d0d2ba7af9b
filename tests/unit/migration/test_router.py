"""F on its own: who gets which row, and what waits for the horizon.

Cannot catch: a wrong owner table, which is tested where it is made.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.dataflow.operator import payload_size
from service.errors import GraphError
from service.hashing import bins_of
from service.migration.router import Router
from tests.fakes.control import ControlHand, generation, move, promise, stop
from tests.fakes.ports import Ports, Sent

BINS = 4
KEYS = list(range(40))
DATA, COMMANDS = 0, 1


def rows(keys: list[int | None], first: int = 0) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "other": ["x"] * len(keys),
            "key": pa.array(keys, pa.int64()),
            "place": pa.array(range(first, first + len(keys)), pa.int64()),
        }
    )


class Bench:
    """A router of one process among three: two workers and this gateway."""

    def __init__(self, owners: list[int]) -> None:
        self.hand = ControlHand(generation(owners))
        router = Router("stats", "key", ["key", "place"], BINS.bit_length() - 1, self.hand.source)
        self.router = router
        self.ports = Ports(
            router, inputs=2, outputs=1, paths=[(0, 0), (1, 0)], routed=[0], peers=3, peer=2
        )


@pytest.fixture
def bench() -> Bench:
    return Bench([0, 1, 0, 1])


def keys_by_peer(sent: list[Sent]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for message in sent:
        assert message.peer is not None
        assert isinstance(message.payload, pa.RecordBatch)
        found.setdefault(message.peer, []).extend(message.payload.column("key").to_pylist())
    return found


def expected(owners: list[int], keys: list[int] = KEYS) -> dict[int, list[int]]:
    """Keys in order, for each owner of some."""
    found: dict[int, list[int]] = {}
    for key, bin_ in zip(keys, bins_of(np.array(keys), 2).tolist(), strict=True):
        found.setdefault(owners[bin_], []).append(key)
    return found


def test_every_row_goes_to_its_owner_in_order(bench: Bench) -> None:
    bench.ports.put(DATA, 20, rows(KEYS))
    sent = bench.ports.step()
    assert keys_by_peer(sent) == expected([0, 1, 0, 1])
    assert {message.time for message in sent} == {(20,)}
    assert bench.ports.rights(0) == []


def test_only_the_columns_that_s_needs_travel(bench: Bench) -> None:
    bench.ports.put(DATA, 20, rows(KEYS))
    for message in bench.ports.step():
        assert isinstance(message.payload, pa.RecordBatch)
        assert message.payload.schema.names == ["key", "place"]


def test_rows_of_one_owner_are_passed_on_without_a_copy() -> None:
    bench = Bench([1, 1, 1, 1])
    batch = rows(KEYS)
    bench.ports.put(DATA, 20, batch)
    (sent,) = bench.ports.step()
    assert isinstance(sent.payload, pa.RecordBatch)
    assert (
        sent.payload.column("key").buffers()[1].address == batch.column("key").buffers()[1].address
    )


def test_a_batch_is_routed_by_the_owners_at_its_own_time(bench: Bench) -> None:
    bench.hand.read(move(120, (0, 1), (2, 1)), promise(200))
    bench.ports.put(DATA, 121, rows(KEYS))
    bench.ports.put(DATA, 119, rows(KEYS))
    bench.ports.put(DATA, 120, rows(KEYS))
    sent = bench.ports.step()
    by_time = {
        epoch: keys_by_peer([message for message in sent if message.time == (epoch,)])
        for epoch in (119, 120, 121)
    }
    assert by_time[119] == expected([0, 1, 0, 1])
    assert by_time[120] == by_time[121] == expected([1, 1, 1, 1])


def test_an_empty_batch_is_not_sent(bench: Bench) -> None:
    bench.ports.put(DATA, 20, rows([]))
    assert bench.ports.step() == []
    assert dict(bench.ports.ledger.items()) == {}


def test_rows_at_the_horizon_wait_for_a_promise_under_a_right_and_without_credit(
    bench: Bench,
) -> None:
    batch = rows(KEYS)
    bench.ports.put(DATA, 100, batch, sender=1)
    assert bench.ports.step() == []
    assert bench.ports.credited == [(1, 64)]
    assert bench.ports.rights(0) == [(100,)]
    assert bench.router.held_bytes == payload_size(batch)
    bench.hand.read(promise(100))
    assert bench.ports.activations == 0
    bench.hand.read(promise(101))
    assert bench.ports.activations == 1
    assert keys_by_peer(bench.ports.step()) == expected([0, 1, 0, 1])
    assert bench.ports.rights(0) == []
    assert bench.router.held_bytes == 0


def test_rows_that_waited_obey_the_command_that_came_meanwhile(bench: Bench) -> None:
    bench.ports.put(DATA, 125, rows(KEYS))
    assert bench.ports.step() == []
    bench.hand.read(move(120, (0, 1), (2, 1)), promise(130))
    assert keys_by_peer(bench.ports.step()) == expected([1, 1, 1, 1])


def test_a_batch_that_still_waits_keeps_no_other_waiting(bench: Bench) -> None:
    bench.ports.put(DATA, 150, rows([1]))
    bench.ports.put(DATA, 105, rows([2]))
    bench.ports.put(DATA, 104, rows([3]))
    assert bench.ports.step() == []
    bench.hand.read(promise(110))
    bench.ports.put(DATA, 106, rows([4]))
    sent = bench.ports.step()
    assert [message.time[0] for message in sent] == [105, 104, 106]
    assert bench.ports.rights(0) == [(150,)]
    bench.hand.read(stop(200))
    assert bench.ports.activations == 2
    assert [message.time[0] for message in bench.ports.step()] == [150]


def test_without_room_nothing_moves_and_the_order_stays(bench: Bench) -> None:
    bench.ports.put(DATA, 105, rows([1]))
    bench.ports.put(DATA, 150, rows([2]))
    bench.ports.put(DATA, 106, rows([3]))
    bench.ports.step()
    bench.hand.read(promise(110))
    bench.ports.put(DATA, 90, rows([4]))
    bench.ports.full.add(0)
    assert bench.ports.step() == []
    assert len(bench.ports.inputs[DATA].queue) == 1
    bench.ports.full.clear()
    assert [message.time[0] for message in bench.ports.step()] == [105, 106, 90]


def test_a_command_is_taken_so_that_the_frontier_can_pass(bench: Bench) -> None:
    bench.ports.put(COMMANDS, 120, move(120, (0, 1)))
    assert bench.ports.step() == []
    assert dict(bench.ports.ledger.items()) == {}


@pytest.mark.parametrize("column", ["key", "place"])
def test_a_null_is_refused_by_vertex_and_column(bench: Bench, column: str) -> None:
    batch = rows([1, 2, 3])
    index = batch.schema.get_field_index(column)
    batch = batch.set_column(index, column, pa.array([1, None, 3], pa.int64()))
    bench.ports.put(DATA, 20, batch)
    with pytest.raises(GraphError, match=f"'stats' was given 1 nulls in column '{column}'"):
        bench.ports.step()


def test_a_null_in_a_column_that_does_not_travel_is_no_business_of_f(bench: Bench) -> None:
    batch = rows([1, 2, 3]).set_column(0, "other", pa.array(["x", None, "y"]))
    bench.ports.put(DATA, 20, batch)
    assert sum(len(keys) for keys in keys_by_peer(bench.ports.step()).values()) == 3
