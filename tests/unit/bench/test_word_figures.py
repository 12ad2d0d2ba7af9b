"""Which bound holds for which word-count run, and that it is met or missed at its edge.

Claims: WF1, WF2. The runs are made up; tests/integration/test_word_count.py makes real ones.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.bench.words.figures import figures_of
from service.bench.words.options import MAX, Backend, WordOptions
from tests.unit.bench.word_runs import STEADY, waits, word_run

FAST = WordOptions(rate=MAX)
OPEN = WordOptions(rate=1_000_000)


def judged(*runs, **beside):
    """(bound, met) of each figure that has one."""
    return {
        each.name: (each.bound, each.met)
        for each in figures_of(list(runs), **beside)
        if each.bound is not None
    }


@pytest.mark.parametrize(
    ("domain", "least"), [(1_000_000, 12e6), (16_000_000, 8e6)], ids=["1 M", "16 M"]
)
def test_full_speed_is_held_to_its_rate_and_to_its_part_of_the_fold(domain, least):
    options = replace(FAST, domain=domain)
    kept = judged(word_run(options, rate=least, bare=least / 0.4))
    assert kept == {
        "records counted by each worker": (least, True),
        "records counted over the fold alone": (0.4, True),
    }
    slow = judged(word_run(options, rate=least - 1, bare=least / 0.4))
    assert [met for _, met in slow.values()] == [False, False]


def test_one_worker_of_bytewax_is_beaten_forty_times():
    name = "records counted over those of Bytewax"
    assert judged(word_run(FAST, rate=20e6), peers=[5e5])[name] == (40, True)
    assert judged(word_run(FAST, rate=20e6), peers=[5e5 + 1])[name] == (40, False)


@pytest.mark.parametrize(
    "options",
    [
        replace(FAST, domain=2_000_000),
        replace(FAST, workers=3),
        replace(FAST, backend=Backend.VEC),
        replace(OPEN, rate=500_000),
        replace(OPEN, workers=1),
    ],
)
def test_a_run_of_another_size_is_only_recorded(options):
    assert judged(word_run(options, rate=1.0, bare=1e9), peers=[1e9]) == {}


@pytest.mark.parametrize(
    ("parts", "name", "bound"),
    [
        ([(51, 1.5), (49, 0.0)], "latency by frontier, p50", 1.5),
        ([(2, 4.0), (98, 0.0)], "latency by frontier, p99", 4.0),
        ([(1, 28.0), (199, 0.0)], "latency by frontier, max less the run's stall", 25.0),
    ],
)
def test_the_open_loop_is_met_at_its_bound_and_missed_above(parts, name, bound):
    def at(times):
        """All waits of the figure so many times as long; the machine stood still for 3 ms."""
        found = waits(*((STEADY, records, times * ms) for records, ms in parts))
        return judged(word_run(OPEN, frontier=found, stall_ms=3.0))

    assert at(1.0)[name] == (bound, True)
    assert at(1.001)[name] == (bound, False)
    others = {each: met for each, (_, met) in at(1.001).items() if each != name}
    assert others
    assert all(others.values())


@pytest.mark.parametrize("bins", [1 << 8, 1 << 16])
def test_bins_are_held_to_their_part_of_a_run_without(bins):
    options = replace(OPEN, bins=bins)
    native = word_run(OPEN, rate=1e6, frontier=waits((STEADY, 100, 2.0)))
    fast = word_run(options, rate=0.85e6, frontier=waits((STEADY, 100, 2.6)))
    kept = judged(fast, natives=[native])
    assert kept["records counted over those without bins"] == (0.85, True)
    assert kept["p99 over that without bins"] == (1.3, True)
    slow = word_run(options, rate=0.849e6, frontier=waits((STEADY, 100, 2.601)))
    missed = judged(slow, natives=[native])
    assert missed["records counted over those without bins"] == (0.85, False)
    assert missed["p99 over that without bins"] == (1.3, False)
    other = judged(replace(slow, options=replace(slow.options, bins=1024)), natives=[native])
    assert "p99 over that without bins" not in other


def test_a_ratio_is_taken_inside_each_run():
    # BD1: of the medians, 2 over 2, it would be 1.
    runs = [word_run(OPEN, rate=rate) for rate in (1e6, 2e6, 3e6)]
    natives = [word_run(OPEN, rate=rate) for rate in (2e6, 4e6, 1e6)]
    figures = {each.name: each for each in figures_of(runs, natives)}
    ratio = figures["records counted over those without bins"]
    assert (ratio.median, ratio.min, ratio.max) == (0.5, 0.5, 3.0)
