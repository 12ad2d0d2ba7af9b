"""Vertices that join two streams by key and event time, as values.

Flow: `timed_joins` adds them to a flow -> migration.timed_join_parts lowers them to F and S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.dataflow.event_time import EventTime
from service.dataflow.vertices import TimedVertex


@dataclass(frozen=True)
class BestWithinVertex(TimedVertex):
    """Per row of the left stream the best row of the right one in the interval it opens."""

    name: str
    #: Key columns of the left and the right stream; the output has the left one's name.
    keys: tuple[str, ...]
    upstreams: tuple[int, ...]
    #: Left column: where the interval ends.
    until: str
    #: Right column: the greatest one is best.
    by: str
    #: Left column: what `by` must reach.
    at_least: str | None
    #: Whether left rows without a right one leave, too.
    outer: bool
    #: Whether a key has one left row only.
    once: bool
    #: Added to names of the right stream's columns that the left one has too.
    suffix: str

    def event_time(self, given: Sequence[EventTime]) -> EventTime:
        """A result leaves when the watermark reaches the end of its interval."""
        return EventTime(self.until, given[0].unit)
