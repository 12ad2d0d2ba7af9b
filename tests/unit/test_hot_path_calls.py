"""Nothing per row in Python: as many calls for a hundred thousand rows as for a thousand.

From decoded rows offered to a gateway's source, through F, the exchange and S, to the producer's
submit, and back by receipt and progress. Calls of Python functions are counted, not time, so the
test holds on any machine.

Cannot catch: Kafka's client and the Avro kernels on both ends (tests/unit/ingest/test_calls.py),
work inside one call that grows faster than its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.worker import WorkerLimits
from service.ids import Membership
from service.ingest.source import ReadRows
from service.member import Member
from tests.counted_calls import calls_of
from tests.fakes.control import FIRST, generation, promise
from tests.simulation.flows import COLUMNS, one_stage

#: Far beyond what the test sends, so that no count depends on a window.
WIDE = WorkerLimits(data_window=1 << 30, state_window=1 << 30, local_queue=1 << 30)
BINS = 256
#: Python calls of a step with nothing to do, the counting itself among them.
IDLE_CALLS_MAX = 25


class Producer:
    """Takes everything and keeps the receipts."""

    def __init__(self) -> None:
        self.rows = 0
        self.receipts: list[Callable[[], None]] = []

    def has_room(self) -> bool:
        return True

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        self.rows += rows.num_rows
        self.receipts.append(acknowledged)


class Job:
    """One gateway and the workers that own `BINS` bins in turn."""

    def __init__(self, workers: int) -> None:
        owners = [bin_ % workers for bin_ in range(BINS)]
        began = generation(owners, workers=workers, horizon=10**9)
        network = MemoryNetwork(workers + 1)
        slots = Membership(workers, 1)
        self.producer = Producer()
        self.members = [
            Member(
                one_stage().build(),
                began,
                slots.slot(peer),
                network.transport(peer),
                lambda *_: self.producer,
                lambda _: COLUMNS,
                limits=WIDE,
            )
            for peer in range(workers + 1)
        ]
        for member in self.members:
            member.apply_log(promise(10**9), 0)
        self._clock = FIRST
        self.step()

    def step(self) -> None:
        for _ in range(6):
            for member in self.members:
                member.step()

    def pass_rows(self, rows: pa.RecordBatch) -> None:
        """One poll's worth of rows, all the way and back."""
        gateway = self.members[-1]
        gateway.sources["bids"].offer(ReadRows(rows, {("events", 0): rows.num_rows}))
        self._clock += 10
        assert gateway.tick(self._clock)
        self.step()
        while self.producer.receipts:
            self.producer.receipts.pop()()
        self.step()


def rows_of(count: int) -> pa.RecordBatch:
    """Rows of 500 keys, which every worker has some of."""
    keys = np.arange(count, dtype=np.int64) % 500
    return pa.RecordBatch.from_arrays([pa.array(keys)] * 3, schema=COLUMNS)


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_python_calls_for_a_hundred_thousand_rows_as_for_a_thousand(workers: int) -> None:
    few, many = rows_of(1_000), rows_of(100_000)
    job = Job(workers)
    job.pass_rows(many)  # compiles kernels, makes rooms, inserts all keys
    job.producer.rows = 0
    with_few = calls_of(lambda: job.pass_rows(few))
    with_many = calls_of(lambda: job.pass_rows(many))
    assert job.producer.rows == 2 * 500
    assert with_many - with_few == Counter()
    assert with_few - with_many == Counter()
    assert sum(with_few.values()) > 100


def test_an_idle_step_is_a_handful_of_calls() -> None:
    """It runs some thousand times a second in every process that waits."""
    job = Job(3)
    job.pass_rows(rows_of(1_000))
    for member in job.members:
        assert sum(calls_of(member.step).values()) <= IDLE_CALLS_MAX
