"""Aggregates over windows of event time: a few numbers for each key and pane, in an arena.

Flow: S applies the rows of a time -> [WindowStore] folds each into one entry, that of its key and
pane; a watermark closes windows -> the entries of a window's panes are put together, a row for each
key. Moves and checkpoints are those of `VertexStore`: an entry is a row like any other. With a
budget some are on disk (`cold_windows`).

Invariants
  WI1  A window's result is that of all rows that belong to it, whatever batches, epochs and moves
       they came by. Floats are added in the order of panes, and in a pane in that of rows.
  WI2  A window gives a row for each key that has a row in it, once, when it closes; and again for
       rows that come while it is closed and not forgotten, with what it then is.
  WI3  A bin remembers which of its windows it has given, in a row of its own, its *mark*; where
       nothing of a window stays after it was given there is none.
  WI4  What no window needs any more is forgotten as soon as the watermark allows.
Cost: 0.1 us a row; for a window that closes 0.05 us for each entry of its panes and 0.1 us for each
of its keys. No Python per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateError
from service.hashing import bins_of
from service.statestore.aggregate import AggregateProgram
from service.statestore.arena import Int64s
from service.statestore.chunk import BinAssembler
from service.statestore.cold_tier import ColdTier
from service.statestore.cold_windows import ColdWindowTable, Watcher
from service.statestore.slot_database import SlotDatabase
from service.statestore.stored_windows import StoredWindows
from service.statestore.tiered_table import TieredTable
from service.statestore.timed import NEVER, TimedRows
from service.statestore.unapplied import Unapplied
from service.statestore.vertex_store import VertexStore
from service.statestore.window_copying import WindowCopier, WindowGroups
from service.statestore.window_form import Flags, WindowForm
from service.statestore.window_results import WindowResults, among
from service.statestore.window_table import WindowTable


class WindowStore(VertexStore):
    """Aggregates of the windows of the vertex named `vertex`."""

    def __init__(
        self,
        vertex: str,
        form: WindowForm,
        program: AggregateProgram,
        bin_bits: int,
        *,
        outputs: Sequence[str] | None = None,
        hash_bits: int = 64,
    ) -> None:
        """Make an empty store with 2**bin_bits bins.

        Args:
            vertex: its name.
            form: which windows there are.
            program: what is computed; all of it is kept as state.
            bin_bits: 0..20.
            outputs: see `WindowResults`.
            hash_bits: see `WindowTable`.
        """
        identity = form.identity
        columns = (*identity, *program.state_columns)
        super().__init__(vertex, Unapplied(columns), bin_bits)
        self._form = form
        self._panes = form.panes
        self._aggregates = program
        self._windows = WindowTable(self.table, len(identity), hash_bits=hash_bits)
        self._windows.foreign = self._staged
        self.copier = WindowCopier(self, self._next_change)
        self.groups = WindowGroups(self)
        #: End of the last window that each bin has given, where its entries need to know (WI3).
        self._given = np.full(self.bins, NEVER, dtype=np.int64)
        #: The last window given and the last one forgotten, where nothing came that is older.
        self._done: tuple[int, int] | None = None
        #: Keys whose state the last `fire` may have ended, repeated as they like; none with a
        #: budget, where those that are text are forgotten otherwise (`window_texts`).
        self.fired: Int64s = np.empty(0, dtype=np.int64)
        self._results = WindowResults(form, program, outputs)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the output."""
        return self._results.schema

    @property
    def windows(self) -> StoredWindows:
        """How windows are kept: by panes."""
        lengths = self._panes.size, self._panes.every, self._panes.lateness
        return StoredWindows("panes", *lengths, self._aggregates.state_folds, self._results.counted)

    # Rows and watermarks ------------------------------------------------------------------------

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """`apply_at` before any watermark is known."""
        return self.apply_at(rows, time, NEVER).rows

    def apply_at(
        self, rows: pa.RecordBatch, time: tuple[int, ...], watermark: int, ahead: int = NEVER
    ) -> TimedRows:
        """Fold the rows of `time` into their panes; `watermark` is that of the time before (TS1).

        Raises:
            StateError: a sum does not fit into 64 bits, or the table is full; nothing has changed.
        """
        identity, late = self._form.identity_of(rows, watermark)
        told = None
        if late is not None:
            told = self._form.told_late(rows.filter(pa.array(late)))
            rows = rows.filter(pa.array(~late))
            identity = np.ascontiguousarray(identity[:, ~late])
        given: list[pa.RecordBatch] = []
        if rows.num_rows:
            self._fold(rows, identity, watermark)
            given = self._again(identity, watermark)
        return TimedRows(self._joined(given), told if told is None or told.num_rows else None)

    def _fold(self, rows: pa.RecordBatch, identity: Int64s, watermark: int) -> None:
        touched, state = self._windows.touch(identity)
        values = self._aggregates.values_of(rows)
        try:
            self._aggregates.fold(touched.state[0], touched.positions, state, values)
        except StateError:
            self._windows.undo(touched)
            raise
        self.table.store(touched, self._next_change())
        self._windows.enter(touched)
        closed = self._panes.closed(watermark)
        if self._done is not None and closed < self._done[0]:
            self._done = None
        if self._panes.has_memory and len(touched.new):
            bins = bins_of(touched.keys[touched.new], self.bin_bits)
            self._mark(np.unique(bins).astype(np.int64), watermark)

    def _again(self, identity: Int64s, watermark: int) -> list[pa.RecordBatch]:
        """Results of closed windows that rows with these identities have changed (WI2)."""
        closed, forgotten = self._panes.closed(watermark), self._panes.forgotten(watermark)
        if closed == forgotten or not identity.shape[1]:
            return []
        first, _ = self._panes.windows(int(identity[1].min()))
        if first > closed:
            return []
        changed = np.unique(identity, axis=1)
        touched_panes = np.unique(changed[1]).tolist()
        numbers = {
            window
            for pane in touched_panes
            for window in self._panes.windows_within(pane, forgotten + 1, closed)
        }
        found = []
        for window in sorted(numbers):
            panes = self._panes.panes(window)
            of = changed[:, (changed[1] >= panes.start) & (changed[1] < panes.stop)]
            lines = self._of_owners(window, of)
            found.append(self._results.rows(window, lines))
        return found

    def _of_owners(self, window: int, identity: Int64s) -> Int64s:
        """All entries of a window that belong to the results that these identities do."""
        lines = self._windows.lines
        if self._form.value_lines:
            own = self._results.own
            wanted = own(identity)
            ids = [self._windows.ids_near(pane, identity[0]) for pane in self._in(window)]
            parts = [
                part[:, among(own(part[:lines]), wanted)] for part in self._windows.lines_of(ids)
            ]
            return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self._panes.width > 1:
            keys, panes = np.unique(identity[0]), self._in(window)
            identity = np.array([np.tile(keys, len(panes)), np.repeat(panes, len(keys))])
        identity = np.ascontiguousarray(identity)
        found, there = self._windows.read(self._windows.find(identity))
        mine = (found[:lines] == identity[:, there]).all(axis=0)
        return np.ascontiguousarray(found[:, mine])

    def _in(self, window: int) -> list[int]:
        """The panes of a window that may have entries."""
        return [pane for pane in self._panes.panes(window) if pane in self._windows.panes]

    def due(self, watermark: int) -> bool:
        """Whether a window may close or be forgotten at `watermark`."""
        if not len(self._windows):
            return False
        panes = self._panes
        closed, forgotten = panes.closed(watermark), panes.forgotten(watermark)
        if (closed, forgotten) == self._done:
            return False
        first, last = panes.windows(min(self._windows.panes))
        return first <= closed or last <= forgotten

    def fire(
        self, watermark: int, time: tuple[int, ...], bins: frozenset[int] | None = None
    ) -> pa.RecordBatch:
        """Give the windows that are closed at `watermark` and were not given, by (window, key).

        Raises:
            StateError: a sum does not fit into 64 bits.
        """
        return self._joined([*self.firing(watermark, time, bins)])

    def firing(
        self,
        watermark: int,
        time: tuple[int, ...],
        bins: frozenset[int] | None = None,
        tier: ColdTier | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """What `fire` gives, in one part; then, asked for the next, forget what nobody needs."""
        assert tier is None, "the table has its own"
        closed, forgotten = self._panes.closed(watermark), self._panes.forgotten(watermark)
        chosen = None if bins is None else np.isin(np.arange(self.bins), list(bins))
        found, keys = [], []
        for window in self._to_give(closed, chosen):
            parts = []
            for lines in self._windows.lines_of(self._ids(window, chosen)):
                if lines.shape[1]:
                    parts.append(self._results.rows(window, lines))
                    if self.tier is None:
                        keys.append(lines[0])
            if parts:
                found.append(self._results.joined(parts))
        yield self._joined(found)
        if self._panes.has_memory:
            self._mark(np.flatnonzero(self._here(chosen)), watermark)
        keys += self._forget(forgotten, chosen)
        self.fired = np.concatenate(keys) if keys else np.empty(0, dtype=np.int64)
        if bins is None:
            self._done = closed, forgotten

    def _to_give(self, closed: int, chosen: Flags | None) -> list[int]:
        """Windows up to `closed` that some of these bins may not have given, in order."""
        if not self._panes.has_memory:
            return sorted(pane for pane in self._windows.panes if pane <= closed)
        if not len(given := self._given[self._here(chosen)]):
            return []
        first = self._panes.after(int(given.min()))
        numbers: set[int] = set()
        for pane in self._windows.panes:
            numbers.update(self._panes.windows_within(pane, first, closed))
        return sorted(numbers)

    def _ids(self, window: int, chosen: Flags | None) -> list[Int64s]:
        """By panes, the entries of a window in bins that have not given it."""
        parts = []
        _, end = self._panes.bounds(window)
        for pane in self._in(window):
            ids = self._windows.ids_of(pane)
            if chosen is not None or self._panes.has_memory:
                bins = bins_of(ids, self.bin_bits)
                wanted = self._given[bins] < end
                if chosen is not None:
                    wanted &= chosen[bins]
                if not wanted.all():
                    ids = ids[wanted]
            parts.append(ids)
        return parts

    def _joined(self, parts: list[pa.RecordBatch]) -> pa.RecordBatch:
        if len(parts) == 1:
            return parts[0]
        return pa.concat_batches(parts) if parts else self._results.no_rows()

    # What is remembered and forgotten -----------------------------------------------------------

    def _here(self, chosen: Flags | None) -> Flags:
        """Bins with entries, of those chosen, that are not just being copied here."""
        here: Flags = self.table.rows_per_bin() > 0
        if chosen is not None:
            here &= chosen
        if self.copier.staged_bins:
            for bin_id in np.flatnonzero(here).tolist():
                here[bin_id] = self.copier.staged(bin_id) is None
        return here

    def _mark(self, bins: Int64s, watermark: int) -> None:
        """Remember that these bins, which have entries, have given what `watermark` closes."""
        end = self._panes.end_of_closed(watermark)
        bins = bins[self._given[bins] < end]
        if not len(bins):
            return
        self._given[bins] = end
        touched = self.table.touch(self._windows.marks(bins))
        touched.state[0] = end
        self.table.store(touched, self._next_change())

    def _forget(self, forgotten: int, chosen: Flags | None) -> list[Int64s]:
        """Let go what serves no window after `forgotten` (WI4); keys that nobody was given now."""
        first = self._panes.first_kept(forgotten)
        of: Callable[[Int64s], Flags] | None = None
        if chosen is not None:
            bins = chosen

            def of(ids: Int64s) -> Flags:
                found: Flags = bins[bins_of(ids, self.bin_bits)]
                return found

        gone = [pane for pane in self._windows.panes if pane < first]
        self._windows.ending(first, of)
        keys = []
        for pane in gone:
            if self._panes.lateness and self.tier is None:
                keys.append(self._windows.read(self._windows.ids_of(pane))[0][0])
            self._windows.drop(pane, of)
        if gone and self._panes.has_memory:
            self._unmark()
        return keys

    def _unmark(self) -> None:
        """Forget the marks of bins that have nothing else."""
        bins = np.flatnonzero((self.table.rows_per_bin() == 1) & (self._given != NEVER))
        if len(bins):
            self.table.remove(self._windows.marks(bins))
            self._given[bins] = NEVER

    def unused(self, keys: Int64s) -> Int64s:
        """Those of these keys that have no entry, repeated as they are given.

        Cost: a lookup for each key and pane, until none is left; where rows name their windows, a
        look at all entries.
        """
        windows = self._windows
        for pane in [*windows.panes]:
            if not len(keys):
                break
            if windows.lines > 2:
                keys = keys[~np.isin(keys, windows.read(windows.ids_of(pane))[0][0])]
                continue
            identity = np.array([keys, np.full(len(keys), pane)])
            lines, there = windows.read(windows.find(identity))
            used = np.zeros(len(keys), dtype=np.bool_)
            used[there] = (lines[:2] == identity[:, there]).all(axis=0)
            keys = keys[~used]
        return keys

    # Bins that leave and come -------------------------------------------------------------------

    def back_with(
        self, slot: SlotDatabase, number: int, watcher: Watcher | None = None
    ) -> TieredTable:
        """As `VertexStore.back_with`: entries leave and come back; `watcher` is told of them."""
        table = super().back_with(slot, number)
        self._windows = ColdWindowTable(table, self._windows, watcher)
        return table

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """As `VertexStore.install`.

        Raises:
            StateError, StateCorrupt, FormatMismatch: as there; or entries have ids not theirs.
        """
        super().install(bin_id, assembler)
        self.came([bin_id])

    def are_marks(self, ids: Int64s) -> Flags:
        """Which of these ids of entries are of marks (WI3)."""
        return self._windows.are_marks(ids)

    def may_leave(self) -> None:
        """Know that entries may be gone when panes are looked at again."""
        self._windows.left()

    def came(self, bins: Sequence[int]) -> None:
        """Know the entries of bins whose rows were put into the table."""
        numbers = np.array(bins, dtype=np.int64)
        self._windows.left()
        self._done = None
        self._read_marks(numbers)
        self._windows.came(numbers)

    def _read_marks(self, bins: Int64s) -> None:
        lines, there = self._windows.read(self._windows.marks(bins))
        self._given[bins] = NEVER
        self._given[bins[there]] = lines[0]

    def load_rows(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """As `VertexStore.load_rows`; raises StateCorrupt too if entries have ids not theirs."""
        super().load_rows(keys, values)
        cells = np.frombuffer(b"".join(values), dtype="<i8")
        self.index_kept(keys, cells.reshape(len(values), self.stored_bytes // 8))

    def index_kept(self, keys: Int64s, cells: Int64s) -> None:
        """Know entries and marks, which are here or away, from what is kept of them, a line each.

        Raises:
            StateCorrupt: entries have ids not theirs.
        """
        cells = np.ascontiguousarray(cells[:, 1:].T, dtype=np.int64)
        marks = self._windows.are_marks(keys)
        self._given[bins_of(keys[marks], self.bin_bits)] = cells[0, marks]
        self._windows.loaded(keys, cells[: self._windows.lines])
        self._done = None

    def delete(self, bin_id: int) -> None:
        """Forget the bin's entries."""
        super().delete(bin_id)
        self._windows.left()
        self._given[bin_id] = NEVER

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._windows.clear()
        self._given[:] = NEVER

    def _staged(self, ids: Int64s) -> Flags | None:
        if not self.copier.staged_bins:
            return None
        bins = bins_of(ids, self.bin_bits)
        staged = [number for number in np.unique(bins).tolist() if self.copier.staged(number)]
        found: Flags = np.isin(bins, staged)
        return found
