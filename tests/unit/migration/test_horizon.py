"""Promises, the follower that checks them, and the clocks that tick by them.

Cannot catch: a real clock or a real log that behaves worse than these readings.
"""

from __future__ import annotations

import random

import pytest

from service.errors import ProtocolViolation
from service.migration.horizon import (
    HORIZON_END,
    ControllerClock,
    LogFollower,
    Promiser,
    TickClock,
)
from service.migration.records import Generation, Move, Promise, SlotBinding, Stop

SECOND = 1_000_000


def move(at: int, clock: int = 0) -> Move:
    return Move(at=at, request="r", wave=1, waves=1, moves=[(0, 1)], clock=clock)


def generation(number: int, first_epoch: int, horizon: int, clock: int = 0) -> Generation:
    return Generation(
        generation=number,
        clock=clock,
        horizon=horizon,
        first_epoch=first_epoch,
        bins=1,
        workers=1,
        gateways=1,
        slots=[
            SlotBinding(slot="worker-0", incarnation="a", address=""),
            SlotBinding(slot="gateway-0", incarnation="b", address=""),
        ],
        bin_owners=[0],
        sink_owners=[0],
        partition_owners={},
        positions={},
        manifest=None,
        until_end=False,
    )


def followed(*records: Promise | Move | Stop | Generation) -> LogFollower:
    log = LogFollower()
    for record in records:
        log.apply(record)
    return log


def test_promises_raise_the_horizon_and_commands_come_out_in_order() -> None:
    log = LogFollower()
    assert log.apply(Promise(horizon=10, clock=1)) == ()
    assert log.apply(move(11, clock=2)) == (move(11, clock=2),)
    assert (log.horizon, log.clock, log.earliest_command) == (10, 2, 12)
    assert log.apply(Promise(horizon=15, clock=3)) == ()
    assert (log.horizon, log.earliest_command) == (15, 16)


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (Promise(horizon=9, clock=5), "HZ1"),
        (Promise(horizon=12, clock=4), "HZ1"),
        (move(10, clock=5), "HZ2"),
        (move(20, clock=5), "HZ2"),
        (Stop(at=19, drain=False, clock=5), "HZ2"),
        (Promise(horizon=20, clock=5), "HZ3"),
        (generation(2, 20, 30, clock=5), "HZ4"),
        (generation(1, 21, 30, clock=5), "HZ4"),
    ],
)
def test_a_record_that_breaks_a_rule_is_refused_and_changes_nothing(
    bad: Promise | Move | Stop | Generation, rule: str
) -> None:
    log = followed(generation(1, 5, 10, clock=5), move(20, clock=5))
    with pytest.raises(ProtocolViolation, match=rule):
        log.apply(bad)
    assert (log.horizon, log.clock, log.earliest_command) == (10, 5, 21)
    assert log.generation == generation(1, 5, 10, clock=5)


def test_a_command_far_ahead_lets_promises_pass_on_both_sides_of_its_time() -> None:
    log = followed(Promise(horizon=10, clock=0), move(100), Promise(horizon=99, clock=0))
    assert log.apply(Promise(horizon=101, clock=0)) == ()
    with pytest.raises(ProtocolViolation, match="HZ2"):
        log.apply(move(101))


def test_stop_is_the_last_command_and_its_horizon_is_infinite() -> None:
    log = followed(Promise(horizon=10, clock=0))
    stop = Stop(at=11, drain=False, clock=1)
    assert log.apply(stop) == (stop,)
    assert log.horizon == HORIZON_END
    assert log.stop == stop
    for late in (Promise(horizon=50, clock=1), move(50, clock=1), stop):
        with pytest.raises(ProtocolViolation, match="HZ4"):
            log.apply(late)


def test_a_higher_generation_begins_above_everything_and_cancels_commands() -> None:
    log = followed(generation(1, 5, 10), move(500))
    with pytest.raises(ProtocolViolation, match="HZ4"):
        log.apply(generation(2, 500, 600))
    log.apply(generation(2, 501, 600))
    log.apply(Promise(horizon=600, clock=0))
    assert (log.horizon, log.stop, log.earliest_command) == (600, None, 601)


def test_a_generation_follows_a_stop() -> None:
    log = followed(generation(1, 5, 10), Stop(at=20, drain=False, clock=0))
    log.apply(generation(2, 21, 30))
    assert (log.horizon, log.stop) == (30, None)


def test_a_follower_may_begin_at_its_generation_record() -> None:
    assert LogFollower(generation(3, 7, 9)).horizon == 9


