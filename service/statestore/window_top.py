"""The rows with the greatest values of each window, whole.

Flow: S -> `TimedRowStore` -> [WindowTop]: of a batch the rows that are among the best so far are
kept, and those that are not any more go; a window that closes gives what is left.

Invariants
  WP1  Kept are the rows that would be given if the window closed now: `count` of them, and with
       `ties` all that are equal to the last of these.
  WP2  Without ties, of equal rows those that came first win; the rows of one time come in the order
       of their columns.
  WP3  NaN is below every number, whichever end is sought; so are rows of it given only where there
       are not enough others.
Cost: 0.1 us a row, and for each key of a batch that has a row among the best 2 us.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import UsageError
from service.statestore import _folds
from service.statestore import _window_kernels as kernels
from service.statestore.number_types import number_type
from service.statestore.row_table import RowTable
from service.statestore.timed import TimedRows
from service.statestore.timed_row_store import distinct_of, keys_of
from service.statestore.timers import TimerTable
from service.statestore.window_form import END, START, WindowForm
from service.statestore.window_rows import WindowRows

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Of rows of state, what they are ranked by: the greater, the better.
RANK = "window.rank"
_LEAST = np.iinfo(np.int64).min


class WindowTop(WindowRows):
    """The best rows of each window, and key."""

    def __init__(
        self,
        form: WindowForm,
        schema: pa.Schema,
        by: str,
        count: int,
        *,
        ties: bool,
        lowest: bool,
    ) -> None:
        """Keep rows with the columns of `schema`, the greatest by column `by`, or the least.

        Raises:
            UsageError: `by` is no column of numbers or times, or a column has a type that typed
                rows cannot have.
        """
        kind = number_type(schema.field(by).type)
        if kind is None:
            raise UsageError(
                f"rows cannot be ranked by column {by!r}, which is {schema.field(by).type}; "
                "numbers, booleans and times can"
            )
        self._ranked = kind
        self._form_of_rows = form
        self._by, self._count, self._ties, self._lowest = by, count, ties, lowest
        bounds = [pa.field(name, pa.int64()) for name in (START, END) if name not in schema.names]
        output = pa.schema([*schema, *bounds])
        self._kept = [name for name in schema.names if name not in (form.key, START, END)]
        fields = [pa.field(RANK, pa.int64()), *(schema.field(name) for name in self._kept)]
        super().__init__(form.key, form.panes.lateness, fields, output)

    def apply_at(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        version: int,
        watermark: int,
        ahead: int,
    ) -> TimedRows:
        """Keep the rows that are among the best of their windows (WP1)."""
        which, starts, ends = self._form_of_rows.windows_of(rows)
        over = self._forgotten(ends, watermark)
        told = None
        if over.any():
            # The first ones are the last windows of all rows.
            late = self._form_of_rows.told_late(rows.filter(pa.array(over[: rows.num_rows])))
            told = late if late.num_rows else None
        identity = np.array([keys_of(rows, self.key)[which], starts, ends])
        ranks = self._ranks(rows)[which]
        chosen = np.flatnonzero(~over)
        chosen = chosen[self._contenders(np.ascontiguousarray(identity[:, chosen]), ranks[chosen])]
        identity, ranks = identity[:, chosen], ranks[chosen]
        stays = self._merge(table, identity, ranks, version)
        identity, ranks, which = identity[:, stays], ranks[stays], which[chosen[stays]]
        if not len(which):
            return TimedRows(self._no_rows, told)
        kept = rows.select(self._kept).take(pa.array(which))
        lines = [pa.array(line) for line in (identity[1], identity[2], ranks)]
        keys = np.ascontiguousarray(identity[0])
        table.add(keys, self._form.encode([*lines, *kept.columns], len(keys)), version)
        self._wait(timers, keys, identity[2], watermark)
        return TimedRows(self._again(table, keys, identity[2], watermark), told)

    def contending(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that no others of it keep from being among the best of a window.

        Equal ones stay, so that it does not matter which of them came first: only with `ties`.
        """
        which, starts, ends = self._form_of_rows.windows_of(rows)
        identity = np.array([keys_of(rows, self.key)[which], starts, ends])
        chosen = self._contenders(identity, self._ranks(rows)[which])
        if len(chosen) == len(which):
            return rows
        return rows.take(pa.array(distinct_of(which[chosen])))

    def _contenders(self, identity: Int64s, ranks: Int64s) -> Int64s:
        """Rows of a batch that could be among the best of their windows."""
        rows = len(ranks)
        room = np.full(1 << (2 * rows).bit_length(), -1, dtype=np.int32)
        groups = np.empty(rows, dtype=np.int32)
        first = np.empty(rows, dtype=np.int64)
        count = kernels.group(identity, room, groups, first)
        if self._count == 1:
            best = np.full(count, _LEAST, dtype=np.int64)
            _folds.raise_to(groups, ranks, best)
            return np.flatnonzero(ranks == best[groups])
        order = np.lexsort((~ranks, groups))
        return np.sort(order[self._best(groups[order], ranks[order])])

    def _merge(self, table: RowTable, identity: Int64s, ranks: Int64s, version: int) -> Flags:
        """Let rows go that are beaten by others; which of the new ones are not."""
        if not len(ranks):
            return np.zeros(0, dtype=np.bool_)
        found = table.find(distinct_of(identity[0]))
        before = np.array([found.keys[found.positions], *self._window_of(table, found.addresses)])
        all_ranks = np.concatenate((self._at(table, found.addresses, RANK), ranks))
        everyone = np.ascontiguousarray(np.concatenate((before, identity), axis=1))
        # Stable: of equal rows the earlier one comes first (WP2).
        order = np.lexsort((~all_ranks, everyone[2], everyone[1], everyone[0]))
        ordered = everyone[:, order]
        begins = np.ones(len(order), dtype=np.bool_)
        begins[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
        stays = np.zeros(len(order), dtype=np.bool_)
        stays[order] = self._best(np.cumsum(begins), all_ranks[order])
        table.retain(found, stays[: len(found)], version)
        return stays[len(found) :]

    def _best(self, groups: NDArray[np.signedinteger], ranks: Int64s) -> Flags:
        """Which rows are among the best of their group; they come by group and falling rank."""
        begins = np.ones(len(groups), dtype=np.bool_)
        begins[1:] = groups[1:] != groups[:-1]
        starts = np.flatnonzero(begins)
        group = np.cumsum(begins) - 1
        place = np.arange(len(groups)) - starts[group]
        best: Flags = place < self._count
        if self._ties:
            sizes = np.diff(np.append(starts, len(groups)))
            last = ranks[starts + np.minimum(sizes, self._count) - 1]
            best |= ranks == last[group]
        return best

    def _ranks(self, rows: pa.RecordBatch) -> Int64s:
        """A number for each row: the greater, the better (WP3)."""
        values = self._ranked.widened(rows.column(self._by))
        if self._ranked.kept == "int64":
            numbers = np.ascontiguousarray(values).view(np.int64)
            return ~numbers if self._lowest else numbers
        # Of floats the bits are in order, those of negative ones backwards; -0.0 is 0.0.
        floats = np.ascontiguousarray(values).view(np.float64) + 0.0
        bits = floats.view(np.int64)
        ranks: Int64s = np.where(bits < 0, bits ^ np.iinfo(np.int64).max, bits)
        if self._lowest:
            ranks = ~ranks
        ranks[np.isnan(floats)] = _LEAST
        return ranks

    def _order(self, table: RowTable, addresses: Int64s) -> Int64s:
        return ~self._at(table, addresses, RANK)

    def _results(self, keys: Int64s, columns: list[pa.Array]) -> pa.RecordBatch:
        starts, ends, _, *others = columns
        named = dict(zip(self._kept, others, strict=True))
        named |= {START: starts, END: ends, self.key: pa.array(keys)}
        columns = [named[name] for name in self.output.names]
        return pa.RecordBatch.from_arrays(columns, schema=self.output)
