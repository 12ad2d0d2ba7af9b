"""NEXMark queries as values in the users' API.

Flow: `megaphone run nexmark:<query>` -> [BUILT_IN] -> Flow. What a query means is in its value
alone; whether its bins move is not its business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.dataflow.flow import Flow, count, highest, oldest, total
from service.dataflow.vertices import KafkaSink, KafkaSource
from service.errors import UsageError

#: Id of the schema of `auction_bids` results in the shipped registry folder.
AUCTION_BIDS_SCHEMA = 4


@dataclass(frozen=True, slots=True)
class QueryTopics:
    """Where a built-in query reads and writes."""

    prefix: str = "nexmark"
    output: str | None = None

    @property
    def events(self) -> str:
        """Topic of persons, auctions and bids."""
        return f"{self.prefix}-events"


def auction_bids(topics: QueryTopics) -> Flow:
    """Per auction: number of bids, their sum and the highest price, emitted on change."""
    flow = Flow("auction_bids")
    bids = flow.source(
        "bids",
        KafkaSource([topics.events], record="bid", fields=["auction", "price", "date_time"]),
    )
    stats = bids.key_by("auction").aggregate(
        "stats",
        bids=count(),
        total=total("price"),
        highest=highest("price"),
        oldest=oldest("date_time"),
    )
    output = topics.output or f"{topics.prefix}-auction-bids"
    return stats.sink("out", KafkaSink(output, key="auction", schema=AUCTION_BIDS_SCHEMA))


BUILT_IN: dict[str, Callable[[QueryTopics], Flow]] = {"auction_bids": auction_bids}


def built_in(name: str, topics: QueryTopics) -> Flow:
    """The query called `name`.

    Raises:
        UsageError: there is none; the text lists them.
    """
    build = BUILT_IN.get(name)
    if build is None:
        raise UsageError(f"no NEXMark query {name!r}; there are: {', '.join(BUILT_IN)}")
    return build(topics)
