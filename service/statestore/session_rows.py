"""Sessions: windows of rows of a key that are near to one another in event time.

Flow: S -> `TimedRowStore` -> a program of sessions, which is [SessionRows] and what is kept of a
session: numbers and different values (`window_sessions`), or its best rows (`session_top`). A row
opens [its time, its time + gap) and is put together with every session of its key that this
overlaps; a session closes as any window does.

State has two groups of rows under a key. One has a row for each session: its bounds, and numbers.
The other has what is kept of single rows, each with the event time of one: it is of the session
that this time is in, so it stays as it is when sessions become one.

Invariants
  SE1  Of a key no two sessions overlap, and each is the union of what its rows opened, also of rows
       of which nothing else is kept.
  SE2  A row is late if the session that it ends up in is forgotten already (PA2 of `panes`): all
       rows of a time are put together before that is asked.
  SE3  A batch that fails, as one whose sums do not fit, changes nothing.
  SE4  A row of the second group is in exactly one session of its key, and goes with it.
Cost: 0.3 us a row and 2 us for each key of a batch, and the sorting of both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore import _window_kernels as kernels
from service.statestore.columns import KEY_ID
from service.statestore.row_format import Records, RowFormat
from service.statestore.row_table import Found, RowTable
from service.statestore.timed import ALL, TimedRows
from service.statestore.timed_row_store import distinct_of, keys_of, shifted
from service.statestore.timers import TimerTable
from service.statestore.window_form import END, START, times_in
from service.statestore.window_rows import WindowRows

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: The groups of rows of state, and the column by which the second one finds its session.
_SESSIONS, KEPT = 0, 1
TIME = "window.time"


@dataclass(frozen=True, slots=True)
class SessionForm:
    """Which sessions rows belong to, and where it is written.

    Attributes:
        key: the int64 column of keys.
        time: column of event times.
        offset: to be added to it.
        gap: > 0; how long after its last row a session ends.
        lateness: >= 0; how long after that it still takes rows.
        grouped: whether results have the key; where all rows are together it is one constant.
    """

    key: str
    time: str
    offset: int
    gap: int
    lateness: int
    grouped: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the output that say whose and which session it is."""
        return (self.key, START, END) if self.grouped else (START, END)


