"""Kernels that draw NEXMark event n from (seed, n).

Flow: event numbers -> [fields: kinds and rows] -> [route: order by topic and partition] -> writing.
Private to `service.nexmark.events`, which owns the knobs and the public names. A price is
100 * 10**(6u), u uniform.

The theory. There is no generator state. Event n draws its numbers from a counter-based hash:
`base = mix64(n + mix64(seed))`, draw k = `mix64(base + k * odd constant)`. How many persons and
auctions exist when event n happens is arithmetic on n alone, because kinds follow one another in
a fixed cycle (persons, then auctions, then bids). So any run of events, in any order, on any
machine, by any number of processes gives the same fields.

Invariants
  G1  A field is a function of (seed, n, date_time, knobs) in integer arithmetic only; no floating
      point, so no compiler or libm can change a byte.
  G2  A reference (bid -> auction, bid -> bidder, auction -> seller) is an id in
      [first id, newest id at n + lead]; with lead 0 the row referred to has been created earlier
      in the order of event numbers, or belongs to the auctions that exist before the stream.
  G3  Rows of one partition keep the order of the numbers given.

Source: the Beam NEXMark generator (GeneratorConfig, AuctionGenerator, BidGenerator,
        PersonGenerator) for kinds, hot picks and defaults; SplitMix64 for the hash.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.hashing import mix64

Longs = NDArray[np.int64]
Kinds = NDArray[np.uint8]
Int = int | np.int64


class Knobs(NamedTuple):
    """What the kernels know of the configuration; `events.NexmarkConfig` explains each."""

    seed: int
    persons: int  # per cycle
    auctions: int  # per cycle
    cycle: int
    hot_auction: int
    hot_seller: int
    hot_bidder: int
    active_people: int
    in_flight: int
    first_person: int
    first_auction: int
    state_keys: int
    life_ms_max: int
    person_lead: int
    auction_lead: int
    first_category: int
    categories: int
    group: int
    opening: int  # 1: events are the opening bids of the loaded auctions


PERSON = 0
AUCTION = 1
BID = 2

# Texts are numbers into one stock (`texts`); (first, how many) of each field.
NAME = (0, 99)
EMAIL = (99, 512)
CARD = (611, 512)
CITY = (1123, 10)
STATE = (1133, 6)
ITEM = (1139, 256)
DESCRIPTION = (1395, 256)
CHANNEL = (1651, 64)
URL = (1715, 64)
EXTRA = (1779, 32)
TEXTS = 1811
HOT_CHANNELS = 4

HOT_STRIDE = 100  # A hot id is the newest id rounded down to a multiple of this (Beam).
ORDER_STRIDE = 953  # Beam's multiplier for out-of-order groups; prime.
PRICE_STEPS = 1024  # Intervals of the price table; 2**10, the top bits of a draw.

_DRAW = 0x9E3779B97F4A7C15


@njit(inline="always")
def _draw(base: np.uint64, stream: int) -> np.uint64:
    mixed: np.uint64 = mix64(base + np.uint64(stream) * np.uint64(_DRAW))
    return mixed


@njit(inline="always")
def _below(draw: np.uint64, bound: Int) -> Int:
    """Uniform in [0, bound) for 1 <= bound < 2**31: the high half of a 32 x 32 bit product."""
    return np.int64(((draw >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@njit(inline="always")
def _text(draw: np.uint64, field: tuple[int, int]) -> Int:
    return np.int64(field[0]) + _below(draw, field[1])


@njit(inline="always")
def _base(event: Int, knobs: Knobs) -> np.uint64:
    # The opening bids draw from another domain than the stream, so that bid 7 is not opening bid 7.
    domain = mix64(np.uint64(knobs.seed) + np.uint64(knobs.opening) * np.uint64(_DRAW))
    mixed: np.uint64 = mix64(np.uint64(event) + domain)
    return mixed


@njit(inline="always")
def _event(number: Int, knobs: Knobs) -> Int:
    """Which event is sent as number-th: a permutation inside each out-of-order group."""
    group = knobs.group
    if group == 1:
        return number
    within = number % group
    return number - within + (within * ORDER_STRIDE) % group


@njit(inline="always")
def _kind(event: Int, knobs: Knobs) -> int:
    if knobs.opening != 0:
        return BID
    offset = event % knobs.cycle
    if offset < knobs.persons:
        return PERSON
    return AUCTION if offset < knobs.persons + knobs.auctions else BID


@njit(inline="always")
def _newest_person(event: Int, knobs: Knobs) -> Int:
    """Index of the newest person at an event, the event itself included."""
    persons = knobs.persons
    return event // knobs.cycle * persons + min(event % knobs.cycle, persons - 1)


@njit(inline="always")
def _newest_auction(event: Int, knobs: Knobs) -> Int:
    """Index of the newest auction at an event; those from before the stream come first; or -1."""
    cycle = event // knobs.cycle
    within = min(event % knobs.cycle - knobs.persons, knobs.auctions - 1)
    return knobs.state_keys + cycle * knobs.auctions + max(within, -1)


@njit(inline="always")
def _active_person(draw: np.uint64, newest: Int, knobs: Knobs) -> Int:
    active = min(newest + 1, knobs.active_people)
    return newest + 1 - active + _below(draw, active + knobs.person_lead)


@njit(inline="always")
def _price(draw: np.uint64, prices: Longs) -> Int:
    """Log-uniform price: the top bits pick an interval of the table, the rest a point in it."""
    step = np.int64(draw >> np.uint64(54))
    low: Int = prices[step]
    return low + _below(draw << np.uint64(10), prices[step + 1] - low)


@njit(inline="always")
def _bid_auction(base: np.uint64, event: Int, knobs: Knobs) -> Int:
    if knobs.opening != 0:
        return knobs.first_auction + event
    newest = _newest_auction(event, knobs)
    if _below(_draw(base, 0), knobs.hot_auction) > 0:
        return knobs.first_auction + newest // HOT_STRIDE * HOT_STRIDE
    recent = min(newest + 1, knobs.in_flight)
    pick = _below(_draw(base, 1), recent + knobs.auction_lead)
    return knobs.first_auction + newest + 1 - recent + pick


@njit(inline="always")
def _bidder(base: np.uint64, event: Int, knobs: Knobs) -> Int:
    if knobs.opening != 0:
        return knobs.first_person + _below(_draw(base, 3), knobs.active_people)
    newest = _newest_person(event, knobs)
    if _below(_draw(base, 2), knobs.hot_bidder) > 0:
        # One beside the hot seller; the newest person where that one is not yet there (G2).
        return knobs.first_person + min(newest // HOT_STRIDE * HOT_STRIDE + 1, newest)
    return knobs.first_person + _active_person(_draw(base, 3), newest, knobs)


@njit(inline="always")
def _seller(base: np.uint64, event: Int, knobs: Knobs) -> Int:
    newest = _newest_person(event, knobs)
    if _below(_draw(base, 2), knobs.hot_seller) > 0:
        return knobs.first_person + newest // HOT_STRIDE * HOT_STRIDE
    return knobs.first_person + _active_person(_draw(base, 3), newest, knobs)


@njit(inline="always")
def _channel(draw: np.uint64) -> Int:
    # Half of the bids come through one of the hot channels (lowest bit; _below uses the high ones).
    if draw & np.uint64(1):
        return np.int64(CHANNEL[0]) + _below(draw, HOT_CHANNELS)
    return np.int64(CHANNEL[0] + HOT_CHANNELS) + _below(draw, CHANNEL[1] - HOT_CHANNELS)


@njit(inline="always")
def _fill_person(event: Int, knobs: Knobs, time_ms: Int, row: Longs) -> None:
    base = _base(event, knobs)
    texts = _draw(base, 0)
    row[0] = knobs.first_person + _newest_person(event, knobs)
    row[1] = _text(texts, NAME)
    row[2] = _text(_draw(base, 1), EMAIL)
    row[3] = _text(_draw(base, 2), CARD)
    row[4] = _text(_draw(base, 3), CITY)
    row[5] = _text(_draw(base, 4), STATE)
    row[6] = time_ms
    row[7] = _text(texts << np.uint64(32), EXTRA)


@njit(inline="always")
def _fill_auction(event: Int, knobs: Knobs, time_ms: Int, prices: Longs, row: Longs) -> None:
    base = _base(event, knobs)
    texts = _draw(base, 0)
    row[0] = knobs.first_auction + _newest_auction(event, knobs)
    row[1] = _text(texts, ITEM)
    row[2] = _text(_draw(base, 1), DESCRIPTION)
    row[3] = _price(_draw(base, 4), prices)
    row[4] = row[3] + _price(_draw(base, 5), prices)
    row[5] = time_ms
    row[6] = time_ms + 1 + _below(_draw(base, 6), knobs.life_ms_max)
    row[7] = _seller(base, event, knobs)
    row[8] = knobs.first_category + _below(_draw(base, 7), knobs.categories)
    row[9] = _text(texts << np.uint64(32), EXTRA)


@njit(inline="always")
def _fill_bid(event: Int, knobs: Knobs, time_ms: Int, prices: Longs, row: Longs) -> None:
    base = _base(event, knobs)
    texts = _draw(base, 5)
    row[0] = _bid_auction(base, event, knobs)
    row[1] = _bidder(base, event, knobs)
    row[2] = _price(_draw(base, 4), prices)
    row[3] = _channel(texts)
    row[4] = _text(texts << np.uint64(16), URL)
    row[5] = time_ms
    row[6] = _text(texts << np.uint64(32), EXTRA)


@njit(cache=True)
def kinds(numbers: Longs, knobs: Knobs, out: Kinds) -> None:
    """Write the kind of each event into `out`. Cost: a division per row."""
    for i in range(numbers.shape[0]):
        out[i] = _kind(_event(numbers[i], knobs), knobs)


@njit(cache=True)
def events(numbers: Longs, knobs: Knobs, out: Longs) -> None:
    """Write into `out` which event each number sends. Cost: two divisions per row."""
    for i in range(numbers.shape[0]):
        out[i] = _event(numbers[i], knobs)


@njit(cache=True)
def fields(
    numbers: Longs,
    times_ms: Longs,
    knobs: Knobs,
    prices: Longs,
    out: Longs,
    kinds_out: Kinds,
) -> None:
    """Write the fields of each event, in schema order, into its row of `out` (n x 10), and kinds.

    Texts are their numbers in the stock; columns beyond a kind's fields are untouched.
    """
    for i in range(numbers.shape[0]):
        event = _event(numbers[i], knobs)
        kind = _kind(event, knobs)
        kinds_out[i] = kind
        if kind == BID:
            _fill_bid(event, knobs, times_ms[i], prices, out[i])
        elif kind == AUCTION:
            _fill_auction(event, knobs, times_ms[i], prices, out[i])
        else:
            _fill_person(event, knobs, times_ms[i], out[i])


@njit(inline="always")
def partition_of(key: Int, partitions: int) -> np.int32:
    """Partition by the low bits of the hash; bins take the top bits, so the two are independent."""
    return np.int32((mix64(np.uint64(key)) & np.uint64(0xFFFFFFFF)) % np.uint64(partitions))


@njit(cache=True)
def route(rows: Longs, row_kinds: Kinds, topic_of_kind: Longs, order: Longs, starts: Longs) -> None:
    """Order rows by topic and by the partition of their first field, stably (G3).

    Args:
        rows: n x 10 fields; the first is a bid's auction, an auction's or a person's id.
        row_kinds: n kinds.
        topic_of_kind: 3 topic numbers.
        order: n; receives the row numbers grouped by topic, then partition.
        starts: topics * partitions + 1; receives where each group starts in `order`.
    """
    n = rows.shape[0]
    groups = starts.shape[0] - 1
    partitions = groups // (topic_of_kind.max() + 1)
    places = np.empty(n, dtype=np.int32)
    starts[:] = 0
    for i in range(n):
        first = topic_of_kind[row_kinds[i]] * partitions
        places[i] = first + partition_of(rows[i, 0], partitions)
        starts[places[i] + 1] += 1
    for group in range(groups):
        starts[group + 1] += starts[group]
    cursor = starts.copy()
    for i in range(n):
        order[cursor[places[i]]] = i
        cursor[places[i]] += 1
