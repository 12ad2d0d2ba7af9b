"""What this process itself still has at some places of its graph: messages that wait, and rights.

Flow: an operator asks [Holdings.passed]; the worker's changes go through [Holdings.record] to the
ProgressSender.

A frontier speaks for all processes. Where a path from an operator stays in its process, as that
from S to a sink of the same worker, the process can tell without any of them whether what it sent
there below an epoch has passed: then no message is queued there, and nobody there has a right.

Invariants
  HD1  What is asked is answered as of now: the running step's changes are counted as well.
  HD2  Who was told "not yet" is stepped again after the next change of this process's pointstamps
       that does not cancel within a step: what keeps something below an epoch is such a right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain

from service.dataflow.operator import InputPort, Ledger
from service.dataflow.progress.broadcast import ProgressSender


class Holdings:
    """One process's own messages and capabilities, by location."""

    def __init__(
        self, ledger: Ledger, sender: ProgressSender, inputs: Mapping[tuple[int, int], InputPort]
    ) -> None:
        """Bind to the worker: changes not yet recorded, those that are, and its input ports."""
        self._ledger = ledger
        self._sender = sender
        self._inputs = inputs
        #: Operators that were told "not yet" (HD2).
        self._asking: set[int] = set()

    def record(self) -> set[int]:
        """Record the changes since the last time; returns the operators that are to ask again."""
        self._sender.record(self._ledger.drain())
        asking, self._asking = self._asking, set()
        return asking

    def passed(self, operator: int, locations: Collection[int], epoch: int) -> bool:
        """Whether nothing below `epoch` is left at any of these ports in this process (HD1).

        Args:
            operator: who asks; stepped again later if something is left (HD2).
            locations: input and output ports.
            epoch: messages and rights before it count, in whichever round of a loop.

        Cost: O(messages queued there + capabilities of this process).
        """
        if self._is_queued(locations, epoch) or self._is_held(locations, epoch):
            self._asking.add(operator)
            return False
        return True

    def _is_queued(self, locations: Collection[int], epoch: int) -> bool:
        ports = (port for port in self._inputs.values() if port.location in locations)
        return any(message.time[0] < epoch for port in ports for message in port.queue)

    def _is_held(self, locations: Collection[int], epoch: int) -> bool:
        recorded = self._sender.held
        for key in chain(recorded, (key for key, _ in self._ledger.items())):
            location, time = key
            if location not in locations or time[0] >= epoch:
                continue
            if self._sender.is_right(location) and recorded.get(key, 0) + self._ledger.count(key):
                return True
        return False
