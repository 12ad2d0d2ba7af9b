"""A user's own aggregate of windows: a Python function folds the rows of each window.

Flow: S -> `ProcessStore` -> [WindowFold]: for each row and window it is in, the user's function;
a timer at the window's end gives the result, a later one forgets it where lateness is allowed.

Invariants
  WO1  Windows, lateness and late rows are as those of `WindowStore` (PA2 of `panes`, WF1); but a
       closed window is given again for each row that it takes, not for each time. Of sessions
       `session_fold` says it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateError
from service.statestore.panes import Panes
from service.statestore.process_program import KeyTimers, ProcessProgram
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import ALL, NEVER
from service.statestore.window_form import WindowForm

Int64s = NDArray[np.int64]

#: (accumulated, row) -> accumulated
FoldFunction = Callable[[Any, Any], Any]
#: Of a key: accumulated, by start and end of the window.
State = dict[tuple[int, int], Any]


@dataclass(frozen=True)
class FoldProgram(ProcessProgram):
    """The program of a fold; rows are late by their windows."""

    form: WindowForm

    @property
    def windows(self) -> StoredWindows:
        """Of a key, what is accumulated by start and end."""
        return StoredWindows("objects", lateness=self.form.panes.lateness)

    def late_of(
        self, keys: Int64s, times: Int64s, watermark: int, state_of: Callable[[int], Any]
    ) -> NDArray[np.bool_]:
        """Which rows are late for all of their windows."""
        panes = self.form.panes
        first = panes.first_kept(panes.forgotten(watermark))
        if first > ALL:
            return np.ones(len(times), dtype=np.bool_)
        late: NDArray[np.bool_] = times // panes.pane < max(first, NEVER)
        return late

    def told_late(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Late rows, each once (WF2)."""
        return self.form.told_late(rows)


class WindowFold:
    """The functions that `ProcessStore` calls for a user's one."""

    def __init__(
        self,
        panes: Panes,
        columns: Sequence[str],
        function: FoldFunction,
        initial: Callable[[], Any],
        row_of: Callable[[Sequence[Any]], Any],
        *,
        given: bool,
        bounds: int = 2,
    ) -> None:
        """Fold rows of windows.

        Args:
            panes: the windows.
            columns: of a result.
            function: the user's.
            initial: makes what is accumulated before the first row.
            row_of: what the function is given, from the values that are read of a row.
            given: whether a row's first two values are its window's start and end.
            bounds: how many of a window's start and end a result begins with, from the end: 1
                where the key is the start.
        """
        self._panes = panes
        self._columns = tuple(columns)
        self._function, self._initial, self._row_of = function, initial, row_of
        self._given = given
        self._first = 2 - bounds

    def on_row(
        self, state: State | None, values: Sequence[Any], timers: KeyTimers
    ) -> tuple[State | None, list[Any]]:
        """Fold a row into each of its windows that is not forgotten."""
        state = {} if state is None else state
        row = self._row_of(values)
        outputs = []
        for bounds in self._windows(values, timers):
            before = state[bounds] if bounds in state else self._initial()
            state[bounds] = self._function(before, row)
            if bounds[1] <= timers.watermark:
                outputs.append(self._result(bounds, state[bounds]))
            else:
                timers.set(bounds[1])
            if self._panes.lateness:
                timers.set(self._forgotten_at(bounds))
        return state or None, outputs

    def on_timer(self, state: State | None, timers: KeyTimers) -> tuple[State | None, list[Any]]:
        """Give the windows that end now, and forget those that nothing can change."""
        state = {} if state is None else state
        ending = sorted(bounds for bounds in state if bounds[1] == timers.now)
        outputs = [self._result(bounds, state[bounds]) for bounds in ending]
        kept = {
            bounds: value
            for bounds, value in state.items()
            if self._forgotten_at(bounds) > timers.now
        }
        return kept or None, outputs

    def _windows(self, values: Sequence[Any], timers: KeyTimers) -> list[tuple[int, int]]:
        if self._given:
            return [(values[0], values[1])]
        panes = self._panes
        first, last = panes.windows(timers.now // panes.pane)
        first = max(first, panes.forgotten(timers.watermark) + 1)
        return [panes.bounds(window) for window in range(first, last + 1)]

    def _forgotten_at(self, bounds: tuple[int, int]) -> int:
        return min(bounds[1] + self._panes.lateness, ALL)

    def _result(self, bounds: tuple[int, int], value: Any) -> tuple[Any, ...]:
        if len(self._columns) == 1:
            return (*bounds[self._first :], value)
        values = [value[name] for name in self._columns] if isinstance(value, dict) else value
        if not isinstance(values, list | tuple) or len(values) != len(self._columns):
            raise StateError(
                f"a fold of columns {list(self._columns)} accumulated {value!r}; it must be a "
                "tuple in their order, or a dict"
            )
        return (*bounds[self._first :], *values)
