"""Flows that the tests of the kit run."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

import megaphone as mp


def counting() -> mp.Flow:
    """Bids per auction, and their highest price."""
    flow = mp.Flow("counting")
    source = mp.KafkaSource(["bids"], record="bid", fields=["auction", "price"])
    stats = (
        flow.source("bids", source)
        .key_by("auction")
        .aggregate("stats", bids=mp.count(), top=mp.highest("price"))
    )
    return stats.sink("out", mp.KafkaSink("stats", key="auction", schema=9))


def two_inputs() -> mp.Flow:
    """Bids and asks counted together."""
    flow = mp.Flow("two")
    bids = flow.source("bids", mp.KafkaSource(["bids"], record="bid", fields=["auction"]))
    asks = flow.source("asks", mp.KafkaSource(["asks"], record="ask", fields=["auction"]))
    both = flow.concat("both", bids, asks)
    stats = both.key_by("auction").aggregate("stats", seen=mp.count())
    return stats.sink("out", mp.KafkaSink("stats", key="auction", schema=9))


def failing() -> mp.Flow:
    """A function that cannot do with a price of 13."""

    def check(rows: pa.RecordBatch) -> pa.RecordBatch:
        if pc.any(pc.equal(rows.column("price"), 13)).as_py():
            raise ValueError("13 is no price")
        return rows

    flow = mp.Flow("failing")
    source = mp.KafkaSource(["bids"], record="bid", fields=["auction", "price"])
    checked = flow.source("bids", source).map_batches("check", check, columns=["auction", "price"])
    stats = checked.key_by("auction").aggregate("stats", bids=mp.count())
    return stats.sink("out", mp.KafkaSink("stats", key="auction", schema=9))


def endless() -> mp.Flow:
    """A loop that never lets its rows go, and a sink for what never comes."""
    flow = mp.Flow("endless")
    source = flow.source("in", mp.KafkaSource(["in"], record="r", fields=["n"]))

    def body(rows: mp.Stream) -> tuple[mp.Stream, mp.Stream]:
        return rows.branch("all", lambda batch: pc.is_valid(batch["n"]))

    return source.iterate("round", body).sink("out", mp.KafkaSink("out", key="n", schema=1))


def bids(*auctions: int, price: int = 1) -> list[dict[str, object]]:
    """A bid on each of these auctions."""
    return [{"auction": auction, "price": price} for auction in auctions]
