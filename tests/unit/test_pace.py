"""When a gateway reads and ticks, by a clock in the test's hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.config import load_config
from service.pace import Pace

MS = 1_000_000
CONFIG = load_config(
    settings=["gateway.tick_ms=5", "gateway.busy_tick_ms=25", "gateway.idle_tick_ms=50"]
).gateway


def begun(now: int = 0, *, woken: bool = True) -> Pace:
    pace = Pace(CONFIG, woken=woken)
    pace.begin(now)
    return pace


def crowded() -> bool:
    return True


def free() -> bool:
    return False


def never_asked() -> bool:
    raise AssertionError("nothing is decided by it now")


def test_it_reads_at_once_and_then_when_a_record_has_waited_for_others() -> None:
    pace = begun(100 * MS)
    assert pace.reads(100 * MS, never_asked)
    assert pace.has_read(100 * MS, full=False, busy=False), "the first reading ticks"
    assert not pace.reads(110 * MS, never_asked)
    pace.came(112 * MS)
    assert pace.record_came
    assert not pace.reads(116 * MS, never_asked)
    assert pace.reads(117 * MS, free)
    assert not pace.has_read(117 * MS, full=False, busy=False), "nothing was read: no tick is due"
    assert not pace.record_came


def test_a_second_record_does_not_put_off_the_first() -> None:
    pace = begun()
    pace.has_read(0, full=False, busy=False)
    pace.came(10 * MS)
    pace.came(13 * MS)
    assert pace.next_read == 15 * MS


def test_rows_and_cuts_tick_with_each_reading_and_silence_every_idle_tick() -> None:
    pace = begun()
    pace.has_read(0, full=False, busy=False)
    assert pace.next_read == 50 * MS
    assert pace.has_read(10 * MS, full=False, busy=True)
    assert pace.next_read == 15 * MS
    assert not pace.has_read(15 * MS, full=False, busy=False)
    assert not pace.has_read(59 * MS, full=False, busy=False)
    assert pace.has_read(60 * MS, full=False, busy=False)


def test_a_full_reading_is_followed_by_the_next() -> None:
    pace = begun()
    pace.has_read(0, full=True, busy=True)
    assert pace.reads(1, free)


def test_who_is_not_woken_looks_every_tick() -> None:
    pace = begun(woken=False)
    pace.has_read(0, full=False, busy=False)
    assert pace.next_read == 5 * MS


@pytest.mark.parametrize("full", [False, True])
def test_a_crowded_gateway_waits_until_it_is_not_or_for_a_busy_tick(full: bool) -> None:
    pace = begun()
    pace.has_read(0, full=full, busy=True)
    assert not pace.reads(5 * MS, crowded)
    assert pace.next_read == 6 * MS
    assert pace.reads(6 * MS, free)
    assert not pace.reads(24_500_000, crowded)
    assert pace.next_read == 25 * MS, "it does not look again after the time it reads anyway"
    assert pace.reads(25 * MS, never_asked)


@given(st.lists(st.tuples(st.integers(0, 40 * MS), st.booleans(), st.booleans()), max_size=60))
def test_something_to_do_never_waits_longer_than_a_busy_tick(
    steps: list[tuple[int, bool, bool]],
) -> None:
    """PA2, PA3: looked at whenever it asks to be, it reads within a busy tick of the last time."""
    pace, now, last = begun(), 0, 0
    pace.has_read(0, full=False, busy=True)
    for later, full, is_crowded in steps:
        pace.came(now)
        now = max(now, min(pace.next_read, now + later))
        while not pace.reads(now, crowded if is_crowded else free):
            assert pace.next_read > now
            now = pace.next_read
        assert now <= last + 25 * MS
        assert pace.has_read(now, full=full, busy=True)
        last = now
