"""The rows of the left side in whose key and window the right side has some row, each once.

Flow: two streams -> one of tagged rows (`join`) -> F -> S -> TimedRowStore -> [SemiProgram] -> left
rows with their window.

A key has, for each of its open windows, the left rows that wait, or a mark that a right row came.

Invariants
  WJ1  A left row on time leaves once for each window that holds it and, before that window closes,
       a right row of its key: when the later of the two is applied.
  WJ2  Of the right side one mark is kept for a key and window, however many rows come; a left row
       is kept for a window until it leaves. Both go when the window closes, and of one that closes
       with the time in which they come nothing is kept.
  WJ3  A row is late if all windows that hold it have closed.
  WJ4  Of one time, rows that waited leave first, by key, and in the order in which they came.
Cost: about 0.5 us a row, for each window that it is in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.join import LEFT, RIGHT
from service.statestore.pairing import Windows
from service.statestore.row_format import RowFormat
from service.statestore.row_table import RowTable
from service.statestore.timed import TimedRows
from service.statestore.timed_row_store import (
    Int64s,
    distinct_of,
    distinct_pairs,
    keys_of,
    part_of,
    shifted,
    times_of,
    with_nulls,
)
from service.statestore.timers import Timers, TimerTable
from service.statestore.window_results import among, grouped

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
        #: Of each side, beside the key.
        self.columns = (self._left, [times[RIGHT]])
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

    def apply_sides(
        self,
        table: RowTable,
        timers: TimerTable,
        sides: tuple[pa.RecordBatch, pa.RecordBatch],
        version: int,
        watermark: int,
        ahead: int,
    ) -> TimedRows:
        """Note which windows have right rows, and return the left rows that these let leave."""
        left, right = sides
        late, given = [], []
        #: Marks of this time whose windows close with it: they are not kept.
        marks = np.empty((2, 0), dtype=np.int64)
        if right.num_rows:
            which, starts, tardy = self._windows_of(right, RIGHT, watermark)
            late.append(part_of(right, tardy))
            marks, _ = grouped(np.array([keys_of(right, self.key)[which], starts]))
            leaving, marks = self._note(table, timers, marks, version, ahead)
            given.append(leaving)
        if left.num_rows:
            which, starts, tardy = self._windows_of(left, LEFT, watermark)
            late.append(part_of(left, tardy))
            each_once = np.array_equal(which, np.arange(left.num_rows))
            inside = left if each_once else left.take(pa.array(which))
            given.append(self._choose(table, timers, inside, starts, marks, version, ahead))
        told = [rows for rows in given if rows.num_rows]
        tardy_rows = [self._as_given(rows) for rows in late if rows.num_rows]
        return TimedRows(
            pa.concat_batches(told) if told else self._no_rows,
            pa.concat_batches(tardy_rows) if tardy_rows else None,
        )

    def fire(
        self, table: RowTable, timers: TimerTable, due: Timers, version: int, watermark: int
    ) -> pa.RecordBatch:
        """Forget windows that have closed (WJ2); nothing leaves."""
        keys = distinct_of(due.keys)
        for side in (LEFT, RIGHT):
            found = table.find(keys, side)
            starts = self._starts(table, found.addresses, side)
            table.retain(found, self._stays(starts, watermark), version)
        return self._no_rows

    def _windows_of(
        self, rows: pa.RecordBatch, side: int, watermark: int
    ) -> tuple[Int64s, Int64s, NDArray[np.bool_]]:
        """Rows and the open windows that they are in, by their numbers; which rows are late."""
        times = shifted(times_of(rows, self._times[side]), self._offsets[side])
        which, (starts, _) = self._windows.meet(times, times, watermark)
        return which, starts, self._windows.late(side, times, watermark)

    def _note(
        self, table: RowTable, timers: TimerTable, marks: Int64s, version: int, ahead: int
    ) -> tuple[pa.RecordBatch, Int64s]:
        """Mark the windows of right rows, and take the left rows out that waited for them.

        Args:
            table: the rows.
            timers: what forgets them.
            marks: keys and windows, each pair once.
            version: what changed keys are to have.
            ahead: windows that end up to there are not marked (WJ2).

        Returns:
            The left rows, and the marks that were not kept.
        """
        had = self._kept(table, marks[0], RIGHT)
        marks = marks[:, ~among(marks, had)]
        waiting = table.find(distinct_of(marks[0]), LEFT)
        begun = self._starts(table, waiting.addresses, LEFT)
        of = waiting.keys[waiting.positions]
        leaves = among(np.array([of, begun]), marks)
        columns = table.read(LEFT, waiting.addresses[leaves])[1:]
        given = self._with_windows(of[leaves], columns, begun[leaves])
        table.retain(waiting, ~leaves, version)
        stays = self._stays(marks[1], ahead)
        keys, starts = np.ascontiguousarray(marks[:, stays])
        table.add(keys, self.formats[RIGHT].encode([pa.array(starts)], len(keys)), version, RIGHT)
        timers.set(keys, shifted(starts, self._windows.size))
        return given, marks[:, ~stays]

    def _choose(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        starts: Int64s,
        marks: Int64s,
        version: int,
        ahead: int,
    ) -> pa.RecordBatch:
        """The left rows whose window has a right row; others are kept if it stays open (WJ2)."""
        keys = keys_of(rows, self.key)
        had = np.concatenate((self._kept(table, keys, RIGHT), marks), axis=1)
        leaves = among(np.array([keys, starts]), had)
        columns = rows.select(self._left).columns
        waits = ~leaves & self._stays(starts, ahead)
        stay = pa.array(waits)
        kept = [pa.array(starts[waits]), *(column.filter(stay) for column in columns)]
        others = keys[waits]
        table.add(others, self.formats[LEFT].encode(kept, len(others)), version, LEFT)
        timers.set(*distinct_pairs(others, shifted(starts[waits], self._windows.size)))
        gone = pa.array(leaves)
        given = [column.filter(gone) for column in columns]
        return self._with_windows(keys[leaves], given, starts[leaves])

    def _kept(self, table: RowTable, keys: Int64s, side: int) -> Int64s:
        """Keys and windows of what is kept under these keys."""
        (distinct,), _ = grouped(keys[None])
        found = table.find(distinct, side)
        starts = self._starts(table, found.addresses, side)
        return np.array([found.keys[found.positions], starts])

    def _stays(self, starts: Int64s, watermark: int) -> NDArray[np.bool_]:
        """Which windows that begin then have not closed at this watermark."""
        stays: NDArray[np.bool_] = shifted(starts, self._windows.size) > watermark
        return stays

    def _starts(self, table: RowTable, addresses: Int64s, side: int) -> Int64s:
        starts: Int64s = table.cells[addresses + self._places[side]]
        return starts

    def _with_windows(
        self, keys: Int64s, columns: Sequence[pa.Array], starts: Int64s
    ) -> pa.RecordBatch:
        window = (pa.array(starts), pa.array(shifted(starts, self._windows.size)))
        return pa.RecordBatch.from_arrays([pa.array(keys), *columns, *window], schema=self.output)

    def _as_given(self, late: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of a side with the columns of the output; of a right row there is the key alone."""
        names = [self.key, *self._left]
        if late.schema.names != names:
            late = late.select([self.key])
        return with_nulls(late, [*names, "", ""], self.output)
