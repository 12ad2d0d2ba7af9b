"""Latencies of the NEXMark bench: the generator's buckets, and results paired with their events.

Claims: LT1, LT2, DU1, DU2.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from loadgen.histogram import BUCKETS, Histogram, upper_edges
from loadgen.histogram import Timeline as Kept
from loadgen.measure import window_document
from service.bench.nexmark import runs as suite
from service.bench.nexmark.due import UNTIMED, Dating, timeline_of
from service.bench.nexmark.latencies import Timeline, buckets_of, upper_edge
from service.bench.nexmark.memory import MemoryOptions, run_query
from service.bench.nexmark.oracle import Recorded, winning
from service.bench.nexmark.stream import StreamOptions, drawn
from service.errors import MegaphoneError

#: Event time is twice as fast as the clock, from second 1,000 of it at second 500.
DATING = Dating(500_000_000, 1_000_000_000, Fraction(2))


def of_values(values):
    """A histogram of the load generator."""
    histogram = Histogram()
    histogram.record(np.array(values, dtype=np.int64))
    return histogram


def test_buckets_are_those_of_the_load_generator():
    edges = upper_edges()
    assert [upper_edge(number) for number in range(BUCKETS)] == edges.tolist()
    values = np.unique(np.concatenate([edges, edges + 1, edges[1:] - 1, np.arange(300)]))
    values = values[(values >= 0) & (values < 1 << 40)]
    held = {bucket for bucket, _ in of_values(values).document()["buckets"]}
    assert set(buckets_of(values).tolist()) == held
    assert all(
        of_values([value]).document()["buckets"] == [[int(bucket), 1]]
        for value, bucket in zip(values[::97].tolist(), buckets_of(values[::97]), strict=True)
    )


def test_a_meter_and_a_list_of_values_say_the_same():
    draw = np.random.default_rng(5)
    due = np.sort(draw.integers(0, 1_000_000, 4_000)) + 7_000_000
    latencies = draw.integers(0, 90_000, 4_000)
    kept = Kept(100_000)
    kept.record(due, latencies)
    final = {"window_us": 100_000, "intended": [window_document(*each) for each in kept.windows()]}
    spans = [(7_200_000, 7_700_000)]
    found = Timeline.of_values(due, latencies).within(spans)
    assert found == Timeline.of_document(final).within(spans)
    mine = latencies[(due >= 7_200_000) & (due < 7_700_000)]
    assert (found.count, found.max) == (len(mine), mine.max() / 1000)
    assert found.p99 == of_values(mine).quantile(0.99) / 1000


def test_a_window_is_moving_if_any_part_of_it_is_and_steady_if_none():
    due = np.arange(10) * 100_000
    timeline = Timeline.of_values(due, due)
    plan = [(250_000, 300_000)]
    assert timeline.touching(plan, within=(0, 1_000_000)).max == 300
    assert timeline.touching(plan, within=(0, 1_000_000)).count == 2
    assert timeline.touching(plan, within=(300_000, 1_000_000)).count == 1
    assert timeline.within([(0, 1_000_000)], without=plan).count == 8
    assert timeline.within([(100_000, 200_000)]).count == 1
    assert timeline.within([(5_000_000, 6_000_000)]) is None
    assert timeline.touching([], within=(0, 1_000_000)) is None


def test_a_date_is_due_when_an_event_of_at_least_that_date_is_sent():
    assert DATING.due_us(np.array([1_000_000, 1_000_001, 1_003_000])).tolist() == [
        500_000_000,
        500_000_500,
        501_500_000,
    ]
    thirds = Dating(0, 0, Fraction(3))
    assert thirds.due_us(np.array([1])).tolist() == [334]  # not before 333.3 us
    late = replace(DATING, early_us=7, late_ms=4)
    dates = np.array([1_000_000, 1_000_100])
    assert late.due_us(dates).tolist() == [499_999_993, 500_049_993]
    assert late.passed_us(dates).tolist() == [500_001_993, 500_051_993]
    plan = {"origin_us": 9, "dilation": "1/3", "schedule": {"start_us": 7}}
    assert Dating.of_plan(plan) == Dating(7, 9, Fraction(1, 3))
    assert Dating.of_plan(plan, 5, 6) == Dating(7, 9, Fraction(1, 3), 5, 6)


def events(**tables):
    """Events as they lie in topics."""
    return SimpleNamespace(
        **tables, recorded=lambda: Recorded(None, tables["auction"], tables["bid"])
    )


BIDS = pa.table(
    {
        "auction": [123, 7, 246, 123],
        "price": [5, 9, 6, 8],
        "date_time": [1_000_000, 1_000_100, 1_000_200, 1_000_400],
    }
)


def test_the_kth_result_of_q2_is_of_the_kth_bid_of_its_auction():
    results = pa.table({"auction": [246, 123, 123], "price": [6, 5, 8]})
    read = np.array([500_200_000, 500_000_250, 500_300_000])
    timeline, unpaired = timeline_of("q2", results, read, events(bid=BIDS), DATING)
    latency = timeline.within([(0, 1 << 60)])
    assert (latency.count, latency.max, unpaired) == (3, 100.0, 0)
    with pytest.raises(MegaphoneError, match="in order"):
        timeline_of("q2", results.slice(1), read[1:], events(bid=BIDS), DATING)
    swapped = pa.table({"auction": [246, 123, 123], "price": [6, 8, 5]})
    with pytest.raises(MegaphoneError, match="in order"):
        timeline_of("q2", swapped, read, events(bid=BIDS), DATING)


def test_a_result_of_q3_waits_for_the_later_of_the_two():
    auction = pa.table({"id": [2, 1], "seller": [11, 10], "date_time": [1_000_900, 1_000_000]})
    person = pa.table({"id": [10, 11], "date_time": [1_000_500, 1_000_100]})
    results = pa.table({"id": [1, 2]})
    read = np.array([500_251_000, 500_452_000])
    timeline, _ = timeline_of("q3", results, read, events(auction=auction, person=person), DATING)
    assert timeline.within([(0, 1 << 60)]).max == 2.0
    assert timeline.within([(500_200_000, 500_300_000)]).p50 == 1.0
    unknown = pa.table({"id": [3]})
    with pytest.raises(MegaphoneError, match="no event has the id that a result is of"):
        timeline_of("q3", unknown, read[:1], events(auction=auction, person=person), DATING)


AUCTIONS = pa.table(
    {
        "id": [1, 2, 3],
        "seller": [9, 9, 9],
        "category": [4, 4, 4],
        "reserve": [0, 0, 0],
        "date_time": [1_000_000, 1_000_000, 1_000_000],
        "expires": [1_000_600, 1_000_200, 1_000_400],
    }
)
WON = pa.table(
    {"auction": [1, 2, 3], "price": [30, 10, 20], "date_time": [1_000_001, 1_000_002, 1_000_003]}
)


def test_an_auctions_wait_ends_with_the_first_mean_that_surely_holds_it():
    # 10; then 30 alone with it, which no first auctions give; then 10, 20; then all.
    results = pa.table({"category": [4, 4, 4, 4], "avg": [10.0, 20.0001, 15.0, 20.0]})
    read = np.array([500_101_000, 500_150_000, 500_203_000, 500_307_000])
    both = events(auction=AUCTIONS, bid=WON)
    timeline, unpaired = timeline_of("q4", results, read, both, DATING)
    latency = timeline.within([(0, 1 << 60)])
    assert (latency.count, latency.max, unpaired) == (3, 7.0, 0)
    assert latency.p50 == pytest.approx(3, rel=1 / 64)
    together = results.take([0, 3, 1])
    timeline, unpaired = timeline_of("q4", together, read[[0, 3, 3]], both, DATING)
    assert timeline.within([(0, 1 << 60)]).max == 107.0
    assert unpaired == 1


def test_out_of_order_a_closing_auction_waits_for_the_bound_and_a_bid_does_not():
    late = replace(DATING, early_us=1_000, late_ms=10)
    results = pa.table({"seller": [9], "avg": [10.0]})
    both = events(auction=AUCTIONS, bid=WON)
    timeline, _ = timeline_of("q6", results, np.array([500_107_000]), both, late)
    assert timeline.within([(0, 1 << 60)]).max == 3.0  # from 100 + 10 / 2 - 1 ms on
    bids = pa.table({"auction": [123, 246, 123], "price": [5, 6, 8]})
    read = np.array([500_002_000, 500_101_000, 500_201_000])
    timeline, _ = timeline_of("q2", bids, read, events(bid=BIDS), late)
    assert timeline.within([(0, 1 << 60)]).max == 3.0


def test_the_kth_result_of_q6_is_of_the_sellers_kth_auction_to_close():
    results = pa.table({"seller": [9, 9], "avg": [10.0, 15.0]})
    both = events(auction=AUCTIONS, bid=WON)
    timeline, _ = timeline_of("q6", results, np.array([500_101_000, 500_204_000]), both, DATING)
    assert timeline.within([(0, 1 << 60)]).max == 4.0
    assert timeline.within([(0, 1 << 60)]).count == 2
    four = pa.table({"seller": [9] * 4, "avg": [0.0] * 4})
    with pytest.raises(MegaphoneError, match="more results than auctions"):
        timeline_of("q6", four, np.arange(4), both, DATING)


@pytest.mark.parametrize("query", UNTIMED)
def test_all_results_of_a_run_can_be_paired(query):
    stream = drawn(StreamOptions(20_000))
    rows = run_query(suite.query_flow(query, stream), stream, MemoryOptions()).rows
    recorded = stream.recorded()
    given = SimpleNamespace(
        person=recorded.person,
        auction=recorded.auction,
        bid=recorded.bid,
        recorded=lambda: recorded,
    )
    read = np.full(rows.num_rows, 1 << 50, dtype=np.int64)
    timeline, unpaired = timeline_of(query, rows, read, given, DATING)
    wanted = winning(recorded).num_rows if query == "q4" else rows.num_rows
    assert unpaired == 0
    assert timeline.within([(-1 << 60, 1 << 60)]).count == wanted > 10
