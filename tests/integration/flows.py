"""Flows of a user's own, as `megaphone run tests.integration.flows:NAME` finds them.

Topics and bins are the test's: it names a prefix in the environment variable FLOW_PREFIX.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

import megaphone as mp

#: Schemas of what the flows write, by the id under which a test puts them into its registry.
SCHEMAS: dict[int, dict[str, object]] = {
    number: {
        "type": "record",
        "name": name,
        "fields": [{"name": field, "type": "long"} for field in fields],
    }
    for number, name, fields in (
        (10, "auction_count", ("auction", "bids")),
        (11, "group_highest", ("group", "most", "changes", "increases")),
        (12, "dear_bid", ("auction", "price")),
        (13, "top_below", ("auction", "price")),
        (14, "bids_seen", ("auction", "bids", "total", "prices")),
        (15, "bids_of", ("auction", "bids", "total", "highest")),
        (16, "in_window", ("key", "end", "events")),
    )
}
GROUPS = 10
WINDOW_MS = 1_000
DEAR = 100_000
#: Auctions begin at 1,000: each is three or four steps below this.
TOP = 200


def topic(name: str) -> str:
    """A topic of the test's."""
    return f"{os.environ['FLOW_PREFIX']}-{name}"


def bids(flow: mp.Flow) -> mp.Stream:
    """The bids of the input."""
    return flow.source("bids", mp.KafkaSource([topic("events")], "bid", ["auction", "price"]))


def with_group(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Add the group of each auction; ids of auctions are not negative."""
    auction = rows.column("auction")
    tens = pc.multiply(pc.divide(auction, GROUPS), GROUPS)
    return rows.append_column("group", pc.subtract(auction, tens))


def two_stages() -> mp.Flow:
    """Bids per auction; then per group of auctions the highest such number.

    The second stage also counts the changes that the first one tells it of, and adds them up: one
    that was lost or came twice would show, which a maximum alone might hide.
    """
    flow = mp.Flow("two_stages")
    counts = bids(flow).key_by("auction").aggregate("counts", bids=mp.count())
    counts.sink("counts-out", mp.KafkaSink(topic("counts"), key="auction", schema=10))
    grouped = counts.map_batches("grouped", with_group, columns=("auction", "bids", "group"))
    groups = grouped.key_by("group").aggregate(
        "groups", most=mp.highest("bids"), changes=mp.count(), increases=mp.total("bids")
    )
    return groups.sink("groups-out", mp.KafkaSink(topic("groups"), key="group", schema=11))


def wide() -> mp.Flow:
    """Bids per auction, in rows of a thousand bytes: few of them fill a worker's memory."""
    flow = mp.Flow("wide")
    told = {"bids": mp.count(), "total": mp.total("price"), "highest": mp.highest("price")}
    more = {f"more{number}": mp.highest("price") for number in range(120)}
    kept = bids(flow).key_by("auction").aggregate("kept", **told, **more)
    sums = kept.select("told", "auction", *told)
    return sums.sink("out", mp.KafkaSink(topic("sums"), key="auction", schema=15))


def stateless() -> mp.Flow:
    """The dear bids as they come; nothing is kept, so nothing could move."""
    flow = mp.Flow("stateless")
    dear = bids(flow).filter("dear", lambda rows: pc.greater_equal(rows.column("price"), DEAR))
    return dear.sink("out", mp.KafkaSink(topic("dear"), key="auction", schema=12))


def climb() -> mp.Flow:
    """Auction a > TOP lies below a // 2; per auction the highest price of it and all below."""
    flow = mp.Flow("climb")
    prices = bids(flow).select("prices", "auction", "price")
    tops = prices.iterate("climbing", _one_up)
    return tops.sink("out", mp.KafkaSink(topic("tops"), key="auction", schema=13))


def _one_up(rows: mp.Stream) -> tuple[mp.Stream, mp.Stream]:
    tops = rows.key_by("auction").aggregate("tops", price=mp.highest("price"))
    return tops.map_batches("up", _to_parents, columns=("auction", "price")), tops


def _to_parents(rows: pa.RecordBatch) -> pa.RecordBatch:
    below = rows.filter(pc.greater(rows.column("auction"), TOP))
    parents = pc.divide(below.column("auction"), 2)
    return pa.RecordBatch.from_arrays([parents, below.column("price")], ["auction", "price"])


@dataclass
class Seen:
    """What is remembered of an auction: an object of the user's own, changed in place."""

    bids: int = 0
    total: int = 0
    prices: set[int] = field(default_factory=set)


def see(seen: Seen, price: int) -> tuple[Seen, tuple[int, int, int]]:
    """Take one more bid, and tell of all so far."""
    seen.bids += 1
    seen.total += price
    seen.prices.add(price)
    return seen, (seen.bids, seen.total, len(seen.prices))


def remembering() -> mp.Flow:
    """A row for every bid: how many its auction has had, their sum, and how many prices."""
    flow = mp.Flow("remembering")
    seen = (
        bids(flow)
        .key_by("auction")
        .stateful_map(
            "seen",
            see,
            value="price",
            initial=Seen,
            schema={name: pa.int64() for name in ("bids", "total", "prices")},
        )
    )
    return seen.sink("out", mp.KafkaSink(topic("seen"), key="auction", schema=14))


def _counted(
    counts: dict[int, int], time: int, timers: mp.KeyTimers
) -> tuple[dict[int, int], None]:
    end = (time // WINDOW_MS + 1) * WINDOW_MS
    counts[end] = counts.get(end, 0) + 1
    timers.set(end)
    return counts, None


def _closed(
    counts: dict[int, int], timers: mp.KeyTimers
) -> tuple[dict[int, int] | None, list[tuple[int, int]]]:
    events = counts.pop(timers.now)
    return counts or None, [(timers.now, events)]


def windows() -> mp.Flow:
    """Bids of each auction and auctions of each seller in windows of event time, from one topic."""
    flow = mp.Flow("windows")
    watermarks = mp.Watermarks("date_time", out_of_orderness="300ms", idle_after="60s")
    for name, column in (("bid", "auction"), ("auction", "seller")):
        source = mp.KafkaSource([topic("events")], name, [column, "date_time"])
        rows = flow.source(f"{name}s", source, watermarks=watermarks)
        keyed = rows.select(f"{name} keys", "date_time", key=column).key_by("key")
        closed = keyed.process(
            f"{name} windows",
            _counted,
            _closed,
            value="date_time",
            initial=dict,
            schema={"end": pa.int64(), "events": pa.int64()},
        )
        closed.sink(f"{name} out", mp.KafkaSink(topic(f"{name}-windows"), key="key", schema=16))
        late = closed.late(f"{name} late").with_columns(
            f"{name} tardy", end=pc.field("date_time"), events=pc.field("date_time")
        )
        late.sink(f"{name} late out", mp.KafkaSink(topic("late"), key="key", schema=16))
    return flow
