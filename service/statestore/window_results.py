"""What a window gives: the entries of its panes put together, a row for each key.

Flow: `WindowStore` reads the entries of a window -> [WindowResults] -> rows of the output.

Invariants
  WU1  Which rows come, their values and their order depend on the entries and on nothing else, so
       not on the order in which those were read. Floats are added pane by pane.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore import _window_kernels as kernels
from service.statestore.aggregate import AggregateProgram
from service.statestore.columns import numbers_of
from service.statestore.window_form import END, START, WindowForm

Int64s = NDArray[np.int64]


class WindowResults:
    """Makes the rows of windows."""

    def __init__(
        self, form: WindowForm, program: AggregateProgram, outputs: Sequence[str] | None = None
    ) -> None:
        """Give `outputs`, by default all that the program has.

        Of those a name that the program does not have is the number of different values.
        """
        self._form = form
        self._program = program
        self._names = list(program.output_types if outputs is None else outputs)
        kinds = program.output_types
        #: The name of the number of different values; empty if that is not given.
        self.counted = next((name for name in self._names if name not in kinds), "")
        named = [(name, pa.int64()) for name in form.names]
        given = [(name, kinds.get(name, pa.int64())) for name in self._names]
        #: Columns of the output.
        self.schema = pa.schema([*named, *given])
        self._lines = len(form.identity)
        #: Lines of an identity that are those of a result.
        self._own = [0, 2] if form.names_start else [0]
        self._values = slice(self._lines - form.value_lines, self._lines)
        self._merges = form.panes.width > 1 or form.value_lines > 0
        self._sorts = program.is_order_sensitive and form.value_lines > 0

    def no_rows(self) -> pa.RecordBatch:
        """A batch without rows."""
        return pa.RecordBatch.from_pylist([], schema=self.schema)

    def own(self, identity: Int64s) -> Int64s:
        """What of identities tells results of one window apart."""
        return np.ascontiguousarray(identity[self._own])

    def rows(self, window: int, lines: Int64s) -> pa.RecordBatch:
        """The rows of a window whose panes have these entries, pane by pane; by key (WU1)."""
        if self._sorts:
            # In a pane a key has an entry for each value, which were read in any order.
            lines = lines[:, np.lexsort((*lines[: self._lines], lines[1]))]
        identity, state = lines[: self._lines], lines[self._lines :]
        own = self.own(identity)
        counts = None
        if self._merges:
            own, positions = grouped(own)
            if self._form.value_lines:
                counts = self._counted(identity, positions, own.shape[1])
            state = self._program.merge(own[0], positions, state)
        order = np.argsort(own[0]) if len(own) == 1 else np.lexsort(own[::-1])
        own = own[:, order]
        columns = self._program.outputs_of(np.ascontiguousarray(state[:, order]))
        given = dict(zip(self._program.output_types, columns, strict=True))
        start, end = self._form.panes.bounds(window)
        starts = np.full(len(order), start, dtype=np.int64)
        if self._form.time is None:
            starts = own[-1]
        named = {
            self._form.key: pa.array(own[0]),
            START: pa.array(starts),
            END: pa.array(np.full(len(order), end, dtype=np.int64)),
        }
        if counts is not None:
            given |= {name: pa.array(counts[order]) for name in self._names if name not in given}
        return pa.RecordBatch.from_arrays(
            [*(named[name] for name in self._form.names), *(given[name] for name in self._names)],
            schema=self.schema,
        )

    def joined(self, parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        """The rows of a window, at least one part, of which none has a result of another; by key.

        What `rows` gives of all their entries at once (WU1).
        """
        if len(parts) == 1:
            return parts[0]
        rows = pa.concat_batches(parts)
        own = [START] if self._form.key == START else [START, self._form.key]
        order = np.lexsort([numbers_of(rows, name) for name in own])
        return rows.take(pa.array(order))

    def _counted(self, identity: Int64s, positions: NDArray[np.int32], results: int) -> Int64s:
        """How many different values each result has."""
        if self._form.panes.width > 1:
            pairs = np.concatenate((positions[None].astype(np.int64), identity[self._values]))
            positions = grouped(pairs)[0][0].astype(np.int32)
        return np.bincount(positions, minlength=results).astype(np.int64)


def grouped(lines: Int64s) -> tuple[Int64s, NDArray[np.int32]]:
    """The distinct columns of lines, in order of first occurrence, and each one's number."""
    rows = lines.shape[1]
    room = np.full(1 << (2 * rows).bit_length(), -1, dtype=np.int32)
    positions = np.empty(rows, dtype=np.int32)
    found = np.empty(rows, dtype=np.int64)
    lines = np.ascontiguousarray(lines)
    if len(lines) == 1:
        count = kernels.number(lines[0], room, positions, found)
        return found[:count][None], positions
    count = kernels.group(lines, room, positions, found)
    return np.ascontiguousarray(lines[:, found[:count]]), positions


def among(lines: Int64s, some: Int64s) -> NDArray[np.bool_]:
    """Which columns of `lines` are among those of `some`."""
    _, positions = grouped(np.concatenate((some, lines), axis=1))
    wanted = np.zeros(int(positions.max(initial=-1)) + 1, dtype=np.bool_)
    wanted[positions[: some.shape[1]]] = True
    found: NDArray[np.bool_] = wanted[positions[some.shape[1] :]]
    return found
