"""What one process has written and nobody has stored yet.

Flow: SinkOperator -> [SinkEnd] -> [Outbox] -> store -> receipt.

Invariants
  OB1  Rows are stored in the order submitted; a receipt follows its rows, never within `submit`.
  OB2  What is here when its process is lost was never seen by anybody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from service.dataflow.vertices import SinkVertex

#: Batches that wait at once in one process.
_ROOM = 64


class Outbox:
    """The outgoing rows of one process, of all its sinks."""

    def __init__(self, store: Callable[[SinkVertex, pa.RecordBatch], None]) -> None:
        """Give rows to `store` when they are acknowledged."""
        self._store = store
        self._waiting: deque[tuple[SinkVertex, pa.RecordBatch, Callable[[], None]]] = deque()

    def __len__(self) -> int:
        """Batches that wait."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether another batch fits."""
        return len(self._waiting) < _ROOM

    def submit(
        self, vertex: SinkVertex, rows: pa.RecordBatch, acknowledged: Callable[[], None]
    ) -> None:
        """Keep a batch."""
        self._waiting.append((vertex, rows, acknowledged))

    def acknowledge(self, most: int) -> int:
        """Store the oldest batches, at most so many; returns how many (OB1)."""
        count = min(most, len(self._waiting))
        for _ in range(count):
            vertex, rows, acknowledged = self._waiting.popleft()
            self._store(vertex, rows)
            acknowledged()
        return count


@dataclass(frozen=True, slots=True)
class SinkEnd:
    """The producer of one sink; all sinks of a process share its outbox."""

    outbox: Outbox
    vertex: SinkVertex

    def has_room(self) -> bool:
        """Whether another batch may be submitted."""
        return self.outbox.has_room

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        """Keep a batch until it is stored."""
        self.outbox.submit(self.vertex, rows, acknowledged)
