"""Vertices that join two streams by key and event time, as values.

Flow: `timed_joins` adds them to a flow -> migration.timed_join_parts lowers them to F and S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.dataflow.event_time import EventTime
from service.dataflow.keyed import Joining, joined_names
from service.dataflow.vertices import TimedVertex
from service.errors import GraphError
from service.statestore.pairing import WINDOW


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

    @property
    def described(self) -> str:
        """For people."""
        return f"{_keys(self)}, greatest {self.by} until {self.until}"

    def event_time(self, given: Sequence[EventTime]) -> EventTime:
        """A result leaves when the watermark reaches the end of its interval."""
        return EventTime(self.until, given[0].unit, delay=_delay(given))

    def late_columns(self, given: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
        """Those of the output."""
        return output_names(self, given)


@dataclass(frozen=True)
class IntervalJoinVertex(TimedVertex):
    """Pairs of rows of two streams with one key, the right one so much later than the left one."""

    name: str
    #: As of `BestWithinVertex`.
    keys: tuple[str, ...]
    upstreams: tuple[int, ...]
    #: How much later, at least and at most, in the unit of the event times.
    lower: int
    upper: int
    #: Whether left rows without a right one leave, too.
    outer: bool
    suffix: str
    #: Column of the output with the event time of the later row, where that is always the same
    #: side's and its name is known; and which side.
    later: tuple[str, int] | None

    @property
    def described(self) -> str:
        """For people."""
        return f"{_keys(self)}, {self.lower} to {self.upper} later"

    def event_time(self, given: Sequence[EventTime]) -> EventTime:
        """That of the later row; else the left one's, held back while a right one may come."""
        if self.later is not None:
            column, side = self.later
            return replace(given[side], column=column, delay=_delay(given))
        return replace(given[0], delay=_delay(given) + max(self.upper, 0))

    def late_columns(self, given: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
        """Those of the output."""
        return output_names(self, given)


@dataclass(frozen=True)
class WindowJoinVertex(TimedVertex):
    """Pairs of rows of two streams with one key in one window, or the left ones in such pairs."""

    name: str
    #: As of `BestWithinVertex`.
    keys: tuple[str, ...]
    upstreams: tuple[int, ...]
    #: Length of a window, and of which times one begins at each multiple; in the unit of the event
    #: times.
    size: int
    every: int
    suffix: str
    #: Whether left rows alone leave, each once for a window.
    semi: bool

    @property
    def described(self) -> str:
        """For people."""
        return f"{_keys(self)}, in windows of {self.size} every {self.every}"

    def event_time(self, given: Sequence[EventTime]) -> EventTime:
        """A pair belongs to its window."""
        return EventTime(WINDOW[1], given[0].unit, -1, _delay(given))

    def late_columns(self, given: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
        """Those of the output."""
        return window_names(self, given)


def _keys(vertex: TimedVertex) -> str:
    return " = ".join(vertex.keys)


def _delay(given: Sequence[EventTime]) -> int:
    """How far rows come behind the sources' watermark, by which the vertex waits."""
    return max(time.delay for time in given)


def output_names(
    vertex: Joining, given: Sequence[tuple[str, ...] | None]
) -> tuple[str, ...] | None:
    """The key and the other columns of both sides, as far as they are known.

    Raises:
        GraphError: two of them would be equal.
    """
    left, right = given
    return None if left is None or right is None else joined_names(vertex, left, right)


def window_names(
    vertex: WindowJoinVertex, given: Sequence[tuple[str, ...] | None]
) -> tuple[str, ...] | None:
    """As `output_names`, with the columns that say the window.

    Raises:
        GraphError: two of them would be equal.
    """
    left, _ = given
    names = output_names(vertex, (left, vertex.keys[1:]) if vertex.semi else given)
    if names is None:
        return None
    for name in WINDOW:
        if name in names:
            raise GraphError(
                f"{vertex.name!r} would have two columns {name!r}; rename or drop that of its input"
            )
    return (*names, *WINDOW)
