"""Plans: the waves a request leads to, made against what the job is and where its bins are.

Flow: Request + routing table + loads -> [make_plan] -> Plan -> PlanRun. Pure.

Invariants
  PL1  A plan names only bins and workers of the job, each bin at most once a wave, and none that is
       where it should be when its wave comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.migration.loads import LoadBook
from service.migration.rebalance import rebalance
from service.migration.requests import (
    MOVES_MAX,
    Kind,
    LoadKind,
    Rejected,
    Request,
)
from service.migration.strategy import Moves, default_batch, waves_of
from service.migration.target import spread


@dataclass(frozen=True, slots=True)
class Plan:
    """The waves of one accepted request (PL1)."""

    id: str
    waves: tuple[Moves, ...]
    #: Cut of the first wave, µs.
    first_cut: int
    #: Of each wave, least time from the first cut, µs; empty: none has a time of its own.
    after_us: tuple[int, ...] = ()
    #: Of each wave, bytes that its busiest worker sends or receives; 0: unknown.
    sizes: tuple[int, ...] = ()
    #: Whether bins are copied before they move.
    precopy: bool = False
    #: Whether the first cut was asked for, so that nothing puts it off.
    fixed: bool = False

    @property
    def bins(self) -> int:
        """How many bins it moves; one that moves twice counts twice."""
        return sum(map(len, self.waves))

    @property
    def moved(self) -> Moves:
        """All its moves in order."""
        return tuple(move for wave in self.waves for move in wave)


def make_plan(
    request: Request,
    owners: NDArray[np.int32],
    workers: int,
    *,
    earliest: int,
    latest: int,
    loads: LoadBook | None = None,
) -> Plan | Rejected:
    """Plan a request against the newest routing.

    Args:
        request: what is asked for.
        owners: worker ordinal of each bin, after every move accepted so far.
        workers: how many workers the job has.
        earliest: smallest time that a first cut may have, µs.
        latest: largest time that it may have.
        loads: what is known of the bins.

    Returns:
        A plan, without waves if everything is already in place; or the reason why there is none.
    """
    problem = _problem(request, owners.size, workers) or _misplaced(request.at, earliest, latest)
    if problem is not None:
        return Rejected(request.id, problem)
    if request.waves:
        waves, after_us = _still_to_move(request, owners)
    else:
        target = _target(request, owners, workers, loads)
        if target is None:
            return Rejected(request.id, "no worker has told its loads yet; try again in a second")
        sizes = None if loads is None else loads.sizes
        batch = request.batch or default_batch(request.strategy, target, sizes)
        waves = waves_of(request.strategy, owners, target, batch, sizes)
        after_us = ()
    if any(len(wave) > MOVES_MAX for wave in waves):
        return Rejected(
            request.id,
            f"a wave may move {MOVES_MAX:,} bins at most; use strategy 'batched' with a batch",
        )
    first_cut = earliest if request.at is None else request.at
    if after_us:
        first_cut += after_us[0]
        after_us = tuple(time - after_us[0] for time in after_us)
    lanes: tuple[int, ...] = ()
    if loads is not None and loads.is_complete:
        lanes = tuple(busiest_bytes(waves, owners, loads.sizes))
    fixed = request.at is not None
    return Plan(request.id, waves, first_cut, after_us, lanes, request.precopy, fixed)


def _target(
    request: Request, owners: NDArray[np.int32], workers: int, loads: LoadBook | None
) -> Mapping[int, int] | None:
    """Where the request wants bins; None if that depends on loads which nobody knows."""
    match request.kind:
        case Kind.RESCALE:
            return spread(owners, request.workers)
        case Kind.REBALANCE:
            if loads is None or not loads.is_complete:
                return None
            measured = {
                LoadKind.UPDATES: loads.updates_per_s,
                LoadKind.BYTES: loads.size,
                LoadKind.ROWS: loads.rows,
            }
            return rebalance(owners, measured[request.by], workers, request.threshold)
        case _:
            return dict(request.moves)


def _still_to_move(
    request: Request, owners: NDArray[np.int32]
) -> tuple[tuple[Moves, ...], tuple[int, ...]]:
    """Waves asked for and their times, without bins that are there when their wave comes (PL1)."""
    after = owners.copy()
    waves, times = [], []
    for place, wave in enumerate(request.waves):
        moves = tuple((bin_, worker) for bin_, worker in wave if after[bin_] != worker)
        for bin_, worker in moves:
            after[bin_] = worker
        if moves:
            waves.append(moves)
            times.append(request.after_us[place] if request.after_us else 0)
    return tuple(waves), tuple(times) if any(times) else ()


def busiest_bytes(
    waves: tuple[Moves, ...], owners: NDArray[np.int32], sizes: NDArray[np.int64]
) -> list[int]:
    """Of each wave, bytes that its busiest worker sends or receives. Cost: O(moves)."""
    after = owners.copy()
    found = []
    for wave in waves:
        ways: dict[tuple[str, int], int] = {}
        for bin_, worker in wave:
            size = int(sizes[bin_])
            for way in (("out", int(after[bin_])), ("in", worker)):
                ways[way] = ways.get(way, 0) + size
            after[bin_] = worker
        # A wave of nothing has a size all the same: it is known.
        found.append(max(1, *ways.values()))
    return found


def _problem(request: Request, bins: int, workers: int) -> str | None:
    """What of the request the job does not have (PL1)."""
    if request.workers > workers:
        return (
            f"workers is {request.workers}, but the job has {workers}; "
            f"start it with --workers {request.workers} to have more"
        )
    for bin_, worker in (*request.moves, *(move for wave in request.waves for move in wave)):
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
