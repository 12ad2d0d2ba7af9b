"""Plans of every kind across timers and windows: what comes out is what comes out without plans.

Every strategy, waves of their own, copies ahead, pauses, aborts and the stop between waves, queues
and checkpoints, while windows close and rows are late. Judged three times: by the words and rows
themselves (of timers set by hand), by the same job with every bin where it began, told the same
tick by tick, and by the digest of every bin before and behind its way (`handovers`).

What this kind cannot catch: see tests/simulation/timed_plans.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from service.errors import MegaphoneError
from service.migration.timed_host import TimedHost
from service.statestore import scanning
from service.statestore.arena import KeyedTable
from service.statestore.chunk import PORTION_BYTES
from service.statestore.columns import Rows, no_rows
from service.statestore.place import Place
from tests.simulation.flows import FlowUnderTest
from tests.simulation.test_copies import TIGHT
from tests.simulation.test_event_time import Lacking
from tests.simulation.timed_plans import TimedPlannedWorld, check_unmoved, sessions, windows
from tests.simulation.timed_world import MAX_CUT, timed
from tests.simulation.world import Shape

SEEDS = 12


def world_of(flow: Callable[[], FlowUnderTest], seed: int, *, copies: bool) -> TimedPlannedWorld:
    """A world that has run to its end; with copies, little room."""
    shape = Shape(flow=flow(), rows=400, waves=20)
    if copies:
        shape = Shape(flow=flow(), rows=400, waves=20, copies=True, limits=TIGHT, held_budget=4096)
    world = TimedPlannedWorld(seed, shape)
    world.run()
    return world


@pytest.mark.parametrize("seed", range(40_000, 40_004))
@pytest.mark.parametrize("flow", [timed, windows, sessions])
def test_plans_of_every_kind_change_nothing_that_timers_and_windows_give(
    flow: Callable[[], FlowUnderTest], seed: int
) -> None:
    world = world_of(flow, seed, copies=seed % 2 == 1)
    assert world.check() > 50
    assert len(world.waves) >= 20
    assert world.handovers.compared > 25
    check_unmoved(world)


def test_the_seeds_reach_every_strategy_and_every_end() -> None:
    """Otherwise the test above would prove less than it says."""
    strategies: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for seed in range(40_100, 40_106):
        world = world_of(timed, seed, copies=seed % 3 == 0)
        world.check()
        strategies += world.completed()
        for status in world.statuses:
            plan = "checkpoint" if status.id in world.no_plans else "plan"
            ends[f"{plan} {status.state}"] += 1
            ends["between waves"] += "aborted it after" in (status.reason or "")
        found["late"] += len(world.outputs.get("late out", ()))
        found["silent"] += sum(told is None for _, _, told in world.words)
        found["copied"] += world.bins_completed
        found["marked"] += len(world.marked)
    assert set(strategies) == {"all-at-once", "fluid", "batched", "optimized"}
    assert ends["between waves"]
    assert ends["plan aborted"]
    assert ends["plan paused"]
    assert ends["checkpoint completed"]
    assert min(found[each] for each in ("late", "silent", "copied", "marked")) > 0, found


def _anew(table: KeyedTable, bin_id: int) -> Iterator[Rows]:
    """`portions_of` that takes a bin that leaves for one that may change."""
    most = PORTION_BYTES // (8 * (2 + len(table.columns)))
    place = Place()
    yield no_rows(table.columns)
    while (lines := scanning.next_rows(table, bin_id, place, most)) is not None:
        yield scanning.as_rows(table, lines)


MUTANTS = {
    "a bin that leaves is read anew when others shrink": Lacking(
        "service.statestore.vertex_store.portions_of", _anew, "comes twice"
    ),
    "a checkpoint keeps the watermark of now": Lacking(
        "service.migration.timed_host.TimedHost.watermark_at",
        lambda host, _: host.clock.at(MAX_CUT),
        "TP1",
    ),
}


def finding(mutant: Lacking, seed: int) -> str | None:
    """What ended the run under `seed`, or None if nothing did."""
    try:
        world_of(windows, seed, copies=False).check()
    except (AssertionError, MegaphoneError) as caught:
        return str(caught)
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_some_seed_catches_timers_and_plans_in_which(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the engine as it is passes under the very seed that caught the other one."""
    mutant = MUTANTS[name]
    with monkeypatch.context() as patched:
        patched.setattr(mutant.target, mutant.replacement)
        findings = ((finding(mutant, seed), seed) for seed in range(40_200, 40_200 + SEEDS))
        nothing = (f"nothing in {SEEDS} schedules", 0)
        found, seed = next((each for each in findings if each[0]), nothing)
        assert re.search(mutant.caught_by, str(found)), found
    assert finding(mutant, seed) is None


def test_the_parts_that_mutants_replace_are_there() -> None:
    assert callable(scanning.portions_of)
    assert "watermark_at" in vars(TimedHost)