@dataclass(frozen=True, slots=True)
class Merged:
    """Sessions that the rows of a batch and those before them make together."""

    #: Sessions of the batch's keys, and which of them stay as they are.
    found: Found
    stays: Flags
    #: Of each of the others, the number of the session that it is part of now.
    into: NDArray[np.int32]
    #: Lines of keys, starts and ends of the sessions that are new or changed, by key and start.
    spans: Int64s
    #: The rows that are not late, their event times, and of each the number of its session.
    rows: pa.RecordBatch
    times: Int64s
    positions: NDArray[np.int32]
    #: The others; None if there are none.
    late: pa.RecordBatch | None


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of the second group of rows: which of those found stay, and new ones."""

    found: Found
    stays: Flags
    keys: Int64s
    records: Records


class SessionRows(WindowRows):
    """Rows of state of the sessions of each key."""

    def __init__(
        self,
        form: SessionForm,
        numbers: Sequence[pa.Field],
        kept: Sequence[pa.Field] | None,
        output: pa.Schema,
    ) -> None:
        """Keep sessions.

        Args:
            form: which there are.
            numbers: int64 fields that each session has.
            kept: fields that are kept of single rows; None: nothing is.
            output: columns of what leaves.

        Raises:
            UsageError: a field's type is none that typed rows can have.
        """
        super().__init__(form.key, form.lateness, list(numbers), output)
        self._sessions = form
        self._kept_form: RowFormat | None = None
        if kept is not None:
            self._kept_form = RowFormat(pa.schema([pa.field(TIME, pa.int64()), *kept]))
            self.formats = (self._form, self._kept_form)

    @abstractmethod
    def _told(self, table: RowTable, spans: Int64s, addresses: Int64s) -> pa.RecordBatch:
        """What sessions give, which are lines of keys, starts and ends, in this order.

        Their rows of the first group are at these addresses.
        """

    # Rows ---------------------------------------------------------------------------------------

    def _merged(self, table: RowTable, rows: pa.RecordBatch, watermark: int) -> Merged:
        """Put the rows of a time into sessions, and sessions together (SE1, SE2)."""
        form = self._sessions
        keys, times = keys_of(rows, self.key), times_in(rows, form.time, form.offset)
        found = table.find(distinct_of(keys))
        before = len(found)
        own = found.keys[found.positions]
        starts, ends = self._window_of(table, found.addresses)
        opened = [keys, times, shifted(times, form.gap)]
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
        changed = np.zeros(count, dtype=np.bool_)
        changed[numbers[before:]] = True
        changed &= ~forgotten
        # What of all sessions is the n-th that changed.
        place = np.cumsum(changed) - 1
        goes = changed[numbers[:before]]
        tardy = None
        if late.any():
            tardy = rows.filter(pa.array(late))
            rows, times = rows.filter(pa.array(~late)), times[~late]
        return Merged(
            found,
            ~goes,
            place[numbers[:before][goes]].astype(np.int32),
            np.ascontiguousarray(spans[:, changed]),
            rows,
            times,
            place[numbers[before:][~late]].astype(np.int32),
            None if tardy is None else self._as_given(tardy),
        )

    def _as_given(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.drop_columns([KEY_ID]) if self.key == KEY_ID else rows

    def _put(
        self,
        table: RowTable,
        timers: TimerTable,
        merged: Merged,
        numbers: Sequence[Int64s],
        change: Change | None,
        version: int,
        watermark: int,
    ) -> TimedRows:
        """Keep sessions with their `numbers` in place of what they are made of; what they give."""
        keys, starts, ends = merged.spans
        records = self._form.encode(
            [pa.array(line) for line in (starts, ends, *numbers)], len(keys)
        )
        goes = [(merged.found, merged.stays)]
        if change is not None:
            goes.append((change.found, change.stays))
        table.retain_each(goes, version)
        table.add(keys, records, version, _SESSIONS)
        if change is not None and len(change.keys):
            table.add(change.keys, change.records, version, KEPT)
        self._wait(timers, keys, ends, watermark)
        return TimedRows(self._again(table, keys, ends, watermark), merged.late)

    # Results ------------------------------------------------------------------------------------

    def _given(self, table: RowTable, found: Found, chosen: Flags) -> pa.RecordBatch:
        if not chosen.any():
            return self._no_rows
        addresses = found.addresses[chosen]
        keys = found.keys[found.positions[chosen]]
        spans = np.array([keys, *self._window_of(table, addresses)])
        order = np.lexsort((spans[1], spans[0], spans[2]))
        return self._told(table, np.ascontiguousarray(spans[:, order]), addresses[order])

    def _bounds(self, spans: Int64s) -> list[pa.Array]:
        """Columns of `SessionForm.names`."""
        lines = spans if self._sessions.grouped else spans[1:]
        return [pa.array(line) for line in lines]

    def _forget(self, table: RowTable, found: Found, over: Flags, version: int) -> None:
        """Let sessions go, and what is kept of their rows (SE4)."""
        if self._kept_form is None or not over.any():
            super()._forget(table, found, over, version)
            return
        kept = table.find(found.keys, KEPT)
        own = found.keys[found.positions[over]]
        spans = np.array([own, *self._window_of(table, found.addresses[over])])
        stays = self._session_of(table, kept, spans) < 0
        table.retain_each([(found, ~over), (kept, stays)], version)

    # The second group ---------------------------------------------------------------------------

    def _kept_at(self, table: RowTable, addresses: Int64s, name: str) -> Int64s:
        """A column of integers of rows of the second group."""
        assert self._kept_form is not None, "there is a second group"
        found: Int64s = table.cells[addresses + self._kept_form.place_of(name)]
        return found

    def _session_of(self, table: RowTable, kept: Found, spans: Int64s) -> Int64s:
        """Of each row of the second group the number of its session; -1: it is none of these."""
        times = self._kept_at(table, kept.addresses, TIME)
        return session_of(spans, kept.keys[kept.positions], times)


def session_of(spans: Int64s, keys: Int64s, times: Int64s) -> Int64s:
    """The number of the session of this key that each time is in; -1 where none is.

    Args:
        spans: lines of keys, starts and ends of sessions of which no two of a key overlap.
        keys: of the rows.
        times: of the rows.
    """
    count = spans.shape[1]
    if not count:
        return np.full(len(keys), -1, dtype=np.int64)
    # Stable: of equal times the session's start comes first.
    order = np.lexsort((np.append(spans[1], times), np.append(spans[0], keys)))
    last = np.maximum.accumulate(np.where(order < count, np.arange(len(order)), -1))
    begun = np.empty(len(order), dtype=np.int64)
    begun[order] = np.where(last < 0, -1, order[last])
    begun = begun[count:]
    # One that ends with int64 is cut off there: its end is in it.
    inside = (spans[0][begun] == keys) & ((times < spans[2][begun]) | (spans[2][begun] == ALL))
    found: Int64s = np.where((begun >= 0) & inside, begun, -1)
    return found
