"""Two stateful stages: bids per auction, then the busiest auction of every hundred.

Run it from the repository, with `kafka` the address of a broker and its output topic created:

    megaphone run examples.two_stages:flow --bootstrap-servers kafka --app busiest \
        --registry examples/schemas

Output: topic `busiest-auctions`, schema 11, keyed by hundred.

The first stage emits a changelog, so the second sees the same auction again and again with growing
counts. `highest` is right on such a stream, since a count never falls; `count` or `total` would
count every change.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

import megaphone as mp


def by_hundred(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Replace the auction by its hundred: the whole batch at once, never a row at a time."""
    hundreds = pc.divide(rows.column("auction"), 100)
    return pa.RecordBatch.from_arrays([hundreds, rows.column("bids")], ["hundred", "bids"])


flow = mp.Flow("busiest")

bids = flow.source("bids", mp.KafkaSource(["nexmark-events"], record="bid", fields=["auction"]))
per_auction = bids.key_by("auction").aggregate("per_auction", bids=mp.count())
grouped = per_auction.map_batches("by_hundred", by_hundred, columns=["hundred", "bids"])
busiest = grouped.key_by("hundred").aggregate("busiest", most_bids=mp.highest("bids"))
busiest.sink("out", mp.KafkaSink("busiest-auctions", key="hundred", schema=11))
