"""A source's words about event time, to every worker: an output of its own beside the rows.

Flow: SourceOperator, each tick -> [SourceWords] == every worker ==> TimedHost.

Invariants
  SW1  A word is sent in the epoch that is being closed, before it is closed, to all workers or to
       none; it counts for all rows of that epoch and before.
  SW2  Only what differs from the word before is sent; while a worker has no room nothing is, and
       the newest word follows in a later epoch.
  SW3  A process that reads no partition of the source says so once, and a source that was read to
       the end of all input says that everything is due, at the last epoch before the stop: the
       same in all gateways.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.dataflow.operator import Capability, OperatorContext
from service.ingest.watermarks import AtEnd, PartitionWatermarks, TopicPartition
from service.migration.event_clock import Word
from service.migration.records import Stop
from service.statestore.timed import ALL, NEVER


class SourceWords:
    """The words of one source vertex in one process."""

    def __init__(self, source: int, workers: int, partitions: PartitionWatermarks | None) -> None:
        """Speak of the source with this number to `workers`; None: no partition is read here."""
        self._source = source
        self._workers = workers
        self._partitions = partitions
        #: Whether a partition was read to its end; the shell says.
        self.at_end: AtEnd = lambda _: True
        self._told: int | None = NEVER

    def open(self, context: OperatorContext) -> None:
        """Take the second output."""
        self._output = context.outputs[1]
        self._capability: Capability | None = context.initial[1]
        self._peer = context.peer

    @property
    def values(self) -> Mapping[TopicPartition, int]:
        """Watermark of each partition that has one, behind the last closed epoch."""
        if self._partitions is None:
            return {}
        values = self._partitions.values
        return {which: value for which, value in values.items() if value != NEVER}

    @property
    def told(self) -> int | None:
        """The watermark last told; None: there is none, or everything is due."""
        return None if self._told in (None, NEVER, ALL) else self._told

    def saw(self, epoch: int, allowed: Mapping[TopicPartition, int]) -> None:
        """Rows were stamped with `epoch`, which allow these watermarks."""
        assert self._partitions is not None, "who reads no partition has no rows"
        self._partitions.saw(epoch, allowed)

    def tick(self, epoch: int) -> None:
        """Tell what is new, in `epoch`, and close it (SW1, SW2)."""
        assert self._capability is not None, "it is open"
        assert self._partitions is not None, "who reads no partition closes at once"
        self._capability.downgrade((epoch,))
        self._tell(self._partitions.watermark(epoch, self.at_end))
        self._capability.downgrade((epoch + 1,))

    def close(self, stop: Stop | None) -> bool:
        """Say the last word (SW3); whether it could be said, and the output is closed."""
        if self._capability is None:
            return True
        if self._partitions is None:
            said = self._tell(None)
        elif stop is not None and stop.drain:
            self._capability.downgrade((stop.at - 1,))
            said = self._tell(ALL)
        else:
            said = True
        if said:
            self._capability.drop()
            self._capability = None
        return said

    def _tell(self, watermark: int | None) -> bool:
        """Send a word that is new; whether there was room, or it is not."""
        if watermark == self._told:
            return True
        if not self._output.ready():
            return False
        assert self._capability is not None, "it is open"
        body = Word(self._source, self._peer, watermark).encoded()
        for worker in range(self._workers):
            self._output.send(self._capability, body, worker)
        self._told = watermark
        return True
