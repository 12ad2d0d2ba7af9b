"""Whole jobs whose plans come from the controller, under many seeds: every strategy and request.

What this kind cannot catch: see tests/simulation/planned.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from service.dataflow.worker import WorkerLimits
from tests.simulation.flows import FlowUnderTest, one_stage, tree, two_stages
from tests.simulation.keyed_flows import in_order, joined, remembering
from tests.simulation.planned import PlannedWorld
from tests.simulation.test_cluster import SEEDS, TIGHT
from tests.simulation.world import Shape


@pytest.mark.parametrize("seed", range(SEEDS // 2))
@pytest.mark.parametrize("flow", [one_stage, two_stages])
def test_plans_of_every_kind_change_no_result(flow: Callable[[], FlowUnderTest], seed: int) -> None:
    limits = TIGHT if seed % 2 else WorkerLimits()
    world = PlannedWorld(20_000 + seed, Shape(flow=flow(), limits=limits, bins=16, waves=30))
    world.run()
    assert world.check() > 10
    assert len(world.waves) >= 30


@pytest.mark.parametrize("seed", range(SEEDS // 5))
@pytest.mark.parametrize("flow", [tree, remembering, joined, in_order])
def test_plans_move_objects_ordered_vertices_and_loops_exactly(
    flow: Callable[[], FlowUnderTest], seed: int
) -> None:
    world = PlannedWorld(21_000 + seed, Shape(flow=flow(), waves=20))
    world.run()
    assert world.check() > 50


def test_the_seeds_reach_every_kind_of_end() -> None:
    """Otherwise the tests above would prove less than they say."""
    ends: Counter[str] = Counter()
    for seed in range(20):
        world = PlannedWorld(20_000 + seed, Shape(bins=16, waves=30))
        world.run()
        world.check()
        for status in world.statuses:
            reason = status.reason or ""
            for said in ("aborted it before", "aborted it after", "stopped after", "under way"):
                ends[said] += said in reason
            ends[status.state] += 1
    assert set(ends) >= {"accepted", "running", "paused", "completed", "aborted", "rejected"}
    assert min(ends.values()) > 0, ends
