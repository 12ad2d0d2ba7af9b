"""Windows of event time are exact under any plan, delay and silence; wrong engines are caught.

What this cannot show: that every wrong engine is caught.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from service.dataflow.operator import CapabilityError
from service.dataflow.worker import WorkerLimits
from service.errors import MegaphoneError
from service.migration.state_host import StateHost
from service.migration.timed_host import TimedHost
from service.migration.waiting_times import EpochPart, WaitingTimes
from service.statestore.process_store import ProcessStore
from tests.simulation.test_copies import TIGHT
from tests.simulation.timed_world import TimedWorld, timed
from tests.simulation.world import Shape

SEEDS = 12


def shape(**more: object) -> Shape:
    return replace(Shape(flow=timed(), rows=400, waves=12), **more)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("seed", range(30_000, 30_010))
def test_windows_and_late_rows_are_those_foretold(seed: int) -> None:
    world = TimedWorld(seed, shape())
    world.run()
    assert world.check() > 50


@pytest.mark.parametrize("seed", range(30_100, 30_104))
def test_with_copies_before_moves_and_with_little_room(seed: int) -> None:
    world = TimedWorld(seed, shape(copies=True, limits=TIGHT, held_budget=4096))
    world.run()
    assert world.check() > 50


def test_rows_are_late_and_partitions_silent_in_some_runs() -> None:
    late = silent = 0
    for seed in range(30_200, 30_200 + SEEDS):
        world = TimedWorld(seed, shape())
        world.run()
        late += sum(world.foretold().late.values())
        silent += sum(watermark is None for _, _, watermark in world.words)
    assert late
    assert silent


KEEP, GOING = WaitingTimes.keep, WaitingTimes.going


def _with_w_of_now(
    waiting: WaitingTimes,
) -> Iterator[tuple[EpochPart, NDArray[np.bool_]]]:
    """`going` that gives every epoch the W of the last one kept."""
    newest = waiting._kept[-1].part if waiting._kept else None
    for part, bins in GOING(waiting):
        assert newest is not None
        yield replace(part, before=newest.before, now=newest.now), bins


def _with_rows_only(
    waiting: WaitingTimes,
    part: EpochPart,
    owned: NDArray[np.bool_],
    numbers: NDArray[np.int32] | None,
) -> bool:
    """`keep` that forgets epochs in which only W rose."""
    return part.rows is not None and KEEP(waiting, part, owned, numbers)


HOST = "service.migration.timed_host.TimedHost"
STORE = "service.statestore.process_store.ProcessStore"


@dataclass(frozen=True)
class Lacking:
    """What is replaced by what, and what must be said of it."""

    target: str
    replacement: Callable[..., object]
    caught_by: str = "TW"
    #: Whether it shows only where there is little room.
    tight: bool = False


MUTANTS = {
    "an epoch is gone through before it is complete": Lacking(
        f"{HOST}._is_complete", lambda host, epoch: epoch < host._horizon(), "TW|RT|WO|WT|not allow"
    ),
    "bins that waited see the watermark of now": Lacking(
        "service.migration.waiting_times.WaitingTimes.going", _with_w_of_now
    ),
    "bins that waited miss epochs without rows": Lacking(
        "service.migration.waiting_times.WaitingTimes.keep", _with_rows_only
    ),
    "timers are lost in a move": Lacking(f"{STORE}._index", lambda *_: None),
    "a bin that leaves fires at its old owner": Lacking(
        f"{HOST}._owned_at", lambda host, _: np.ones_like(host._owned), "TW|WO|HO|S1"
    ),
    "settled says nothing of epochs": Lacking(
        f"{HOST}._unsettled", StateHost._unsettled, "TW|WO|HO|S1", tight=True
    ),
}


def finding(mutant: Lacking, seed: int) -> str | None:
    """What ended the run under `seed`, or None if nothing did."""
    one_message = WorkerLimits(data_window=4096, state_window=2048, local_queue=1)
    room = {"limits": one_message, "held_budget": 512} if mutant.tight else {}
    world = TimedWorld(seed, shape(**room))
    try:
        world.run()
        world.check()
    except (AssertionError, MegaphoneError, CapabilityError) as caught:
        return str(caught)
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_some_seed_catches_an_engine_in_which(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine as it is passes under the very seed that caught the other one."""
    mutant = MUTANTS[name]
    with monkeypatch.context() as patched:
        patched.setattr(mutant.target, mutant.replacement)
        findings = ((finding(mutant, seed), seed) for seed in range(31_000, 31_000 + SEEDS))
        nothing = (f"nothing in {SEEDS} schedules", 0)
        found, seed = next((each for each in findings if each[0]), nothing)
        assert re.search(mutant.caught_by, str(found)), found
    assert finding(mutant, seed) is None


def test_the_parts_that_mutants_replace_are_there() -> None:
    for kind, names in (
        (TimedHost, ("_is_complete", "_owned_at", "_unsettled")),
        (ProcessStore, ("_index",)),
    ):
        assert set(names) <= set(vars(kind))
