"""Vertices of windows over event time, as values.

Flow: `windows` adds them to a flow -> migration.window_parts lowers them to F and S. Pure.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from service.dataflow.event_time import EventTime, unit_of
from service.dataflow.vertices import TimedVertex
from service.dataflow.window_values import (
    END,
    START,
    TOGETHER,
    Regular,
    Window,
    panes_of,
)
from service.durations import Duration
from service.errors import GraphError
from service.statestore.aggregate import Aggregate
from service.statestore.distinct_values import DistinctCount
from service.statestore.session_fold import MergeFunction
from service.statestore.stateful_map import RowForm
from service.statestore.window_fold import FoldFunction
from service.statestore.window_form import in_windows, times_in


class WindowVertex(TimedVertex):
    """A vertex that computes something of each window."""

    window: Window
    lateness: Duration
    #: Whether there are windows of each key.
    grouped: bool

    @property
    def described(self) -> str:
        """For people."""
        key = f"by {self.key}: " if self.grouped else ""
        return f"{key}{self.computed} in windows {self.window.described}"

    @property
    @abstractmethod
    def computed(self) -> str:
        """What it computes, for people."""

    def event_time(self, given: Sequence[EventTime]) -> EventTime:
        """A result leaves when the watermark reaches its window's end."""
        return EventTime(END, given[0].unit, -1)

    def late_columns(self, given: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
        """Columns of its late rows, from those of the stream it reads, as far as known."""
        columns = given[0]
        return None if columns is None else tuple(name for name in columns if name != TOGETHER)


@dataclass(frozen=True)
class WindowAggregateVertex(WindowVertex):
    """Per window, and key where they are grouped, some aggregates."""

    name: str
    #: One column: of the key, or, of windows of all rows, of their start; of sessions `TOGETHER`.
    keys: tuple[str, ...]
    upstreams: tuple[int, ...]
    window: Window
    lateness: Duration
    aggregates: Mapping[str, Aggregate | DistinctCount]
    #: Whether there are windows of each key.
    grouped: bool

    @property
    def computed(self) -> str:
        """For people."""
        return ", ".join(self.aggregates)


@dataclass(frozen=True)
class WindowTopVertex(WindowVertex):
    """Per window, and key where they are grouped, the rows with the greatest values."""

    name: str
    #: As in `WindowAggregateVertex`.
    keys: tuple[str, ...]
    upstreams: tuple[int, ...]
    window: Window
    lateness: Duration
    by: str
    count: int
    #: Whether all that are equal to the last of these are given, too.
    ties: bool
    #: Whether it is the least values instead.
    lowest: bool
    grouped: bool

    @property
    def computed(self) -> str:
        """For people."""
        return f"{self.count} of {'least' if self.lowest else 'greatest'} {self.by}"


@dataclass(frozen=True)
class WindowFoldVertex(WindowVertex):
    """Per window, and key where they are grouped, what a user's function makes of its rows."""

    name: str
    keys: tuple[str, ...]
    upstreams: tuple[int, ...]
    window: Window
    lateness: Duration
    function: FoldFunction
    initial: Callable[[], Any]
    #: What the function is given of a row, as in `StatefulMapVertex`.
    value: RowForm
    #: Columns of a result.
    outputs: pa.Schema
    #: Puts what sessions accumulated together; None: there are no sessions.
    merge: MergeFunction | None
    grouped: bool

    @property
    def computed(self) -> str:
        """For people."""
        return ", ".join(self.outputs.names)


@dataclass(frozen=True)
class AssignWindows:
    """Gives each row, once for each window that it is in, the window's start and end."""

    user: str
    window: Regular
    time: EventTime

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with their windows.

        Raises:
            GraphError: a row has no event time, or lengths are no whole numbers of its unit.
        """
        column = self.time.column
        nulls = rows.column(column).null_count
        if nulls:
            raise GraphError(
                f"{self.user!r} was given {nulls} nulls in column {column!r}, the event time; "
                "filter them or fill them in before"
            )
        unit = unit_of(rows.schema.field(column), self.time.unit, self.user)
        panes = panes_of(self.user, self.window, "0s", unit)
        which, starts, ends = in_windows(times_in(rows, column, self.time.offset), panes)
        taken = rows if panes.width == panes.step == 1 else rows.take(pa.array(which))
        return taken.append_column(START, pa.array(starts)).append_column(END, pa.array(ends))


def put_together(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows under one key, so that sessions are of all of them."""
    return rows.append_column(TOGETHER, pa.array(np.zeros(rows.num_rows, dtype=np.int64)))
