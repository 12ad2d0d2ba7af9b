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

_ARROW: dict[ColumnType, pa.DataType] = {"int64": pa.int64(), "float64": pa.float64()}
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
        dtypes: Mapping[str, ColumnType],
    ) -> None:
        """Bind `outputs` (output name -> aggregate) to input columns.

        Args:
            key: name of the int64 key column, the first column of the output.
            outputs: at least one; their order is the order of the output's columns.
            dtypes: type of each input column; columns that no aggregate reads are ignored.

        Raises:
            UsageError: an aggregate reads a column that is missing or of another type than int64
                and float64; an output has the key's name; there is no output.
        """
        self.key = key
        self.outputs = dict(outputs)
        #: Output name -> type, in order; the key column is not among them.
        self.output_dtypes: dict[str, ColumnType] = {}
        if not outputs:
            raise UsageError("an aggregate needs at least one output")
        for name, aggregate in outputs.items():
            if name == key:
                raise UsageError(f"output {name!r} has the name of the key column")
            self.output_dtypes[name] = _dtype_of(name, aggregate, dtypes)
        #: Columns of what `apply_rows` gives; making them costs as much as a small batch.
        self._schema = pa.schema(
            [(key, pa.int64())]
            + [(name, _ARROW[dtype]) for name, dtype in self.output_dtypes.items()]
        )
        self.state_columns: tuple[ColumnSpec, ...] = tuple(
            ColumnSpec(name, dtype, outputs[name].initial(dtype))
            for name, dtype in self.output_dtypes.items()
            if outputs[name].kept
        )

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
            values: n values of each of `input_columns`, in their declared types.
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
        values = {name: numbers_of(rows, name) for name in self.input_columns}
        keys = numbers_of(rows, self.key).view(np.int64)
        changed, outputs = self.apply(table, keys, values, version)
        arrays = [pa.array(changed), *map(pa.array, outputs.values())]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

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


def _dtype_of(name: str, aggregate: Aggregate, dtypes: Mapping[str, ColumnType]) -> ColumnType:
    if aggregate.column is None:
        return "int64"
    dtype = dtypes.get(aggregate.column)
    if dtype not in ("int64", "float64"):
        raise UsageError(
            f"output {name!r} reads column {aggregate.column!r}, which is {dtype or 'missing'}; "
            f"int64 and float64 columns are {[c for c, t in dtypes.items() if t in _LEAST]}"
        )
    return dtype


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
