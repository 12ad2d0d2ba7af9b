"""Which built-in queries there are, and what the command line says of where they read and write.

Flow: options -> [QueryTopics] -> `queries`, which builds the flow. Imports no kernel: every command
line loads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.nexmark.forms import Format, Topics, check_told_apart
from service.nexmark.rules import PRESETS, RULES, QueryWindows

#: Names of the built-in queries, in the order in which they are listed.
QUERIES = ("auction_bids", *RULES)


@dataclass(frozen=True, slots=True)
class QueryTopics:
    """Where a built-in query reads and writes."""

    prefix: str = "nexmark"
    output: str | None = None
    event_topics: Topics = Topics.SEPARATE
    format: Format = Format.AVRO
    #: How much earlier than the latest event of its partition one may still be.
    out_of_orderness: str = "5s"
    windows: QueryWindows = PRESETS["default"]

    def __post_init__(self) -> None:
        check_told_apart(self.format, self.event_topics)

    @property
    def events(self) -> str:
        """Topic of persons, auctions and bids together."""
        return f"{self.prefix}-events"

    def of(self, kind: str) -> str:
        """Topic of the events of a type."""
        if self.event_topics is Topics.SEPARATE:
            return f"{self.prefix}-{kind}"
        return self.events
