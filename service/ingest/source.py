"""A source: turns what a gateway read into batches, each at a tick.

Flow: consumer -> decoder -> [SourceOperator] -> stateless operators -> F.

A gateway closes its epochs in three steps, *seal* (nothing more is stamped with this epoch),
*durable* (whatever makes the epoch replayable is stored; nothing to do in an at-least-once job) and
*close* (the capability moves past it), so that a passed frontier will imply a replayable input.

Invariants
  Q1  Ticks strictly increase and stay below the horizon this process has read.
  Q2  Rows are stamped with a tick at or after the moment they were read, in the order read.
  Q3  Not reading never stops the ticks: a source that may not read still closes empty epochs.
  Q4  Positions at the stop cut c are exactly those behind the rows stamped below c: there are no
      ticks at or after c, and rows read but not stamped are not in the positions.
  Q5  Rows that wait for a tick are bounded: nothing more is read while they are many.
Source: DESIGN §4 (ticks), §8 (bindings).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from service.dataflow.operator import Capability, OperatorContext, payload_size
from service.ingest.watermarks import TopicPartition
from service.ingest.words import SourceWords
from service.migration.records import Stop

#: Bytes of rows that may wait for a tick before reading stops (Q5); ticks come every few ms, unless
#: the controller's promises stop.
_OFFERED_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Rows decoded from one poll, and where each partition stands after them."""

    rows: pa.RecordBatch
    positions: Mapping[TopicPartition, int]
    #: What the rows say of event time: the watermark that those of each partition allow.
    watermarks: Mapping[TopicPartition, int] = field(default_factory=dict)


class SourceOperator:
    """One source vertex in one process; a process without partitions of it closes it at once."""

    def __init__(self, *, owns_partitions: bool, words: SourceWords | None = None) -> None:
        """Hold the source open only if this process reads partitions for it.

        Args:
            owns_partitions: whether it does.
            words: what it tells of event time; None: nothing, as no vertex of the flow asks.
        """
        self._open = owns_partitions
        self.words = words
        self._capability: Capability | None = None
        self._read: deque[ReadRows] = deque()
        self._offered_bytes = 0
        self._last: int = 0
        #: Next offset to read of each partition, behind the last closed epoch (Q4).
        self.positions: dict[TopicPartition, int] = {}
        self.rows_sent = 0
        self.stop: Stop | None = None

    def open(self, context: OperatorContext) -> None:
        """Take the ports: control in, rows out."""
        (self._commands,) = context.inputs
        self._output = context.outputs[0]
        self._capability = context.initial[0]
        if len(context.outputs) == 1:
            # No vertex below has event time.
            self.words = None
        if self.words is not None:
            self.words.open(context)
        self._last = context.start[0] - 1

    @property
    def may_read(self) -> bool:
        """Whether reading more is sensible: there is room here and below, and no stop."""
        return (
            self.stop is None and self._offered_bytes < _OFFERED_BYTES_MAX and self._output.ready()
        )

    @property
    def has_rows(self) -> bool:
        """Whether rows wait for the next tick."""
        return bool(self._read)

    @property
    def watermarks(self) -> Mapping[TopicPartition, int]:
        """Watermark of each partition that has one, behind the last closed epoch."""
        return {} if self.words is None else self.words.values

    @property
    def last_tick(self) -> int:
        """The newest closed epoch."""
        return self._last

    def offer(self, read: ReadRows) -> None:
        """Take rows for the next tick."""
        self._read.append(read)
        self._offered_bytes += payload_size(read.rows)

    def tick(self, epoch: int) -> None:
        """Stamp what was offered with `epoch`, send it, and close the epoch (Q1, Q2).

        Args:
            epoch: later than the last tick and below the horizon; a `TickClock` gives it.
        """
        capability = self._capability
        if capability is None or self.stop is not None:
            return
        capability.downgrade((epoch,))
        positions: dict[TopicPartition, int] = {}
        while self._read:
            read = self._read.popleft()
            positions.update(read.positions)
            if self.words is not None:
                self.words.saw(epoch, read.watermarks)
            if read.rows.num_rows:
                self._output.send(capability, read.rows)
                self.rows_sent += read.rows.num_rows
        self._offered_bytes = 0
        self._seal(epoch, positions)

    def step(self) -> None:
        """Take commands; at a stop, or without partitions, give the capability up."""
        while (command := self._commands.pull()) is not None:
            if isinstance(command.payload, Stop):
                self.stop = command.payload
        if self._capability is not None and (self.stop is not None or not self._open):
            if self.words is not None and not self.words.close(self.stop):
                return
            self._capability.drop()
            self._capability = None

    def _seal(self, epoch: int, positions: Mapping[TopicPartition, int]) -> None:
        # At-least-once: the input topics alone make the epoch replayable, so it is durable at once.
        self._close(epoch, positions)

    def _close(self, epoch: int, positions: Mapping[TopicPartition, int]) -> None:
        assert self._capability is not None, "Q1: a closed source does not tick"
        if self.words is not None:
            self.words.tick(epoch)
        self._capability.downgrade((epoch + 1,))
        self.positions.update(positions)
        self._last = epoch
