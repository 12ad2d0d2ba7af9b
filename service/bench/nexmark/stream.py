"""The events of a benchmark, drawn before its clock starts, and what they are as tables.

Flow: StreamOptions -> [drawn] -> Drawn: batches in the order sent, and Recorded for the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from service.bench.nexmark.oracle import Recorded
from service.nexmark.events import EventSource, NexmarkConfig

#: date_time of event 0; a multiple of every default window.
FIRST_MS = 1_790_000_000_000


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Which events, and how many at once."""

    events: int = 2_000_000
    #: Events of one second of event time.
    per_second: int = 10_000
    #: Events are shuffled within groups of this size; 1: in order.
    group: int = 1
    batch: int = 16_384
    seed: int = 0

    @property
    def out_of_order_ms(self) -> int:
        """How late an event may be at most."""
        return self.group * 1_000 // self.per_second + 1


@dataclass(frozen=True, slots=True)
class Drawn:
    """The events of a stream."""

    options: StreamOptions
    #: Per batch, the events of each type in the order sent.
    batches: list[dict[str, pa.RecordBatch]]

    @property
    def events(self) -> int:
        """How many there are."""
        return sum(rows.num_rows for batch in self.batches for rows in batch.values())

    def beginning(self, kinds: Sequence[str], rows: int) -> Drawn:
        """Its first batches, up to that in which so many rows of these types have come."""
        for number, batch in enumerate(self.batches):
            rows -= sum(batch[kind].num_rows for kind in kinds)
            if rows <= 0:
                return Drawn(self.options, self.batches[: number + 1])
        return self

    def recorded(self) -> Recorded:
        """All of them, as the oracle takes them."""
        return Recorded(
            **{
                kind: pa.Table.from_batches([each[kind] for each in self.batches])
                for kind in ("person", "auction", "bid")
            }
        )


def drawn(options: StreamOptions) -> Drawn:
    """Draw a stream. Cost: 0.3 us an event."""
    source = EventSource(NexmarkConfig(seed=options.seed, out_of_order_group_size=options.group))
    batches = []
    for start in range(0, options.events, options.batch):
        numbers = np.arange(start, min(start + options.batch, options.events), dtype=np.int64)
        # An event's time is that of its own number, wherever in its group it was sent.
        times = FIRST_MS + source.events(numbers) * 1_000 // options.per_second
        batches.append(
            {
                "person": source.persons(numbers, times),
                "auction": source.auctions(numbers, times),
                "bid": source.bids(numbers, times),
            }
        )
    return Drawn(options, batches)
