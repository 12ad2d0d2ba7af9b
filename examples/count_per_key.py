"""Count per key: how many bids each bidder has made.

Run it from the repository, with `kafka` the address of a broker and its output topic created:

    megaphone run examples.count_per_key:flow --bootstrap-servers kafka --app bidders \
        --registry examples/schemas

Output: topic `bidder-bids`, schema 10, keyed by bidder. It is a changelog: one record for each
bidder that a batch of bids changed, with the count so far. The last record of a bidder is final.
"""

from __future__ import annotations

import megaphone as mp

flow = mp.Flow("bidders")

bids = flow.source("bids", mp.KafkaSource(["nexmark-events"], record="bid", fields=["bidder"]))
counts = bids.key_by("bidder").aggregate("counts", bids=mp.count())
counts.sink("out", mp.KafkaSink("bidder-bids", key="bidder", schema=10))
