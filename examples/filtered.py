"""Filter, then aggregate: what each bidder spends on bids of 10,000 and more.

Run it from the repository, with `kafka` the address of a broker and its output topic created:

    megaphone run examples.filtered:flow --bootstrap-servers kafka --app large-bids \
        --registry examples/schemas

Output: topic `large-bids`, schema 12, keyed by bidder.

The flow is made by a function, which `megaphone run` calls: a flow can be made from anything that
is the same in every process of the job.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

import megaphone as mp

LEAST = 10_000


def is_large(rows: pa.RecordBatch) -> pa.Array:
    """Which rows of a batch to keep: one boolean a row."""
    return pc.greater_equal(rows.column("price"), LEAST)


def flow() -> mp.Flow:
    """The flow, made anew at each call."""
    flow = mp.Flow("large_bids")
    bids = flow.source(
        "bids", mp.KafkaSource(["nexmark-events"], record="bid", fields=["bidder", "price"])
    )
    stats = (
        bids.filter("large", is_large)
        .key_by("bidder")
        .aggregate(
            "stats",
            bids=mp.count(),
            spent=mp.total("price"),
            smallest=mp.lowest("price"),
            largest=mp.highest("price"),
        )
    )
    return stats.sink("out", mp.KafkaSink("large-bids", key="bidder", schema=12))
