"""Whole jobs under many seeds: any plan, any delay, the same results as without a plan.

What this kind cannot catch: see tests/simulation/world.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from service.dataflow.worker import WorkerLimits
from tests.simulation.flows import (
    FlowUnderTest,
    branches,
    exchanged,
    mixed,
    relayed,
    spread,
    tree,
    two_stages,
)
from tests.simulation.keyed_flows import firsts, in_order, joined, ordered_tree, remembering
from tests.simulation.world import Shape, World

#: `make sim` raises it; each seed is one schedule.
SEEDS = int(os.environ.get("MEGAPHONE_SIM_SEEDS", "25"))

#: A window takes about two frames, a queue and a held store a few batches.
TIGHT = WorkerLimits(data_window=4096, state_window=2048, local_queue=2048)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_gateways_and_three_workers_stay_exact_under_any_plan(seed: int) -> None:
    world = World(seed, Shape())
    world.run()
    assert world.check() > 50


@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_stages_drain_and_stay_exact_under_any_plan(seed: int) -> None:
    world = World(1_000 + seed, Shape(flow=two_stages()))
    world.run()
    assert world.check() > 10


@pytest.mark.parametrize("flow", [exchanged, relayed])
@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_outputs_stay_in_order_behind_an_exchange_as_bins_move(
    seed: int, flow: Callable[[], FlowUnderTest]
) -> None:
    tight = seed % 2
    limits, budget = (TIGHT, 4096) if tight else (WorkerLimits(), 1 << 20)
    world = World(4_000 + seed, Shape(flow=flow(), limits=limits, held_budget=budget))
    world.run()
    assert world.check() > 50


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_tiny_windows_and_budgets_neither_deadlock_nor_lose(seed: int) -> None:
    world = World(2_000 + seed, Shape(limits=TIGHT, held_budget=512))
    world.run()
    assert world.check() > 50


@pytest.mark.parametrize("seed", range(SEEDS // 3))
def test_branches_and_two_sinks_on_one_producer_see_one_history(seed: int) -> None:
    world = World(3_000 + seed, Shape(flow=branches(), limits=TIGHT, held_budget=4096))
    world.run()
    assert world.check() > 100


@pytest.mark.parametrize("seed", range(SEEDS // 5))
def test_rows_of_gateways_and_of_workers_meet_in_one_vertex(seed: int) -> None:
    world = World(5_000 + seed, Shape(flow=mixed(), limits=TIGHT, held_budget=4096))
    world.run()
    assert world.check() > 50


@pytest.mark.parametrize("seed", range(SEEDS))
def test_bins_move_while_rows_go_round_a_loop(seed: int) -> None:
    tight = seed % 2
    limits, budget = (TIGHT, 4096) if tight else (WorkerLimits(), 1 << 20)
    world = World(6_000 + seed, Shape(flow=tree(), limits=limits, held_budget=budget))
    world.run()
    assert world.check() > 50


@pytest.mark.parametrize("seed", range(SEEDS))
def test_rows_are_spread_delayed_and_parted_while_bins_move(seed: int) -> None:
    tight = seed % 2
    limits, budget = (TIGHT, 4096) if tight else (WorkerLimits(), 1 << 20)
    world = World(10_000 + seed, Shape(flow=spread(3), limits=limits, held_budget=budget))
    world.run()
    assert world.check() > 100


@pytest.mark.parametrize("seed", range(SEEDS // 2))
@pytest.mark.parametrize("flow", [remembering, joined, firsts, in_order, ordered_tree])
def test_objects_joins_and_ordered_vertices_move_exactly(
    flow: Callable[[], FlowUnderTest], seed: int
) -> None:
    tight = seed % 2
    limits, budget = (TIGHT, 4096) if tight else (WorkerLimits(), 1 << 20)
    world = World(7_000 + seed, Shape(flow=flow(), limits=limits, held_budget=budget))
    world.run()
    assert world.check() > 50


@pytest.mark.parametrize("seed", range(5))
def test_a_run_without_a_plan_moves_nothing_and_passes_the_same_checks(seed: int) -> None:
    world = World(4_000 + seed, Shape(waves=0))
    world.run()
    assert world.check() > 50
    assert world.reports == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_one_gateway_and_any_number_of_workers_pass_the_same_checks(workers: int) -> None:
    waves = 25 if workers > 1 else 0
    world = World(7, Shape(workers=workers, gateways=1, bins=16, waves=waves))
    world.run()
    assert world.check() > 50


def test_one_bin_moves_as_well_as_many() -> None:
    world = World(8, Shape(bins=1))
    world.run()
    assert world.check() > 50
    assert len(world.reports) == len(world.waves) == 25


def test_the_table_does_not_grow_with_the_number_of_waves() -> None:
    world = World(9, Shape(waves=60))
    world.run()
    world.check()
    assert max(len(member.table.cuts_after(0)) for member in world.members) < 60
