"""Plans: the waves a request leads to, and how far a plan has come.

Flow: Request + routing table -> [make_plan] -> Plan -> [PlanRun] gives each wave its cut, counts
what workers report and says when the plan is over. Pure: the clock is an argument.

Invariants
  PL1  A plan names only bins and workers of the job, each bin at most once, and no bin that is
       already where it should be.
  PL2  Cuts of a plan strictly increase, `spacing` apart; at most `waves_in_flight_max` waves are
       issued and not completed.
  PL3  A wave is complete when every new owner has reported all its bins of that cut, once for each
       stateful vertex; what no wave expects is refused.
  PL4  A rescale moves as few bins as an even spread allows: no worker's share differs from
       another's by more than one, and a bin moves only off a worker that has too many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import ProtocolViolation
from service.migration.records import Move
from service.migration.reports import MovedReport
from service.migration.requests import MOVES_MAX, WAVES_DEFAULT, Kind, Rejected, Request
from service.migration.strategy import Moves, waves_of


@dataclass(frozen=True, slots=True)
class Plan:
    """The waves of one accepted request (PL1)."""

    id: str
    waves: tuple[Moves, ...]
    #: Cut of the first wave, µs.
    first_cut: int

    @property
    def bins(self) -> int:
        """How many bins it moves."""
        return sum(map(len, self.waves))


def make_plan(
    request: Request, owners: NDArray[np.int32], workers: int, *, earliest: int, latest: int
) -> Plan | Rejected:
    """Plan a request against the newest routing.

    Args:
        request: what is asked for.
        owners: worker ordinal of each bin, after every move accepted so far.
        workers: how many workers the job has.
        earliest: smallest time that a first cut may have, µs.
        latest: largest time that it may have.

    Returns:
        A plan, without waves if everything is already in place; or the reason why there is none.
    """
    problem = _problem(request, owners.size, workers) or _misplaced(request.at, earliest, latest)
    if problem is not None:
        return Rejected(request.id, problem)
    if request.kind is Kind.RESCALE:
        target: Mapping[int, int] = spread(owners, request.workers)
    else:
        target = dict(request.moves)
    batch = request.batch or max(1, -(-len(target) // WAVES_DEFAULT))
    waves = waves_of(request.strategy, owners, target, batch)
    if any(len(wave) > MOVES_MAX for wave in waves):
        return Rejected(
            request.id,
            f"a wave may move {MOVES_MAX:,} bins at most; use strategy 'batched' with a batch",
        )
    return Plan(request.id, waves, earliest if request.at is None else request.at)


def _problem(request: Request, bins: int, workers: int) -> str | None:
    """What of the request the job does not have (PL1)."""
    if request.workers > workers:
        return (
            f"workers is {request.workers}, but the job has {workers}; "
            f"start it with --workers {request.workers} to have more"
        )
    for bin_, worker in request.moves:
        if not 0 <= bin_ < bins:
            return f"unknown bin {bin_}; the job has bins 0 to {bins - 1}"
        if not 0 <= worker < workers:
            return f"unknown worker {worker}; the job has workers 0 to {workers - 1}"
    return None


def _misplaced(at: int | None, earliest: int, latest: int) -> str | None:
    """What is wrong with the time asked for; a past one never means "now"."""
    if at is not None and at < earliest:
        return f"at {at} is in the past; the earliest possible is {earliest}, or null"
    if at is not None and at > latest:
        return f"at {at} is too far in the future; the latest possible is {latest}"
    return None


def spread(owners: NDArray[np.int32], workers: int) -> dict[int, int]:
    """Target of a rescale to workers 0..`workers`-1 that moves as few bins as possible (PL4).

    Workers that already have more keep the larger shares; each gives away its highest bins, and the
    receivers are served in turn, so that every stretch of the plan has many receivers.

    Returns:
        bin -> worker for the bins that move, ascending in bins.
    """
    held = np.bincount(owners, minlength=workers)
    share, larger = divmod(owners.size, workers)
    by_load = sorted(range(workers), key=lambda worker: (-int(held[worker]), worker))
    quota = {worker: share + (place < larger) for place, worker in enumerate(by_load)}
    moving: list[int] = []
    for worker in range(held.size):
        surplus = int(held[worker]) - quota.get(worker, 0)
        if surplus > 0:
            moving.extend(np.flatnonzero(owners == worker)[-surplus:].tolist())
    wanted = {w: quota[w] - int(held[w]) for w in range(workers) if quota[w] > held[w]}
    target: dict[int, int] = {}
    bins = iter(sorted(moving))
    while wanted:
        for worker in list(wanted):
            target[next(bins)] = worker
            wanted[worker] -= 1
            if not wanted[worker]:
                del wanted[worker]
    assert next(bins, None) is None, "PL4: as many bins are given as are wanted"
    return target


@dataclass(frozen=True, slots=True)
class Pacing:
    """How a plan's cuts follow one another (PL2); µs."""

    #: Between the first cuts, before any wave has shown how long it takes.
    spacing_us: int = 100_000
    spacing_us_min: int = 10_000
    spacing_us_max: int = 2_000_000
    waves_in_flight_max: int = 4


