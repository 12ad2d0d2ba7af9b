"""NEXMark events: same bytes everywhere, right shares, references that exist, readable Avro.

Cannot catch: a broker or client that changes bytes on the way (the integration tests do).
"""

from __future__ import annotations

import hashlib
import io
import json

import fastavro
import numpy as np
import pytest

from service.nexmark.events import (
    AUCTION,
    BID,
    FIELDS,
    PERSON,
    EventSource,
    KnobError,
    NexmarkConfig,
    schema_text,
)

START_MS = 1_750_000_000_000
RECORDS = ("person", "auction", "bid")
SCHEMAS = {i + 1: fastavro.parse_schema(json.loads(schema_text(r))) for i, r in enumerate(RECORDS)}


def run_of(first, count):
    numbers = np.arange(first, first + count, dtype=np.int64)
    return numbers, START_MS + numbers // 100


def splitmix64(key):
    """The hash written from its publication, in Python's own integers."""
    mask = (1 << 64) - 1
    x = (key + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def decode(value):
    """One message through fastavro; it must use up all its bytes."""
    assert value[:4] == b"\0\0\0\0"
    body = io.BytesIO(value[5:])
    record = fastavro.schemaless_reader(body, SCHEMAS[value[4]], None)
    assert body.read() == b""
    return value[4] - 1, record


def test_bytes_of_a_seed_are_the_same_on_every_machine():
    source = EventSource(NexmarkConfig(seed=7).with_state(10_000))
    run = source.encode(*run_of(0, 5_000), partitions=4)
    digest = hashlib.sha256(b"".join(run.values()) + b"".join(run.key_bytes())).hexdigest()
    assert digest == "a6d07bb57dea87b6559332f5dfec7ddddf40a22b87ebacea8b2a21abaa62baf9"


def test_an_event_does_not_depend_on_the_run_it_is_drawn_in():
    source = EventSource(NexmarkConfig(seed=3))
    numbers, times = run_of(1_000, 500)
    whole = source.bids(numbers, times)
    assert source.bids(numbers[::-1], times[::-1]).to_pylist() == whole.to_pylist()[::-1]
    halves = [source.bids(numbers[s], times[s]).to_pylist() for s in (slice(200), slice(200, None))]
    assert halves[0] + halves[1] == whole.to_pylist()


def test_seeds_and_the_opening_phase_draw_different_events():
    numbers, times = run_of(0, 1_000)
    drawn = {
        tuple(EventSource(config, opening=opening).bids(numbers, times)["price"].to_pylist()[:900])
        for config in (NexmarkConfig(seed=1), NexmarkConfig(seed=2))
        for opening in (False, True)
    }
    assert len(drawn) == 4


def test_every_fifty_events_are_one_person_three_auctions_forty_six_bids():
    kinds = EventSource(NexmarkConfig()).kinds(run_of(0, 500)[0]).reshape(10, 50)
    expected = [PERSON] + [AUCTION] * 3 + [BID] * 46
    assert (kinds == expected).all()


def test_fastavro_reads_every_message_and_finds_the_columns():
    source = EventSource(NexmarkConfig(seed=5).with_state(300))
    numbers, times = run_of(0, 2_000)
    run = source.encode(numbers, times, partitions=3)
    by_event = {int(e): decode(v) for e, v in zip(run.order, run.values(), strict=True)}
    kinds = source.kinds(numbers)
    batches = (source.persons, source.auctions, source.bids)
    for kind, columns in enumerate(batches):
        rows = [by_event[int(e)] for e in np.flatnonzero(kinds == kind)]
        assert {k for k, _ in rows} == {kind}
        assert [record for _, record in rows] == columns(numbers, times).to_pylist()
        assert columns(numbers, times).schema.names == list(FIELDS[kind])


def test_messages_of_a_partition_keep_event_order_and_share_its_keys():
    source = EventSource(NexmarkConfig(seed=5).with_state(300))
    run = source.encode(*run_of(0, 2_000), partitions=4)
    keys, values = run.key_bytes(), run.values()
    assert run.partition_starts[0] == 0
    assert run.partition_starts[-1] == 2_000
    for partition in range(4):
        mine = range(run.partition_starts[partition], run.partition_starts[partition + 1])
        assert (np.diff(run.order[mine.start : mine.stop]) > 0).all()
        assert len(mine) > 200
        for j in mine:
            key = int.from_bytes(keys[j], "big", signed=True)
            assert (splitmix64(key) & 0xFFFFFFFF) % 4 == partition
            _, record = decode(values[j])
            assert key == record.get("auction", record.get("id"))


def test_references_stay_within_what_exists():
    config = NexmarkConfig(seed=9).with_state(1_000)
    source = EventSource(config)
    numbers, times = run_of(0, 50_000)
    persons, auctions, bids = (
        source.persons(numbers, times),
        source.auctions(numbers, times),
        source.bids(numbers, times),
    )
    assert persons["id"].to_pylist() == list(range(1_000, 2_000))
    assert auctions["id"].to_pylist() == list(range(2_000, 5_000))
    cycle = numbers[source.kinds(numbers) == BID] // 50
    bidder, auction = bids["bidder"].to_numpy(), bids["auction"].to_numpy()
    assert ((bidder >= 1_000) & (bidder <= 1_000 + cycle)).all()
    newest = 2_000 + cycle * 3 + 2
    # Uniform over as many as were loaded, hot ones at most a stride behind the newest.
    assert ((auction > newest - 1_000) & (auction <= newest)).all()
    seller = auctions["seller"].to_numpy()
    assert ((seller >= 1_000) & (seller <= 1_000 + np.arange(3_000) // 3)).all()
    assert (auctions["expires"].to_numpy() > auctions["date_time"].to_numpy()).all()
    assert (auctions["reserve"].to_numpy() > auctions["initial_bid"].to_numpy()).all()


def test_half_of_the_bids_are_hot_and_the_hot_auction_moves_on():
    source = EventSource(NexmarkConfig(seed=1).with_state(100_000))
    numbers, times = run_of(0, 100_000)
    auction = source.bids(numbers, times)["auction"].to_numpy()
    bids = len(auction)
    newest = 1_000 + 100_000 + numbers[source.kinds(numbers) == BID] // 50 * 3 + 2
    hot = 1_000 + (newest - 1_000) // 100 * 100
    assert 0.49 < (auction == hot).mean() < 0.51
    assert len(np.unique(hot)) == 60
    cold = auction[auction != hot]
    # 46,000 cold bids fall on about 37 % of the 100,000 keys, evenly.
    assert len(np.unique(cold)) > 0.98 * 100_000 * (1 - np.exp(-len(cold) / 100_000))
    assert abs(np.median(newest[auction != hot] - cold) - 50_000) < 1_000
    assert bids == 92_000


def test_hot_ratios_are_knobs():
    numbers, times = run_of(0, 50_000)
    cold = EventSource(NexmarkConfig(hot_auction_ratio=1, hot_bidder_ratio=1).with_state(100_000))
    bids = cold.bids(numbers, times)
    assert np.unique(bids["auction"].to_numpy(), return_counts=True)[1].max() < 15
    assert np.unique(bids["bidder"].to_numpy()).size > 950
    hot = EventSource(NexmarkConfig(hot_auction_ratio=20).with_state(100_000))
    assert np.unique(hot.bids(numbers, times)["auction"].to_numpy()).size < 3_000


@pytest.mark.parametrize(("persons", "auctions", "bids"), [(1, 3, 46), (2, 5, 13), (7, 1, 0)])
def test_proportions_are_exact_in_every_cycle(persons, auctions, bids):
    config = NexmarkConfig(
        person_proportion=persons, auction_proportion=auctions, bid_proportion=bids
    )
    kinds = EventSource(config).kinds(np.arange(10 * config.cycle)).reshape(10, -1)
    assert (kinds == [PERSON] * persons + [AUCTION] * auctions + [BID] * bids).all()


@pytest.mark.parametrize("ratio", [1, 2, 4, 20])
def test_the_share_of_hot_sellers_and_bidders_is_what_their_ratio_says(ratio):
    config = NexmarkConfig(seed=3, hot_seller_ratio=ratio, hot_bidder_ratio=ratio)
    source = EventSource(config)
    # Far from the beginning, so that a thousand persons are active.
    numbers, times = run_of(10_000_000, 100_000)
    newest = numbers // 50
    kinds = source.kinds(numbers)
    hot = newest // 100 * 100 + 1_000
    sellers = source.auctions(numbers, times)["seller"].to_numpy()
    bidders = source.bids(numbers, times)["bidder"].to_numpy()
    shares = [
        (sellers == hot[kinds == AUCTION]).mean(),
        (bidders == np.minimum(hot + 1, newest + 1_000)[kinds == BID]).mean(),
    ]
    assert np.abs(np.array(shares) - (ratio - 1) / ratio).max() < 0.02


def test_persons_and_auctions_in_play_are_as_many_as_the_knobs_say():
    config = NexmarkConfig(
        seed=3, hot_auction_ratio=1, hot_bidder_ratio=1, active_people=30, in_flight_auctions=50
    )
    source = EventSource(config)
    numbers, times = run_of(10_000_000, 100_000)
    cycle = numbers[source.kinds(numbers) == BID] // 50
    bids = source.bids(numbers, times)
    behind = [
        cycle + 1_000 - bids["bidder"].to_numpy(),
        cycle * 3 + 2 + 1_000 - bids["auction"].to_numpy(),
    ]
    for newest_to_oldest, many in zip(behind, (30, 50), strict=True):
        counts = np.bincount(newest_to_oldest)
        assert len(counts) == many
        assert np.abs(counts / counts.mean() - 1).max() < 0.12


def test_categories_are_drawn_evenly():
    config = NexmarkConfig(first_category_id=7, categories=4)
    category = EventSource(config).auctions(*run_of(0, 200_000))["category"].to_numpy()
    values, counts = np.unique(category, return_counts=True)
    assert values.tolist() == [7, 8, 9, 10]
    assert np.abs(counts / counts.mean() - 1).max() < 0.05


def test_each_loaded_auction_has_one_opening_bid():
    source = EventSource(NexmarkConfig(first_auction_id=0).with_state(5_000), opening=True)
    bids = source.bids(*run_of(0, 5_000))
    assert bids["auction"].to_pylist() == list(range(5_000))
    assert bids["date_time"].to_pylist() == run_of(0, 5_000)[1].tolist()


def test_prices_are_log_uniform_from_one_to_a_million():
    prices = EventSource(NexmarkConfig()).bids(*run_of(0, 50_000))["price"].to_numpy()
    assert prices.min() >= 100
    assert prices.max() <= 100_000_000
    quantiles = np.log10(np.quantile(prices, [0.25, 0.5, 0.75]))
    assert np.abs(quantiles - [3.5, 5.0, 6.5]).max() < 0.05


def test_out_of_order_groups_permute_events_within_themselves():
    plain = EventSource(NexmarkConfig(seed=2))
    shuffled = EventSource(NexmarkConfig(seed=2, out_of_order_group_size=25))
    numbers = np.arange(0, 1_000, dtype=np.int64)
    times = np.full(1_000, START_MS)
    in_order = [decode(v) for v in plain.encode(numbers, times, 1).values()]
    out_of_order = [decode(v) for v in shuffled.encode(numbers, times, 1).values()]
    assert in_order != out_of_order
    for start in range(0, 1_000, 25):
        group = slice(start, start + 25)
        assert sorted(map(str, in_order[group])) == sorted(map(str, out_of_order[group]))


def test_leads_let_references_run_ahead():
    config = NexmarkConfig(auction_lead=10, hot_auction_ratio=1)
    source = EventSource(config)
    numbers, times = run_of(0, 50_000)
    auction = source.bids(numbers, times)["auction"].to_numpy()
    newest = 1_000 + numbers[source.kinds(numbers) == BID] // 50 * 3 + 2
    assert (auction - newest).max() == 10


def test_large_ids_survive():
    source = EventSource(NexmarkConfig(first_auction_id=1 << 62, seed=(1 << 63) - 1))
    run = source.encode(*run_of(0, 100), partitions=1)
    records = [decode(value)[1] for value in run.values()]
    assert min(r["auction"] for r in records if "auction" in r) == 1 << 62


@pytest.mark.parametrize(
    ("knob", "value"),
    [("hot_auction_ratio", 0), ("seed", -1), ("state_keys", 1 << 31), ("person_proportion", 0)],
)
def test_a_knob_out_of_range_is_refused_by_name(knob, value):
    with pytest.raises(KnobError, match=knob):
        NexmarkConfig(**{knob: value})


def test_an_out_of_order_group_that_the_stride_divides_is_refused():
    with pytest.raises(KnobError, match="953"):
        NexmarkConfig(out_of_order_group_size=953 * 2)


def test_an_empty_run_is_no_message():
    run = EventSource(NexmarkConfig()).encode(*run_of(0, 0), partitions=4)
    assert run.values() == []
    assert run.partition_starts.tolist() == [0, 0, 0, 0, 0]
