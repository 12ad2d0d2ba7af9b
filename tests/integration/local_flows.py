"""Flows that a command runs without any Kafka; files lie where the command runs."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

import megaphone as mp


def counting() -> mp.Flow:
    """Bids per auction, from a file into a file."""
    flow = mp.Flow("counting")
    bids = flow.source("bids", mp.FileSource("bids.jsonl"))
    stats = bids.key_by("auction").aggregate("stats", bids=mp.count(), top=mp.highest("price"))
    return stats.sink("out", mp.FileSink("out.parquet"))


def failing() -> mp.Flow:
    """A function that cannot do with a price of 13."""

    def check(rows: pa.RecordBatch) -> pa.RecordBatch:
        if pc.any(pc.equal(rows.column("price"), 13)).as_py():
            raise ValueError("13 is no price")
        return rows

    flow = mp.Flow("failing")
    bids = flow.source("bids", mp.FileSource("bids.jsonl"))
    return bids.map_batches("check", check).sink("out", mp.FileSink("out.jsonl"))


class Endless:
    """A source that never ends."""

    fields = ("k",)
    label = "ones"

    def schema(self) -> pa.Schema:
        """One column."""
        return pa.schema([("k", pa.int64())])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Ones, for ever; the first of them are told on a file."""
        while True:
            yield pa.RecordBatch.from_pydict({"k": [1]})


def endless() -> mp.Flow:
    """Counts for ever."""
    flow = mp.Flow("endless")
    ones = flow.source("ones", Endless())
    counts = ones.key_by("k").aggregate("counts", n=mp.count())
    return counts.sink("out", mp.FileSink("out.jsonl"))