@dataclass(slots=True)
class WaveRun:
    """A wave that is issued and not completed."""

    #: 1-based.
    number: int
    cut: int
    bins: int
    #: {worker: bins it receives}.
    receives: dict[int, int]
    #: {(worker, vertex): bins reported}.
    reported: dict[tuple[int, str], int] = field(default_factory=dict)
    #: {worker: vertices whose bins are all there}.
    vertices_done: dict[int, int] = field(default_factory=dict)
    bytes: int = 0
    rows: int = 0
    #: Longest time that rows of a bin waited for it, µs.
    wait_us: int = 0


class PlanRun:
    """A plan under way: which cut comes next, and what is still missing."""

    def __init__(self, plan: Plan, vertices: int, pacing: Pacing) -> None:
        """Begin a plan that has waves.

        Args:
            plan: what to do.
            vertices: stateful vertices of the flow, >= 1; each reports every bin.
            pacing: how cuts follow one another.
        """
        self.plan = plan
        self.waves_issued = 0
        self.waves_completed = 0
        self.bins_moved = 0
        self.bytes_moved = 0
        #: Clock at the last completion, µs.
        self.last_completion = plan.first_cut
        #: Between this cut and the next, µs; follows the duration of completed waves.
        self.spacing_us = pacing.spacing_us
        self._pacing = pacing
        self._vertices = vertices
        self._last_cut = 0
        self._waves_wanted = len(plan.waves)
        self._in_flight: dict[int, WaveRun] = {}

    @property
    def is_over(self) -> bool:
        """Whether every wave that was or will be issued is complete."""
        return self.waves_completed == self._waves_wanted

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the plan has been cut off."""
        return self._waves_wanted == len(self.plan.waves)

    @property
    def reserved_cut(self) -> int | None:
        """The first cut, as long as it is not issued: no promise may reach it."""
        return None if self.waves_issued else self.plan.first_cut

    @property
    def duration_us(self) -> int:
        """From the first cut to the last completion so far."""
        return max(0, self.last_completion - self.plan.first_cut)

    def cut_off(self) -> None:
        """Issue no further wave."""
        self._waves_wanted = self.waves_issued

    def issue(self, earliest: int, latest: int) -> WaveRun | None:
        """Give the next wave its cut, if it is due (PL2).

        Args:
            earliest: smallest time that the log still allows.
            latest: largest time that is worth writing now; the promise will go up to it.
        """
        if self.waves_issued == self._waves_wanted:
            return None
        if len(self._in_flight) >= self._pacing.waves_in_flight_max:
            return None
        cut = self.reserved_cut
        if cut is None:
            cut = max(earliest, self._last_cut + self.spacing_us)
        if cut > latest:
            return None
        moves = self.plan.waves[self.waves_issued]
        receives: dict[int, int] = {}
        for _, worker in moves:
            receives[worker] = receives.get(worker, 0) + 1
        self.waves_issued += 1
        self._last_cut = cut
        wave = WaveRun(self.waves_issued, cut, len(moves), receives)
        self._in_flight[cut] = wave
        return wave

    def record_of(self, wave: WaveRun, clock: int) -> Move:
        """The log record of a wave just issued."""
        return Move(
            at=wave.cut,
            request=self.plan.id,
            wave=wave.number,
            waves=len(self.plan.waves),
            moves=list(self.plan.waves[wave.number - 1]),
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
        self.last_completion = max(self.last_completion, now_us)
        # Half-way towards what this wave took: one slow wave does not stop the plan, and a plan
        # whose waves take longer than their spacing does not pile them up.
        took = max(0, now_us - wave.cut)
        pacing = self._pacing
        spacing = (self.spacing_us + took) // 2
        self.spacing_us = min(max(spacing, pacing.spacing_us_min), pacing.spacing_us_max)
