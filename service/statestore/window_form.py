"""Which windows the rows of a vertex belong to, as its store reads it from them.

Flow: a windowed vertex -> [WindowForm] -> `WindowStore`: the identities of a batch's rows, and
which of them are late.

Invariants
  WF1  Which rows are late depends on their event times and the watermark alone (TS1 of `timed`).
  WF2  A row that is late is told once, however many windows it would belong to, and only if it is
       late for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore import _window_kernels as kernels
from service.statestore.arena import Int64s
from service.statestore.columns import KEY_ID, ColumnSpec, numbers_of
from service.statestore.distinct_values import ValueLines
from service.statestore.panes import Panes
from service.statestore.timed import ALL, NEVER
from service.statestore.window_table import OF_KEY, OF_PANE, OF_START

Flags = NDArray[np.bool_]

START = "window_start"
END = "window_end"


@dataclass(frozen=True, slots=True)
class WindowForm:
    """Which windows rows belong to, and where it is written.

    Attributes:
        key: the int64 column of keys; `START` where windows are not grouped.
        panes: the windows.
        time: column of event times; None where the rows name their window themselves.
        offset: to be added to that column.
        once: of rows that come once for each window, what says which is the last one: the windows
            and the column of event times. Only that one is told late.
        values: the column whose different values are counted, an entry for each.
    """

    key: str
    panes: Panes
    time: str | None = None
    offset: int = 0
    once: tuple[Panes, str] | None = None
    values: ValueLines | None = None

    @property
    def names_start(self) -> bool:
        """Whether windows with one end may have several starts."""
        return self.time is None and self.key != START

    @property
    def value_lines(self) -> int:
        """Lines of an identity that hold a value."""
        return 0 if self.values is None else len(self.values.specs)

    @property
    def identity(self) -> tuple[ColumnSpec, ...]:
        """State columns that say whose an entry is."""
        start = (OF_START,) if self.names_start else ()
        return (OF_KEY, OF_PANE, *start, *(self.values.specs if self.values else ()))

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the output before what is computed."""
        return (START, END) if self.key == START else (self.key, START, END)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read of rows."""
        named = () if self.time is not None else (START, END)
        times = () if self.time is None else (self.time,)
        others = () if self.once is None else self.once[1:]
        return (self.key, *named, *times, *others, *((self.values.column,) if self.values else ()))

    def identity_of(self, rows: pa.RecordBatch, watermark: int) -> tuple[Int64s, Flags | None]:
        """Lines of what tells the entry of each row, and which rows are late; None if none is."""
        keys = numbers_of(rows, self.key).view(np.int64)
        identity = np.empty((len(self.identity), len(keys)), dtype=np.int64)
        identity[0] = keys
        late = np.empty(len(keys), dtype=np.bool_)
        first = self.panes.first_kept(self.panes.forgotten(watermark))
        if self.time is None:
            times = times_in(rows, END, 0)
        else:
            times = times_in(rows, self.time, self.offset)
        bound = min(max(first, NEVER), ALL)
        count = kernels.assign(times, self.panes.pane, bound, identity[1], late)
        if first > ALL:
            late[:] = True
            count = len(late)
        if self.names_start:
            identity[2] = numbers_of(rows, START).view(np.int64)
        if self.values is not None:
            identity[-self.value_lines :] = self.values.of(rows)
        return identity, late if count else None

    def windows_of(self, rows: pa.RecordBatch) -> tuple[Int64s, Int64s, Int64s]:
        """Each pair of a row and a window it is in, as `in_windows` gives them."""
        if self.time is not None:
            return in_windows(times_in(rows, self.time, self.offset), self.panes)
        starts, ends = times_in(rows, START, 0), times_in(rows, END, 0)
        return np.arange(rows.num_rows), starts, ends

    def told_late(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """What of late rows is told, as they were given."""
        if self.once is not None:
            panes, column = self.once
            times = times_in(rows, column, self.offset)
            last = _before(times, times % panes.every)
            rows = rows.filter(pa.array(numbers_of(rows, START).view(np.int64) == last))
        # Keys that are text are told as such, and not by their ids.
        return rows.drop_columns([KEY_ID]) if self.key == KEY_ID else rows


def times_in(rows: pa.RecordBatch, column: str, offset: int) -> Int64s:
    """The event times of rows, a column of integers or timestamps and `offset`."""
    times = np.ascontiguousarray(numbers_of(rows, column).view(np.int64))
    return _before(times, np.full(len(times), -offset)) if offset else times


def in_windows(times: Int64s, panes: Panes) -> tuple[Int64s, Int64s, Int64s]:
    """Each pair of a time and a window it is in: number of the time, start and end of the window.

    Starts and ends are cut off at the ends of int64. The last windows of all times come first, then
    those before them.
    """
    if panes.width == panes.step == 1:
        begun, over = np.empty((2, len(times)), dtype=np.int64)
        kernels.tumble(np.ascontiguousarray(times), panes.every, begun, over)
        return np.arange(len(times)), begun, over
    rest = times % panes.every
    which, starts, ends = [], [], []
    for behind in range(0, panes.size, panes.every):
        into = rest + behind
        rows = np.flatnonzero(into < panes.size)
        which.append(rows)
        starts.append(_before(times[rows], into[rows]))
        ends.append(_before(times[rows], into[rows] - panes.size))
    return np.concatenate(which), np.concatenate(starts), np.concatenate(ends)


def _before(times: Int64s, lengths: Int64s) -> Int64s:
    """`times` less `lengths`, cut off at the ends of int64."""
    with np.errstate(over="ignore"):
        found: Int64s = times - lengths
    turned = ((times ^ lengths) & (times ^ found)) < 0
    if turned.any():
        found[turned] = np.where(lengths[turned] > 0, NEVER, ALL)
    return found
