"""Properties of NEXMark events: event n is a function of n, however the work is cut and shared.

Cannot catch: another meaning of a field (tests/unit/nexmark).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadgen.schedule import Shard
from service.nexmark.events import (
    BID,
    EventSource,
    Format,
    NexmarkConfig,
    Times,
    Topics,
    Wire,
)

START_MS = 1_750_000_000_000
PARTITIONS = 3
WIRES = st.sampled_from(
    [
        Wire(),
        Wire(topics=Topics.SEPARATE, times=Times.ISO),
        Wire(format=Format.JSON, topics=Topics.TAGGED),
        Wire(format=Format.JSON, topics=Topics.SEPARATE, times=Times.ISO),
    ]
)
CONFIGS = st.builds(
    NexmarkConfig,
    seed=st.integers(0, (1 << 63) - 1),
    person_proportion=st.integers(1, 5),
    auction_proportion=st.integers(1, 9),
    bid_proportion=st.integers(0, 50),
    hot_auction_ratio=st.integers(1, 5),
    hot_seller_ratio=st.integers(1, 5),
    hot_bidder_ratio=st.integers(1, 5),
    active_people=st.integers(1, 2_000),
    in_flight_auctions=st.integers(1, 500),
    first_auction_id=st.integers(0, 1 << 62),
    first_category_id=st.integers(0, 50),
    categories=st.integers(1, 9),
    out_of_order_group_size=st.sampled_from([1, 2, 7, 64, 100]),
)


def sent(source, numbers):
    """{event: (topic and partition, key, message)} of some numbers."""
    events = source.events(numbers)
    run = source.encode(numbers, START_MS + events * 3, PARTITIONS)
    group = np.repeat(
        np.arange(len(run.partition_starts) - 1), np.diff(run.partition_starts)
    ).tolist()
    places = zip(events[run.order].tolist(), group, run.key_bytes(), run.values(), strict=True)
    return {event: rest for event, *rest in places}


@given(
    config=CONFIGS,
    wire=WIRES,
    processes=st.integers(1, 5),
    first=st.integers(0, 1 << 40),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_any_split_over_processes_and_batches_sends_the_same_bytes(
    config, wire, processes, first, cuts
):
    source = EventSource(config, wire=wire)
    # Whole groups on either side, so that both ways draw the same events.
    group = config.out_of_order_group_size
    first -= first % group
    count = 400 // group * group
    whole = sent(source, np.arange(first, first + count))
    assert sorted(whole) == [*range(first, first + count)]
    parts = {}
    for index in range(processes):
        shard = Shard(index, processes)
        mine = shard.numbers(shard.share(first), shard.share(first + count))
        edges = sorted({0, len(mine), *(min(cut, len(mine)) for cut in cuts)})
        for start, end in pairwise(edges):
            # A process of its own: nothing carries over from one batch to the next.
            parts |= sent(EventSource(config, wire=wire), mine[start:end])
    assert parts == whole


@given(config=CONFIGS, first=st.integers(0, 1 << 40))
def test_references_point_at_what_was_created_before(config, first):
    source = EventSource(config)
    numbers = np.arange(first, first + 500)
    times = START_MS + source.events(numbers)
    cycle = source.events(numbers) // config.cycle
    newest_person = config.first_person_id + (cycle + 1) * config.person_proportion - 1
    newest_auction = config.first_auction_id + (cycle + 1) * config.auction_proportion - 1
    of_bids = source.kinds(numbers) == BID
    bids = source.bids(numbers, times)
    assert (bids["auction"].to_numpy() <= newest_auction[of_bids]).all()
    assert (bids["bidder"].to_numpy() <= newest_person[of_bids]).all()
    assert (bids["auction"].to_numpy() >= config.first_auction_id).all()
    assert (bids["bidder"].to_numpy() >= config.first_person_id).all()
    auctions = source.auctions(numbers, times)
    category = auctions["category"].to_numpy() - config.first_category_id
    assert ((category >= 0) & (category < config.categories)).all()
    life = auctions["expires"].to_numpy() - auctions["date_time"].to_numpy()
    assert ((life >= 1) & (life <= config.auction_life_ms_max)).all()


@given(config=CONFIGS, first=st.integers(0, 1 << 40))
def test_groups_are_permuted_within_themselves_and_dates_go_with_the_events(config, first):
    group = config.out_of_order_group_size
    first -= first % group
    numbers = np.arange(first, first + 4 * group)
    events = EventSource(config).events(numbers).reshape(4, group)
    assert (np.sort(events, axis=1) == numbers.reshape(4, group)).all()
    if group > 2 and 953 % group != 1:
        assert (np.diff(events, axis=1) < 0).any()
