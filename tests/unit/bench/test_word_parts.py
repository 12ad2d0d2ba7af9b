"""Parts of the word-count benchmark: histogram, schedule, keys, vector, moves, lines.

Cannot catch: a measurement that is wrong. That is for people, who compare docs/benchmarks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.experiments.results import read_result
from service.bench.words.histogram import (
    BUCKETS,
    SUB_BUCKETS,
    Latencies,
    bucket_of,
    lower_edge,
    upper_edge,
)
from service.bench.words.keys import KeySpace, weigh, weigh_counted
from service.bench.words.migrating import first_owners, moving_bins, skewed, steps_of
from service.bench.words.options import MAX, Backend, WordOptions, rate_of
from service.bench.words.schedule import OpenLoop, StepClock
from service.bench.words.vector import VectorStore
from service.errors import StateCorrupt, UsageError
from service.hashing import bins_of, mix64
from service.migration.requests import Request, parse

LATENCIES = st.integers(0, (1 << 40) - 1)


@given(LATENCIES)
def test_a_value_lies_in_its_bucket_which_is_a_sixty_fourth_wide(value: int) -> None:
    bucket = bucket_of(value)
    assert 0 <= bucket < BUCKETS
    low, high = lower_edge(bucket), upper_edge(bucket)
    assert low <= value < high
    assert high - low == 1 or (high - low) * SUB_BUCKETS <= low


@given(st.lists(LATENCIES, min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_at_most_a_bucket_above_the_value_of_that_rank(
    values: list[int], share: float
) -> None:
    latencies = Latencies(1, 1 << 41)
    for value in values:
        latencies.record_each(np.zeros(1, dtype=np.int64), value)
    exact = sorted(values)[max(1, int(np.ceil(share * len(values)))) - 1]
    found = latencies.window(0).quantile(share)
    assert exact <= found <= max(exact + 1, exact * (1 + 1 / SUB_BUCKETS))
    assert latencies.window(0).quantile(1.0) == max(values)


@given(st.integers(0, 10_000), st.integers(1, 500), st.integers(0, 300), st.integers(0, 1 << 30))
def test_a_run_of_records_counts_as_each_of_them(
    first: int, interval: int, records: int, now: int
) -> None:
    together, apart = Latencies(4, 20_000, 1_000), Latencies(4, 20_000, 1_000)
    together.record_run(first, interval, records, now)
    dues = first + interval * np.arange(records, dtype=np.int64)
    apart.record_each(dues, now)
    assert (together.counts == apart.counts).all()
    assert (together.maxima == apart.maxima).all()
    assert together.over(np.arange(4)).count == records


def test_a_record_counts_in_the_window_it_was_due_in_however_late_it_is_done() -> None:
    latencies = Latencies(3, 100, 1_000)
    latencies.record_each(np.array([999, 1_000, 1_199, 1_200, 5_000]), 9_999)
    assert latencies.counts.sum(axis=1).tolist() == [2, 1, 2]
    assert latencies.maxima.tolist() == [9_000, 8_800, 8_799]


def test_a_complementary_distribution_begins_at_one_and_ends_with_the_last_bucket() -> None:
    latencies = Latencies(1, 100)
    latencies.record_each(np.array([0, 0, 0, 0]), 50)
    latencies.record_each(np.array([0]), 1_000_000)
    rows = list(latencies.window(0).ccdf())
    assert [(share, count) for _, share, count in rows] == [(1.0, 4), (0.2, 1)]
    assert all(edge > value for (edge, _, _), value in zip(rows, [50, 1_000_000], strict=True))


@given(st.lists(LATENCIES, min_size=1, max_size=50))
def test_a_complementary_distribution_has_the_buckets_of_the_original(values: list[int]) -> None:
    """Each a sixteenth of a power of two, or a nanosecond, and all that lie in it."""
    latencies = Latencies(1, 1 << 41)
    for value in values:
        latencies.record_each(np.zeros(1, dtype=np.int64), value)
    low = 0
    for edge, share, count in latencies.window(0).ccdf():
        width = 1 << max(0, (edge - 1).bit_length() - 5)
        assert edge % width == 0
        assert count == sum(edge - width <= value < edge for value in values)
        assert share == sum(value >= low for value in values) / len(values)
        low = edge
    assert low > max(values)


@given(st.integers(1, 20_000_000), st.integers(1, 5_000_000_000), st.integers(0, 6_000_000_000))
def test_an_open_loop_is_due_by_the_clock_alone(rate: int, duration: int, elapsed: int) -> None:
    loop = OpenLoop.of(rate, duration)
    due = loop.due_until(elapsed)
    assert due <= loop.records
    assert due == 0 or loop.due(due - 1) <= elapsed
    assert due == loop.records or loop.due(due) > elapsed
    assert loop.records == 0 or loop.due(loop.records - 1) < duration
    assert loop.due(loop.records) >= duration


def test_a_second_of_a_million_records_a_second_has_a_million() -> None:
    assert OpenLoop.of(1_000_000, 1_000_000_000) == OpenLoop(1_000, 1_000_000)


@given(st.integers(0, 20), st.lists(st.integers(0, (1 << 31) - 1), min_size=1, max_size=50))
def test_a_dense_key_travels_as_the_number_whose_hash_has_bin_and_slot(
    bits: int, keys: list[int]
) -> None:
    dense = np.array(keys, dtype=np.int64)
    travelling = KeySpace(1 << 31, bits).travelling(dense)
    assert bins_of(travelling, bits).tolist() == (dense & ((1 << bits) - 1)).tolist()
    mask = (1 << (64 - bits)) - 1
    slots = [int(mix64(np.uint64(key))) & mask for key in travelling.view(np.uint64)]
    assert slots == (dense >> bits).tolist()


def test_keys_are_uniform_and_any_part_of_a_stream_can_be_drawn_again() -> None:
    keys = KeySpace(8, None)
    stream = keys.draw(1, 0, 80_000)
    counts = np.bincount(stream, minlength=8)
    assert counts.sum() == 80_000
    assert (abs(counts - 10_000) < 400).all()
    assert (keys.draw(1, 12_345, 100) == stream[12_345:12_445]).all()
    assert (keys.draw(0, 0, 1000) != stream[:1000]).any()
    assert keys.count_down(7, 8).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def test_the_weight_of_a_stream_is_that_of_its_counts_and_of_no_other() -> None:
    stream = KeySpace(1000, None).draw(0, 0, 5_000)
    keys, counts = np.unique(stream, return_counts=True)
    assert weigh(stream) == weigh_counted(keys, counts)
    counts[3] += 1
    counts[4] -= 1
    assert weigh(stream) != weigh_counted(keys, counts)


@pytest.mark.parametrize("bits", [0, 1, 4])
def test_a_vector_counts_every_record_and_its_bins_move_whole(bits: int) -> None:
    domain = 1000
    space = KeySpace(domain, bits)
    ours, theirs = (VectorStore("counts", "key", bits, domain) for _ in range(2))
    keys = np.array([5, 7, 5, 999, 5], dtype=np.int64)
    batch = pa.record_batch({"key": space.travelling(keys)})
    changed = ours.apply_rows(batch, (1,))
    assert changed["count"].to_pylist() == [1, 1, 2, 1, 3]
    moved = 5 & ((1 << bits) - 1)
    rows = ours.rows(moved)
    assembler = theirs.assembler(moved)
    for chunk in ours.extract(moved, cut=9):
        assembler.feed(chunk)
    ours.delete(moved)
    theirs.install(moved, assembler)
    assert (ours.rows(moved), theirs.rows(moved)) == (0, rows)
    held = [pair for store in (ours, theirs) for pair in zip(*store.counted(), strict=True)]
    assert sorted(held) == [(5, 3), (7, 1), (999, 1)]
    assert theirs.apply_rows(batch, (2,))["count"].to_pylist()[-1] == 6


def test_a_vector_refuses_a_key_beyond_its_domain() -> None:
    store = VectorStore("counts", "key", 2, 100)
    beyond = KeySpace(1 << 20, 2).travelling(np.array([100_000]))
    with pytest.raises(StateCorrupt, match="not of the domain"):
        store.apply_rows(pa.record_batch({"key": beyond}), (1,))


@pytest.mark.parametrize("workers", [2, 4, 16])
def test_a_skew_moves_a_quarter_of_all_bins_off_the_odd_workers(workers: int) -> None:
    owners = first_owners(WordOptions(workers=workers, bins=256))
    after = skewed(owners)
    changed = np.flatnonzero(owners != after)
    assert len(changed) == 64
    assert set(owners[changed] % 2) == {1}
    assert (after[changed] == owners[changed] - 1).all()


@pytest.mark.parametrize("migration", ["sudden", "fluid", "batched", "optimized"])
def test_both_steps_of_a_strategy_are_requests_and_leave_every_bin_where_it_was(
    migration: str,
) -> None:
    options = WordOptions(migration=migration, bins=64, duration_s=9, wave_bins=4)
    steps = steps_of(options)
    assert [step.at_ns for step in steps] == [3_000_000_000, 6_000_000_000]
    owners = first_owners(options)
    for number, step in enumerate(steps):
        request = parse(step.request(number, options), number)
        assert isinstance(request, Request)
        assert request.batch == (4 if migration == "batched" else None)
        for bin_, worker in request.moves:
            owners[bin_] = worker
    assert (owners == first_owners(options)).all()
    assert moving_bins(options, steps).sum() == 16


def test_a_plan_of_the_original_s_lines_is_steps_and_what_is_at_zero_comes_before_the_load(
    tmp_path: Path,
) -> None:
    path = tmp_path / "plan"
    path.write_text("M 0 0 1 0 1\nD 2000 0 1\nD 2000 2 1\nM 5000000 0 1 0 1\n")
    options = WordOptions(migration=str(path), bins=4)
    steps = steps_of(options)
    assert [step.at_ns for step in steps] == [None, 2_000, 5_000_000]
    request = parse(steps[1].request(1, options), 1)
    assert isinstance(request, Request)
    assert request.waves == (((0, 1),), ((2, 1),))
    # Bins 1 and 3 stand in the last table, too, but stay where they are.
    assert moving_bins(options, steps).tolist() == [True, False, True, False]
    path.write_text("D 0 4 1\n")
    with pytest.raises(UsageError, match="no bin 4 of 4"):
        moving_bins(options, steps_of(options))
    with pytest.raises(UsageError, match="a plan's file; there is no such file"):
        steps_of(WordOptions(migration=str(tmp_path / "none such")))


def test_options_that_no_run_can_have_are_refused_by_name() -> None:
    assert rate_of("max") == MAX
    assert rate_of("1_000") == 1000
    for text in ("0", "-4", "fast", "1.5"):
        with pytest.raises(UsageError, match="--rate"):
            rate_of(text)
    with pytest.raises(UsageError, match="--domain"):
        WordOptions(domain=1 << 32)
    with pytest.raises(UsageError, match="no bins that could move"):
        WordOptions(backend=Backend.VEC_NATIVE, migration="fluid")
    with pytest.raises(UsageError, match="power of two"):
        WordOptions(bins=100)


@pytest.mark.parametrize("changed_after", [0, 1, 100])
def test_a_vector_copied_while_it_changes_is_whole_at_the_cut(changed_after: int) -> None:
    bits, domain, moved = 2, 4_000, 3
    space = KeySpace(domain, bits)
    ours, theirs = (VectorStore("counts", "key", bits, domain) for _ in range(2))
    dense = np.arange(domain, dtype=np.int64)
    ours.apply_rows(pa.record_batch({"key": space.travelling(dense)}), (1,))
    ours.copier.begin(moved)
    pieces = 0
    for round_ in range(2):
        while piece := ours.copier.next_piece(moved, 2_000):
            theirs.copier.stage(moved, 7, piece)
            pieces += 1
            if pieces == changed_after or round_:
                again = space.travelling(dense[:: 1 + pieces])
                ours.apply_rows(pa.record_batch({"key": again}), (2,))
        ours.copier.next_round(moved)
    ours.apply_rows(pa.record_batch({"key": space.travelling(dense[moved:100:4])}), (3,))
    expected = ours.counts_of(moved).copy()
    assembler = theirs.assembler(moved)
    for chunk in ours.copier.leave(moved, 7, 9):
        assembler.feed(chunk)
    theirs.install(moved, assembler)
    assert pieces >= 4
    assert (theirs.counts_of(moved) == expected).all()
    assert not ours.counts_of(moved).any()
    assert not ours.copier.is_copied(moved)


def test_a_vector_refuses_a_piece_with_slots_it_has_not() -> None:
    store = VectorStore("counts", "key", 2, 100)
    for piece in (np.array([30, 1, 1, 1]), np.array([-1, 1, 99, 5]), np.array([-1, 2, 1, 5])):
        with pytest.raises(StateCorrupt, match="slots that it has not"):
            store.copier.stage(1, 1, piece.astype("<i8").tobytes())


def test_workers_tick_at_the_same_steps_and_a_late_one_skips_some() -> None:
    clock = StepClock(1_000_500, 1_000)
    clock.observe(2_000_300, 70_000)
    assert clock.steps_since(70_000) > 0
    assert clock.next(70_000, 9_000_000) == 2_000_000
    assert not clock.is_due(70_699)
    assert clock.next_step_us == 70_700
    assert clock.is_due(70_700)
    assert clock.next(70_750, 9_000_000) == 2_001_000
    # Three steps later, at the step that is under way.
    assert clock.steps_since(73_900) == 3
    assert clock.next(73_900, 9_000_000) == 2_004_000
    # Another worker that heard of the clock at another time is at the same step.
    other = StepClock(1_000_500, 1_000)
    other.observe(2_004_000, 73_700)
    assert other.next(73_950, 9_000_000) == 2_004_000
    # Beyond the horizon nobody ticks.
    assert other.next(75_000, 2_004_001) is None


def test_memory_is_that_of_the_run_and_not_of_its_proof(tmp_path: Path) -> None:
    sizes = [(-1, 7), (0, 8), (10, 9), (11, 99)]
    lines = [f"statm_RSS\t{at * 10**9}\t{size}" for at, size in sizes]
    (tmp_path / "stdout.0").write_text("\n".join(lines))
    result = read_result(tmp_path / "stdout.0", 10 * 10**9)
    assert [size for _, size in result.rss] == [7, 8, 9]
