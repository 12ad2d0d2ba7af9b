"""What a user's two functions of `process` are given and called with: their program and its runs.

Flow: `ProcessStore` -> [ProcessRun] -> `on_row` and `on_timer`, with [KeyTimers] pointed at one key
after the other; timers that are due and not fired yet are [Left].

Invariants
  PP1  A function sees the timers of its key and of no other, and sets none that is not later than
       its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.object_rows import Objects
from service.statestore.stateful_map import RowForm, StatefulMap
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import NEVER
from service.statestore.timed_states import Kept

Int64s = NDArray[np.int64]

#: (state, row, timers) -> (state, outputs)
RowFunction = Callable[[Any, Any, "KeyTimers"], tuple[Any, Any]]
#: (state, timers) -> (state, outputs)
TimerFunction = Callable[[Any, "KeyTimers"], tuple[Any, Any]]


#: Time and key.
Due = tuple[int, int]


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

    def late_of(
        self, keys: Int64s, times: Int64s, watermark: int, state_of: Callable[[int], Any]
    ) -> NDArray[np.bool_]:
        """Which rows of these keys and event times are late (PS3).

        `state_of` gives the state of any of the keys, None if there is none.
        """
        late: NDArray[np.bool_] = times < max(NEVER, watermark - self.lateness)
        return late

    def told_late(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """What of late rows is told."""
        return rows

    def calls_of(
        self, keys: Int64s, times: Int64s, rows: Iterable[Any], timers: KeyTimers
    ) -> Iterable[tuple[int, int, tuple[Any, ...]]]:
        """The calls of `on_row`: key, event time, and what it is given behind the state."""
        return zip(keys.tolist(), times.tolist(), ((row, timers) for row in rows))

    def told(self, outputs: pa.RecordBatch) -> pa.RecordBatch:
        """What of outputs, which have the key before them, leaves."""
        return outputs

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


class ProcessRun:
    """One call of the program: a batch of rows, or the timers that are due."""

    def __init__(self, program: ProcessProgram, watermark: int) -> None:
        """Begin one whose functions see this watermark."""
        self.program = program
        self.timers = KeyTimers()
        self.timers.watermark = watermark
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


class Left:
    """Timers that are due and not fired yet: those that were, in order, and those set since."""

    def __init__(self, due: list[Due]) -> None:
        """Begin with timers that were due, in order."""
        self._due = due
        self._at = 0
        self._since: list[Due] = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._at < len(self._due) or bool(self._since)

    def put(self, timer: Due) -> None:
        """Add one that was set since."""
        heappush(self._since, timer)

    def take(self, most: int | None) -> list[Due]:
        """The first ones, in order; all if `most` is None."""
        due, since = self._due, self._since
        taken: list[Due] = []
        while self and (most is None or len(taken) < most):
            if since and (self._at == len(due) or since[0] < due[self._at]):
                taken.append(heappop(since))
            else:
                taken.append(due[self._at])
                self._at += 1
        return taken
