"""The rows with the greatest values of each session, whole.

Flow: S -> `TimedRowStore` -> [SessionTop], a program of sessions (`session_rows`): of each session
the rows are kept that are among the best so far; when it closes, they are given.

Invariants
  ST1  Kept are the rows that would be given if the session closed now (WK1 of `window_ranks`): of
       sessions that become one, the best of both.
  ST2  Without ties, of equal rows those that came first win, whichever session they were in; the
       rows of one time come in the order of their columns.
Cost: as `session_rows`, and 0.2 us for each row that the keys of a batch have kept.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.row_table import RowTable
from service.statestore.session_rows import KEPT, Change, Merged, SessionForm, SessionRows
from service.statestore.timed import TimedRows
from service.statestore.timed_row_store import distinct_of
from service.statestore.timers import TimerTable
from service.statestore.window_form import END, START
from service.statestore.window_ranks import RANK, Ranking

Int64s = NDArray[np.int64]


class SessionTop(SessionRows):
    """The best rows of the sessions of each key."""

    def __init__(
        self,
        form: SessionForm,
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
        self._columns = [name for name in schema.names if name != form.key]
        fields = [schema.field(name) for name in self._columns]
        own = [field for field in schema if field.name != form.key or form.grouped]
        bounds = [pa.field(name, pa.int64()) for name in (START, END)]
        kept = [pa.field(RANK, pa.int64()), *fields]
        super().__init__(form, [], kept, pa.schema([*own, *bounds]))

    def apply_at(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        version: int,
        watermark: int,
        ahead: int,
    ) -> TimedRows:
        """Put rows into sessions, and keep those that are among the best (SE1, ST1)."""
        merged = self._merged(table, rows, watermark)
        if not merged.spans.shape[1]:
            return TimedRows(self._no_rows, merged.late)
        change = self._best_kept(table, merged)
        return self._put(table, timers, merged, [], change, version, watermark)

    def _best_kept(self, table: RowTable, merged: Merged) -> Change:
        """Which rows stay, and which new ones are kept (ST1, ST2)."""
        found = table.find(merged.found.keys, KEPT)
        before = self._session_of(table, found, merged.spans)
        ours = np.flatnonzero(before >= 0)
        own = self._ranking.of(merged.rows)
        ranks = np.append(self._kept_at(table, found.addresses[ours], RANK), own)
        sessions = np.concatenate((before[ours], merged.positions.astype(np.int64)))
        # Stable: of equal rows the earlier one comes first.
        order = np.lexsort((~ranks, sessions))
        best = np.zeros(len(order), dtype=np.bool_)
        best[order] = self._ranking.best(sessions[order], ranks[order])
        stays = before < 0
        stays[ours] = best[: len(ours)]
        new = np.flatnonzero(best[len(ours) :])
        kept = merged.rows.select(self._columns).take(pa.array(new))
        columns = [pa.array(merged.times[new]), pa.array(own[new]), *kept.columns]
        keys = np.ascontiguousarray(merged.spans[0][merged.positions[new]])
        assert self._kept_form is not None, "rows are kept"
        return Change(found, stays, keys, self._kept_form.encode(columns, len(keys)))

    def _told(self, table: RowTable, spans: Int64s, addresses: Int64s) -> pa.RecordBatch:
        kept = table.find(distinct_of(spans[0]), KEPT)
        sessions = self._session_of(table, kept, spans)
        ours = np.flatnonzero(sessions >= 0)
        ranks = self._kept_at(table, kept.addresses[ours], RANK)
        order = ours[np.lexsort((~ranks, sessions[ours]))]
        _, _, *columns = table.read(KEPT, kept.addresses[order])
        keys, starts, ends = spans[:, sessions[order]]
        named = dict(zip(self._columns, columns, strict=True))
        named |= {START: pa.array(starts), END: pa.array(ends), self.key: pa.array(keys)}
        columns = [named[name] for name in self.output.names]
        return pa.RecordBatch.from_arrays(columns, schema=self.output)
