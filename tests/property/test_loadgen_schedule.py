"""Properties of the open-loop schedule: what is due is exactly what is meant for that time.

Cannot catch: a producer that asks too seldom (tests/unit/loadgen/test_producer.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.schedule import ConstantRate, Shard

# A busy machine is no sign of a slow test.
TIMELESS = settings(deadline=None)
STARTS = st.integers(0, 2_000_000_000_000_000)
RATES = st.integers(1, 10_000_000)
NUMBERS = st.integers(0, 1_000_000_000)


def time_of(schedule, number):
    return int(schedule.times_us(np.array([number], dtype=np.int64))[0])


@TIMELESS
@given(STARTS, RATES, NUMBERS, st.integers(-5, 5))
def test_an_event_is_due_exactly_from_its_time_on(start, rate, number, offset):
    schedule = ConstantRate(start, rate, 2_000_000_000)
    now = time_of(schedule, number) + offset
    assert (number < schedule.due(now)) == (offset >= 0)


@TIMELESS
@given(STARTS, RATES, st.integers(0, 1_000))
def test_never_more_than_all_are_due_and_none_before_the_start(start, rate, total):
    schedule = ConstantRate(start, rate, total)
    assert schedule.due(start - 1) == 0
    assert schedule.due(start + 1_000_000_000_000) == total


@TIMELESS
@given(STARTS, RATES, st.integers(0, 1_000_000))
def test_times_are_the_exact_fractions_floored_and_never_decrease(start, rate, first):
    numbers = np.arange(first, first + 100)
    times = ConstantRate(start, rate, 2_000_000).times_us(numbers)
    assert times.tolist() == [start + n * 1_000_000 // rate for n in numbers.tolist()]
    assert (np.diff(times) >= 0).all()


@TIMELESS
@given(st.integers(0, 500), st.integers(1, 7))
def test_shards_share_out_every_event_once(due, count):
    shards = [Shard(index, count) for index in range(count)]
    numbers = [n for shard in shards for n in shard.numbers(0, shard.share(due)).tolist()]
    assert sorted(numbers) == list(range(due))


@pytest.mark.parametrize("make", [lambda: ConstantRate(0, 0, 1), lambda: Shard(2, 2)])
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()
