"""Times are delivered once, in order, and not before the frontier has passed them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.notificator import Notificator
from service.dataflow.operator import Capability, InputPort, Ledger
from service.dataflow.progress.antichain import Antichain
from service.dataflow.progress.timestamp import Timestamp

TIMES = st.tuples(st.integers(0, 3), st.integers(0, 3))
FRONTIERS = st.lists(st.lists(TIMES, max_size=3), min_size=1, max_size=6)


class Inputs:
    """Input ports whose frontiers a test sets."""

    def __init__(self, count: int, *frontier: Timestamp) -> None:
        self.frontiers = [Antichain(frontier) for _ in range(count)]
        self.ports = [
            InputPort(number, Ledger(), self.frontiers.__getitem__, lambda *_: None)
            for number in range(count)
        ]

    def reach(self, port: int, *frontier: Timestamp) -> None:
        self.frontiers[port] = Antichain(frontier)


def right(*time: int) -> Capability:
    return Capability(0, time, Ledger())


def times(notificator: Notificator) -> list[Timestamp]:
    return [time for time, _ in notificator.delivered()]


def test_a_time_is_delivered_once_the_frontier_has_passed_it() -> None:
    inputs = Inputs(1, (5,))
    notificator = Notificator(inputs.ports)
    asked = right(5)
    notificator.notify_at(asked)
    assert times(notificator) == []
    inputs.reach(0, (6,))
    ((time, given_back),) = notificator.delivered()
    assert (time, given_back) == ((5,), asked)
    assert asked.held
    assert times(notificator) == []
    assert len(notificator) == 0


def test_every_input_must_have_passed() -> None:
    inputs = Inputs(2, (5,))
    notificator = Notificator(inputs.ports)
    notificator.notify_at(right(5))
    inputs.reach(0)
    assert times(notificator) == []
    inputs.reach(1)
    assert times(notificator) == [(5,)]


def test_cleaning_up_holds_no_right() -> None:
    inputs = Inputs(1, (5,))
    notificator = Notificator(inputs.ports)
    notificator.clean_up_at((7,))
    inputs.reach(0, (8,))
    ((time, given_back),) = notificator.delivered()
    assert (time, given_back) == ((7,), None)


def test_the_time_waited_for_may_lie_before_the_right() -> None:
    """Run ahead of others by two rounds: wait for round 1 with the right to round 3."""
    inputs = Inputs(1, (5, 1))
    notificator = Notificator(inputs.ports)
    notificator.notify_at(right(5, 3), (5, 1))
    assert times(notificator) == []
    inputs.reach(0, (5, 2))
    ((time, given_back),) = notificator.delivered()
    assert time == (5, 1)
    assert given_back is not None
    assert given_back.time == (5, 3)


def test_what_is_asked_for_while_delivering_and_is_passed_already_comes_at_once() -> None:
    notificator = Notificator(Inputs(1).ports)
    notificator.clean_up_at((1,))
    found = []
    for time, _ in notificator.delivered():
        found.append(time)
        if len(found) < 3:
            notificator.clean_up_at((time[0] + 1,))
    assert found == [(1,), (2,), (3,)]


@given(st.lists(TIMES, max_size=8), FRONTIERS)
def test_each_time_comes_once_in_order_and_never_early(
    asked: list[Timestamp], frontiers: list[list[Timestamp]]
) -> None:
    inputs = Inputs(1)
    notificator = Notificator(inputs.ports)
    for time in asked:
        notificator.clean_up_at(time)
    left = sorted(asked)
    for frontier in frontiers:
        inputs.reach(0, *frontier)
        found = times(notificator)
        assert found == left[: len(found)]
        left = left[len(found) :]
        assert not any(inputs.frontiers[0].less_equal(time) for time in found)
        if left:
            assert inputs.frontiers[0].less_equal(left[0])
    inputs.reach(0)
    assert times(notificator) == left
