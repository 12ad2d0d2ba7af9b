"""Properties of changing rates and of event times, against definitions by search.

Cannot catch: a shape other than the one a user had in mind (tests/unit/loadgen/test_shapes.py).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadgen.dates import NEVER, EventDates
from loadgen.schedule import ConstantRate
from loadgen.shapes import Varying, plan_of, schedule_of
from service.nexmark.events import EventSource, NexmarkConfig

STARTS = st.integers(0, 2_000_000_000_000_000)
STEPS = st.lists(
    st.tuples(st.integers(0, 3_000_000), st.integers(1, 5_000_000)), min_size=1, max_size=6
).filter(lambda steps: any(rate for rate, _ in steps))


def exact_time(steps, number):
    """Microseconds after the start at which event `number` is due, as a fraction."""
    left = Fraction(number * 1_000_000)
    per_period = sum(rate * length for rate, length in steps)
    periods = left // per_period
    left -= periods * per_period
    at = Fraction(periods * sum(length for _, length in steps))
    for rate, length in steps:
        if left < rate * length:
            return at + left / rate
        left -= rate * length
        at += length
    raise AssertionError("less than a period is left")


@given(STARTS, STEPS, st.integers(0, 10**9))
def test_times_are_the_exact_ones_floored(start, steps, first):
    numbers = np.arange(first, first + 50)
    times = Varying(start, tuple(steps), 2 * 10**9).times_us(numbers)
    expected = [start + exact_time(steps, n) // 1 for n in numbers.tolist()]
    assert times.tolist() == expected


@given(STARTS, STEPS, st.integers(0, 10**9), st.integers(-3, 3))
def test_an_event_is_due_exactly_from_its_time_on(start, steps, number, offset):
    schedule = Varying(start, tuple(steps), 2 * 10**9)
    now = int(schedule.times_us(np.array([number]))[0]) + offset
    assert (number < schedule.due(now)) == (offset >= 0)
    assert schedule.due(start - 1) == 0


@given(STARTS, st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_one_step_is_a_constant_rate(start, rate, length, first):
    numbers = np.arange(first, first + 20)
    varying = Varying(start, ((rate, length),), 10**7)
    constant = ConstantRate(start, rate, 10**7)
    assert varying.times_us(numbers).tolist() == constant.times_us(numbers).tolist()


@given(STARTS, STEPS, st.integers(1, 20_000_000))
def test_a_length_of_time_holds_the_events_that_are_due_in_it(start, steps, length):
    schedule = Varying.lasting(start, steps, length)
    around = schedule.times_us(np.array([max(0, schedule.total - 1), schedule.total]))
    assert schedule.total == 0 or around[0] < start + length
    assert around[1] >= start + length
    assert schedule_of(plan_of(schedule)) == schedule


@given(
    steps=STEPS,
    start=STARTS,
    origin=STARTS,
    total=st.integers(1, 400),
    dilation=st.fractions(Fraction(1, 1000), 5_000, max_denominator=1_000),
    group=st.sampled_from([1, 5, 64, 100]),
    data=st.data(),
)
def test_what_passes_a_date_is_found_by_looking_at_every_sending(
    steps, start, origin, total, dilation, group, data
):
    source = EventSource(NexmarkConfig(out_of_order_group_size=group))
    schedule = Varying(start, tuple(steps), total)
    within = tuple(source.events(np.arange(group)).tolist())
    dates = EventDates(schedule, origin, dilation, within)
    numbers = np.arange(total)
    sent = dates.dates_ms(source.events(numbers))
    assert (np.diff(dates.dates_ms(numbers)) >= 0).all()
    near = data.draw(st.sampled_from(sent.tolist())) + data.draw(st.integers(-2, 2))
    asked = np.array([near, near + data.draw(st.integers(0, 10_000)), near, -(10**15)])
    expected = []
    for date in asked.tolist():
        passing = np.flatnonzero(sent >= date)
        first = int(passing[0]) if len(passing) else None
        expected.append(NEVER if first is None else int(schedule.times_us(np.array([first]))[0]))
    assert dates.passing_us(asked).tolist() == expected


@given(STARTS, st.integers(1, 10**6), st.integers(1, 5_000), st.integers(0, 10**6))
def test_a_date_leads_back_to_no_later_than_its_event(start, rate, dilation, first):
    dates = EventDates(ConstantRate(start, rate, 10**7), start, Fraction(dilation))
    numbers = np.arange(first, first + 100)
    times = dates.schedule.times_us(numbers)
    back = dates.intended_us(dates.dates_ms(numbers))
    assert (back <= times).all()
    assert (times - back <= 1_000 // dilation + 1_000).all()


@given(
    STARTS,
    STEPS,
    st.fractions(Fraction(1, 1000), 5_000, max_denominator=1_000),
    st.sampled_from([5, 64, 100]),
)
def test_out_of_order_a_date_leads_back_to_the_beginning_of_a_group(start, steps, dilation, group):
    source = EventSource(NexmarkConfig(out_of_order_group_size=group))
    schedule = Varying(start, tuple(steps), 400)
    dates = EventDates(schedule, start, dilation, tuple(source.events(np.arange(group)).tolist()))
    places = np.arange(400)
    numbers = source.events(places)
    back = dates.intended_us(dates.dates_ms(numbers))
    assert (back <= schedule.times_us(places)).all()
    begun = set(schedule.times_us(places[::group]).tolist())
    assert set(back.tolist()) <= begun
