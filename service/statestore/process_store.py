"""State of any Python kind with timers of event time: a user's two functions, of rows and timers.

Flow: S -> [ProcessStore]: rows in time -> `on_row`, what is due -> `on_timer`; each is given the
state of its key and may set and cancel the key's timers. A bin that moves or is stored: its
objects, each with its timers beside it.

A timer has a time and a key and nothing else: setting it twice is setting it once. The table of
timers is an index, made of the objects whenever a bin comes. Under a budget it stays in memory when
objects leave, and the objects of timers that are due come back some keys at a time.

Invariants
  PS1  A key's timers are kept, moved and stored with its state, as one encoding; a key is kept
       while it has a state or a timer.
  PS2  Timers fire by time and key, those that `on_timer` sets for times already due among them, as
       if each watermark had come alone (TS2 of `timed`). One set by `on_timer` is later than its
       own, so this ends.
  PS3  A row is late if its event time lies more than the allowed lateness below the watermark of
       the time before; `on_row` does not see it.
Cost: see docs/TIME.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.statestore.chunk import BinAssembler
from service.statestore.cold_tier import NO_KEYS, ColdTier
from service.statestore.object_rows import StateCodec
from service.statestore.object_store import ObjectStore
from service.statestore.process_program import Due, KeyTimers, Left, ProcessProgram, ProcessRun
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import FIRED_AT_ONCE, NEVER, TimedRows, joined_rows
from service.statestore.timed_states import Kept, split, with_timers
from service.statestore.timers import TimerTable

Int64s = NDArray[np.int64]


class ProcessStore(ObjectStore):
    """Objects with timers of the vertex named `vertex`."""

    def __init__(
        self, vertex: str, program: ProcessProgram, bin_bits: int, codec: StateCodec
    ) -> None:
        """Make an empty store with 2**bin_bits bins."""
        super().__init__(vertex, program.forms, bin_bits, with_timers(codec))
        self._process = program
        self.pending = TimerTable(bin_bits)
        self._rows.timers = self.pending
        #: Keys whose timers the last `fire` took.
        self.fired: Int64s = np.empty(0, dtype=np.int64)

    @property
    def windows(self) -> StoredWindows | None:
        """How windows are kept, if the program has any."""
        return self._process.windows

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """As `apply_at`, where no watermark is known."""
        return self.apply_at(rows, time, NEVER).rows

    def apply_at(
        self, rows: pa.RecordBatch, time: tuple[int, ...], watermark: int, ahead: int = NEVER
    ) -> TimedRows:
        """Run `on_row` over the rows that are in time (PS3).

        Raises:
            UserFunctionError: a function of the flow raised; the state is lost to this process.
            StateError: as `ObjectStore.apply_rows`.
        """
        program = self._process
        times = program.times_of(rows)
        keys = np.asarray(
            rows.column(program.forms.key).to_numpy(zero_copy_only=False), dtype=np.int64
        )
        absent = NO_KEYS
        if self.tier is not None:
            self.tier.make_room()
            # Before late rows are told apart: the state of their keys may say it.
            absent = self.tier.recall(keys)
        is_late = program.late_of(keys, times, watermark, self._state_of)
        late = None
        if is_late.any():
            late = program.told_late(rows.filter(pa.array(is_late)))
            rows, keys, times = rows.filter(pa.array(~is_late)), keys[~is_late], times[~is_late]
        run = ProcessRun(program, watermark)
        calls = program.calls_of(keys, times, program.forms.given(rows), run.timers)
        told = self._ran(run, keys, rows, time, calls, program.on_row)
        if self.tier is not None:
            self.tier.unmark(absent)
        return TimedRows(told, late)

    def due(self, watermark: int) -> bool:
        """Whether `fire` could give or change something: False if not, True perhaps."""
        return self.pending.due(watermark)

    def fire(
        self, watermark: int, time: tuple[int, ...], bins: frozenset[int] | None = None
    ) -> pa.RecordBatch:
        """Run `on_timer` for what is due at or below `watermark`, of all bins or these (PS2).

        Raises:
            UserFunctionError, StateError: as `apply_at`.
        """
        return joined_rows([*self.firing(watermark, time, bins, self.tier)])

    def firing(
        self,
        watermark: int,
        time: tuple[int, ...],
        bins: frozenset[int] | None = None,
        tier: ColdTier | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """What `fire` gives in parts, at least one; with a `tier` of the objects some keys each."""
        due = self.pending.pop(watermark, bins)
        left = Left(list(zip(due.times.tolist(), due.keys.tolist(), strict=True)))
        schema = pa.schema([(self._process.forms.key, pa.int64())])
        no_rows = pa.RecordBatch.from_pylist([], schema=schema)
        while True:
            part = left.take(None if tier is None else FIRED_AT_ONCE)
            keys = np.unique(np.array([key for _, key in part], dtype=np.int64))
            absent = NO_KEYS
            if tier is not None:
                tier.make_room()
                absent = tier.recall(keys)
            self.fired = keys
            run, on_timer = ProcessRun(self._process, watermark), self._process.on_timer
            assert not part or on_timer is not None, "who sets timers has a function for them"
            calls = self._due_calls(run.timers, part, left, watermark)
            yield self._ran(run, keys, no_rows, time, calls, on_timer or _never)
            if tier is not None:
                tier.unmark(absent)
            if not left:
                return

    def _due_calls(
        self, timers: KeyTimers, part: list[Due], left: Left, watermark: int
    ) -> Iterator[tuple[int, int, tuple[KeyTimers]]]:
        """The calls of these timers, and of those that they set which come before the last one."""
        heap, states, changes = part, self._objects.states, timers._changes
        last = heap[-1] if heap else None
        while heap:
            now, key = heappop(heap)
            kept = states.get(key)
            # Another timer of the key may have cancelled it.
            if not isinstance(kept, Kept) or now not in kept.times:
                continue
            kept.times.discard(now)
            changes.pop((now, key), None)
            timers._after = now
            before = len(changes)
            yield key, now, (timers,)
            # What is due already was set, if at all, by this call, and stands last.
            for change in list(islice(reversed(changes), len(changes) - before)):
                if change[0] <= watermark and changes.pop(change):
                    if last is None or change <= last:
                        heappush(heap, change)
                    else:
                        left.put(change)

    def _state_of(self, key: int) -> Any:
        """The state of a key, in memory if it is anywhere; None: it has none."""
        kept = self._objects.states.get(key)
        return kept.state if isinstance(kept, Kept) else None

    def unused(self, keys: Int64s) -> Int64s:
        """Those of `keys` that have neither state nor timer, repeated as they are given."""
        states = self._objects.states
        return np.array([key for key in keys.tolist() if key not in states], dtype=np.int64)

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """Replace the bin's objects and timers; raises as `ObjectStore.install`."""
        super().install(bin_id, assembler)
        self.pending.delete(bin_id)
        self._index(self._rows.keys_of(bin_id).tolist())
        if self.tier is not None:
            self.index_kept(*self.tier.away_rows(bin_id))

    def delete(self, bin_id: int) -> None:
        """Forget the bin's objects and timers."""
        super().delete(bin_id)
        self.pending.delete(bin_id)

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self.pending.clear()

    def load_rows(self, keys: Int64s, values: Sequence[bytes]) -> None:
        """Add objects and timers that `stored_rows` gave; raises as `ObjectStore.load_rows`."""
        super().load_rows(keys, values)
        self.index_kept(keys, values)

    def index_kept(self, keys: Int64s, values: Sequence[bytes]) -> None:
        """Enter the timers in what is kept of these keys (PS1).

        Raises:
            StateCorrupt: a value is no state with timers.
        """
        try:
            times = [split(value)[1] for value in values]
        except (ValueError, struct.error) as error:
            raise StateCorrupt(f"a state of vertex {self.vertex!r} is damaged: {error}") from error
        self._set(
            [(time, key) for key, own in zip(keys.tolist(), times, strict=True) for time in own]
        )

    def _index(self, keys: Sequence[int]) -> None:
        """Enter the timers of these keys, all in memory (PS1)."""
        states = self._objects.states
        self._set([(time, key) for key in keys for time in _times_of(states[key])])

    def _set(self, timers: Sequence[Due]) -> None:
        if timers:
            times, keys = np.array(timers, dtype=np.int64).T
            self.pending.set(keys.copy(), times.copy())

    def _ran(
        self,
        run: ProcessRun,
        keys: Int64s,
        rows: pa.RecordBatch,
        time: tuple[int, ...],
        calls: Iterable[tuple[int, int, tuple[Any, ...]]],
        function: Callable[..., Any],
    ) -> pa.RecordBatch:
        """Make the calls of one time for these keys; what they give."""
        self._rows.require_whole()
        self._rows.whole = False
        self._changes += 1
        if self.changes is not None:
            self.changes.note(keys)
        try:
            run.calls(self._objects, calls, function)
        except Exception as error:  # a function of a user may raise anything
            raise self._process.forms.failure(time, rows, error, run.at) from error
        given = np.array(run.keys, dtype=np.int64)
        outputs = self._process.forms.gathered(given, run.outputs, rows, time)
        outputs = self._process.told(outputs)
        self._rows.touched(keys.tolist())
        self._note_members()
        changes = run.timers._changes
        for is_set, enter in ((True, self.pending.set), (False, self.pending.cancel)):
            chosen = [each for each, there in changes.items() if there is is_set]
            if chosen:
                times, of_keys = np.array(chosen, dtype=np.int64).T
                enter(of_keys.copy(), times.copy())
        self._rows.whole = True
        if len(keys):
            self._rows.sample(int(keys[-1]), len(keys))
        return outputs


def _times_of(kept: object) -> set[int]:
    assert isinstance(kept, Kept), "states are kept with their timers"
    return kept.times


def _never(*given: object) -> tuple[object, object]:
    raise AssertionError(f"no timer is due where none can be set: {given}")
