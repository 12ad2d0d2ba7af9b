"""Bins copied before they move: any plan, any delay, copies in vain, the same results.

What this kind cannot catch: that a copy saves anything; see the benchmark of transfers.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.dataflow.worker import WorkerLimits
from service.statestore.copying import BinCopier
from tests.simulation.flows import FlowUnderTest, one_stage, tree, two_stages
from tests.simulation.keyed_flows import in_order, joined, remembering
from tests.simulation.planned import PlannedWorld
from tests.simulation.test_cluster import SEEDS
from tests.simulation.test_mutants import SEEDS as SEEDS_OF_MUTANTS
from tests.simulation.test_mutants import Mutant, expect_caught
from tests.simulation.world import Shape, World

#: Windows of about two frames.
TIGHT = WorkerLimits(data_window=4096, state_window=2048, aside_window=600, local_queue=2048)


@pytest.mark.parametrize("seed", range(SEEDS // 2))
@pytest.mark.parametrize("flow", [one_stage, two_stages, remembering, joined, in_order, tree])
def test_results_are_exact_whatever_is_copied_before_it_moves(
    flow: Callable[[], FlowUnderTest], seed: int
) -> None:
    tight = seed % 2
    limits, budget = (TIGHT, 4096) if tight else (WorkerLimits(), 1 << 20)
    shape = Shape(flow=flow(), limits=limits, held_budget=budget, copies=True)
    world = World(20_000 + seed, shape)
    world.run()
    assert world.check() > 10
    assert world.bins_completed > 0


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_plans_that_copy_first_end_and_are_exact_however_they_are_steered(seed: int) -> None:
    limits = TIGHT if seed % 2 else WorkerLimits()
    world = PlannedWorld(22_000 + seed, Shape(limits=limits, bins=16, waves=25, copies=True))
    world.run()
    assert world.check() > 10
    assert world.bins_completed > 0


def copied() -> Shape:
    return Shape(copies=True)


def copied_objects() -> Shape:
    return Shape(flow=remembering(), copies=True)


def _without_the_rest(copier: BinCopier, bin_id: int) -> None:
    """`BinCopier.next_round` that forgets what the round before left."""
    assert copier._changes is not None
    copier._copies[bin_id].keys = copier._changes.take(bin_id)


#: A frame that comes after its copy has ended is rarer than what other mutants need.
MUTANT_SEEDS = max(40, SEEDS_OF_MUTANTS)
COPIER = "service.statestore.copying.BinCopier"
COPIES = "service.migration.copies.Copies"
NOTE = "service.statestore.changes.ChangedKeys.note"
#: A bin is not what it was where it left, as the check on all handovers says.
UNEQUAL = "HO1"
UNTOLD = "was told pieces of digest"
COUNTED = "after its copy was completed"

MUTANTS = {
    "changes are not noted": Mutant([(NOTE, lambda *_: None)], f"{UNEQUAL}|{COUNTED}", copied),
    "changes of objects are not noted": Mutant(
        [(NOTE, lambda *_: None)], f"{UNEQUAL}|{COUNTED}", copied_objects
    ),
    "chunks overtake what was copied": Mutant(
        [(f"{COPIES}.take_before_chunks", lambda _: None)], UNTOLD, copied
    ),
    "a copy that ended is staged": Mutant(
        [(f"{COPIES}._is_live", lambda *_: True)], f"WO|{UNTOLD}", copied
    ),
    "staged bins are not dropped": Mutant([(f"{COPIER}.drop", lambda *_: None)], "WO", copied),
    "a copy begins before its bin has come back": Mutant(
        [(f"{COPIES}._may_begin", lambda copies, bin_id, _: copies._installed[bin_id])],
        f"PC1|WO|{UNTOLD}|{UNEQUAL}",
        copied,
    ),
    "what a round left is forgotten": Mutant(
        [(f"{COPIER}.next_round", _without_the_rest)], UNEQUAL, copied
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_some_seed_catches_an_engine_in_which(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine as it is passes under the very seed that caught the other one."""
    expect_caught(MUTANTS[name], monkeypatch, MUTANT_SEEDS)
