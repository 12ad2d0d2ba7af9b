"""A row of the left side opens an interval of event time; the best right row in it wins.

Flow: two streams -> one of tagged rows (`join`) -> F -> S -> TimedRowStore -> [BestWithin] -> a row
for each interval, when the watermark reaches its end.

A left row holds [its event time, its column `until`) open for its key. Of the right rows of the key
with an event time in there, and a `by` that is at least the left row's `at_least`, the one with the
greatest `by` is kept; of equal ones that of the earliest event time, then the least by its columns.
A `by` that is not a number (NaN) never wins.

Invariants
  BW1  An interval's result depends on which rows of its key came on time and on nothing else.
  BW2  Every left row opens an interval of its own, also one whose key has another open, and also
       the same row again. Where `once` promises one left row a key, right rows are not kept while
       it is there: a further one then takes rows from its own epoch on.
  BW3  A right row is kept, beside where it is an interval's best, while a left row on time could
       still claim it: until the watermark is beyond its event time, and not at all if that of its
       own epoch is. Memory may take twice as long.
  BW4  A left row is late if its event time or its `until` is below the watermark. A right row is
       late if its event time is below the watermark and in no open interval of its key.
  BW5  Results leave by (`until`, key, order of the left rows), and `until` is never below the
       watermark of the time before: no vertex behind this one finds them late.
Cost: 0.4 us a row with `once`, 0.6 us without; the columns of one right row for each interval that
is open, and those of BW3. A right row is compared with each open interval of its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.errors import UsageError
from service.statestore import _best_rows
from service.statestore._best_rows import BEST, INTERVALS
from service.statestore.join import LEFT, RIGHT
from service.statestore.row_format import Records, RowFormat
from service.statestore.row_table import Found, RowTable
from service.statestore.timed import ALL, TimedRows
from service.statestore.timed_row_store import (
    Int64s,
    distinct_of,
    greatest_of,
    keys_of,
    part_of,
    shifted,
    times_of,
    with_nulls,
)
from service.statestore.timers import Timers, TimerTable

#: The third group of rows: right rows that a left row could still claim (BW3).
WAITING = 2
#: Tags of timers: an interval ends; rows that wait can go.
_CLOSE, _LET_GO = 0, 1
_LINES = ("since", "until", "floor", "rank", "time", "where")
#: A rank below all that can win: that of NaN. Integers have none such.
_NEVER_BEST = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Choice:
    """Which columns of the tagged row say what."""

    #: Event time of the left and of the right side, in one unit.
    times: tuple[str, str]
    #: Of the left side: where its interval ends.
    until: str
    #: Of the right side: the greatest one wins.
    by: str
    #: Of the left side: what `by` must reach; None: anything wins.
    at_least: str | None = None
    #: Whether a key has one left row only (BW2).
    once: bool = False
    #: Whether a left row without a right one leaves, with nulls.
    outer: bool = False
    #: Added to the columns of event time.
    offsets: tuple[int, int] = (0, 0)


class BestWithin:
    """The choice among tagged rows whose columns are typed."""

    def __init__(
        self,
        key: str,
        left: Sequence[str],
        right: Sequence[str],
        choice: Choice,
        out: pa.Schema,
    ) -> None:
        """Name the tagged columns of each side; `out` is key, left's columns, right's columns.

        Raises:
            UsageError: a column's type is none that typed rows can have, or `by` and `at_least` are
                not both int64 or both float64.
        """
        self.key = key
        #: Of each side, beside the key.
        self.columns = (list(left), list(right))
        self._choice = choice
        #: Columns of what leaves.
        self.output = out
        kinds = [field.type for field in list(out)[1:]]
        own = list(zip(left, kinds[: len(left)], strict=True))
        others = list(zip(right, kinds[len(left) :], strict=True))
        ranked = {dict(others)[choice.by]}
        if choice.at_least is not None:
            ranked.add(dict(own)[choice.at_least])
        if ranked not in ({pa.int64()}, {pa.float64()}):
            listed = " and ".join(sorted(map(str, ranked)))
            raise UsageError(
                f"what is best is decided by int64 or by float64 columns, but these are {listed}; "
                "cast them"
            )
        lines = [(f"interval.{name}", pa.int64()) for name in _LINES]
        kept = RowFormat(pa.schema(others))
        self.formats = (RowFormat(pa.schema([*lines, *own])), kept, kept)
        self._first = self.formats[INTERVALS].place_of("interval.since")
        self._no_rows = pa.RecordBatch.from_pylist([], schema=out)
        self._time = kept.place_of(choice.times[RIGHT])
        self._ordering = kept.ordering()
        self._nothing = kept.encode([pa.nulls(1, kind) for _, kind in others], 1)

    def apply_sides(
        self,
        table: RowTable,
        timers: TimerTable,
        sides: tuple[pa.RecordBatch, pa.RecordBatch],
        version: int,
        watermark: int,
        ahead: int,
    ) -> TimedRows:
        """Open intervals, offer rows to them; nothing leaves before an interval ends (BW1, BW4)."""
        left, right = sides
        late = []
        if left.num_rows:
            tardy = self._times(left, LEFT) < watermark
            tardy |= times_of(left, self._choice.until) < watermark
            if tardy.any():
                late.append(part_of(left, tardy))
                left = part_of(left, ~tardy)
            self._open(table, timers, self._in_order(left), version)
        if right.num_rows:
            tardy = self._take(table, timers, right, version, watermark, ahead)
            if tardy.any():
                late.append(part_of(right, tardy))
        return TimedRows(self._no_rows, self._as_given(late) if late else None)

    def fire(
        self, table: RowTable, timers: TimerTable, due: Timers, version: int, watermark: int
    ) -> pa.RecordBatch:
        """Give the results of the intervals that ended (BW5), and let rows go (BW3)."""
        ended = distinct_of(due.keys[due.tags == _CLOSE])
        found = table.find(ended, INTERVALS)
        best = table.find(ended, BEST)
        lines = self._first + found.addresses
        untils = table.cells[lines + _best_rows.UNTIL]
        won = table.cells[lines + _best_rows.WHERE] != _best_rows.NONE
        over = untils <= watermark
        chosen = np.flatnonzero(over if self._choice.outer else over & won)
        # Within a key they are in order already, and the sort is stable.
        chosen = chosen[np.lexsort((found.positions[chosen], untils[chosen]))]
        results = self._results(table, found, best, chosen)
        table.retain_each([(found, ~over), (best, ~over)], version)
        self._let_go(table, timers, distinct_of(due.keys[due.tags == _LET_GO]), version, watermark)
        return results

    def _in_order(self, left: pa.RecordBatch) -> pa.RecordBatch:
        """Left rows so that the order of one key's does not depend on that in which they came."""
        if len(distinct_of(keys_of(left, self.key))) == left.num_rows:
            return left
        names = [self.key, *self.columns[LEFT]]
        lists = pa.types.is_fixed_size_list
        sortable = [name for name in names if not lists(left.schema.field(name).type)]
        return left.take(pc.sort_indices(left, [(name, "ascending") for name in sortable]))

    # Rows that come -----------------------------------------------------------------------------

    def _open(
        self, table: RowTable, timers: TimerTable, rows: pa.RecordBatch, version: int
    ) -> None:
        """Keep left rows as intervals, and offer them what waits for one of their keys."""
        if not rows.num_rows:
            return
        keys, count = keys_of(rows, self.key), rows.num_rows
        untils = times_of(rows, self._choice.until)
        nothing = np.zeros(count, dtype=np.int64)
        lines = (
            self._times(rows, LEFT),
            untils,
            self._floors(rows),
            nothing,
            nothing,
            np.full(count, _best_rows.NONE, dtype=np.int64),
        )
        columns = [*map(pa.array, lines), *rows.select(self.columns[LEFT]).columns]
        opened = self.formats[INTERVALS].encode(columns, count)
        table.add_each(keys, (opened, self._no_best(count)), version)
        timers.set(keys, untils, np.full(count, _CLOSE, dtype=np.int64))
        waiting = table.find(distinct_of(keys), WAITING)
        if not len(waiting):
            return
        columns = table.read(WAITING, waiting.addresses)
        names = self.columns[RIGHT]
        claimed = pa.RecordBatch.from_arrays(columns, names=names)
        records = self.formats[BEST].encode(columns, len(waiting))
        self._offer(table, waiting.keys[waiting.positions], claimed, records, version)
        if self._choice.once:
            waiting = table.find(waiting.keys, WAITING)
            table.retain(waiting, np.zeros(len(waiting), dtype=np.bool_), version)

    def _take(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        version: int,
        watermark: int,
        ahead: int,
    ) -> NDArray[np.bool_]:
        """Offer right rows to the intervals that are open, and keep those that must wait (BW3).

        Returns:
            Which of them came too late (BW4).
        """
        keys = keys_of(rows, self.key)
        records = self.formats[BEST].encode(rows.select(self.columns[RIGHT]).columns, len(keys))
        held, open_now = self._offer(table, keys, rows, records, version)
        times = self._times(rows, RIGHT)
        on_time = times >= watermark
        waits = on_time & _outlasts(times, ahead)
        if self._choice.once:
            waits &= ~open_now
        if waits.any():
            places = np.flatnonzero(waits)
            some = _these(records, places)
            self._wait(table, timers, keys[places], times[places], some, version)
        return ~on_time & ~held

    def _wait(
        self,
        table: RowTable,
        timers: TimerTable,
        keys: Int64s,
        times: Int64s,
        records: Records,
        version: int,
    ) -> None:
        """Keep right rows for a left one; of a key that had none a timer says when they can go."""
        distinct, latest = greatest_of(keys, times)
        fresh = table.counts_at(table.index.lookup(distinct), WAITING) == 0
        table.add(keys, records, version, WAITING)
        if fresh.any():
            _set_let_go(timers, distinct[fresh], latest[fresh])

    def _offer(
        self,
        table: RowTable,
        keys: Int64s,
        rows: pa.RecordBatch,
        records: Records,
        version: int,
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Offer right rows to the intervals of their keys.

        Returns:
            Of each row whether its time lies in some interval, and whether its key has one.
        """
        index, heap = table.arenas
        slots = table.index.lookup(keys)
        held = np.zeros(len(keys), dtype=np.uint8)
        starts = records.bounds[:-1]
        new = _best_rows.offer(
            index,
            heap,
            table.cells,
            table.bin_bits,
            self._first,
            slots,
            self._times(rows, RIGHT),
            _ranks(rows.column(self._choice.by), _NEVER_BEST),
            starts,
            records.cells,
            self._ordering,
            held,
        )
        open_now = table.counts_at(slots, INTERVALS) > 0
        won = new[_best_rows.NEW_ROW]
        if len(won):
            table.make_room(keys[won], _these(records, won))
            _best_rows.put_at(index, heap, table.cells, table.bin_bits, new, starts, records.cells)
            table.index.mark_changed(slots[won], version)
        return held.view(np.bool_), open_now

    def _times(self, rows: pa.RecordBatch, side: int) -> Int64s:
        """Event times of rows of one side."""
        times = times_of(rows, self._choice.times[side])
        return shifted(times, self._choice.offsets[side])

    def _floors(self, rows: pa.RecordBatch) -> Int64s:
        """The rank that each left row's right one must reach; that of NaN is out of reach."""
        if self._choice.at_least is None:
            # Above that of NaN, where there is one.
            floats = pa.types.is_floating(self.formats[BEST].schema.field(self._choice.by).type)
            return np.full(rows.num_rows, _NEVER_BEST + floats, dtype=np.int64)
        return _ranks(rows.column(self._choice.at_least), ALL)

    def _no_best(self, count: int) -> Records:
        """What stands for the best rows of so many intervals that have none."""
        cells = np.tile(self._nothing.cells, count)
        return Records(cells, np.arange(count + 1, dtype=np.int64) * len(self._nothing.cells))

    # Rows that leave ----------------------------------------------------------------------------

    def _results(
        self, table: RowTable, found: Found, best: Found, chosen: Int64s
    ) -> pa.RecordBatch:
        """The rows of these intervals and their best ones, nulls where there is none."""
        left = table.read(INTERVALS, found.addresses[chosen])[len(_LINES) :]
        right = table.read(BEST, best.addresses[chosen])
        keys = pa.array(found.keys[found.positions[chosen]])
        return pa.RecordBatch.from_arrays([keys, *left, *right], schema=self.output)

    def _let_go(
        self, table: RowTable, timers: TimerTable, keys: Int64s, version: int, watermark: int
    ) -> None:
        """Let right rows of these keys go that no left row on time can claim (BW3)."""
        found = table.find(keys, WAITING)
        if not len(found):
            return
        times = shifted(table.cells[found.addresses + self._time], self._choice.offsets[RIGHT])
        keep = _outlasts(times, watermark)
        table.retain(found, keep, version)
        if keep.any():
            _set_let_go(timers, *greatest_of(found.keys[found.positions[keep]], times[keep]))

    def _as_given(self, late: list[pa.RecordBatch]) -> pa.RecordBatch:
        """Rows of either side with the columns of the output; those of the other one are null."""
        names = [self.key, *self.columns[LEFT], *self.columns[RIGHT]]
        return pa.concat_batches([with_nulls(rows, names, self.output) for rows in late])


def _outlasts(times: Int64s, watermark: int) -> NDArray[np.bool_]:
    """Which right rows a left row could still claim, on time at this watermark (BW3)."""
    if watermark == ALL:
        return np.zeros(len(times), dtype=np.bool_)
    return times >= watermark


def _set_let_go(timers: TimerTable, keys: Int64s, times: Int64s) -> None:
    timers.set(keys, shifted(times, 1), np.full(len(keys), _LET_GO, dtype=np.int64))


def _these(records: Records, places: Int64s) -> Records:
    """Rows at these places; nothing is copied. The last bound means nothing."""
    return Records(records.cells, np.append(records.bounds[places], 0))


def _ranks(values: pa.Array, of_nan: int) -> Int64s:
    """Numbers that compare as the values do; that of NaN is given."""
    if values.type == pa.int64():
        found: Int64s = np.ascontiguousarray(values.to_numpy(zero_copy_only=False))
        return found
    # Adding nought makes -0.0 equal to 0.0.
    floats = np.ascontiguousarray(values.to_numpy(zero_copy_only=False)) + 0.0
    bits = floats.view(np.int64)
    ranks = np.where(bits < 0, bits ^ np.int64(ALL), bits)
    return np.where(np.isnan(floats), np.int64(of_nan), ranks)
