"""Shapes of rates: what a user means by square, sine and steps.

Cannot catch: rounding at the edges, which tests/property/test_loadgen_dates.py looks for.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadgen.schedule import US_PER_SECOND, ConstantRate
from loadgen.shapes import Shape, Varying, parsed_steps, plan_of, schedule_of, steps_of


def per_second(schedule, seconds):
    """Events in each second."""
    dues = [schedule.due(second * US_PER_SECOND - 1) for second in range(seconds + 1)]
    return np.diff(dues).tolist()


def test_a_square_is_one_rate_for_half_a_period_and_then_the_other():
    steps = steps_of(Shape.SQUARE, 1_000, 200, 4 * US_PER_SECOND)
    schedule = Varying.lasting(0, steps, 8 * US_PER_SECOND)
    assert per_second(schedule, 8) == [1_000, 1_000, 200, 200] * 2
    assert schedule.total == 4_800


def test_a_sine_starts_at_the_first_rate_is_at_the_other_after_half_a_period_and_returns():
    steps = steps_of(Shape.SINE, 10_000, 2_000, 100 * US_PER_SECOND)
    rates = [rate for rate, _ in steps]
    exact = [6_000 + 4_000 * math.cos(2 * math.pi * (i + 0.5) / 100) for i in range(100)]
    assert max(abs(a - b) for a, b in zip(rates, exact)) < 0.002 * 4_000
    assert rates == rates[::-1]
    assert sum(length for _, length in steps) == 100 * US_PER_SECOND
    assert abs(sum(rates) / 100 - 6_000) < 1


def test_steps_may_pause_and_begin_again():
    steps = parsed_steps("100x1, 0x2,300x1")
    schedule = Varying.lasting(0, steps, 8 * US_PER_SECOND)
    assert per_second(schedule, 8) == [100, 0, 0, 300] * 2
    # The event after a pause is due when the pause ends, not when it begins.
    assert schedule.times_us(np.array([99, 100])).tolist() == [990_000, 3_000_000]


@pytest.mark.parametrize("text", ["", "5", "x5", "5x", "a,b", "10x1;20x1"])
def test_steps_that_are_not_written_so_are_refused(text):
    with pytest.raises(ValueError, match="RATExSECONDS"):
        parsed_steps(text)


@pytest.mark.parametrize("steps", [((0, 5),), ((5, 0),), ((-1, 5),), ((100_000_000, 10**12),) * 9])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(ValueError, match="step|rate"):
        Varying(0, steps, 5)


@pytest.mark.parametrize("schedule", [ConstantRate(7, 50, 9), Varying(7, ((5, 10), (0, 3)), 9)])
def test_a_plan_is_read_back(schedule):
    assert schedule_of(plan_of(schedule)) == schedule
