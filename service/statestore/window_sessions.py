"""Aggregates over sessions, the number of different values among them.

Flow: S -> `TimedRowStore` -> [WindowSessions], a program of sessions (`session_rows`): each session
has the state of the aggregates; of each of its different values one row is kept.

Invariants
  SA1  What a session gives is that of all its rows: state of sessions that become one is put
       together as that of panes is, and values that both had are kept once (DV1, DV2 of
       `distinct_values`).
Cost: as `session_rows`; with different values also 0.1 us, in each batch that has rows of a key,
for each value that the key's sessions have. No Python per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore import _window_kernels as kernels
from service.statestore.aggregate import AggregateProgram
from service.statestore.distinct_values import ValueLines
from service.statestore.row_table import RowTable
from service.statestore.session_rows import KEPT, Change, Merged, SessionForm, SessionRows
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import TimedRows
from service.statestore.timed_row_store import distinct_of
from service.statestore.timers import TimerTable

Int64s = NDArray[np.int64]

#: How names of state columns begin in rows of state.
STATE_OF = "state."


class WindowSessions(SessionRows):
    """Aggregates of the sessions of each key."""

    def __init__(
        self,
        form: SessionForm,
        program: AggregateProgram,
        values: ValueLines | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        """Give `outputs` of each session, by default all that the program has.

        Args:
            form: which sessions there are.
            program: what is computed; all of it is kept as state.
            values: the column whose different values are counted.
            outputs: names, of which those that the program does not have are such counts.
        """
        self._program, self._values = program, values
        kinds = program.output_types
        self._names = list(kinds if outputs is None else outputs)
        named = [pa.field(name, pa.int64()) for name in form.names]
        given = [pa.field(name, kinds.get(name, pa.int64())) for name in self._names]
        self._state = [f"{STATE_OF}{spec.name}" for spec in program.state_columns]
        self._lines = [] if values is None else [spec.name for spec in values.specs]
        super().__init__(
            form,
            [pa.field(name, pa.int64()) for name in self._state],
            None if values is None else [pa.field(name, pa.int64()) for name in self._lines],
            pa.schema([*named, *given]),
        )

    @property
    def windows(self) -> StoredWindows:
        """As of `WindowRows`; a row is the state of a session's aggregates."""
        columns = tuple((spec.name, spec.described) for spec in self._program.state_columns)
        counted = next((name for name in self._names if name not in self._program.output_types), "")
        return StoredWindows("rows", lateness=self._lateness, counted=counted, columns=columns)

    def apply_at(
        self,
        table: RowTable,
        timers: TimerTable,
        rows: pa.RecordBatch,
        version: int,
        watermark: int,
        ahead: int,
    ) -> TimedRows:
        """Put rows into sessions, and sessions together (SE1, SA1).

        Raises:
            StateError: a sum does not fit into 64 bits.
        """
        merged = self._merged(table, rows, watermark)
        if not merged.spans.shape[1]:
            return TimedRows(self._no_rows, merged.late)
        owners = merged.spans[0]
        state = self._program.merge(
            owners, merged.into, self._state_of(table, merged.found.addresses[~merged.stays])
        )
        read = self._program.values_of(merged.rows)
        self._program.fold(owners, merged.positions, state, read)
        change = self._values_kept(table, merged)
        return self._put(table, timers, merged, list(state), change, version, watermark)

    def _values_kept(self, table: RowTable, merged: Merged) -> Change | None:
        """Of each session and value the first row that had it."""
        if self._values is None:
            return None
        found = table.find(merged.found.keys, KEPT)
        before = self._session_of(table, found, merged.spans)
        ours = np.flatnonzero(before >= 0)
        lines = np.array(
            [self._kept_at(table, found.addresses[ours], name) for name in self._lines]
        )
        identity = np.concatenate(
            (
                np.concatenate((before[ours][None], lines)),
                np.array([merged.positions.astype(np.int64), *self._values.of(merged.rows)]),
            ),
            axis=1,
        )
        first = _first_of(identity)
        stays = before < 0
        stays[ours[first[first < len(ours)]]] = True
        new = first[first >= len(ours)] - len(ours)
        keys = np.ascontiguousarray(merged.spans[0][merged.positions[new]])
        fresh = identity[1:, len(ours) :][:, new]
        columns = [pa.array(line) for line in (merged.times[new], *fresh)]
        assert self._kept_form is not None, "values are kept"
        return Change(found, stays, keys, self._kept_form.encode(columns, len(keys)))

    def _state_of(self, table: RowTable, addresses: Int64s) -> Int64s:
        lines = [self._at(table, addresses, name) for name in self._state]
        return np.array(lines, dtype=np.int64).reshape(len(lines), len(addresses))

    def _told(self, table: RowTable, spans: Int64s, addresses: Int64s) -> pa.RecordBatch:
        computed = self._program.outputs_of(self._state_of(table, addresses))
        given = dict(zip(self._program.output_types, computed, strict=True))
        if self._values is not None:
            kept = table.find(distinct_of(spans[0]), KEPT)
            numbers = self._session_of(table, kept, spans)
            counts = np.bincount(numbers[numbers >= 0], minlength=spans.shape[1])
            counted = pa.array(counts.astype(np.int64))
            given |= {name: counted for name in self._names if name not in given}
        columns = [*self._bounds(spans), *(given[name] for name in self._names)]
        return pa.RecordBatch.from_arrays(columns, schema=self.output)


def _first_of(identity: Int64s) -> Int64s:
    """The first row of each different one, in their order."""
    rows = identity.shape[1]
    room = np.full(1 << (2 * rows).bit_length(), -1, dtype=np.int32)
    groups = np.empty(rows, dtype=np.int32)
    first = np.empty(rows, dtype=np.int64)
    return first[: kernels.group(np.ascontiguousarray(identity), room, groups, first)]
