"""How long a record takes from Kafka to Kafka: its time there until all that came of it is there.

Flow: a few records of each poll -> [LatencyMeter.stamped], with the epoch of the tick that took
them -> the frontier of everything passes that epoch -> [LatencyMeter.passed] -> histogram.

A frontier is the proof that nothing more can come of an epoch, here or anywhere, and that Kafka has
acknowledged every result; so the measure needs no column in rows and nothing at the sinks. It is of
the whole epoch: a record waits in it for the slowest, and for the news of it, a few milliseconds.

Invariants
  LM1  What is counted for an epoch are the records stamped with it, once each.
  LM2  Memory is bounded: while frontiers stand still, the records of further epochs are summed up
       under the oldest time among them, and counted when the newest of these epochs has passed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from service.telemetry import Distribution, Histogram

#: (time in Kafka, us since 1970; how many records it stands for).
Sample = tuple[int, int]
#: Epochs that are kept apart: some seconds of ticks.
EPOCHS_MAX = 4_096


@dataclass(slots=True)
class _Open:
    epoch: int
    samples: list[Sample]


class LatencyMeter:
    """Latencies of the records that one gateway reads."""

    def __init__(self) -> None:
        """Begin without records."""
        self._open: deque[_Open] = deque()
        self._histogram = Histogram()

    def stamped(self, epoch: int, samples: list[Sample]) -> None:
        """Note the records of an epoch, which is later than those before."""
        if len(self._open) < EPOCHS_MAX:
            self._open.append(_Open(epoch, samples))
            return
        last = self._open[-1]
        both = last.samples + samples
        last.epoch = epoch
        last.samples = [(min(time for time, _ in both), sum(count for _, count in both))]

    @property
    def waits(self) -> bool:
        """Whether records were stamped that are not counted yet."""
        return bool(self._open)

    def passed(self, frontier: int | None, now_us: int) -> None:
        """Count what lies below `frontier`, None: everything, at `now_us` of the wall clock."""
        while self._open and (frontier is None or self._open[0].epoch < frontier):
            for time_us, records in self._open.popleft().samples:
                self._histogram.count(max(0, now_us - time_us) / 1e6, records)

    def read(self) -> Distribution:
        """Latencies so far, in seconds."""
        return self._histogram.read()
