"""A user's function over rows and the state of their keys, one row after the other.

Flow: S -> ObjectStore -> [StatefulMap], one tight loop a batch: columns become lists once, the
function runs per row, outputs are gathered and become one Arrow array per column.

Invariants
  SM1  The function sees the rows of a key in the order of the batch, each with the state that the
       one before it left.
  SM2  Outputs leave in the order of the rows they came of; None is no output.
  SM3  A function that raises, or returns what the declared columns cannot hold, is named with
       vertex, time, size of the batch and key.
Cost [measured, one core, 10,000 rows a batch over 1,000 keys]: see docs/KEYED_STATE.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from operator import itemgetter
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import UserFunctionError
from service.statestore.columns import KEY_ID, numbers_of
from service.statestore.object_rows import Objects

#: (state, row) -> (state, output); what rows and outputs are is for the user to say.
StateFunction = Callable[[Any, Any], tuple[Any, Any]]
#: One column's value, a tuple of several columns', or, for None, a dict of all.
RowForm = str | tuple[str, ...] | None


@dataclass(slots=True)
class _Place:
    """Where the loop is."""

    key: int | None = None


@dataclass(frozen=True)
class StatefulMap:
    """A function with state, and the forms of its rows and outputs."""

    vertex: str
    key: str
    function: StateFunction
    #: What the function is given of a row.
    value: RowForm
    #: Columns of the output, without the key.
    outputs: pa.Schema
    #: Makes the state of a new key; None: the function is given None.
    initial: Callable[[], Any] | None = None
    #: Whether the function's output is any number of rows.
    flat: bool = False

    def apply(
        self, objects: Objects, keys: list[int], rows: pa.RecordBatch, time: tuple[int, ...]
    ) -> pa.RecordBatch:
        """Run the function over the rows (SM1).

        Raises:
            UserFunctionError: SM3; the states are then changed by some of the rows.
        """
        outputs: list[Any] = []
        at = _Place()
        try:
            self._run(objects, keys, rows, outputs, at)
        except Exception as error:  # a function of a user may raise anything
            raise self.failure(time, rows, _explained(error), at.key) from error
        of_rows = numbers_of(rows, self.key).view(np.int64)
        if self.flat:
            counts = np.fromiter(map(len, outputs), np.int64, len(outputs))
            of_rows = np.repeat(of_rows, counts)
            outputs = list(chain.from_iterable(outputs))
        return self.gathered(of_rows, outputs, rows, time)

    def _run(
        self,
        objects: Objects,
        keys: list[int],
        rows: pa.RecordBatch,
        outputs: list[Any],
        at: _Place,
    ) -> None:
        """The loop over the rows: every name in it is local, for that is what Python is fast at."""
        function = _listing(self.function) if self.flat else self.function
        initial = self.initial
        states = objects.states
        find, came, went, gather = states.get, objects.came, objects.went, outputs.append
        key = None
        try:
            for key, row in zip(keys, self.given(rows)):
                state = find(key)
                if state is None:
                    came.append(key)
                    if initial is not None:
                        state = initial()
                state, output = function(state, row)
                if state is None:
                    states.pop(key, None)
                    went.append(key)
                else:
                    states[key] = state
                gather(output)
        finally:
            at.key = key

    def given(self, rows: pa.RecordBatch) -> Iterable[Any]:
        """Rows in the form the function takes."""
        if isinstance(self.value, str):
            return listed(rows.column(self.value))
        if self.value is not None:
            return zip(*(listed(rows.column(name)) for name in self.value), strict=True)
        names = [name for name in rows.schema.names if name != KEY_ID]
        columns = (listed(rows.column(name)) for name in names)
        return (dict(zip(names, row)) for row in zip(*columns, strict=True))

    def gathered(
        self,
        keys: NDArray[np.int64],
        outputs: list[Any],
        rows: pa.RecordBatch,
        time: tuple[int, ...],
    ) -> pa.RecordBatch:
        """Outputs as columns of the declared types, those that are None left out (SM2, SM3).

        Raises:
            UserFunctionError: one does not fit.
        """
        single = len(self.outputs) == 1
        if not single:
            there = [output is not None for output in outputs]
            keys = keys[np.array(there, dtype=np.bool_)]
            outputs = list(compress(outputs, there))
        try:
            columns = _columns_of(outputs, self.outputs.names)
            arrays = [
                pa.array(column, field.type)
                for column, field in zip(columns, self.outputs, strict=True)
            ]
        except _UNFITTING as error:
            key, cause = self._unfitting(keys, outputs)
            raise self.failure(time, rows, cause or error, key) from error
        if single and arrays[0].null_count:
            keys = keys[arrays[0].is_valid().to_numpy(zero_copy_only=False)]
            arrays = [arrays[0].drop_null()]
        schema = pa.schema([pa.field(self.key, pa.int64()), *self.outputs])
        return pa.RecordBatch.from_arrays([pa.array(keys), *arrays], schema=schema)

    def _unfitting(
        self, keys: NDArray[np.int64], outputs: list[Any]
    ) -> tuple[int | None, Exception | None]:
        """The first key whose output does not fit, and why."""
        for key, output in zip(keys.tolist(), outputs, strict=True):
            for field in self.outputs:
                try:
                    columns = _columns_of([output], self.outputs.names)
                    pa.array(columns[self.outputs.names.index(field.name)], field.type)
                except _UNFITTING as error:
                    text = (
                        f"its output {output!r} does not fit column {field.name!r} of type "
                        f"{field.type} ({error})"
                    )
                    return key, TypeError(text)
        return None, None

    def failure(
        self, time: tuple[int, ...], rows: pa.RecordBatch, error: Exception, key: int | None
    ) -> UserFunctionError:
        """What is raised where a function of `key` raised, at `time`, in a batch like `rows`."""
        columns = dict(zip(rows.schema.names, map(str, rows.schema.types), strict=True))
        return UserFunctionError(self.vertex, time, rows.num_rows, columns, error, key=key)


def _listing(function: StateFunction) -> StateFunction:
    """`function` with its outputs as a list: a generator runs where its key is known."""

    def listing(state: Any, row: Any) -> tuple[Any, Any]:
        state, outputs = function(state, row)
        return state, () if outputs is None else list(outputs)

    return listing


#: What Arrow and this file raise at outputs that the declared columns cannot hold.
_UNFITTING = (pa.ArrowException, TypeError, ValueError, OverflowError, LookupError)


def _columns_of(outputs: list[Any], names: list[str]) -> Sequence[Sequence[Any]]:
    """Outputs by column: values if there is one column, else tuples in order or dicts by name."""
    if len(names) == 1:
        return [outputs]
    kinds = set(map(type, outputs))
    if all(issubclass(kind, tuple) for kind in kinds):
        if set(map(len, outputs)) - {len(names)}:
            raise ValueError(f"an output must be a tuple of {len(names)} values, {names}")
        # Not `zip(*outputs)`: it makes an iterator a row, and the garbage collector follows each.
        return [list(map(itemgetter(place), outputs)) for place in range(len(names))]
    if all(issubclass(kind, dict) for kind in kinds):
        return [[output[name] for output in outputs] for name in names]
    raise TypeError(f"outputs must be all tuples or all dicts of {names}")


def _explained(error: Exception) -> Exception:
    """Say what was expected where it was not the function that failed but its result."""
    raised_in = [frame.tb_frame.f_code for frame in _frames(error.__traceback__)][-1]
    ours = raised_in.co_filename == _listing.__code__.co_filename and "unpack" in str(error)
    if not (ours and isinstance(error, TypeError | ValueError)):
        return error
    return TypeError(f"it must return a pair, (state, output): {error}")


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def listed(column: pa.Array) -> list[Any]:
    """A column as Python values. Cost: 10 ns a value of numbers without nulls, else 50 or more."""
    kind = column.type
    if column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        return values
    others: list[Any] = column.to_pylist()
    return others
