"""The rows with the greatest values of each window, whole.

Flow: S -> `TimedRowStore` -> [WindowTop]: of a batch the rows that are among the best so far are
kept, and those that are not any more go; a window that closes gives what is left.

Invariants
  WP1  Kept are the rows that would be given if the window closed now: `count` of them, and with
       `ties` all that are equal to the last of these (WK1 of `window_ranks`).
  WP2  Without ties, of equal rows those that came first win; the rows of one time come in the order
       of their columns.
  WP3  Rows of NaN are given only where there are not enough others (WK3 of `window_ranks`).
Cost: 0.1 us a row, and for each key of a batch that has a row among the best 2 us.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore import _folds
from service.statestore import _window_kernels as kernels
from service.statestore.row_table import Found, RowTable
from service.statestore.timed import TimedRows
from service.statestore.timed_row_store import distinct_of, keys_of
from service.statestore.timers import TimerTable
from service.statestore.window_form import END, START, WindowForm
from service.statestore.window_ranks import LEAST, RANK, Ranking
from service.statestore.window_rows import WindowRows

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]


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
        self._ranking = Ranking(schema, by, count, ties=ties, lowest=lowest)
        self._form_of_rows = form
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
        ranks = self._ranking.of(rows)[which]
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
        chosen = self._contenders(identity, self._ranking.of(rows)[which])
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
        if self._ranking.count == 1:
            best = np.full(count, LEAST, dtype=np.int64)
            _folds.raise_to(groups, ranks, best)
            return np.flatnonzero(ranks == best[groups])
        order = np.lexsort((~ranks, groups))
        return np.sort(order[self._ranking.best(groups[order], ranks[order])])

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
        stays[order] = self._ranking.best(np.cumsum(begins), all_ranks[order])
        table.retain(found, stays[: len(found)], version)
        return stays[len(found) :]

    def _given(self, table: RowTable, found: Found, chosen: Flags) -> pa.RecordBatch:
        if not chosen.any():
            return self._no_rows
        addresses = found.addresses[chosen]
        keys = found.keys[found.positions[chosen]]
        starts, ends = self._window_of(table, addresses)
        order = np.lexsort((~self._at(table, addresses, RANK), starts, keys, ends))
        starts, ends, _, *others = table.read(0, addresses[order])
        named = dict(zip(self._kept, others, strict=True))
        named |= {START: starts, END: ends, self.key: pa.array(keys[order])}
        columns = [named[name] for name in self.output.names]
        return pa.RecordBatch.from_arrays(columns, schema=self.output)
