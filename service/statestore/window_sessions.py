"""Aggregates over sessions: rows of a key that are near to one another in event time.

Flow: S -> `TimedRowStore` -> [WindowSessions]: a row opens [its time, its time + gap) and is put
together with every session of its key that this overlaps; a session closes as any window does.

Invariants
  SE1  Of a key no two sessions overlap, and each is the union of what its rows opened.
  SE2  A row is late if the session that it ends up in is forgotten already (PA2 of `panes`).
  SE3  A batch whose sums do not fit changes nothing.
Cost: 0.3 us a row and 2 us for each key of a batch, and the sorting of both.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore import _window_kernels as kernels
from service.statestore.aggregate import AggregateProgram
from service.statestore.columns import KEY_ID
from service.statestore.row_table import RowTable
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import TimedRows
from service.statestore.timed_row_store import distinct_of, keys_of, shifted
from service.statestore.timers import TimerTable
from service.statestore.window_form import END, START, times_in
from service.statestore.window_rows import WindowRows

Int64s = NDArray[np.int64]

#: How names of state columns begin in rows of state.
STATE_OF = "state."


class WindowSessions(WindowRows):
    """Aggregates of the sessions of each key."""

    def __init__(
        self,
        key: str,
        time: str,
        offset: int,
        gap: int,
        lateness: int,
        program: AggregateProgram,
    ) -> None:
        """Put rows of one key together whose times are less than `gap` > 0 apart.

        Args:
            key: column of integers.
            time: column of event times.
            offset: to be added to it.
            gap: how long after its last row a session ends.
            lateness: how long after that it still takes rows.
            program: what is computed; all of it is kept as state.
        """
        self._time, self._offset, self._gap = time, offset, gap
        self._program = program
        named = [pa.field(name, pa.int64()) for name in (key, START, END)]
        kinds = program.output_types.items()
        output = pa.schema([*named, *(pa.field(name, kind) for name, kind in kinds)])
        kept = [pa.field(f"{STATE_OF}{spec.name}", pa.int64()) for spec in program.state_columns]
        super().__init__(key, lateness, kept, output)

    @property
    def windows(self) -> StoredWindows:
        """As of `WindowRows`; a row is the state of a session's aggregates."""
        columns = tuple((spec.name, spec.described) for spec in self._program.state_columns)
        return StoredWindows("rows", lateness=self._lateness, columns=columns)

    def apply_at(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        version: int,
        watermark: int,
        ahead: int,
    ) -> TimedRows:
        """Put rows into sessions, and sessions together (SE1).

        Raises:
            StateError: a sum does not fit into 64 bits.
        """
        keys = keys_of(rows, self.key)
        times = times_in(rows, self._time, self._offset)
        found = table.find(distinct_of(keys))
        before = len(found)
        own = found.keys[found.positions]
        starts, ends = self._window_of(table, found.addresses)
        opened = [keys, times, shifted(times, self._gap)]
        everyone = np.concatenate(([own, starts, ends], opened), axis=1)
        order = np.lexsort((everyone[1], everyone[0]))
        session = np.empty(len(order), dtype=np.int64)
        spans = np.empty((3, len(order)), dtype=np.int64)
        count = kernels.sessions(np.ascontiguousarray(everyone[:, order]), session, spans)
        spans = spans[:, :count]
        numbers = np.empty(len(order), dtype=np.int64)
        numbers[order] = session
        forgotten = self._forgotten(spans[2], watermark)
        late = forgotten[numbers[before:]]
        told = self._as_given(rows.filter(pa.array(late))) if late.any() else None
        changed = np.zeros(count, dtype=np.bool_)
        changed[numbers[before:]] = True
        changed &= ~forgotten
        if not changed.any():
            return TimedRows(self._no_rows, told)
        # What of all sessions is the n-th that changed.
        place = np.cumsum(changed) - 1
        spans = spans[:, changed]
        goes = changed[numbers[:before]]
        state = self._program.merge(
            spans[0],
            place[numbers[:before][goes]].astype(np.int32),
            self._state_of(table, found.addresses[goes]),
        )
        here = rows.filter(pa.array(~late)) if late.any() else rows
        positions = place[numbers[before:][~late]].astype(np.int32)
        self._program.fold(spans[0], positions, state, self._program.values_of(here))
        table.retain(found, ~goes, version)
        columns = [pa.array(line) for line in (spans[1], spans[2], *state)]
        owners = np.ascontiguousarray(spans[0])
        table.add(owners, self._form.encode(columns, len(owners)), version)
        self._wait(timers, owners, spans[2], watermark)
        return TimedRows(self._again(table, owners, spans[2], watermark), told)

    def _as_given(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.drop_columns([KEY_ID]) if self.key == KEY_ID else rows

    def _state_of(self, table: RowTable, addresses: Int64s) -> Int64s:
        names = [f"{STATE_OF}{spec.name}" for spec in self._program.state_columns]
        lines = [self._at(table, addresses, name) for name in names]
        return np.array(lines, dtype=np.int64).reshape(len(names), len(addresses))

    def _order(self, table: RowTable, addresses: Int64s) -> Int64s:
        return np.zeros(len(addresses), dtype=np.int64)

    def _results(self, keys: Int64s, columns: list[pa.Array]) -> pa.RecordBatch:
        starts, ends, *state = columns
        lines = np.array([line.to_numpy() for line in state], dtype=np.int64)
        given = self._program.outputs_of(lines)
        return pa.RecordBatch.from_arrays(
            [pa.array(keys), starts, ends, *given], schema=self.output
        )
