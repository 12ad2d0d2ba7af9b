"""Running aggregates: what is kept for each key, and how a batch changes it.

Flow: the users' `aggregate(...)` -> specs -> [AggregateProgram] -> S applies each batch to its
table -> one output row per distinct key of the batch.

Invariants
  G1  Output rows are in order of first occurrence of their keys in the batch, with the values after
      the whole batch.
  G2  State after a run of rows does not depend on where batches were cut, float sums included.
  G3  An int64 sum that does not fit is an error, never a wrong number; a sum that only passes
      through the end within a batch and comes back is exact.
  G4  A batch that fails changes no aggregate, though its new keys stay, with initial values.
  G5  NaN poisons a sum, and is ignored by maximum and minimum.
  G6  Greatest and least values have their column's type; a sum is int64, float64 or a duration.
Cost: one cache-missing access per distinct key, one pass over the rows per aggregate, no Python per
row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateError, UsageError
from service.statestore import _folds
from service.statestore.arena import KeyedTable, Touched
from service.statestore.columns import ColumnSpec, ColumnType, Values, numbers_of
from service.statestore.number_types import KEPT, NumberType, number_type

_INT64 = np.iinfo(np.int64)
_LEAST: dict[ColumnType, int | float] = {"int64": int(_INT64.min), "float64": -np.inf}
_GREATEST: dict[ColumnType, int | float] = {"int64": int(_INT64.max), "float64": np.inf}


@dataclass(frozen=True, slots=True)
class Count:
    """Number of rows of the key."""

    kept: ClassVar[bool] = True
    column: ClassVar[None] = None

    def initial(self, dtype: ColumnType) -> int | float:
        """Value before the first row."""
        return 0


@dataclass(frozen=True, slots=True)
class Sum:
    """Sum of `column` over the rows of the key."""

    column: str
    kept: ClassVar[bool] = True

    def initial(self, dtype: ColumnType) -> int | float:
        """Value before the first row."""
        return 0


@dataclass(frozen=True, slots=True)
class Max:
    """Greatest value of `column` over the rows of the key."""

    column: str
    kept: ClassVar[bool] = True

    def initial(self, dtype: ColumnType) -> int | float:
        """Value before the first row."""
        return _LEAST[dtype]


@dataclass(frozen=True, slots=True)
class Min:
    """Least value of `column` over the rows of the key."""

    column: str
    kept: ClassVar[bool] = True

    def initial(self, dtype: ColumnType) -> int | float:
        """Value before the first row."""
        return _GREATEST[dtype]


@dataclass(frozen=True, slots=True)
class Oldest:
    """Least value of `column` over the rows of the key in this batch; not kept in state."""

    column: str
    kept: ClassVar[bool] = False

    def initial(self, dtype: ColumnType) -> int | float:
        """Value before the first row of each batch."""
        return _GREATEST[dtype]


Aggregate = Count | Sum | Max | Min | Oldest


class AggregateProgram:
    """Aggregates under their output names, bound to the types of the input columns."""

    def __init__(
        self,
        key: str,
        outputs: Mapping[str, Aggregate],
        dtypes: Mapping[str, pa.DataType | str],
    ) -> None:
        """Bind `outputs` (output name -> aggregate) to input columns.

        Args:
            key: name of the int64 key column, the first column of the output.
            outputs: at least one; their order is the order of the output's columns.
            dtypes: type of each input column, as Arrow's or as "int64" or "float64"; columns that
                no aggregate reads are ignored.

        Raises:
            UsageError: an aggregate reads a column that is missing or of a type that it cannot
                read; an output has the key's name; there is no output.
        """
        self.key = key
        self.outputs = dict(outputs)
        #: Output name -> type that is kept, in order; the key column is not among them.
        self.output_dtypes: dict[str, ColumnType] = {}
        #: Output name -> how what is kept becomes a column of the output.
        self._outputs: dict[str, NumberType] = {}
        #: Input column -> how it is read.
        self._inputs: dict[str, NumberType] = {}
        if not outputs:
            raise UsageError("an aggregate needs at least one output")
        for name, aggregate in outputs.items():
            if name == key:
                raise UsageError(f"output {name!r} has the name of the key column")
            if aggregate.column is None:
                self._outputs[name] = KEPT["int64"]
            else:
                read = _type_of(name, aggregate.column, dtypes)
                self._inputs[aggregate.column] = read
                self._outputs[name] = read
                if isinstance(aggregate, Sum):
                    self._outputs[name] = _sum_of(name, aggregate, read)
            self.output_dtypes[name] = self._outputs[name].kept
        #: Columns of what `apply_rows` gives; making them costs as much as a small batch.
        self._schema = pa.schema([(key, pa.int64()), *self.output_types.items()])
        self.state_columns: tuple[ColumnSpec, ...] = tuple(
            ColumnSpec(name, dtype, outputs[name].initial(dtype), self._meaning(name))
            for name, dtype in self.output_dtypes.items()
            if outputs[name].kept
        )

    def _meaning(self, name: str) -> str:
        output = self._outputs[name]
        return "" if output.kind == KEPT[output.kept].kind else str(output.kind)

    @property
    def output_types(self) -> dict[str, pa.DataType]:
        """Output name -> its type (G6), in order; the key column is not among them."""
        return {name: output.kind for name, output in self._outputs.items()}

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Input columns that `apply` reads beside the key, each once."""
        named = (aggregate.column for aggregate in self.outputs.values())
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def apply(
        self,
        table: KeyedTable,
        keys: NDArray[np.int64],
        values: Mapping[str, Values],
        version: int,
    ) -> tuple[NDArray[np.int64], dict[str, Values]]:
        """Fold a batch into the table.

        Args:
            table: made with this program's `state_columns`.
            keys: n keys.
            values: n values of each of `input_columns`, widened to the types that are kept.
            version: what the rows it changes are to have; see `VertexStore`.

        Returns:
            The m distinct keys and, per output name, their m new values (G1); fresh arrays.

        Raises:
            StateError: a sum does not fit into 64 bits (G3, G4), or the table is full.
        """
        touched = table.touch(keys)
        try:
            results = self._fold_all(touched, values)
        except StateError:
            table.restore(touched)
            raise
        table.store(touched, version)
        return touched.keys, results

    def apply_rows(self, table: KeyedTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """`apply` for a batch whose columns hold no nulls; one row for each key it changed."""
        values = {name: read.widened(rows.column(name)) for name, read in self._inputs.items()}
        keys = numbers_of(rows, self.key).view(np.int64)
        changed, outputs = self.apply(table, keys, values, version)
        given = (self._outputs[name].narrowed(column) for name, column in outputs.items())
        return pa.RecordBatch.from_arrays([pa.array(changed), *given], schema=self._schema)

    def _fold_all(self, touched: Touched, values: Mapping[str, Values]) -> dict[str, Values]:
        results: dict[str, Values] = {}
        state_row = 0
        for name, aggregate in self.outputs.items():
            dtype = self.output_dtypes[name]
            if aggregate.kept:
                totals: Values = touched.state[state_row].view(dtype)
                state_row += 1
            else:
                totals = np.full(len(touched.keys), aggregate.initial(dtype), dtype=dtype)
            column = None if aggregate.column is None else values[aggregate.column]
            _fold(name, aggregate, touched, column, totals)
            results[name] = totals
        return results


def _type_of(name: str, column: str, dtypes: Mapping[str, pa.DataType | str]) -> NumberType:
    """How the aggregate of this output reads its column."""
    known = {name: _known(kind) for name, kind in dtypes.items()}
    found = known.get(column)
    if found is None:
        numbers = [name for name, kind in known.items() if kind is not None]
        raise UsageError(
            f"output {name!r} reads column {column!r}, which is {dtypes.get(column, 'missing')}; "
            f"columns of numbers, booleans and times are {numbers}"
        )
    return found


def _known(kind: pa.DataType | str) -> NumberType | None:
    if isinstance(kind, str):
        return next((kept for name, kept in KEPT.items() if name == kind), None)
    return number_type(kind)


def _sum_of(name: str, aggregate: Sum, read: NumberType) -> NumberType:
    summed = None if read.summed is None else number_type(read.summed)
    if summed is None:
        advice = "cast it to int64 or float64 before" if read.kind == pa.uint64() else "count it"
        raise UsageError(
            f"output {name!r} is the sum of column {aggregate.column!r}, which is {read.kind}; "
            f"{advice}, or take its greatest or least value"
        )
    return summed


def _fold(
    name: str, aggregate: Aggregate, touched: Touched, values: Values | None, totals: Values
) -> None:
    positions = touched.positions
    if values is None:
        _folds.count(positions, totals.view(np.int64))
        return
    if not values.flags.c_contiguous:
        values = values.copy()
    assert values.dtype == totals.dtype, "input columns have their declared types"
    assert len(values) == len(positions), "one value per row"
    match aggregate:
        case Max():
            _folds.raise_to(positions, values, totals)
        case Min() | Oldest():
            _folds.lower_to(positions, values, totals)
        case _ if totals.dtype == np.float64:
            _folds.add_floats(positions, values.view(np.float64), totals.view(np.float64))
        case _:
            carries = np.zeros(len(totals), dtype=np.int32)
            if (
                _folds.add_integers(
                    positions, values.view(np.int64), totals.view(np.int64), carries
                )
                and carries.any()
            ):
                key = touched.keys[np.flatnonzero(carries)[0]]
                raise StateError(
                    f"the sum {name!r} of column {aggregate.column!r} for key {key} does not fit "
                    "into a signed 64-bit integer; sum a float64 column or a smaller unit"
                )
