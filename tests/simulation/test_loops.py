"""Whole jobs whose rows go round, under many seeds: nested loops, bounded ones, bins in a hurry.

The checks are those of tests/simulation/world.py. Beside them it is counted that what these
schedules are for does happen in them: bins arrive while rows go round, and a bin is asked to move
on before it has arrived.
"""

from __future__ import annotations

import os

import pytest

from service.dataflow.worker import WorkerLimits
from tests.simulation.flows import FlowUnderTest, tree
from tests.simulation.loop_flows import bounded, nested, stages
from tests.simulation.test_cluster import TIGHT
from tests.simulation.world import Shape, World

#: Together with test_cluster.py's flow that has a loop, every other schedule has one.
SEEDS = int(os.environ.get("MEGAPHONE_SIM_SEEDS", "25"))


#: Rows go round several times each: a few are enough.
ROWS = 200


class Circling(World):
    """Counts what these schedules are for."""

    def __init__(self, seed: int, shape: Shape) -> None:
        super().__init__(seed, shape)
        #: Arrivals of bins reported by hosts that knew of rows in a second round or a later one.
        self.in_motion = 0
        #: Most cuts at which one bin was still to arrive at one host.
        self.chained = 0
        self.topology = self.members[0].worker.tracker.topology
        depths = enumerate(self.topology.depths)
        self.inside = [location for location, depth in depths if depth > 1]

    def _step(self) -> bool:
        before = len(self.reports), list(self.steps)
        happened = super()._step()
        if not happened:
            return False
        (peer,) = (p for p, steps in enumerate(self.steps) if steps > before[1][p])
        member = self.members[peer]
        for host in member.hosts.values():
            self.chained = max([self.chained, *map(len, host.waiting._cuts.values())])
        if len(self.reports) > before[0]:
            tracker = member.worker.tracker
            self.in_motion += any(
                any(time[1:]) for location in self.inside for time in tracker.pointstamps(location)
            )
        return True


def circle(seed: int, flow: FlowUnderTest, bins: int = 8) -> Circling:
    """Run one schedule; every other one with tiny windows and budgets."""
    limits, budget = (TIGHT, 4096) if seed % 2 else (WorkerLimits(), 1 << 20)
    shape = Shape(flow=flow, bins=bins, rows=ROWS, limits=limits, held_budget=budget)
    world = Circling(seed, shape)
    world.run()
    assert world.check() > 50
    assert len(world.members) >= 3
    assert min(world.steps) >= 50
    assert max(world.topology.depths) > 1
    return world


@pytest.mark.parametrize("seed", range(SEEDS * 3 // 5))
def test_bins_move_while_rows_go_round_a_loop_in_a_loop(seed: int) -> None:
    world = circle(7_000 + seed, (nested, stages)[seed % 4 // 2]())
    assert max(world.topology.depths) == 3


@pytest.mark.parametrize("seed", range(SEEDS * 6 // 5))
def test_a_loop_that_only_its_bound_ends_counts_every_round_once(seed: int) -> None:
    circle(8_000 + seed, bounded())


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_a_bin_moves_on_before_it_has_arrived_while_rows_go_round(seed: int) -> None:
    """With two bins, most waves name one that still is on its way."""
    circle(9_000 + seed, (tree, nested)[seed % 2](), bins=2)


def test_the_schedules_are_what_they_are_for() -> None:
    worlds = [circle(seed, flow(), bins=2) for seed in (1, 2) for flow in (tree, stages, bounded)]
    assert all(world.in_motion > 0 for world in worlds)
    assert all(world.chained > 1 for world in worlds)
