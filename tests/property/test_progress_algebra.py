"""Laws of the order, of summaries, of antichains, of change batches and of the codec.

Each law is checked on small coordinates, where random times often compare, and against a naive
model. Cannot catch a wrong definition: the laws hold for other orders too; the unit tests fix
examples.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.dataflow.progress.antichain import Antichain, MutableAntichain
from service.dataflow.progress.broadcast import ProgressBatch, decode_progress, encode_progress
from service.dataflow.progress.change_batch import ChangeBatch
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.summary import PathSummary, egress, feedback, identity, ingress
from service.dataflow.progress.timestamp import less_equal, less_than

SMALL = st.integers(0, 3)
DEPTH = st.integers(1, 3)


def times(depth: int):
    return st.tuples(*[SMALL] * depth)


def summaries(start: int, end: int):
    """Summaries from depth `start` to depth `end`."""
    return st.integers(1, min(start, end)).flatmap(
        lambda keep: st.builds(
            PathSummary, st.just(keep), st.integers(0, 2), st.tuples(*[SMALL] * (end - keep))
        )
    )


same_depth = DEPTH.flatmap(lambda depth: st.lists(times(depth), max_size=12))
three = DEPTH.flatmap(lambda depth: st.tuples(times(depth), times(depth), times(depth)))


@given(three)
def test_less_equal_is_a_partial_order_that_tuple_order_extends(abc) -> None:
    a, b, c = abc
    assert less_equal(a, a)
    assert not (less_equal(a, b) and less_equal(b, a)) or a == b
    assert not (less_equal(a, b) and less_equal(b, c)) or less_equal(a, c)
    assert not less_equal(a, b) or a <= b
    assert less_than(a, b) == (less_equal(a, b) and a != b)


@given(st.data(), DEPTH, DEPTH, DEPTH)
def test_summaries_are_monotone_and_compose(data, start, middle, end) -> None:
    first = data.draw(summaries(start, middle))
    then = data.draw(summaries(middle, end))
    a, b = data.draw(times(start)), data.draw(times(start))
    assert first.followed_by(then).results_in(a) == then.results_in(first.results_in(a))
    assert identity(start).followed_by(first) == first == first.followed_by(identity(middle))
    assume(less_equal(a, b))
    assert less_equal(first.results_in(a), first.results_in(b))


@given(st.data(), DEPTH, DEPTH, DEPTH, DEPTH)
def test_composition_is_associative(data, one, two, three_, four) -> None:
    f = data.draw(summaries(one, two))
    g = data.draw(summaries(two, three_))
    h = data.draw(summaries(three_, four))
    assert f.followed_by(g).followed_by(h) == f.followed_by(g.followed_by(h))


@given(DEPTH.flatmap(times))
def test_entering_and_leaving_a_loop_is_the_identity_however_often_it_went_round(time) -> None:
    depth = len(time)
    into, out, back = ingress(depth), egress(depth + 1), feedback(depth + 1)
    assert into.followed_by(out) == identity(depth)
    assert into.followed_by(back).followed_by(back).results_in(time) == (*time, 2)
    assert into.followed_by(back).followed_by(out) == identity(depth)


@given(same_depth)
def test_antichain_holds_the_minimal_elements_however_it_was_built(elements) -> None:
    minimal = sorted(
        {a for a in elements if not any(less_than(b, a) for b in elements)},
    )
    inserted = Antichain()
    for time in elements:
        before = inserted.elements()
        assert inserted.insert(time) == (inserted.elements() != before)
    assert list(Antichain(elements)) == list(inserted) == minimal
    assert Antichain(reversed(elements)) == inserted
    assert inserted.is_empty == (not elements)
    # Order of the elements (AC2): epochs rise, counters fall.
    for a, b in pairwise(minimal):
        assert a[0] < b[0]
        assert a[1:] > b[1:]
    assert inserted.epoch() == min((time[0] for time in elements), default=None)


@given(DEPTH.flatmap(lambda depth: st.tuples(st.lists(times(depth), max_size=8), times(depth))))
def test_antichain_relations_are_those_of_all_the_times_it_stands_for(case) -> None:
    elements, time = case
    antichain = Antichain(elements)
    assert antichain.less_equal(time) == any(less_equal(a, time) for a in elements)
    assert antichain.less_than(time) == any(less_than(a, time) for a in elements)
    assert antichain.reached(time[0]) == all(a[0] >= time[0] for a in elements)


batches = DEPTH.flatmap(
    lambda depth: st.lists(
        st.lists(st.tuples(times(depth), st.integers(-2, 2)), max_size=6), max_size=12
    )
)


@given(batches)
def test_mutable_antichain_equals_a_recomputation_from_all_counts(history) -> None:
    antichain, counts, followed = MutableAntichain(), Counter(), Counter()
    for changes in history:
        before = antichain.frontier
        elements = before.elements()
        reported = list(antichain.update(changes))
        for time, delta in changes:
            counts[time] += delta
        expected = Antichain(time for time, count in counts.items() if count > 0)
        assert antichain.frontier == expected
        assert antichain.elements() == expected.elements()
        assert antichain.is_empty == (not any(counts.values()))
        assert all(antichain.count(time) == count for time, count in counts.items())
        assert before.elements() == elements, "AC4"
        # What it reports is exactly the difference, each element once.
        assert len({time for time, _ in reported}) == len(reported)
        for time, delta in reported:
            followed[time] += delta
        assert {time for time, count in followed.items() if count} == set(expected)
        assert all(count in (0, 1) for count in followed.values())
    assert antichain.counts() == {time: count for time, count in counts.items() if count}


def test_mutable_antichain_stays_small_while_times_come_and_go_behind_its_frontier() -> None:
    antichain = MutableAntichain()
    antichain.update([((0,), 1)])
    for epoch in range(1, 5000):
        assert not antichain.update([((epoch,), 1)])
        assert not antichain.update([((epoch,), -1)])
    assert len(antichain._heap) < 200
    assert list(antichain.update([((0,), -1), ((9,), 1)])) == [((0,), -1), ((9,), 1)]


@given(st.lists(st.tuples(st.integers(0, 2), times(2), st.integers(-2, 2))))
def test_change_batch_sums_and_forgets_zeros(changes) -> None:
    batch, expected = ChangeBatch(changes), Counter()
    for location, time, delta in changes:
        expected[location, time] += delta
    expected = {key: total for key, total in expected.items() if total}
    assert batch.is_empty == (not expected)
    assert {(at, time): delta for at, time, delta in batch.drain()} == expected
    assert batch.is_empty
    assert batch.drain() == []


coordinates = st.one_of(SMALL, st.integers(0, 2**64 - 1))
wire_changes = st.tuples(
    st.integers(0, 5000),
    st.lists(coordinates, min_size=1, max_size=4).map(tuple),
    st.integers(-(2**40), 2**40).filter(bool),
)
wire_batches = st.builds(
    ProgressBatch,
    st.integers(0, 2**60),
    st.lists(wire_changes, max_size=10).map(tuple),
    st.booleans(),
)


@given(wire_batches)
def test_batch_survives_the_wire(batch) -> None:
    assert decode_progress(encode_progress(batch)) == batch


@given(wire_batches, st.data())
def test_truncated_or_extended_batch_is_refused(batch, data) -> None:
    encoded = encode_progress(batch)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ProgressError):
        decode_progress(encoded[:cut])
    with pytest.raises(ProgressError):
        decode_progress(encoded + data.draw(st.binary(min_size=1, max_size=3)))


def refused_or_canonical(data: bytes) -> None:
    """Garbage is refused, or it is exactly what encoding its meaning gives (PC2)."""
    try:
        batch = decode_progress(data)
    except ProgressError:
        return
    assert encode_progress(batch) == data


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_garbage_is_refused(garbage) -> None:
    refused_or_canonical(garbage)
    refused_or_canonical(b"\x02\x00" + garbage)
    refused_or_canonical(b"\x02\x00\x01\x00\x00\x00" + garbage)


@given(wire_batches, st.data())
@settings(max_examples=300)
def test_flipped_bytes_are_refused_or_mean_something_else(batch, data) -> None:
    damaged = bytearray(encode_progress(batch))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    refused_or_canonical(bytes(damaged))
