"""State of any Python kind with timers of event time: a user's two functions, of rows and timers.

Flow: S -> [ProcessStore]: rows in time -> `on_row`, what is due -> `on_timer`; each is given the
state of its key and may set and cancel the key's timers. A bin that moves or is stored: its
objects, each with its timers beside it.

A timer has a time and a key and nothing else: setting it twice is setting it once. The table of
timers is an index, made of the objects whenever a bin comes.

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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import NotYetSupported
from service.statestore.chunk import BinAssembler
from service.statestore.object_rows import Objects, StateCodec
from service.statestore.object_store import ObjectStore
from service.statestore.slot_database import SlotDatabase
from service.statestore.stateful_map import RowForm, StatefulMap
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import NEVER, TimedRows
from service.statestore.timed_states import Kept, with_timers
from service.statestore.timers import TimerTable

Int64s = NDArray[np.int64]

#: (state, row, timers) -> (state, outputs)
RowFunction = Callable[[Any, Any, "KeyTimers"], tuple[Any, Any]]
#: (state, timers) -> (state, outputs)
TimerFunction = Callable[[Any, "KeyTimers"], tuple[Any, Any]]


class KeyTimers:
    """The timers of one key, as the functions of `process` see them.

    Attributes:
        now: event time of the row, or the time of the timer, that the function is called for.
        watermark: no row with an earlier event time is expected, unless lateness is allowed.
    """

    __slots__ = ("_after", "_changes", "_key", "_times", "now", "watermark")

    def __init__(self) -> None:
        """Made once a batch; the store points it at one key after the other."""
        self.now = NEVER
        self.watermark = NEVER
        self._key = 0
        self._times: set[int] = set()
        #: Timers set are later than this.
        self._after = NEVER
        self._changes: dict[tuple[int, int], bool] = {}

    def set(self, time: int) -> None:
        """Have the timer function called when the watermark reaches `time`, in the stream's unit.

        A timer of the past fires at once. Setting it again changes nothing.

        Raises:
            ValueError: `on_timer` set one that is not later than its own.
        """
        if time <= self._after:
            raise ValueError(
                f"on_timer at {self.now} set a timer at {time}; it must be later than its own"
            )
        if time not in self._times:
            self._times.add(time)
            self._changes[time, self._key] = True

    def cancel(self, time: int) -> None:
        """Take a timer back; one that is not set is passed over."""
        if time in self._times:
            self._times.discard(time)
            self._changes[time, self._key] = False

    @property
    def pending(self) -> tuple[int, ...]:
        """Times of the timers that are set, ascending."""
        return tuple(sorted(self._times))


@dataclass(frozen=True)
class ProcessProgram:
    """A function of rows, one of timers, and the forms of rows and outputs."""

    #: What rows, states and outputs look like; its own function is never called.
    forms: StatefulMap
    on_row: RowFunction
    on_timer: TimerFunction | None
    #: The column of event times, and what is added to it.
    time: str
    offset: int
    #: How far below the watermark a row is not late.
    lateness: int

    @property
    def windows(self) -> StoredWindows | None:
        """How windows are kept; none are."""
        return None

    def late_of(self, times: Int64s, watermark: int) -> NDArray[np.bool_]:
        """Which rows of these event times are late (PS3)."""
        late: NDArray[np.bool_] = times < max(NEVER, watermark - self.lateness)
        return late

    def times_of(self, rows: pa.RecordBatch) -> Int64s:
        """Event times of rows, which have no nulls."""
        column = rows.column(self.time).view(pa.int64())
        times: Int64s = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)
        return times + self.offset if self.offset else times


def forms_of(
    vertex: str,
    key: str,
    value: RowForm,
    outputs: pa.Schema,
    initial: Callable[[], Any] | None,
) -> StatefulMap:
    """The forms of rows and outputs of a program; see `StatefulMap`."""

    def never(state: Any, row: Any) -> tuple[Any, Any]:
        raise AssertionError(f"a program calls its own functions, not this for {state} and {row}")

    return StatefulMap(vertex, key, never, value, outputs, initial, flat=True)


class _Run:
    """One call of the program: a batch of rows, or the timers that are due."""

    def __init__(self, program: ProcessProgram, timers: KeyTimers) -> None:
        self.program = program
        self.timers = timers
        self.keys: list[int] = []
        self.outputs: list[Any] = []
        self.at: int | None = None

    def calls(
        self,
        objects: Objects,
        calls: Iterable[tuple[int, int, tuple[Any, ...]]],
        function: Callable[..., Any],
    ) -> None:
        """Call `function` for each (key, event time, what it is given behind the state).

        Each key's state is what its last call returned; every name in the loop is local.
        """
        states, came, went = objects.states, objects.came, objects.went
        find, timers, initial = states.get, self.timers, self.program.forms.initial
        keys, outputs = self.keys, self.outputs
        key = None
        try:
            for key, now, given in calls:
                kept: Any = find(key)
                if kept is None:
                    came.append(key)
                    states[key] = kept = Kept(None if initial is None else initial(), set())
                timers._key, timers._times, timers.now = key, kept.times, now
                result = function(kept.state, *given)
                if not (isinstance(result, tuple) and len(result) == 2):
                    raise TypeError(f"it must return a pair, (state, outputs), not {result!r}")
                kept.state, told = result
                if kept.state is None and not kept.times:
                    del states[key]
                    went.append(key)
                if told is not None:
                    for output in told:
                        keys.append(key)
                        outputs.append(output)
        finally:
            self.at = key


class ProcessStore(ObjectStore):
    """Objects with timers of the vertex named `vertex`."""

    def __init__(
        self, vertex: str, program: ProcessProgram, bin_bits: int, codec: StateCodec
    ) -> None:
        """Make an empty store with 2**bin_bits bins."""
        super().__init__(vertex, program.forms, bin_bits, with_timers(codec))
        self._process = program
        self.pending = TimerTable(bin_bits)
        #: Keys whose timers the last `fire` took.
        self.fired: Int64s = np.empty(0, dtype=np.int64)

    @property
    def windows(self) -> StoredWindows | None:
        """How windows are kept, if the program has any."""
        return self._process.windows

    def back_with(self, slot: SlotDatabase, number: int) -> None:
        """Refuse: what has timers stays in memory.

        Raises:
            NotYetSupported: always.
        """
        raise NotYetSupported(
            f"--state-memory for {self.vertex!r}, whose state has timers,", "leave the option out"
        )

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
        is_late = program.late_of(times, watermark)
        late = None
        if is_late.any():
            late = rows.filter(pa.array(is_late))
            rows, times = rows.filter(pa.array(~is_late)), times[~is_late]
        keys = np.asarray(
            rows.column(program.forms.key).to_numpy(zero_copy_only=False), dtype=np.int64
        )
        timers = KeyTimers()
        timers.watermark = watermark
        run = _Run(program, timers)

        def each_row() -> None:
            given = ((row, timers) for row in program.forms.given(rows))
            run.calls(self._objects, zip(keys.tolist(), times.tolist(), given), program.on_row)

        return TimedRows(self._ran(run, keys, rows, time, each_row), late)

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
        due = self.pending.pop(watermark, bins)
        self.fired = due.keys
        timers = KeyTimers()
        timers.watermark = watermark
        run = _Run(self._process, timers)
        heap = list(zip(due.times.tolist(), due.keys.tolist(), strict=True))
        heapify(heap)

        on_timer, states, changes = self._process.on_timer, self._objects.states, timers._changes

        def calls() -> Iterator[tuple[int, int, tuple[KeyTimers]]]:
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
                        heappush(heap, change)

        def each_timer() -> None:
            if heap:
                assert on_timer is not None, "who sets timers has a function for them"
                run.calls(self._objects, calls(), on_timer)

        rows = pa.RecordBatch.from_pylist(
            [], schema=pa.schema([(self._process.forms.key, pa.int64())])
        )
        return self._ran(run, due.keys, rows, time, each_timer)

    def unused(self, keys: Int64s) -> Int64s:
        """Those of `keys` that have neither state nor timer, repeated as they are given."""
        states = self._objects.states
        return np.array([key for key in keys.tolist() if key not in states], dtype=np.int64)

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """Replace the bin's objects and timers; raises as `ObjectStore.install`."""
        super().install(bin_id, assembler)
        self.pending.delete(bin_id)
        self._index(self._rows.keys_of(bin_id).tolist())

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
        self._index(keys.tolist())

    def _ran(
        self,
        run: _Run,
        keys: Int64s,
        rows: pa.RecordBatch,
        time: tuple[int, ...],
        calls: Callable[[], None],
    ) -> pa.RecordBatch:
        """Make the calls of one time for these keys; what they give."""
        self._rows.require_whole()
        self._rows.whole = False
        self._changes += 1
        if self.changes is not None:
            self.changes.note(keys)
        try:
            calls()
        except Exception as error:  # a function of a user may raise anything
            raise self._process.forms.failure(time, rows, error, run.at) from error
        given = np.array(run.keys, dtype=np.int64)
        outputs = self._process.forms.gathered(given, run.outputs, rows, time)
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

    def _index(self, keys: Sequence[int]) -> None:
        """Enter the timers of these keys, all in memory (PS1)."""
        states = self._objects.states
        entries = [
            (time, key)
            for key in keys
            if isinstance(kept := states.get(key), Kept)
            for time in kept.times
        ]
        if entries:
            times, of_keys = np.array(entries, dtype=np.int64).T
            self.pending.set(of_keys.copy(), times.copy())
