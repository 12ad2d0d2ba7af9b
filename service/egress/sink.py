"""A sink: hands batches to a producer and keeps their time open until Kafka has acknowledged them.

Flow: S or operator -> [SinkOperator] -> Producer -> Kafka; delivery reports come back as receipts.

Its output carries nothing. A capability there, held from submission to acknowledgement, makes the
output's frontier say "everything below is in Kafka": the condition of a checkpoint reads it, and
the gate of a migration the capabilities of its own process.

Invariants
  K1  Rows of one key reach the producer in the order their batches arrived here.
  K2  The output frontier passes t only after every row <= t was acknowledged.
  K3  When the producer has no room, messages stay queued and keep their credit; as it may serve
      other sinks too, no receipt of ours says when it has room again: somebody calls `retry`.
Source: DESIGN §7 (gate), §8 (sinks).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import pyarrow as pa

from service.dataflow.operator import Capability, OperatorContext
from service.dataflow.progress.antichain import Antichain


class Producer(Protocol):
    """What a sink needs of a Kafka producer; the fake one lives in the tests."""

    def has_room(self) -> bool:
        """Whether another batch may be submitted now."""
        ...

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        """Send every row; call `acknowledged` once all of them are stored.

        Guarantees: rows of one key are stored in the order submitted; `acknowledged` is called from
        the owner's loop, never from within `submit`.
        """
        ...


class SinkOperator:
    """One sink vertex in one process."""

    def __init__(self, producer: Producer) -> None:
        """Write through `producer`."""
        self._producer = producer
        self.rows_submitted = 0
        self.unacknowledged = 0
        self._refused = False

    def open(self, context: OperatorContext) -> None:
        """Take the ports: rows in, an empty output whose frontier is Kafka's."""
        (self._input,) = context.inputs
        (self._output,) = context.outputs
        self._activate = context.activate
        self._frontier_of = context.frontier_of

    def frontier(self) -> Antichain:
        """Times not yet acknowledged by Kafka, over all processes."""
        return self._frontier_of(self._output.location)

    def step(self) -> None:
        """Submit what is queued while the producer has room (K3)."""
        while self._input.queue:
            if not self._producer.has_room():
                self._refused = True
                return
            message = self._input.pull()
            assert message is not None, "the queue was not empty"
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            right = self._output.retain(0, message)
            self.unacknowledged += 1
            self.rows_submitted += rows.num_rows
            self._producer.submit(rows, partial(self._acknowledged, right))

    def retry(self) -> None:
        """Ask for a step if the producer had no room and has it now (K3)."""
        if self._refused and self._producer.has_room():
            self._refused = False
            self._activate()

    def _acknowledged(self, right: Capability) -> None:
        self.unacknowledged -= 1
        right.drop()
        self._activate()
