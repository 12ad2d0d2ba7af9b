"""Plans under way: which cut comes next, what has moved, and when it is over.

Flow: Plan -> [PlanRun] gives each wave its cut, counts what workers report. Pure: the clock is an
argument.

    RESERVED --first wave issued--> MOVING <--pause, resume--> PAUSED
        |                             |                           |
        `------------------------- cut off ------------------> ENDING      over: what is issued is
                                                                           complete, nothing follows
Invariants
  PL2  Cuts of a plan strictly increase, as far apart as its pacer says (PC1 of `pacing`), and none
       comes before its time.
  PL3  A wave is complete when every new owner has reported all its bins of that cut, once for each
       stateful vertex; what no wave expects is refused.
  PL4  A plan that is paused or cut off issues no wave. Waves already issued go on: they stand in
       the log, and what stands there happens.
  PL5  Promises keep below the first cut as long as it is reserved; a pause gives it up.
  PL6  A wave of a plan with copies waits for them (PY3), but not where the first cut was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from service.errors import ProtocolViolation
from service.migration.pacing import Pacer, Pacing, TransferRate
from service.migration.plan import Plan
from service.migration.precopy import PreCopying
from service.migration.records import Move
from service.migration.reports import MovedReport


@dataclass(slots=True)
class WaveRun:
    """A wave that is issued and not completed."""

    #: 1-based.
    number: int
    cut: int
    bins: int
    #: {worker: bins it receives}.
    receives: dict[int, int]
    #: Bytes that its busiest worker was thought to send or receive; 0: unknown.
    size: int = 0
    #: {(worker, vertex): bins reported}.
    reported: dict[tuple[int, str], int] = field(default_factory=dict)
    #: {worker: vertices whose bins are all there}.
    vertices_done: dict[int, int] = field(default_factory=dict)
    bytes: int = 0
    rows: int = 0
    #: Longest time that rows of a bin waited for it, µs.
    wait_us: int = 0
    #: Number of its copies; 0: none.
    precopy: int = 0


class PlanPhase(Enum):
    """How far a plan is; see the picture above."""

    RESERVED = auto()
    MOVING = auto()
    PAUSED = auto()
    ENDING = auto()


class PlanRun:
    """A plan under way: which cut comes next, and what is still missing."""

    def __init__(
        self, plan: Plan, vertices: int, pacing: Pacing, rate: TransferRate | None = None
    ) -> None:
        """Begin a plan that has waves.

        Args:
            plan: what to do.
            vertices: stateful vertices of the flow, >= 1; each reports every bin.
            pacing: how cuts follow one another.
            rate: what moving state has taken in this job.
        """
        self.plan = plan
        #: Copies of its bins; then the first cut waits for them, unless it was asked for.
        self.copying = PreCopying(plan.id, plan.waves, vertices) if plan.precopy else None
        waits = plan.precopy and not plan.fixed
        self.phase = PlanPhase.MOVING if waits else PlanPhase.RESERVED
        #: Cut of the first wave, or where it is meant to be.
        self.first_cut = plan.first_cut
        self.waves_issued = 0
        self.waves_completed = 0
        self.bins_moved = 0
        self.bytes_moved = 0
        #: Longest time that rows of a moved bin waited for it, as far as workers say; µs.
        self.wait_us = 0
        #: Clock at the last completion, µs.
        self.last_completion = plan.first_cut
        #: Why it was cut off; None while it is whole.
        self.cut_off_by: str | None = None
        self.pacer = Pacer(pacing, rate if rate is not None else TransferRate())
        self._vertices = vertices
        #: Earliest time of the next cut by the pacer.
        self._next_cut = 0
        self._in_flight: dict[int, WaveRun] = {}

    @property
    def is_over(self) -> bool:
        """Whether every wave that was or will be issued is complete."""
        ends = self.phase is PlanPhase.ENDING or self.waves_issued == len(self.plan.waves)
        return ends and not self._in_flight

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the plan has been cut off."""
        return self.waves_issued == len(self.plan.waves)

    @property
    def reserved_cut(self) -> int | None:
        """The first cut, as long as no promise may reach it (PL5)."""
        return self.first_cut if self.phase is PlanPhase.RESERVED else None

    @property
    def duration_us(self) -> int:
        """From the first cut to the last completion so far."""
        return max(0, self.last_completion - self.first_cut)

    def pause(self) -> None:
        """Issue no further wave until `resume` (PL4)."""
        assert self.phase in (PlanPhase.RESERVED, PlanPhase.MOVING), "only what moves can pause"
        self.phase = PlanPhase.PAUSED

    def resume(self) -> None:
        """Go on after a pause; a first cut whose time has passed comes as soon as may be."""
        assert self.phase is PlanPhase.PAUSED, "only what pauses can go on"
        self.phase = PlanPhase.MOVING

    def cut_off(self, reason: str) -> None:
        """Issue no further wave, ever (PL4). The first reason given stays."""
        self.phase = PlanPhase.ENDING
        self.cut_off_by = self.cut_off_by or reason

    def issue(self, earliest: int, latest: int, now_us: int) -> WaveRun | None:
        """Give the next wave its cut, if it is due (PL2).

        Args:
            earliest: smallest time that the log still allows.
            latest: largest time that is worth writing now; the promise will go up to it.
            now_us: the controller's clock.
        """
        number = self.waves_issued
        moving = self.phase in (PlanPhase.RESERVED, PlanPhase.MOVING)
        if not moving or number == len(self.plan.waves):
            return None
        size = self.plan.sizes[number] if self.plan.sizes else 0
        late = sum(cut <= now_us for cut in self._in_flight)
        if not self.pacer.may_issue(len(self._in_flight), late, size):
            return None
        cut = self._cut_of(number, earliest)
        if cut > latest or not self._is_copied(number, now_us):
            return None
        if not number:
            self.first_cut = cut
            self.last_completion = max(cut, self.last_completion)
        moves = self.plan.waves[number]
        receives: dict[int, int] = {}
        for _, worker in moves:
            receives[worker] = receives.get(worker, 0) + 1
        self.phase = PlanPhase.MOVING
        self.waves_issued += 1
        precopy = 0 if self.copying is None else self.copying.moved(number)
        # What was copied ahead is not sent at the cut: its size says nothing of what is left.
        left = 1 if precopy else size
        self._next_cut = cut + self.pacer.behind(cut, left)
        wave = WaveRun(self.waves_issued, cut, len(moves), receives, left, precopy=precopy)
        self._in_flight[cut] = wave
        return wave

    def _is_copied(self, number: int, now_us: int) -> bool:
        """Whether copies of a wave do not put it off."""
        if self.copying is None or self.phase is PlanPhase.RESERVED:
            return True
        return self.copying.may_move(number, now_us)

    def _cut_of(self, number: int, earliest: int) -> int:
        """Where the cut of a wave would be now."""
        if self.phase is PlanPhase.RESERVED:
            return self.first_cut
        after = self.plan.after_us[number] if self.plan.after_us else 0
        return max(earliest, self._next_cut, self.first_cut + after)

    def record_of(self, wave: WaveRun, clock: int) -> Move:
        """The log record of a wave just issued."""
        return Move(
            at=wave.cut,
            request=self.plan.id,
            wave=wave.number,
            waves=len(self.plan.waves),
            moves=list(self.plan.waves[wave.number - 1]),
            precopy=wave.precopy,
            clock=clock,
        )

    def report(self, worker: int, report: MovedReport, now_us: int) -> WaveRun | None:
        """Count what a new owner has installed and released (PL3).

        Returns:
            The wave, if this completes it.

        Raises:
            ProtocolViolation: no wave in flight expects these bins from this worker.
        """
        wave = self._in_flight.get(report.cut)
        if wave is None:
            raise ProtocolViolation(f"PL3: worker {worker} reports cut {report.cut}, not in flight")
        expected = wave.receives.get(worker, 0)
        count = wave.reported.get((worker, report.vertex), 0) + report.bins
        done = wave.vertices_done.get(worker, 0) + (count == expected)
        if count > expected or done > self._vertices:
            raise ProtocolViolation(
                f"PL3: worker {worker} reports more of {report.vertex!r} at {report.cut} "
                f"than the {expected} bins it receives"
            )
        wave.reported[worker, report.vertex] = count
        wave.vertices_done[worker] = done
        wave.bytes += report.bytes
        wave.rows += report.rows
        wave.wait_us = max(wave.wait_us, report.wait_us)
        if any(wave.vertices_done.get(w, 0) < self._vertices for w in wave.receives):
            return None
        self._complete(wave, now_us)
        return wave

    def _complete(self, wave: WaveRun, now_us: int) -> None:
        del self._in_flight[wave.cut]
        self.waves_completed += 1
        self.bins_moved += wave.bins
        self.bytes_moved += wave.bytes
        self.wait_us = max(self.wait_us, wave.wait_us)
        self.last_completion = max(self.last_completion, now_us)
        self.pacer.completed(wave.size, wave.cut, now_us)
