"""Whole jobs under many seeds: any plan, any delay, the same results as without a plan.

What this kind cannot catch: see tests/simulation/world.py.
"""

from __future__ import annotations

import os

import pytest

from service.dataflow.worker import WorkerLimits
from tests.simulation.world import Shape, World, one_stage, two_stages

#: `make sim` raises it; each seed is one schedule.
SEEDS = int(os.environ.get("MEGAPHONE_SIM_SEEDS", "25"))

TIGHT = WorkerLimits(data_window=4096, state_window=2048, local_queue=2048)


def _final(world: World) -> dict[int, dict[str, int]]:
    """Last output of each key, without the columns that depend on where batches were cut."""
    last = {}
    for output in world.outputs:
        kept = {name: value for name, value in output.items() if name != "oldest"}
        last[output["auction"]] = kept
    return last


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_gateways_and_three_workers_stay_exact_under_any_plan(seed: int) -> None:
    world = World(seed, Shape())
    world.run()
    assert world.check_one_stage() > 100
    assert sum(len(member.take_reports()) for member in world.members) > 5


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_stages_drain_and_stay_exact_under_any_plan(seed: int) -> None:
    world = World(1_000 + seed, Shape(flow=two_stages, rows=800))
    world.run()
    assert world.check_two_stages() > 10


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_tiny_windows_and_budgets_neither_deadlock_nor_lose(seed: int) -> None:
    world = World(2_000 + seed, Shape(flow=one_stage, rows=800, limits=TIGHT, held_budget=512))
    world.run()
    assert world.check_one_stage() > 50


@pytest.mark.parametrize("seed", range(5))
def test_a_run_with_plans_ends_like_a_run_without(seed: int) -> None:
    # One gateway and the same seed for its rows would need the same schedule; what must agree is
    # that both equal the aggregate of the rows they stamped, which `check_one_stage` computes.
    still = World(seed, Shape(plans=False))
    still.run()
    assert still.check_one_stage() > 100
    assert all(not member.take_reports() for member in still.members)
    moved = World(seed, Shape())
    moved.run()
    expected = {
        key: {"auction": key, "bids": len(p), "total": sum(p), "highest": max(p)}
        for key, p in moved.stamped.items()
    }
    assert _final(moved) == expected


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_one_bin_or_many_workers_make_no_difference(workers: int) -> None:
    world = World(7, Shape(workers=workers, gateways=1, bins=16, plans=workers > 1))
    world.run()
    assert world.check_one_stage() > 100
