"""What `bench state` and `bench transfer` make of what was measured: met and missed at the edge.

Claims: BD2. What is measured is made up; test_state_side.py and test_transfer.py measure.
"""

from __future__ import annotations

import pytest

from service.bench.document import BenchDocument
from service.bench.state import StateOptions
from service.bench.state import figures_of as state_figures
from service.bench.state_side import SideResult
from service.bench.transfer import FEW_BINS, TINY_BINS, Measured, Transferred
from service.bench.transfer import figures_of as transfer_figures

BUDGET = 1_000_000


def side(skewed=300_000.0, uniform=50_000.0, grown=1_150_000):
    """What one process found."""
    return SideResult([skewed], [uniform], 1.0, grown, 1.0, 2.0, 3, exact=True)


def judged(figures):
    """(bound, met) of each figure that has one; the exit status says the same."""
    document = BenchDocument("b", "c", {"stall_ms": 0.0}, {}, list(figures))
    found = {e.name: (e.bound, e.met) for e in document.figures if e.bound is not None}
    assert document.exit_status == (0 if all(met for _, met in found.values()) else 3)
    return found


STATE = {
    "Zipf 0.99, each worker": 300_000,
    "uniform, each worker": 50_000,
    "memory above readiness over the budget": 1.15,
}


@pytest.mark.parametrize(
    ("tiered", "missed"),
    [
        (side(), set()),
        (side(skewed=299_999), {"Zipf 0.99, each worker"}),
        (side(uniform=49_999), {"uniform, each worker"}),
        (side(grown=1_150_001), {"memory above readiness over the budget"}),
    ],
)
def test_state_larger_than_memory_is_met_at_its_bounds_and_missed_beyond(tiered, missed):
    found = judged(state_figures(StateOptions(BUDGET), [tiered, side()], [side()], [side()]))
    assert found == {name: (bound, name not in missed) for name, bound in STATE.items()}


def test_rates_are_of_a_worker_on_average_and_memory_of_the_one_that_has_most():
    uneven = [side(skewed=200_000.0, grown=1_150_000), side(skewed=400_000.0, grown=1)]
    found = judged(state_figures(StateOptions(BUDGET), uneven, [side()], [side()]))
    assert all(met for _, met in found.values())
    medians = {
        each.name: each.median
        for each in state_figures(StateOptions(BUDGET), uneven, [side()], [side()])
    }
    assert medians["Zipf 0.99, each worker"] == 300_000
    assert medians["memory above readiness over the budget"] == 1.15


def test_what_fits_is_compared_run_by_run():
    bounded = SideResult([], [1.0, 2.0, 9.0], 1.0, 0, 1.0, 1.0, 0, exact=True)
    free = SideResult([], [2.0, 4.0, 3.0], 1.0, 0, 1.0, 1.0, 0, exact=True)
    figures = state_figures(StateOptions(BUDGET), [side()], [bounded], [free])
    (ratio,) = (each for each in figures if "over without one" in each.name)
    assert (ratio.median, ratio.min, ratio.max, ratio.bound) == (0.5, 0.5, 3.0, None)


def moved(rate, ms=100.0):
    """A transfer at so many MB/s that took `ms`."""
    ended = round(ms * 1e6)
    gave = Transferred(0, 1, 0, ended, 0, 0, 0, 0, 0, 0)
    return gave, Transferred(9, 1, 0, 0, 0, ended, 0, ended, round(rate * ms * 1e3), 1 << 20)


@pytest.mark.parametrize("bins", [FEW_BINS, 1])
def test_moved_state_is_met_at_its_bound_and_missed_below(bins):
    def at(rate):
        plain = {each: [moved(400)] for each in (FEW_BINS, 1)} | {TINY_BINS: [moved(1)]}
        return judged(transfer_figures(Measured(plain | {bins: [rate]}, [moved(1)], [moved(1)]), 9))

    name = f"state of {bins:,} bins, worker to worker".replace("1 bins", "1 bin")
    assert at(moved(400))[name] == (400, True)
    assert at(moved(399.99))[name] == (400, False)
    assert len(at(moved(1))) == 2


def test_a_transfer_s_cuts_are_those_of_their_own_runs():
    measured = Measured({1: [moved(400)]}, [moved(1, ms=30)], [moved(1, ms=140)])
    medians = {each.name: each.median for each in transfer_figures(measured, 9)}
    assert medians["cut of 1,024 copied bins, a hundredth changed since"] == 30
    assert medians["cut of 1,024 bins that were not copied"] == 140
