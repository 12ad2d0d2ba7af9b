"""Typed rows and timers of a vertex whose state changes with event time: the store of its joins.

Flow: S -> [TimedRowStore] -> a timed row program, by kernels. All else - bins that move, what a
checkpoint keeps - is `RowBins`'.

Invariants
  TR1  A program changes the rows and timers of the keys it is given and of no other, so what a bin
       holds and gives depends on its own rows and watermarks (TS3 of `timed`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.cold_tier import NO_KEYS, ColdTier
from service.statestore.columns import numbers_of
from service.statestore.join import LEFT, RIGHT, SIDE
from service.statestore.row_format import RowFormat
from service.statestore.row_store import RowBins
from service.statestore.row_table import RowTable
from service.statestore.stored_windows import StoredWindows, windows_of
from service.statestore.timed import ALL, FIRED_AT_ONCE, NEVER, TimedRows, joined_rows
from service.statestore.timers import Timers, TimerTable

Int64s = NDArray[np.int64]


class TimedRowProgram(Protocol):
    """How rows and watermarks change a table of typed rows and its timers (TR1)."""

    @property
    def key(self) -> str:
        """Name of the int64 column of keys."""
        ...

    @property
    def formats(self) -> Sequence[RowFormat]:
        """Formats of the groups of rows that are kept."""
        ...

    @property
    def output(self) -> pa.Schema:
        """Columns of what leaves."""
        ...

    def apply_at(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        version: int,
        watermark: int,
        ahead: int,
    ) -> TimedRows:
        """Change the table by the rows of a time, its keys to `version`; returns what they give.

        `ahead` as `TimedStore.apply_at` has it.
        """
        ...

    def fire(
        self, table: RowTable, timers: TimerTable, due: Timers, version: int, watermark: int
    ) -> pa.RecordBatch:
        """Change the table by timers that came due; returns what they give."""
        ...


@runtime_checkable
class SidedProgram(Protocol):
    """As `TimedRowProgram`, of tagged rows of two sides (`join`), each side by itself."""

    @property
    def key(self) -> str:
        """As of `TimedRowProgram`."""
        ...

    @property
    def formats(self) -> Sequence[RowFormat]:
        """As of `TimedRowProgram`."""
        ...

    @property
    def output(self) -> pa.Schema:
        """As of `TimedRowProgram`."""
        ...

    @property
    def columns(self) -> Sequence[Sequence[str]]:
        """Of each side the columns that are read beside the key."""
        ...

    def apply_sides(
        self,
        table: RowTable,
        timers: TimerTable,
        sides: tuple[pa.RecordBatch, pa.RecordBatch],
        version: int,
        watermark: int,
        ahead: int,
    ) -> TimedRows:
        """As `TimedRowProgram.apply_at`; rows of a side have the key and its columns."""
        ...

    def fire(
        self, table: RowTable, timers: TimerTable, due: Timers, version: int, watermark: int
    ) -> pa.RecordBatch:
        """As of `TimedRowProgram`."""
        ...


class TimedRowStore(RowBins):
    """Typed rows of the vertex named `vertex`, with event time."""

    def __init__(self, vertex: str, program: TimedRowProgram | SidedProgram, bin_bits: int) -> None:
        """Make an empty store with 2**bin_bits bins."""
        super().__init__(vertex, program.formats, bin_bits)
        self.program = program
        #: Keys whose timers the last `fire` took.
        self.fired: Int64s = np.empty(0, dtype=np.int64)

    @property
    def windows(self) -> StoredWindows | None:
        """How windows are kept, if the program has any."""
        return windows_of(self.program)

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """As `apply_at`, where no watermark is known."""
        return self.apply_at(rows, time, NEVER).rows

    def apply_at(
        self, rows: pa.RecordBatch, time: tuple[int, ...], watermark: int, ahead: int = NEVER
    ) -> TimedRows:
        """Change the state by the rows of `time`, judged by the watermark of the time before."""
        return self.apply_parts([rows], time, watermark, ahead)

    def apply_parts(
        self,
        parts: Sequence[pa.RecordBatch],
        time: tuple[int, ...],
        watermark: int,
        ahead: int = NEVER,
    ) -> TimedRows:
        """As `apply_at`, of the rows of several batches."""
        keys, absent = NO_KEYS, NO_KEYS
        if self.tier is not None:
            self.tier.make_room()
            keys = distinct_of(np.concatenate([keys_of(rows, self.program.key) for rows in parts]))
            absent = self.tier.recall(keys)
        told = self._applied(parts, watermark, ahead)
        if self.tier is not None:
            self.tier.cold.delete(self.unused(keys))
            self.tier.unmark(absent)
        return told

    def _applied(self, parts: Sequence[pa.RecordBatch], watermark: int, ahead: int) -> TimedRows:
        self._changes += 1
        program, table, timers = self.program, self.table, self.pending
        if isinstance(program, SidedProgram):
            left, right = (
                _side_of(parts, side, [program.key, *program.columns[side]])
                for side in (LEFT, RIGHT)
            )
            return program.apply_sides(
                table, timers, (left, right), self._changes, watermark, ahead
            )
        rows = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        return program.apply_at(table, timers, rows, self._changes, watermark, ahead)

    def due(self, watermark: int) -> bool:
        """Whether `fire` could give or change something: False if not, True perhaps."""
        return self.pending.due(watermark)

    def fire(
        self, watermark: int, time: tuple[int, ...], bins: frozenset[int] | None = None
    ) -> pa.RecordBatch:
        """Fire what is due at or below `watermark`, of all bins or these; perhaps no rows."""
        return joined_rows([*self.firing(watermark, time, bins, self.tier)])

    def firing(
        self,
        watermark: int,
        time: tuple[int, ...],
        bins: frozenset[int] | None = None,
        tier: ColdTier | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """What `fire` gives in parts, at least one; with a `tier` of the rows some keys each.

        A part is what firing up to its last time gives, so that all give the same (TS2 of `timed`).
        A row that nothing can meet any more, and that has no timer of its own, may go one firing
        later than it would without parts.
        """
        due = self.pending.pop(watermark, bins)
        if tier is None or not len(due):
            yield self._fired(due, watermark)
            return
        while len(due):
            part, due = due.first(FIRED_AT_ONCE)
            until = int(part.times[-1]) if len(due) else watermark
            tier.make_room()
            absent = tier.recall(part.keys)
            yield self._fired(part, until)
            if self.tier is not None:
                self.tier.cold.delete(distinct_of(self.unused(part.keys)))
            tier.unmark(absent)
            # A row that stays beyond `until` may have got a timer that is due as well.
            due = due.joined(self.pending.pop(watermark, bins))

    def _fired(self, due: Timers, watermark: int) -> pa.RecordBatch:
        self._changes += 1
        self.fired = due.keys
        return self.program.fire(self.table, self.pending, due, self._changes, watermark)

    def unused(self, keys: Int64s) -> Int64s:
        """Those of `keys` that have no rows, repeated as they are given."""
        return keys[self.table.index.lookup(keys) < 0]


# What the programs have in common -------------------------------------------------------------


def times_of(rows: pa.RecordBatch, name: str) -> Int64s:
    """A column of times without nulls, as numbers of its unit."""
    column = rows.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    found: Int64s = np.ascontiguousarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)
    return found


def shifted(times: Int64s, by: int) -> Int64s:
    """Times and a number, added; what lies beyond the greatest or the least is that one."""
    if by >= 0:
        return np.minimum(times, ALL - by) + by
    return np.maximum(times, NEVER - by) + by


def part_of(rows: pa.RecordBatch, chosen: NDArray[np.bool_]) -> pa.RecordBatch:
    """The chosen rows, in their order; a run of them, or all, is not copied."""
    places = np.flatnonzero(chosen)
    if not len(places):
        return rows.slice(0, 0)
    if places[-1] - places[0] + 1 == len(places):
        return rows.slice(int(places[0]), len(places))
    return rows.take(pa.array(places))


def _side_of(parts: Sequence[pa.RecordBatch], side: int, names: list[str]) -> pa.RecordBatch:
    """These columns of the rows of a side; what has no other rows is not copied."""
    found = [part_of(rows.select(names), keys_of(rows, SIDE) == side) for rows in parts]
    some = [rows for rows in found if rows.num_rows] or found[:1]
    return some[0] if len(some) == 1 else pa.concat_batches(some)


def keys_of(rows: pa.RecordBatch, key: str) -> Int64s:
    """The column of keys."""
    return np.ascontiguousarray(numbers_of(rows, key).view(np.int64))


def with_nulls(rows: pa.RecordBatch, names: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    """The columns of these names as the schema calls them; nulls where `rows` have none."""
    columns = [
        rows.column(name) if name in rows.schema.names else pa.nulls(rows.num_rows, field.type)
        for name, field in zip(names, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def distinct_of(numbers: Int64s) -> Int64s:
    """The distinct ones, ascending: some thousand are sorted sooner than NumPy hashes them."""
    ordered = np.sort(numbers)
    new = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    found: Int64s = ordered[new]
    return found


def greatest_of(groups: Int64s, values: Int64s) -> tuple[Int64s, Int64s]:
    """The distinct numbers of `groups`, and the greatest of the values of each."""
    if not len(groups):
        return groups, values
    order = np.argsort(groups, kind="stable")
    groups, values = groups[order], values[order]
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    return groups[starts], np.maximum.reduceat(values, starts)


def distinct_pairs(keys: Int64s, times: Int64s) -> tuple[Int64s, Int64s]:
    """The pairs of a key and a time, each once."""
    if not len(keys):
        return keys, times
    order = np.lexsort((times, keys))
    keys, times = keys[order], times[order]
    new = np.append(True, (keys[1:] != keys[:-1]) | (times[1:] != times[:-1]))
    return keys[new], times[new]
