"""Pacing: how far the cuts of a plan lie apart.

Flow: completed waves -> [TransferRate, Pacer] -> spacing -> PlanRun gives the next cut. Pure.

Waves are accepted a lookahead ahead of their cuts, and what they take is known later still. So the
distance of two cuts is not a wave's whole duration, of which most is the same for a wave of nothing
(frontiers travel, Kafka acknowledges) and may overlap with that of the next. It is the work of a
wave, the part that cannot overlap: known ahead where sizes are known, and found out otherwise by
letting waves come closer until they take clearly longer than the best one did. Then they pile up,
and the distance of their completions is their work.

Invariants
  PC1  The spacing stays between its bounds, whatever waves take.
  PC2  Waves that pile up are noticed by the first that takes half as long again as the best, beside
       what their sizes explain; cuts behind it come later by what it took too long, and no closer
       than completions were.
  PC3  Behind a wave of known size comes no cut before its work is done at the measured rate, within
       the greatest spacing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

#: Waves of fewer bytes say nothing of the rate, and larger ones nothing of what an empty one takes.
_TELLING_BYTES = 1 << 18
#: Completions that "of late" reaches back to.
_RECENT = 64
#: A stall of the machine of this length is not yet a pile.
_SLACK_US = 10_000


@dataclass(frozen=True, slots=True)
class Pacing:
    """Knobs of a plan's cuts; µs."""

    #: Between the first cuts, before any wave has shown how long it takes.
    spacing_us: int = 40_000
    spacing_us_min: int = 8_000
    spacing_us_max: int = 2_000_000
    #: Waves whose cut has passed and which are not complete; no further one is issued then.
    waves_late_max: int = 16
    #: Waves issued before the first is complete, if nobody knows their sizes; one more for each
    #: that completes.
    waves_probing_max: int = 2


class TransferRate:
    """What moving state has taken in this job: time a wave takes empty, and bytes a second."""

    def __init__(self, empty_us: int = 50_000, bytes_per_s: int = 200_000_000) -> None:
        """Begin with guesses; `is_measured` says whether they still are."""
        self.empty_us = empty_us
        self.bytes_per_s = bytes_per_s
        self.is_measured = False

    def note(self, size: int, took_us: int) -> None:
        """Take in a wave: bytes on its busiest way, and time from its cut to its completion."""
        # Follows a faster one at once and slower ones in small steps.
        slower = self.empty_us + self.empty_us // 16 if size < _TELLING_BYTES else self.empty_us
        self.empty_us = max(1, min(took_us, slower))
        if size >= _TELLING_BYTES:
            work_us = max(1_000, took_us - self.empty_us)
            seen = size * 1_000_000 // work_us
            self.bytes_per_s = (3 * self.bytes_per_s + seen) // 4 if self.is_measured else seen
            self.is_measured = True

    def work_us(self, size: int) -> int:
        """Time that so many bytes keep one worker busy."""
        return size * 1_000_000 // self.bytes_per_s

    def wave_us(self, size: int) -> int:
        """Time that a wave with so many bytes on its busiest way takes, alone."""
        return self.empty_us + self.work_us(size)


class Pacer:
    """The spacing of one plan."""

    def __init__(self, pacing: Pacing, rate: TransferRate) -> None:
        """Begin a plan in a job that has measured `rate` so far."""
        self._pacing = pacing
        self._rate = rate
        #: Least time between two cuts; follows what waves take (PC1).
        self.spacing_us = pacing.spacing_us
        self._window = pacing.waves_probing_max
        #: What waves of late took beside what their sizes explain.
        self._recent: deque[int] = deque(maxlen=_RECENT)
        #: Whether waves have piled up once: from then on they come closer in small steps.
        self._careful = False
        #: Last cut issued, and the last one issued before a pile was noticed.
        self._issued_to = self._pile_to = 0
        #: By how much the next cut comes later, so that a pile can go.
        self._delay_us = 0
        self._completed_us: int | None = None
        #: Time between completions, smoothed.
        self._gap_us = 0

    def behind(self, cut: int, size: int) -> int:
        """Time from a cut of `size` bytes, 0 if unknown, which is issued, to the next (PC3)."""
        self._issued_to = cut
        delay_us, self._delay_us = self._delay_us, 0
        work_us = min(self._rate.work_us(size), self._pacing.spacing_us_max)
        return max(self.spacing_us, work_us) + delay_us

    def may_issue(self, in_flight: int, late: int, size: int) -> bool:
        """Whether another wave may be issued.

        Args:
            in_flight: waves issued and not complete.
            late: those of them whose cut has passed.
            size: bytes of the next wave's busiest way; 0: unknown.
        """
        if not size and in_flight >= self._window:
            return False
        return late < self._pacing.waves_late_max

    def completed(self, size: int, cut: int, now_us: int) -> None:
        """Take in the completion of a wave, in the order in which waves complete (PC2)."""
        took_us = max(0, now_us - cut)
        self._rate.note(size, took_us)
        self._window += 1
        self._note_gap(now_us)
        work_us = self._rate.work_us(size)
        # Beside what its size explains; all of it where sizes are unknown.
        beside_us = max(1, took_us - work_us)
        self._recent.append(beside_us)
        best_us = min(self._recent)
        too_long_us = beside_us - best_us
        alone_us = best_us + work_us
        if too_long_us <= alone_us // 4 + _SLACK_US:
            part = 32 if self._careful else 4
            self._space(self.spacing_us - self.spacing_us // part)
        elif too_long_us > alone_us // 2 + _SLACK_US and cut > self._pile_to:
            # Cuts issued by now were given before anything could be known of the pile.
            self._pile_to = self._issued_to
            self._careful = True
            self._delay_us = min(too_long_us, self._pacing.spacing_us_max)
            self._space(max(self.spacing_us, self._gap_us + self._gap_us // 8))

    def _note_gap(self, now_us: int) -> None:
        before, self._completed_us = self._completed_us, now_us
        if before is not None:
            gap_us = max(0, now_us - before)
            self._gap_us = (3 * self._gap_us + gap_us) // 4 if self._gap_us else gap_us

    def _space(self, spacing_us: int) -> None:
        pacing = self._pacing
        self.spacing_us = min(max(spacing_us, pacing.spacing_us_min), pacing.spacing_us_max)