def test_promises_run_ahead_of_the_clock_by_the_lookahead_and_never_back() -> None:
    log = LogFollower()
    promiser = Promiser(log)
    assert promiser.promise(1000, 500).horizon == 1500
    assert promiser.promise(1100, 100).horizon == 1500
    assert promiser.promise(1450, 100).horizon == 1550


def test_a_promise_stays_below_a_command_still_to_be_written() -> None:
    promiser = Promiser(LogFollower())
    assert promiser.promise(1000, 500, below=1200).horizon == 1199
    promiser.append(move(1200, clock=1000))
    assert promiser.promise(1000, 500).horizon == 1500


def test_a_promise_never_hits_a_command_that_was_written() -> None:
    promiser = Promiser(LogFollower())
    promiser.append(move(1500))
    promiser.append(move(1499 + 2))
    assert promiser.promise(1000, 501).horizon == 1499
    assert promiser.promise(1000, 502).horizon == 1502


def test_the_controllers_clock_is_monotonic_from_its_start_whatever_the_wall_says() -> None:
    behind = ControllerClock(wall_us=5, promised_us=1000, monotonic_us=77)
    assert behind.now_us(77) == 1000
    assert behind.now_us(80) == 1003
    assert ControllerClock(wall_us=2000, promised_us=1000, monotonic_us=77).now_us(78) == 2001


def test_a_gateway_does_not_tick_before_it_has_read_a_clock() -> None:
    assert TickClock(10).next(1, HORIZON_END) is None
    assert TickClock(10).now_us(1) == 0


def test_a_gateway_ticks_at_its_clock_and_strictly_upwards_when_that_steps_back() -> None:
    ticks = TickClock(10)
    ticks.observe(100, 1000)
    assert ticks.next(1005, 10_000) == 105
    ticks.observe(90, 1010)
    assert ticks.next(1010, 10_000) == 106
    assert ticks.next(1030, 10_000) == 110


def test_a_gateway_at_the_horizon_does_not_tick_until_it_rises() -> None:
    ticks = TickClock(10)
    ticks.observe(1000, 0)
    assert ticks.next(0, 50) == 49
    assert ticks.next(1, 50) is None
    assert ticks.next(1, 51) == 50


def test_the_first_tick_is_the_first_epoch_even_if_that_lies_ahead_of_the_clock() -> None:
    ticks = TickClock(5000)
    ticks.observe(1000, 0)
    assert [ticks.next(n, 10_000) for n in range(3)] == [5000, 5001, 5002]


@pytest.mark.parametrize("skew_us", [0, SECOND // 2, SECOND, 3600 * SECOND, -3600 * SECOND])
def test_no_skew_between_machines_costs_a_tick(skew_us: int) -> None:
    """Ten seconds of 5 ms ticks on two gateways whose own clocks differ by `skew_us`.

    Each reads promises late, at random; neither falls behind by more than that delay. With ticks by
    wall clocks, or by the largest tick seen, one would stall or be dragged ahead.
    """
    delays = random.Random(7)
    log = LogFollower(generation(1, 1, SECOND))
    promiser = Promiser(log)
    gateways = [TickClock(1), TickClock(1)]
    offsets = [0, skew_us]
    arriving: list[list[tuple[int, Promise]]] = [[], []]
    horizons = [0, 0]
    ticks = [0, 0]
    for now in range(0, 10 * SECOND, 5000):
        if now % 100_000 == 0:
            promise = promiser.promise(now, SECOND)
            for queue in arriving:
                queue.append((now + delays.randrange(0, 90_000, 5000), promise))
        for g, gateway in enumerate(gateways):
            monotonic = now + offsets[g]
            while arriving[g] and arriving[g][0][0] <= now:
                promise = arriving[g].pop(0)[1]
                gateway.observe(promise.clock, monotonic)
                horizons[g] = promise.horizon
            ticks[g] += gateway.next(monotonic, horizons[g]) is not None
        if now > SECOND:
            assert all(now - 90_000 <= gateway.last <= now for gateway in gateways)
    assert min(ticks) > 1950


def test_a_wall_clock_set_back_across_a_restart_does_not_freeze_the_job() -> None:
    clock = ControllerClock(wall_us=5 * SECOND, promised_us=3605 * SECOND, monotonic_us=0)
    promiser = Promiser(followed(Promise(horizon=3606 * SECOND, clock=3605 * SECOND)))
    ticks = TickClock(3606 * SECOND)
    promise = promiser.promise(clock.now_us(2 * SECOND), SECOND)
    ticks.observe(promise.clock, 0)
    assert ticks.next(0, promise.horizon) == 3607 * SECOND
