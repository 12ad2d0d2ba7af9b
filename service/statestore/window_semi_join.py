"""The rows of the left side in whose key and window the right side has some row, each once.

Flow: two streams -> one of tagged rows (`join`) -> F -> S -> TimedRowStore -> [SemiProgram] -> left
rows with their window.

A key has, for each of its open windows, the left rows that wait, or a mark that a right row came.

Invariants
  WJ1  A left row on time leaves once for each window that holds it and, before that window closes,
       a right row of its key: when the later of the two is applied.
  WJ2  Of the right side one mark is kept for a key and window, however many rows come; a left row
       is kept for a window until it leaves. Both go when the window closes.
  WJ3  A row is late if all windows that hold it have closed.
  WJ4  Of one time, rows that waited leave first, by key, and in the order in which they came.
Cost: about 0.5 us a row, for each window that it is in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.join import LEFT, RIGHT, SIDE
from service.statestore.pairing import Windows
from service.statestore.row_format import RowFormat
from service.statestore.row_table import RowTable
from service.statestore.timed import TimedRows
from service.statestore.timed_row_store import (
    Int64s,
    distinct_pairs,
    keys_of,
    part_of,
    shifted,
    times_of,
)
from service.statestore.timers import Timers, TimerTable

_START = "window.start"


class SemiProgram:
    """The choice of left rows by right ones; columns of the left side are typed."""

    def __init__(
        self,
        key: str,
        left: Sequence[str],
        times: tuple[str, str],
        windows: Windows,
        output: pa.Schema,
        offsets: tuple[int, int] = (0, 0),
    ) -> None:
        """Name the tagged columns.

        Args:
            key: the column of keys.
            left: columns of the left side.
            times: of each side the column of event time.
            windows: which rows meet.
            output: key, left's columns, beginning and end of the window.
            offsets: added to the columns of event time.

        Raises:
            UsageError: a column's type is none that typed rows can have.
        """
        self.key = key
        #: Columns of what leaves.
        self.output = output
        self._left = list(left)
        self._times = times
        self._offsets = offsets
        self._windows = windows
        self._no_rows = pa.RecordBatch.from_pylist([], schema=output)
        start = pa.field(_START, pa.int64())
        kinds = [field.type for field in list(output)[1 : 1 + len(left)]]
        self.formats = (
            RowFormat(pa.schema([start, *zip(left, kinds, strict=True)])),
            RowFormat(pa.schema([start])),
        )
        self._places = tuple(form.place_of(_START) for form in self.formats)

    def apply_at(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        version: int,
        watermark: int,
    ) -> TimedRows:
        """Note which windows have right rows, and return the left rows that these let leave."""
        sides = keys_of(rows, SIDE)
        left, right = part_of(rows, sides == LEFT), part_of(rows, sides == RIGHT)
        late, given = [], []
        if right.num_rows:
            which, starts, tardy = self._windows_of(right, RIGHT, watermark)
            late.append(part_of(right, tardy))
            keys, starts = distinct_pairs(keys_of(right, self.key)[which], starts)
            given.append(self._note(table, timers, keys, starts, version))
        if left.num_rows:
            which, starts, tardy = self._windows_of(left, LEFT, watermark)
            late.append(part_of(left, tardy))
            inside = left.take(pa.array(which))
            given.append(self._choose(table, timers, inside, starts, version))
        told = [rows for rows in given if rows.num_rows]
        tardy_rows = [rows for rows in late if rows.num_rows]
        return TimedRows(
            pa.concat_batches(told) if told else self._no_rows,
            self._as_given(pa.concat_batches(tardy_rows)) if tardy_rows else None,
        )

    def fire(
        self, table: RowTable, timers: TimerTable, due: Timers, version: int, watermark: int
    ) -> pa.RecordBatch:
        """Forget windows that have closed (WJ2); nothing leaves."""
        keys = np.unique(due.keys)
        for side in (LEFT, RIGHT):
            found = table.find(keys, side)
            ends = shifted(self._starts(table, found.addresses, side), self._windows.size)
            table.retain(found, ends > watermark, version)
        return self._no_rows

    def _windows_of(
        self, rows: pa.RecordBatch, side: int, watermark: int
    ) -> tuple[Int64s, Int64s, NDArray[np.bool_]]:
        """Rows and the open windows that they are in, by their numbers; which rows are late."""
        times = shifted(times_of(rows, self._times[side]), self._offsets[side])
        which, (starts, _) = self._windows.meet(times, times, watermark)
        return which, starts, self._windows.late(side, times, watermark)

    def _note(
        self, table: RowTable, timers: TimerTable, keys: Int64s, starts: Int64s, version: int
    ) -> pa.RecordBatch:
        """Mark the windows of right rows, and take the left rows out that waited for them."""
        found = table.find(np.unique(keys), RIGHT)
        had = self._starts(table, found.addresses, RIGHT)
        new = ~_among(keys, starts, found.keys[found.positions], had)
        keys, starts = keys[new], starts[new]
        waiting = table.find(np.unique(keys), LEFT)
        begun = self._starts(table, waiting.addresses, LEFT)
        of = waiting.keys[waiting.positions]
        leaves = _among(of, begun, keys, starts)
        columns = table.read(LEFT, waiting.addresses[leaves])[1:]
        given = self._with_windows(of[leaves], columns, begun[leaves])
        table.retain(waiting, ~leaves, version)
        table.add(keys, self.formats[RIGHT].encode([pa.array(starts)], len(keys)), version, RIGHT)
        timers.set(keys, shifted(starts, self._windows.size))
        return given

    def _choose(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        starts: Int64s,
        version: int,
    ) -> pa.RecordBatch:
        """The left rows whose window has a right row; the others are kept."""
        keys = keys_of(rows, self.key)
        found = table.find(np.unique(keys), RIGHT)
        had = self._starts(table, found.addresses, RIGHT)
        leaves = _among(keys, starts, found.keys[found.positions], had)
        columns = rows.select(self._left).columns
        stay = pa.array(~leaves)
        kept = [pa.array(starts[~leaves]), *(column.filter(stay) for column in columns)]
        others = keys[~leaves]
        table.add(others, self.formats[LEFT].encode(kept, len(others)), version, LEFT)
        timers.set(*distinct_pairs(others, shifted(starts[~leaves], self._windows.size)))
        gone = pa.array(leaves)
        given = [column.filter(gone) for column in columns]
        return self._with_windows(keys[leaves], given, starts[leaves])

    def _starts(self, table: RowTable, addresses: Int64s, side: int) -> Int64s:
        starts: Int64s = table.cells[addresses + self._places[side]]
        return starts

    def _with_windows(
        self, keys: Int64s, columns: Sequence[pa.Array], starts: Int64s
    ) -> pa.RecordBatch:
        window = (pa.array(starts), pa.array(shifted(starts, self._windows.size)))
        return pa.RecordBatch.from_arrays([pa.array(keys), *columns, *window], schema=self.output)

    def _as_given(self, late: pa.RecordBatch) -> pa.RecordBatch:
        """Tagged rows with the columns of the output; of a right row there is the key alone."""
        given = late.select([self.key, *self._left]).columns
        rest = [pa.nulls(late.num_rows, pa.int64())] * 2
        return pa.RecordBatch.from_arrays([*given, *rest], schema=self.output)


def _among(
    keys: Int64s, times: Int64s, other_keys: Int64s, other_times: Int64s
) -> NDArray[np.bool_]:
    """Which pairs of a key and a time are among the others. Cost: sorting both."""
    count = len(keys)
    if not count or not len(other_keys):
        return np.zeros(count, dtype=np.bool_)
    all_keys = np.concatenate((other_keys, keys))
    all_times = np.concatenate((other_times, times))
    order = np.lexsort((all_times, all_keys))
    all_keys, all_times = all_keys[order], all_times[order]
    differs = np.append(True, (all_keys[1:] != all_keys[:-1]) | (all_times[1:] != all_times[:-1]))
    groups = np.cumsum(differs) - 1
    is_other = order < len(other_keys)
    has_other = np.zeros(len(all_keys), dtype=np.bool_)
    has_other[groups[is_other]] = True
    found = np.empty(len(all_keys), dtype=np.bool_)
    found[order] = has_other[groups]
    return found[len(found) - count :]
