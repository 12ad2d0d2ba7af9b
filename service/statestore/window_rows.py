"""Windows whose state is typed rows: when a window is given, and when it is forgotten.

Flow: `TimedRowStore` -> a program of windows, which is [WindowRows] and what its rows mean: the
best rows of a window (`window_top`), or sessions (`session_rows`).

A row of state says the window it belongs to. A timer at the window's end gives it; one later, where
lateness is allowed, forgets it; otherwise it is forgotten as it is given.

Invariants
  WR1  A window is given when the watermark reaches its end, and again when rows change it between
       then and its end plus the lateness; never for one that no row of state says.
  WR2  Rows are given by (end of the window, key, start), and within a window as its program says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.row_format import RowFormat
from service.statestore.row_table import Found, RowTable
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import ALL
from service.statestore.timed_row_store import distinct_of, shifted
from service.statestore.timers import Timers, TimerTable

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Tags of timers: for each window and key one that gives it, and one that forgets it.
GIVE, _FORGET = 0, 1
#: Columns that every row of state begins with.
OWN_START, OWN_END = "window.start", "window.end"


class WindowRows(ABC):
    """Rows of state under their keys, each of one window."""

    def __init__(self, key: str, lateness: int, kept: list[pa.Field], output: pa.Schema) -> None:
        """Keep rows of these fields beside their windows, under the column `key` of integers.

        Raises:
            UsageError: a column's type is none that typed rows can have.
        """
        self.key = key
        #: Columns of what leaves.
        self.output = output
        self._lateness = lateness
        bounds = [pa.field(OWN_START, pa.int64()), pa.field(OWN_END, pa.int64())]
        self._form = RowFormat(pa.schema([*bounds, *kept]))
        self.formats: tuple[RowFormat, ...] = (self._form,)
        self._no_rows = pa.RecordBatch.from_pylist([], schema=output)

    @property
    def windows(self) -> StoredWindows:
        """How windows are kept: a row of state says its own."""
        return StoredWindows("rows", lateness=self._lateness)

    @abstractmethod
    def _given(self, table: RowTable, found: Found, chosen: Flags) -> pa.RecordBatch:
        """What the chosen rows of state give (WR2)."""

    def fire(
        self, table: RowTable, timers: TimerTable, due: Timers, version: int, watermark: int
    ) -> pa.RecordBatch:
        """Give the windows whose end has come, and forget those that nothing can change (WR1)."""
        found = table.find(distinct_of(due.keys))
        keys = found.keys[found.positions]
        ends = self._at(table, found.addresses, OWN_END)
        now = due.tags == GIVE
        given = _among(keys, ends, due.keys[now], due.times[now])
        results = self._given(table, found, given)
        self._forget(table, found, self._forgotten(ends, watermark), version)
        return results

    def _forget(self, table: RowTable, found: Found, over: Flags, version: int) -> None:
        """Let rows of state go whose windows are over."""
        table.retain(found, ~over, version)

    def _forgotten(self, ends: Int64s, watermark: int) -> Flags:
        """Which windows that end then are forgotten at `watermark`."""
        if watermark == ALL:
            return np.ones(len(ends), dtype=np.bool_)
        # Without the sum, which may not fit.
        forgotten: Flags = ends <= shifted(np.array([watermark]), -self._lateness)
        return forgotten

    def _wait(self, timers: TimerTable, keys: Int64s, ends: Int64s, watermark: int) -> None:
        """See to it that windows of these keys and ends are given and forgotten."""
        open_now = ends > watermark
        opened = np.unique(np.array([keys[open_now], ends[open_now]]), axis=1)
        timers.set(opened[0], opened[1], np.full(opened.shape[1], GIVE, dtype=np.int64))
        if self._lateness:
            each = np.unique(np.array([keys, shifted(ends, self._lateness)]), axis=1)
            timers.set(each[0], each[1], np.full(each.shape[1], _FORGET, dtype=np.int64))

    def _again(self, table: RowTable, keys: Int64s, ends: Int64s, watermark: int) -> pa.RecordBatch:
        """The windows of these keys and ends that are closed, as they are now (WR1)."""
        closed = ends <= watermark
        if not closed.any():
            return self._no_rows
        found = table.find(distinct_of(keys[closed]))
        own = found.keys[found.positions]
        given = _among(own, self._at(table, found.addresses, OWN_END), keys[closed], ends[closed])
        return self._given(table, found, given)

    def _at(self, table: RowTable, addresses: Int64s, name: str) -> Int64s:
        """A column of integers of rows of state."""
        found: Int64s = table.cells[addresses + self._form.place_of(name)]
        return found

    def _window_of(self, table: RowTable, addresses: Int64s) -> tuple[Int64s, Int64s]:
        """Starts and ends of the windows of rows of state."""
        return self._at(table, addresses, OWN_START), self._at(table, addresses, OWN_END)


def _among(keys: Int64s, times: Int64s, some_keys: Int64s, some_times: Int64s) -> Flags:
    """Which pairs of a key and a time are among some."""
    pairs = np.concatenate(([keys, times], [some_keys, some_times]), axis=1)
    _, numbers = np.unique(pairs, axis=1, return_inverse=True)
    numbers = numbers.reshape(-1)
    found: Flags = np.isin(numbers[: len(keys)], numbers[len(keys) :])
    return found
