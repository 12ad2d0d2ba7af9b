"""Pacing: how far the cuts of a plan lie apart.

Flow: completed waves -> [TransferRate, Pacer] -> spacing -> PlanRun gives the next cut. Pure.

Waves are accepted a lookahead ahead of their cuts, and what they take is known later still. So the
distance of two cuts is not a wave's whole duration, of which most is the same for a wave of nothing
(frontiers travel, Kafka acknowledges) and may overlap with that of the next. It is the work of a
wave, the part that cannot overlap, known ahead from its size; waves still come no closer than they
can without taking clearly longer than they did in calm. Of waves of unknown size, in the first
second of a job, hardly any overlap; and what the first wave of a plan takes says how busy the
machine is: cuts begin no closer than half of it.

Invariants
  PC1  The spacing stays between its bounds, whatever waves take.
  PC2  Waves pile up when they take, smoothed and beside what their sizes explain, clearly longer
       than in calm. Then cuts come later by what it was too long, and less close, but for this
       no further apart than waves take in calm: those do not overlap and cannot pile up.
  PC3  Behind a wave of known size comes no cut before its work is done at two thirds of the
       measured rate, within the greatest spacing: the rest is for rows, of bins that stay as well.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Waves of fewer bytes say nothing of the rate, and larger ones nothing of what an empty one takes.
_TELLING_BYTES = 1 << 18
#: Waves that take this much longer than others do not yet pile up: two cores are shared.
_SLACK_US = 20_000
#: Percent of the time that a wave's work takes (PC3).
_GIVEN = 150
#: So many waves show what a spacing does; one alone does not.
_OBSERVED = 8


@dataclass(frozen=True, slots=True)
class Pacing:
    """Knobs of a plan's cuts; µs."""

    #: Between the first cuts, before any wave has shown how long it takes.
    spacing_us: int = 40_000
    spacing_us_min: int = 8_000
    spacing_us_max: int = 2_000_000
    #: Waves whose cut has passed and which are not complete; no further one is issued then.
    waves_late_max: int = 7
    #: Waves in flight if nobody knows their sizes, or how long they keep a worker busy.
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
        #: What waves take beside what their sizes explain, smoothed, and the least of it, which
        #: rises slowly: what they take in calm. 0: none is complete.
        self._smooth_us = self._calm_us = 0
        #: Last cut issued, the last one issued before the spacing was changed, and how many waves
        #: behind that one are complete: only those show what the change does.
        self._issued_to = self._changed_at = self._observed = 0
        #: Whether waves have piled up once: from then on they come closer in smaller steps.
        self._careful = False
        #: By how much the next cut comes later, so that a pile can go.
        self._delay_us = 0

    def behind(self, cut: int, size: int) -> int:
        """Time from a cut of `size` bytes, 0 if unknown, which is issued, to the next (PC3)."""
        self._issued_to = cut
        delay_us, self._delay_us = self._delay_us, 0
        work_us = min(self._rate.work_us(size) * _GIVEN // 100, self._pacing.spacing_us_max)
        return max(self.spacing_us, work_us) + delay_us

    def may_issue(self, in_flight: int, late: int, size: int) -> bool:
        """Whether another wave may be issued.

        Args:
            in_flight: waves issued and not complete.
            late: those of them whose cut has passed.
            size: bytes of the next wave's busiest way; 0: unknown.
        """
        guessed = not self._rate.is_measured and self._rate.work_us(size) > _SLACK_US
        if (guessed or not size) and in_flight >= self._pacing.waves_probing_max:
            return False
        return late < self._pacing.waves_late_max

    def completed(self, size: int, cut: int, now_us: int) -> None:
        """Take in the completion of a wave, in the order in which waves complete (PC2)."""
        took_us = max(0, now_us - cut)
        self._rate.note(size, took_us)
        work_us = self._rate.work_us(size)
        beside_us = max(1, took_us - work_us)
        if not self._smooth_us:
            # How busy the machine is shows here first: two such waves overlap, not ten.
            self._space(max(self.spacing_us, beside_us // 2))
        self._smooth_us += (beside_us - self._smooth_us) // 4 if self._smooth_us else beside_us
        risen_us = self._calm_us + self._calm_us // 256 + 1
        self._calm_us = min(self._smooth_us, risen_us) if self._calm_us else self._smooth_us
        self._observed += cut > self._changed_at
        if self._observed >= _OBSERVED:
            self._judge(self._smooth_us - self._calm_us, self._calm_us + work_us)

    def _judge(self, too_long_us: int, alone_us: int) -> None:
        """Change the spacing, knowing by how much waves take longer than each would alone."""
        if too_long_us <= (alone_us // 4 + _SLACK_US) // 2:
            part = 16 if self._careful else 4
            self._space(self.spacing_us - self.spacing_us // part)
        elif too_long_us > alone_us // 4 + _SLACK_US:
            self._careful = True
            self._delay_us = min(too_long_us, self._pacing.spacing_us_max)
            self._space(max(self.spacing_us, min(self.spacing_us * 3 // 2, alone_us)))

    def _space(self, spacing_us: int) -> None:
        pacing = self._pacing
        self._changed_at = self._issued_to
        self._observed = 0
        self.spacing_us = min(max(spacing_us, pacing.spacing_us_min), pacing.spacing_us_max)
