"""The open loop: when each record is due, whatever the system does; and when workers tick.

Flow: elapsed time -> [OpenLoop] -> how many records are due -> the worker sends them; the moment a
record was due is where its latency begins. Pure.

Invariants
  WS1  Record i is due at 1 + i * interval ns, for as long as the run lasts; progress, sending and
       stalls move nothing. So a wait shows at every record due during it.
  WS2  The interval is a whole number of nanoseconds, at least one: the rate is never below the one
       asked for.
  WS3  Workers tick at the same epochs, multiples of a step of the controller's clock: all of one
       machine read one monotonic clock. A worker that is late skips steps.
Source: reference on the original, section 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.migration.horizon import TickClock

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


class StepClock(TickClock):
    """Epochs in steps (WS3)."""

    def __init__(self, first_epoch: int, step_us: int) -> None:
        """Begin as a TickClock does; `step_us` lies between two epochs."""
        super().__init__(first_epoch)
        self._step_us = step_us
        #: When the next step begins, as far as the last look showed; us of the monotonic clock.
        self.next_step_us = 0

    def now_us(self, monotonic_us: int) -> int:
        """The controller's clock at the beginning of this step."""
        now = super().now_us(monotonic_us)
        beyond = now % self._step_us
        self.next_step_us = monotonic_us + self._step_us - beyond
        return now - beyond

    def is_due(self, monotonic_us: int) -> bool:
        """Whether no epoch was given in this step."""
        return self.steps_since(monotonic_us) > 0

    def steps_since(self, monotonic_us: int) -> int:
        """How many steps ago the last epoch was given; 0 in its own step."""
        return max(0, -(-(self.now_us(monotonic_us) - self.last) // self._step_us))
