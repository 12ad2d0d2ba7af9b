"""A sink on its own: order, receipts, and what happens while the producer is full.

Cannot catch: a producer that acknowledges what is not stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pyarrow as pa
import pytest

from service.egress.sink import SinkOperator
from tests.fakes.ports import Ports


class Producer:
    """Keeps what it is given; takes no more than `room` batches."""

    def __init__(self) -> None:
        self.room = 2
        self.waiting: deque[tuple[pa.RecordBatch, Callable[[], None]]] = deque()

    def has_room(self) -> bool:
        return len(self.waiting) < self.room

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        self.waiting.append((rows, acknowledged))

    def values(self) -> list[int]:
        return [value for rows, _ in self.waiting for value in rows.column("a").to_pylist()]


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], names=["a"])


class Bench:
    def __init__(self, producer: Producer) -> None:
        self.sink = SinkOperator(producer)
        self.ports = Ports(self.sink, inputs=1, outputs=1, paths=[(0, 0)])


@pytest.fixture
def producer() -> Producer:
    return Producer()


@pytest.fixture
def bench(producer: Producer) -> Bench:
    return Bench(producer)


def test_batches_are_submitted_in_the_order_they_came(bench: Bench, producer: Producer) -> None:
    bench.ports.put(0, 20, rows(1, 2))
    bench.ports.put(0, 15, rows(3))
    bench.ports.step()
    assert producer.values() == [1, 2, 3]
    assert bench.sink.rows_submitted == 3
    assert bench.sink.unacknowledged == 2


def test_a_time_stays_open_until_its_batch_is_stored(bench: Bench, producer: Producer) -> None:
    bench.ports.put(0, 20, rows(1))
    bench.ports.put(0, 15, rows(2))
    bench.ports.step()
    assert bench.ports.rights(0) == [(15,), (20,)]
    producer.waiting.pop()[1]()
    assert bench.ports.rights(0) == [(20,)]
    producer.waiting.pop()[1]()
    assert bench.ports.rights(0) == []
    assert bench.sink.unacknowledged == 0
    assert bench.ports.sent == []


def test_a_receipt_asks_for_a_step(bench: Bench, producer: Producer) -> None:
    bench.ports.put(0, 20, rows(1))
    bench.ports.step()
    before = bench.ports.activations
    producer.waiting.pop()[1]()
    assert bench.ports.activations == before + 1


def test_without_room_messages_stay_queued_and_keep_their_credit(
    bench: Bench, producer: Producer
) -> None:
    for value in range(4):
        bench.ports.put(0, 20, rows(value), sender=1)
    bench.ports.step()
    assert producer.values() == [0, 1]
    assert len(bench.ports.credited) == 2
    producer.waiting.popleft()[1]()
    bench.ports.step()
    assert producer.values() == [1, 2]


def test_room_that_another_sink_gave_back_is_found_by_retrying(
    bench: Bench, producer: Producer
) -> None:
    """The producer is shared: no receipt of this sink will ever come."""
    producer.room = 0
    bench.ports.put(0, 20, rows(1))
    bench.ports.step()
    bench.sink.retry()
    assert bench.ports.activations == 0
    producer.room = 1
    bench.sink.retry()
    assert bench.ports.activations == 1
    bench.ports.step()
    assert producer.values() == [1]
    bench.sink.retry()
    assert bench.ports.activations == 1


def test_the_frontier_is_that_of_the_output(bench: Bench) -> None:
    bench.ports.reach({0: 30, 1: 20})
    assert bench.sink.frontier().epoch() == 20
