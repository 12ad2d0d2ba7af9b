"""Timers: what comes out is what is set, in order, whoever set it and wherever it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.errors import StateCorrupt, StateError
from service.hashing import bins_of
from service.statestore.timers import TimerTable

BITS = 2
RESERVED = 1 << 24
SMALL = st.integers(-3, 3)
TIMER = st.tuples(SMALL, st.integers(-5, 5), st.integers(0, 1))
TIMERS = st.lists(TIMER, max_size=40)
INT64 = st.integers(-(2**63), 2**63 - 1)


def table_of(timers=()):
    table = TimerTable(BITS, reserved_bytes=RESERVED)
    enter(table.set, timers)
    return table


def enter(method, timers):
    times, keys, tags = np.array(list(timers), dtype=np.int64).reshape(-1, 3).T
    method(keys, times, tags)


def listed(timers):
    columns = (timers.times.tolist(), timers.keys.tolist(), timers.tags.tolist())
    return list(zip(*columns, strict=True))


def bin_of(timer):
    return int(bins_of(np.array([timer[1]]), BITS)[0])


class Timers(RuleBasedStateMachine):
    """A table beside a set of timers."""

    def __init__(self):
        super().__init__()
        self.table = table_of()
        self.model = set()

    @rule(timers=TIMERS)
    def set(self, timers):
        enter(self.table.set, timers)
        self.model |= set(timers)

    @rule(timers=TIMERS)
    def cancel(self, timers):
        enter(self.table.cancel, timers)
        self.model -= set(timers)

    @rule(until=SMALL)
    def pop(self, until):
        expected = sorted(timer for timer in self.model if timer[0] <= until)
        assert self.table.due(until) or not expected
        assert listed(self.table.pop(until)) == expected
        assert not self.table.due(until)
        self.model -= set(expected)

    @rule(bin_id=st.integers(0, 2**BITS - 1))
    def move(self, bin_id):
        entries = self.table.pack(bin_id)
        other = table_of()
        other.unpack(bin_id, entries)
        self.table.delete(bin_id)
        assert self.table.bin_nbytes(bin_id) == 0
        self.table.unpack(bin_id, other.pack(bin_id))

    @invariant()
    def an_untouched_copy_gives_all_of_them(self):
        copy = table_of()
        for bin_id in range(2**BITS):
            copy.unpack(bin_id, self.table.pack(bin_id))
            held = [timer for timer in self.model if bin_of(timer) == bin_id]
            assert self.table.count(bin_id) == len(held)
        assert listed(copy.pop(2**63 - 1)) == sorted(self.model)


TestTimers = Timers.TestCase
TestTimers.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(INT64, INT64, INT64), unique=True), st.randoms(use_true_random=False))
def test_what_is_packed_depends_on_what_is_set_and_on_nothing_else(timers, random):
    straight, shuffled = table_of(timers), table_of()
    others = [(time, key, tag ^ 1) for time, key, tag in timers]
    enter(shuffled.set, [timer for timer in others if timer not in timers])
    mixed = timers * 2
    random.shuffle(mixed)
    for timer in mixed:
        enter(shuffled.set, [timer])
    enter(shuffled.cancel, [timer for timer in others if timer not in timers])
    for bin_id in range(2**BITS):
        assert straight.pack(bin_id) == shuffled.pack(bin_id)
    assert listed(straight.pop(2**63 - 1)) == sorted(timers)


def test_many_timers_of_one_bin_come_back():
    keys = np.arange(100_000)
    keys = keys[bins_of(keys, BITS) == 1]
    table = table_of()
    table.set(keys, keys[::-1].copy())
    entries = table.pack(1)
    assert len(entries) == len(keys)
    other = table_of()
    other.unpack(1, entries)
    assert listed(other.pop(2**62)) == listed(table.pop(2**62))
    assert table.nbytes == other.nbytes == 0


def test_timers_that_are_set_and_cancelled_for_ever_take_no_memory_for_ever():
    table = table_of([(10**6, 1, 0)])
    for time in range(20_000):
        enter(table.set, [(time + 10**6, 5, 0)])
        enter(table.cancel, [(time + 10**6, 5, 0)])
    assert table.nbytes <= 2 * 32 * 16


def test_a_bin_that_shrinks_gives_memory_back():
    table = table_of()
    keys = np.arange(100_000)
    table.set(keys, keys)
    whole = table.nbytes
    assert len(table.pop(98_999)) == 99_000
    assert 0 < table.nbytes <= whole // 32


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([b"x" * 23], "another length"),
        ([b""], "another length"),
        ([np.array([5, 1, 0]).tobytes()] * 2, "not in order"),
        ([np.array([5, 1, 0]).tobytes(), np.array([4, 1, 0]).tobytes()], "not in order"),
    ],
)
def test_entries_that_are_not_timers_of_the_bin_are_refused(entries, text):
    home = bin_of((0, 1, 0))
    table = table_of([(9, 1, 0)])
    with pytest.raises(StateCorrupt, match=text):
        table.unpack(home, entries)
    with pytest.raises(StateCorrupt, match="a key of another bin"):
        table.unpack((home + 1) % 4, [np.array([5, 1, 0]).tobytes()])
    assert listed(table.pop(10)) == [(9, 1, 0)]


def test_timers_beyond_the_address_space_are_refused():
    table = TimerTable(0, reserved_bytes=1 << 12)
    with pytest.raises(StateError, match="reserved for timers is used up"):
        table.set(np.arange(1000), np.arange(1000))
    assert listed(table.pop(3)) == [(n, n, 0) for n in range(4)]
