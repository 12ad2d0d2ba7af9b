"""What S asks of a store whose state changes with event time, too: windows, timers, interval joins.

Flow: StateHost of a vertex with event time -> [TimedStore]. Such a vertex is ordered: S gives it
the rows of one time together, then lets it fire what the watermark of that time has made due.

Event times and watermarks are integers in the unit of the stream's event time column. A watermark W
says: no more rows with an event time below W are expected. It never falls.

Invariants every such store keeps, beside those of `HostedStore`
  TS1  Rows of a time are judged by the watermark of the time before, which `apply_at` is given:
       which rows are late does not depend on where batches were cut or bins are.
  TS2  `fire` takes what is due at or below the watermark, in the order (time, key): firing up to W1
       and then W2 gives the same rows in the same order as firing up to W2 at once.
  TS3  A bin's state and timers depend on the rows and watermarks of that bin alone, so that a bin
       which moved and was given its rows later, time by time, ends the same.
  TS4  What a store gives does not depend on whether it was told what lies `ahead`.
Source: DESIGN §4 (watermarks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

from service.statestore.hosted import HostedStore

#: The watermark before any is known: nothing is late.
NEVER = -(1 << 63)
#: The watermark at the end of all input (`--until-end`): everything is due.
ALL = (1 << 63) - 1
#: Under a budget about so many timers are fired between two looks at the room that is left.
FIRED_AT_ONCE = 1 << 12


@dataclass(frozen=True, slots=True)
class TimedRows:
    """What rows of one time gave."""

    #: Rows of the vertex's output.
    rows: pa.RecordBatch
    #: Rows that came too late to count, as they were given; None if none did.
    late: pa.RecordBatch | None = None


@runtime_checkable
class TimedStore(HostedStore, Protocol):
    """State of one vertex on one slot, with timers."""

    def apply_at(
        self, rows: pa.RecordBatch, time: tuple[int, ...], watermark: int, ahead: int = NEVER
    ) -> TimedRows:
        """Change the state by the rows of `time`; `watermark` is that of the time before (TS1).

        `ahead` is the watermark of `time` itself, up to which `fire` is called next, if something
        is due; NEVER if it is not known. A store may spare itself what would not outlast it (TS4).
        """
        ...

    def due(self, watermark: int) -> bool:
        """Whether `fire` could give or change something: False if not, True perhaps."""
        ...

    def fire(
        self, watermark: int, time: tuple[int, ...], bins: frozenset[int] | None = None
    ) -> pa.RecordBatch:
        """Fire what is due at or below `watermark`, of all bins or these; perhaps no rows (TS2)."""
        ...


@runtime_checkable
class PartsStore(TimedStore, Protocol):
    """A store to which the order of a time's rows says nothing, and which puts them together."""

    def apply_parts(
        self,
        parts: Sequence[pa.RecordBatch],
        time: tuple[int, ...],
        watermark: int,
        ahead: int = NEVER,
    ) -> TimedRows:
        """As `apply_at`, of the rows of several batches."""
        ...


def joined_rows(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Several parts of one output, at least one, as one; a single part with rows is not copied."""
    some = [rows for rows in parts if rows.num_rows] or parts[:1]
    return some[0] if len(some) == 1 else pa.concat_batches(some)


def as_timed(store: HostedStore) -> TimedStore:
    """`store`, of a vertex with event time."""
    assert isinstance(store, TimedStore), f"{store.vertex!r} has event time, and a store without"
    return store
