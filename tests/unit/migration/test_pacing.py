"""Pacing against a model of workers: waves overlap where they may and never pile up.

The model: a wave takes a fixed time that overlaps with other waves, and work that does not.
Cannot catch: workers that behave otherwise; that is measured.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from service.migration.pacing import Pacer, Pacing, TransferRate
from service.migration.plan import Plan
from service.migration.plan_run import PlanRun
from service.migration.reports import MovedReport

PACING = Pacing()
LOOKAHEAD_US = 200_000
TURN_US = 5_000


class Model:
    """A plan of fluid waves run against workers that take `empty_us` plus `work_us` in turn."""

    def __init__(
        self,
        waves: int,
        empty_us: int,
        work_us: int,
        size: int,
        noise_us: NDArray[np.int64] | None = None,
    ) -> None:
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
                noise = 0 if noise_us is None else int(noise_us[wave.number - 1])
                due.append((wave.cut, free + empty_us + noise))
            if now % 50_000 == 0:
                below = run.reserved_cut
                horizon = (
                    now + LOOKAHEAD_US if below is None else min(now + LOOKAHEAD_US, below - 1)
                )
            for cut, at in sorted((e for e in due if e[1] <= now), key=lambda e: e[1]):
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


@pytest.mark.parametrize("size", [1, 20_000])
@pytest.mark.parametrize("empty_us", [20_000, 60_000, 120_000])
def test_waves_of_little_work_follow_one_another_quickly(empty_us: int, size: int) -> None:
    model = Model(200, empty_us, work_us=1_000, size=size)
    assert model.gaps[len(model.gaps) // 2] <= 20_000
    seconds = (model.waves[-1][1] - model.waves[0][0]) / 1e6
    assert 200 / seconds >= 25
    assert max(model.took) <= 1.2 * (empty_us + 1_000)


@pytest.mark.parametrize(
    ("work_us", "size", "times"),
    [
        (200_000, 40_000_000, 1.2),  # as fast as was guessed
        (200_000, 160_000_000, 1.2),  # four times as fast
        (200_000, 10_000_000, 2.5),  # four times as slow, which the first waves find out
        (200_000, 0, 2.0),  # of unknown size
        (15_000, 1, 2.5),  # work that no size explains
    ],
)
def test_waves_of_much_work_do_not_pile_up(work_us: int, size: int, times: float) -> None:
    """Cuts closer than the work of a wave would make each wait for all before it."""
    model = Model(80, empty_us=50_000, work_us=work_us, size=size)
    assert max(model.took) <= times * (50_000 + work_us)
    if size:
        assert model.gaps[len(model.gaps) // 2] <= 1.6 * work_us


def test_noise_does_not_slow_a_plan_down() -> None:
    """Some waves take several times as long, for no reason that lies in the waves."""
    draw = np.random.default_rng(7)
    model = Model(300, 30_000, 1_000, 1, noise_us=draw.exponential(40_000, 300).astype(int))
    assert model.gaps[len(model.gaps) // 2] <= 33_000
    seconds = (model.waves[-1][1] - model.waves[0][0]) / 1e6
    assert 300 / seconds >= 25


def test_before_anything_is_known_only_a_few_waves_are_risked() -> None:
    pacer = Pacer(PACING, TransferRate())
    assert [pacer.may_issue(n, 0, size=0) for n in (1, 2)] == [True, False]
    assert pacer.may_issue(2, 0, size=1)
    assert not pacer.may_issue(3, PACING.waves_late_max, size=1)


def test_the_spacing_stays_between_its_bounds() -> None:
    pacer = Pacer(PACING, TransferRate())
    now = 0
    for _ in range(50):
        now += 10_000
        pacer.completed(0, now - 10_000, now)
    assert pacer.spacing_us == PACING.spacing_us_min
    for took in (10_000_000, 2_000_000) * 20:
        now += took
        pacer.completed(0, now - took, now)
    assert PACING.spacing_us_min < pacer.spacing_us <= PACING.spacing_us_max
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
