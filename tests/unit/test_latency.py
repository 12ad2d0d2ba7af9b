"""Latency of records: counted once, when the frontier has passed their epoch, and not before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service import latency
from service.latency import LatencyMeter


def counted(meter: LatencyMeter) -> int:
    return sum(meter.read().counts)


def test_an_epoch_is_counted_when_the_frontier_is_beyond_it() -> None:
    meter = LatencyMeter()
    meter.stamped(10, [(1_000_000, 3)])
    meter.passed(10, 9_000_000)
    assert (counted(meter), meter.waits) == (0, True)
    meter.passed(11, 9_000_000)
    assert (counted(meter), meter.waits) == (3, False)
    assert meter.read().total == 3 * 8.0


def test_the_end_of_everything_counts_what_is_left() -> None:
    meter = LatencyMeter()
    meter.stamped(10, [(0, 1), (500_000, 1)])
    meter.stamped(20, [(1_000_000, 1)])
    meter.passed(None, 1_000_000)
    assert (counted(meter), meter.read().total) == (3, 1.0 + 0.5 + 0.0)


def test_a_record_from_the_future_took_no_time() -> None:
    meter = LatencyMeter()
    meter.stamped(10, [(2_000_000, 1)])
    meter.passed(None, 1_000_000)
    assert (counted(meter), meter.read().total) == (1, 0.0)


def test_many_epochs_that_wait_are_summed_up_under_the_oldest_time(monkeypatch) -> None:
    monkeypatch.setattr(latency, "EPOCHS_MAX", 2)
    meter = LatencyMeter()
    for epoch in range(1, 6):
        meter.stamped(epoch, [(epoch * 1_000_000, 2)])
    meter.passed(2, 10_000_000)
    assert counted(meter) == 2
    # Epochs 2 to 5 are one now, which has the time of epoch 2.
    meter.passed(5, 10_000_000)
    assert counted(meter) == 2
    meter.passed(6, 10_000_000)
    assert counted(meter) == 10
    assert meter.read().total == 2 * 9.0 + 8 * 8.0


@given(
    ticks=st.lists(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 9)), max_size=3)),
    steps=st.lists(st.integers(0, 40), max_size=10),
)
def test_every_record_below_the_frontier_is_counted_once(ticks, steps) -> None:
    meter = LatencyMeter()
    for epoch, samples in enumerate(ticks):
        meter.stamped(epoch, samples)
    frontier = 0
    for step in steps:
        frontier = max(frontier, step)
        meter.passed(frontier, 10**8)
        below = sum(count for samples in ticks[:frontier] for _, count in samples)
        assert counted(meter) == below
    meter.passed(None, 10**8)
    assert counted(meter) == sum(count for samples in ticks for _, count in samples)
