"""A user's own aggregate of sessions: Python functions fold rows, and put sessions together.

Flow: S -> `ProcessStore` -> [SessionFoldProgram] makes one call a key of the rows of a time ->
[SessionFold]: sessions that become one are put together by the user's `merge`, rows are folded by
his function; a timer at a session's end gives it, a later one forgets it where lateness is allowed.

Invariants
  SO1  Sessions, lateness and late rows are those of `session_rows` (SE1, SE2), and a closed session
       is given again once for each time that changed it.
  SO2  Sessions are put together by where they begin, each with what comes behind it, before the
       rows of the time are folded; those in the order of their columns.
  SO3  A key has the timers that its sessions need, and no others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.panes import Panes
from service.statestore.process_program import KeyTimers, ProcessProgram
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import ALL, NEVER
from service.statestore.window_fold import FoldFunction, State, WindowFold

Int64s = NDArray[np.int64]

#: Start and end of a session.
Bounds = tuple[int, int]
#: (what an earlier session accumulated, what a later one did) -> what both did
MergeFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class SessionFoldProgram(ProcessProgram):
    """The program of a fold of sessions; `lateness` is how long a closed one takes rows."""

    gap: int
    #: Whether results have the key.
    grouped: bool

    @property
    def windows(self) -> StoredWindows:
        """As of `FoldProgram`."""
        return StoredWindows("objects", lateness=self.lateness)

    def late_of(
        self, keys: Int64s, times: Int64s, watermark: int, state_of: Callable[[int], Any]
    ) -> NDArray[np.bool_]:
        """Which rows end up in sessions that are forgotten; those of a time are one batch (SE2)."""
        until = watermark if watermark == ALL else max(watermark - self.lateness, NEVER)
        ends = np.minimum(times, ALL - self.gap) + self.gap
        late: NDArray[np.bool_] = ends <= until
        tardy = np.unique(keys[late])
        order = np.argsort(keys, kind="stable")
        first, last = (np.searchsorted(keys[order], tardy, side) for side in ("left", "right"))
        for key, begin, behind in zip(tardy.tolist(), first.tolist(), last.tolist(), strict=True):
            own = order[begin:behind]
            opened = [(time, _end(time, self.gap)) for time in times[own].tolist()]
            sessions = united([*(state_of(key) or {}), *opened])
            starts = [start for start, _ in sessions]
            for row, (time, _) in zip(own.tolist(), opened, strict=True):
                late[row] = sessions[bisect_right(starts, time) - 1][1] <= until
        return late

    def calls_of(
        self, keys: Int64s, times: Int64s, rows: Iterable[Any], timers: KeyTimers
    ) -> Iterable[tuple[int, int, tuple[Any, ...]]]:
        """One call for each key, with its rows and their event times."""
        of_keys: dict[int, list[tuple[int, Any]]] = {}
        for key, time, row in zip(keys.tolist(), times.tolist(), rows, strict=True):
            of_keys.setdefault(key, []).append((time, row))
        return ((key, given[0][0], (given, timers)) for key, given in of_keys.items())

    def told(self, outputs: pa.RecordBatch) -> pa.RecordBatch:
        """Outputs without the key, where all rows have one that the flow made up."""
        return outputs if self.grouped else outputs.drop_columns([self.forms.key])


class SessionFold(WindowFold):
    """The functions that `ProcessStore` calls for a user's two."""

    def __init__(
        self,
        gap: int,
        lateness: int,
        columns: Sequence[str],
        function: FoldFunction,
        merge: MergeFunction,
        initial: Callable[[], Any],
        row_of: Callable[[Sequence[Any]], Any],
    ) -> None:
        """Fold sessions that end `gap` > 0 after their last rows; others as for `WindowFold`."""
        super().__init__(Panes.given(lateness), columns, function, initial, row_of, given=True)
        self._gap, self._merge = gap, merge

    def on_rows(
        self, state: State | None, rows: Sequence[tuple[int, Any]], timers: KeyTimers
    ) -> tuple[State | None, list[Any]]:
        """Fold the rows of a time, each with its event time, none of them late (SO1, SO2)."""
        before = {} if state is None else state
        opened = [(time, _end(time, self._gap)) for time, _ in rows]
        sessions = united([*before, *opened])
        starts = [start for start, _ in sessions]
        state = {}
        for bounds in sorted(before):
            own = sessions[bisect_right(starts, bounds[0]) - 1]
            value = before[bounds]
            state[own] = self._merge(state[own], value) if own in state else value
        changed = set()
        for time, values in rows:
            own = sessions[bisect_right(starts, time) - 1]
            given = state[own] if own in state else self._initial()
            state[own] = self._function(given, self._row_of(values))
            changed.add(own)
        self._wait(state, timers)
        again = sorted(bounds for bounds in changed if bounds[1] <= timers.watermark)
        return state, [self._result(bounds, state[bounds]) for bounds in again]

    def _wait(self, state: State, timers: KeyTimers) -> None:
        """Set what gives and forgets these sessions, and nothing else (SO3)."""
        needed = {end for _, end in state if end > timers.watermark}
        if self._panes.lateness:
            needed.update(self._forgotten_at(bounds) for bounds in state)
        for time in timers.pending:
            if time not in needed:
                timers.cancel(time)
        for time in needed:
            timers.set(time)


def united(spans: Iterable[Bounds]) -> list[Bounds]:
    """The unions of spans that overlap, by start."""
    found: list[Bounds] = []
    for start, end in sorted(spans):
        # One that ends with int64 is cut off there, so nothing begins behind it.
        if found and (start < found[-1][1] or found[-1][1] == ALL):
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _end(time: int, gap: int) -> int:
    return min(time + gap, ALL)
