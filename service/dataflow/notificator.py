"""Notifications: be told once nothing at or before a time can arrive any more.

Flow: an operator asks, with a capability or without -> [Notificator] -> its `step` takes what the
frontiers of its inputs have passed, earliest first.

Asking with a capability means "let me act at its time": it holds back everything downstream until
it is delivered and dropped. Asking without one blocks nobody; that is how state which is not needed
any more is cleaned up. The two times may differ: with a capability later than the time asked for,
an operator may run ahead of others by a bound and no further.

Invariants
  NO1  A time is delivered only once no frontier of the inputs has an element <= it: no message at
       or before it will come.
  NO2  Times are delivered in ascending tuple order, which extends their order; equal ones in the
       order asked for.
  NO3  A capability is handed back as it was given, held; who takes it drops it.
Source: Murray et al., "Naiad", SOSP 2013, sections 2.2 and 2.4 (guarantee and capability times).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from service.dataflow.operator import Capability, InputPort
from service.dataflow.progress.timestamp import Timestamp


class Notification(NamedTuple):
    """A time that the inputs have passed, and the capability asked with."""

    time: Timestamp
    capability: Capability | None


class Notificator:
    """What one operator waits for. Declare the operator as `notified`, or nothing wakes it."""

    def __init__(self, inputs: Sequence[InputPort]) -> None:
        """Wait for the frontiers of these `inputs`, which have timestamps of one length."""
        self._inputs = tuple(inputs)
        #: (time, number of the request, capability): the number keeps equal times in order (NO2).
        self._asked: list[tuple[Timestamp, int, Capability | None]] = []
        self._requests = 0

    def __len__(self) -> int:
        """Requests not yet delivered."""
        return len(self._asked)

    def notify_at(self, capability: Capability, time: Timestamp | None = None) -> None:
        """Ask for `time`, by default the capability's, with the right to act at the capability's.

        The notificator owns the capability until it is delivered.
        """
        self._ask(capability.time if time is None else time, capability)

    def clean_up_at(self, time: Timestamp) -> None:
        """Ask for `time` without a right to send; nobody waits for it."""
        self._ask(time, None)

    def delivered(self) -> Iterator[Notification]:
        """What the frontiers have passed, one after the other (NO1, NO2).

        More may be asked for meanwhile; what has been passed already is delivered in the same walk.
        Cost: O(log n) each.
        """
        while self._asked and not self._may_come(self._asked[0][0]):
            time, _, capability = heappop(self._asked)
            yield Notification(time, capability)

    def _ask(self, time: Timestamp, capability: Capability | None) -> None:
        heappush(self._asked, (time, self._requests, capability))
        self._requests += 1

    def _may_come(self, time: Timestamp) -> bool:
        return any(port.frontier().less_equal(time) for port in self._inputs)
