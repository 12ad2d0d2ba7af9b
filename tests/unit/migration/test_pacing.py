"""Pacing against a model of workers: waves overlap where they may and never pile up.

The model: a wave takes a fixed time that overlaps with other waves, and work that does not.
Cannot catch: workers that behave otherwise; that is measured.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from service.migration.pacing import Pacer, Pacing, TransferRate
from service.migration.plan import Plan
from service.migration.plan_run import PlanRun
from service.migration.reports import MovedReport

PACING = Pacing()
LOOKAHEAD_US = 200_000
TURN_US = 5_000


class Model:
    """A plan of fluid waves run against workers that take `empty_us` plus `work_us` in turn."""

    def __init__(self, waves: int, empty_us: int, work_us: int, size: int) -> None:
        sizes = (size,) * waves if size else ()
        plan = Plan("r", tuple(((b, 1),) for b in range(waves)), 250_000, sizes=sizes)
        run = PlanRun(plan, 1, PACING)
        #: (cut, completion) of each wave.
        self.waves: list[tuple[int, int]] = []
        free = now = horizon = 0
        due: list[tuple[int, int]] = []
        while not run.is_over:
            now += TURN_US
            while (wave := run.issue(horizon + 1, now + LOOKAHEAD_US, now)) is not None:
                free = max(free, wave.cut) + work_us
                due.append((wave.cut, free + empty_us))
            if now % 50_000 == 0:
                below = run.reserved_cut
                horizon = (
                    now + LOOKAHEAD_US if below is None else min(now + LOOKAHEAD_US, below - 1)
                )
            for cut, at in [each for each in due if each[1] <= now]:
                due.remove((cut, at))
                run.report(1, MovedReport(vertex="v", cut=cut, bins=1, bytes=1, rows=1), at)
                self.waves.append((cut, at))

    @property
    def gaps(self) -> list[int]:
        """Between completions, ascending."""
        return sorted(after - before for (_, before), (_, after) in pairwise(self.waves))

    @property
    def took(self) -> list[int]:
        """From cut to completion."""
        return [at - cut for cut, at in self.waves]


@pytest.mark.parametrize("size", [0, 20_000])
@pytest.mark.parametrize("empty_us", [20_000, 60_000, 120_000])
def test_waves_of_little_work_follow_one_another_quickly(empty_us: int, size: int) -> None:
    model = Model(200, empty_us, work_us=1_000, size=size)
    assert model.gaps[len(model.gaps) // 2] <= 20_000
    seconds = (model.waves[-1][1] - model.waves[0][0]) / 1e6
    assert 200 / seconds >= 25
    assert max(model.took) <= 1.2 * (empty_us + 1_000)


@pytest.mark.parametrize("size", [0, 40_000_000])
def test_waves_of_much_work_do_not_pile_up(size: int) -> None:
    """200 ms of work each: cuts closer than that would make each wave wait for all before it.

    Known sizes prevent it; without them a pile is noticed a lookahead late, and goes again.
    """
    model = Model(60, empty_us=50_000, work_us=200_000, size=size)
    settled = model.took[10:]
    assert max(settled) <= (1.2 if size else 2.7) * 250_000
    assert model.gaps[len(model.gaps) // 2] <= 1.3 * 200_000


def test_before_anything_is_known_only_a_few_waves_are_risked() -> None:
    pacer = Pacer(PACING, TransferRate())
    assert [pacer.may_issue(n, 0, size=0) for n in (1, 2)] == [True, False]
    assert pacer.may_issue(2, 0, size=1)
    pacer.completed(0, cut=1, now_us=1_001)
    assert [pacer.may_issue(n, 0, size=0) for n in (2, 3)] == [True, False]
    assert not pacer.may_issue(3, PACING.waves_late_max, size=1)


def test_the_spacing_stays_between_its_bounds() -> None:
    pacer = Pacer(PACING, TransferRate())
    now = 0
    for _ in range(50):
        now += 10_000
        pacer.completed(0, now - 10_000, now)
    assert pacer.spacing_us == PACING.spacing_us_min
    for _ in range(20):
        now += 10_000_000
        pacer.behind(now - 9_000_000, 0)
        pacer.completed(0, now - 9_000_000, now)
    assert pacer.spacing_us == PACING.spacing_us_max
    assert pacer.behind(now, 0) <= 2 * PACING.spacing_us_max
    assert pacer.behind(now, 1 << 50) == PACING.spacing_us_max


def test_the_rate_follows_what_large_waves_take_and_small_ones_say_nothing_of_it() -> None:
    rate = TransferRate(empty_us=50_000, bytes_per_s=1_000)
    rate.note(1_000, 40_000)
    assert (rate.empty_us, rate.is_measured) == (40_000, False)
    for _ in range(20):
        rate.note(100_000_000, 250_000 + 40_000)
    assert rate.is_measured
    assert rate.bytes_per_s == 400_000_000
    assert rate.wave_us(0) == rate.empty_us
    assert rate.work_us(rate.bytes_per_s) == 1_000_000
