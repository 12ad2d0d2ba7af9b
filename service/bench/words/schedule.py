"""The open loop: when each record is due, whatever the system does.

Flow: elapsed time -> [OpenLoop] -> how many records are due -> the worker sends them; the moment a
record was due is where its latency begins. Pure.

Invariants
  WS1  Record i is due at 1 + i * interval ns, for as long as the run lasts; progress, sending and
       stalls move nothing. So a wait shows at every record due during it.
  WS2  The interval is a whole number of nanoseconds, at least one: the rate is never below the one
       asked for.
Source: reference on the original, section 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Due times of one worker's records, in nanoseconds since the run began."""

    interval_ns: int
    #: Records due while the run lasts.
    records: int

    @classmethod
    def of(cls, rate: int, duration_ns: int) -> OpenLoop:
        """The schedule of `rate` records a second for `duration_ns`."""
        interval = max(1, _NS // rate)
        return cls(interval, max(0, (duration_ns - 2) // interval + 1))

    def due(self, record: int) -> int:
        """When a record is due (WS1)."""
        return 1 + record * self.interval_ns

    def due_until(self, elapsed_ns: int) -> int:
        """How many records are due at or before a time."""
        if elapsed_ns < 1:
            return 0
        return min(self.records, (elapsed_ns - 1) // self.interval_ns + 1)
