"""Winning bids as a peer's side finds them are those of the oracle.

Claims: CA1, CA2. The peer itself is held to the oracle in every run of the bench (NB1).
"""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bench.nexmark.closing_auctions import ClosingAuctions
from service.bench.nexmark.oracle import differences, expected
from service.bench.nexmark.stream import StreamOptions, drawn


def events_of(stream):
    """Auctions and bids as a peer is given them."""
    events = []
    for batch in stream.batches:
        for kind in ("auction", "bid"):
            events += [{"kind": kind, **row} for row in batch[kind].to_pylist()]
    return sorted(events, key=lambda event: event["date_time"])


@pytest.mark.parametrize("per_second", [10_000, 100])
@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=12), st.integers(0, 5))
def test_they_are_those_of_the_oracle_wherever_batches_are_cut(per_second, sizes, lateness):
    stream = drawn(StreamOptions(4_000, per_second=per_second))
    events, auctions, won, at = events_of(stream), ClosingAuctions(lateness), [], 0
    for size in sizes:
        won += auctions.take(events[at : at + size])
        at += size
    early = len(won)
    won += auctions.take(events[at:]) + auctions.end()
    assert early < len(won)
    assert len({each.auction["id"] for each in won}) == len(won)
    totals = {}
    for auction, price in won:
        total, count = totals.get(auction["category"], (0, 0))
        totals[auction["category"]] = total + price, count + 1
    rows = [{"category": key, "avg": total / count} for key, (total, count) in totals.items()]
    wanted = expected("q4", stream.recorded())
    assert differences("q4", pa.Table.from_pylist(rows, wanted.schema), wanted) == []


def test_bids_come_before_their_auction_and_after_its_end():
    def bid(time, price):
        return {"kind": "bid", "auction": 7, "date_time": time, "price": price}

    auction = {"kind": "auction", "id": 7, "date_time": 10, "expires": 20, "reserve": 5}
    auctions = ClosingAuctions(lateness_ms=3)
    given = [bid(9, 99), bid(10, 6), bid(12, 4), bid(11, 5)]
    assert auctions.take([*given, auction, bid(19, 8), bid(20, 70)]) == []
    assert auctions.take([bid(18, 9), bid(22, 80)]) == []
    assert auctions.take([bid(23, 90)]) == [(auction, 9)]
    assert auctions.end() == []


def test_an_early_bid_goes_when_no_auction_on_time_could_claim_it():
    bids = [
        {"kind": "bid", "auction": 7, "date_time": time, "price": price}
        for time, price in ((10, 9), (14, 8))
    ]
    auction = {"kind": "auction", "id": 7, "date_time": 10, "expires": 20, "reserve": 5}
    auctions = ClosingAuctions(lateness_ms=3)
    assert auctions.take(bids) == []
    assert auctions.take([auction]) == []
    assert auctions.end() == [(auction, 8)]
