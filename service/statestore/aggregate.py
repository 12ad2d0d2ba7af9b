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
  G6  Greatest and least values have their column's type; a sum is int64, float64 or a duration; a
      mean is float64.
  G7  The mean of integers comes of exact sums, whatever their size: not of the order of rows.
Cost: one cache-missing access per distinct key, one pass over the rows per aggregate, no Python per
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateError, UsageError
from service.statestore import _folds
from service.statestore.aggregate_types import sum_of, type_of
from service.statestore.arena import KeyedTable
from service.statestore.columns import ColumnSpec, ColumnType, Values, numbers_of
from service.statestore.number_types import KEPT, NumberType
from service.statestore.stored_windows import Fold

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


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean of `column` over the rows of the key, as a float64."""

    column: str
    kept: ClassVar[bool] = True

    def initial(self, dtype: ColumnType) -> int | float:
        """Of the sums that it is made of, before the first row."""
        return 0


Aggregate = Count | Sum | Max | Min | Oldest | Mean


@dataclass(frozen=True, slots=True)
class _Part:
    """One line of what is folded for an output; a mean has several."""

    #: Name of the state column.
    name: str
    output: str
    aggregate: Aggregate
    dtype: ColumnType
    #: Which bits of an integer are added, where not all are: then no sum of them overflows.
    half: int | None = None


#: Low bits of an integer, which are added apart from the rest of it.
_LOW_BITS = 32
_LOW, _HIGH = 0, 1


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
                read = type_of(name, aggregate.column, dtypes)
                self._inputs[aggregate.column] = read
                self._outputs[name] = read
                if isinstance(aggregate, Sum):
                    self._outputs[name] = sum_of(name, aggregate.column, "sum", read)
                elif isinstance(aggregate, Mean):
                    sum_of(name, aggregate.column, "mean", read)
                    self._outputs[name] = KEPT["float64"]
            self.output_dtypes[name] = self._outputs[name].kept
        #: Columns of what `apply_rows` gives; making them costs as much as a small batch.
        self._schema = pa.schema([(key, pa.int64()), *self.output_types.items()])
        #: What is folded, in order; those that are kept are the state columns.
        self._parts = [part for name in outputs for part in self._parts_of(name)]
        self.state_columns: tuple[ColumnSpec, ...] = tuple(
            ColumnSpec(
                part.name, part.dtype, part.aggregate.initial(part.dtype), self._meaning(part)
            )
            for part in self._parts
            if part.aggregate.kept
        )
        if len({part.name for part in self._parts}) < len(self._parts):
            raise UsageError(f"two outputs of {list(outputs)} need state of one name; rename one")

    def _parts_of(self, name: str) -> list[_Part]:
        aggregate = self.outputs[name]
        if not isinstance(aggregate, Mean):
            return [_Part(name, name, aggregate, self.output_dtypes[name])]
        read, total = self._inputs[aggregate.column], Sum(aggregate.column)
        rows = _Part(f"{name}/rows", name, Count(), "int64")
        if read.kept == "float64":
            return [_Part(f"{name}/sum", name, total, "float64"), rows]
        return [
            _Part(f"{name}/high", name, total, "int64", _HIGH),
            _Part(f"{name}/low", name, total, "int64", _LOW),
            rows,
        ]

    def _meaning(self, part: _Part) -> str:
        output = self._outputs[part.output]
        plain = isinstance(self.outputs[part.output], Mean)
        return "" if plain or output.kind == KEPT[output.kept].kind else str(output.kind)

    @property
    def output_types(self) -> dict[str, pa.DataType]:
        """Output name -> its type (G6), in order; the key column is not among them."""
        return {name: output.kind for name, output in self._outputs.items()}

    @property
    def state_folds(self) -> tuple[Fold, ...]:
        """How each state column of two parts becomes one, as `merge` does it."""
        folds: dict[type, Fold] = {Max: "greatest", Min: "least"}
        return tuple(
            folds.get(type(part.aggregate), "sum") for part in self._parts if part.aggregate.kept
        )

    @property
    def is_order_sensitive(self) -> bool:
        """Whether the order of rows says something: sums of floats are rounded as they go."""
        return any(
            isinstance(part.aggregate, Sum) and part.dtype == "float64" for part in self._parts
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
            values: n values of each of `input_columns`, widened to the types that are kept.
            version: what the rows it changes are to have; see `VertexStore`.

        Returns:
            The m distinct keys and, per output name, their m new values (G1); fresh arrays.

        Raises:
            StateError: a sum does not fit into 64 bits (G3, G4), or the table is full.
        """
        touched = table.touch(keys)
        try:
            lines = self.fold(touched.keys, touched.positions, touched.state, values)
        except StateError:
            table.restore(touched)
            raise
        table.store(touched, version)
        return touched.keys, self._results(lines)

    def apply_rows(self, table: KeyedTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """`apply` for a batch whose columns hold no nulls; one row for each key it changed."""
        keys = numbers_of(rows, self.key).view(np.int64)
        changed, outputs = self.apply(table, keys, self.values_of(rows), version)
        given = self._narrowed(outputs)
        return pa.RecordBatch.from_arrays([pa.array(changed), *given], schema=self._schema)

    def values_of(self, rows: pa.RecordBatch) -> dict[str, Values]:
        """The input columns of a batch, widened to the types that are kept."""
        return {name: read.widened(rows.column(name)) for name, read in self._inputs.items()}

    def fold(
        self,
        keys: NDArray[np.int64],
        positions: NDArray[np.int32],
        state: NDArray[np.int64],
        values: Mapping[str, Values],
    ) -> list[Values]:
        """Fold a batch into the state of its keys.

        Args:
            keys: the m distinct keys, for errors.
            positions: of each row's key among them.
            state: a line of m cells for each state column; changed in place.
            values: as `apply` takes them.

        Returns:
            A line for each part, what is kept and what is not; those kept are views of `state`.

        Raises:
            StateError: a sum does not fit into 64 bits; `state` is then of no use.
        """
        lines: list[Values] = []
        state_row = 0
        for part in self._parts:
            if part.aggregate.kept:
                totals: Values = state[state_row].view(part.dtype)
                state_row += 1
            else:
                initial = part.aggregate.initial(part.dtype)
                totals = np.full(state.shape[1], initial, dtype=part.dtype)
            column = part.aggregate.column
            read = None if column is None else _half(values[column], part.half)
            _fold(part.output, part.aggregate, keys, positions, read, totals)
            lines.append(totals)
        return lines

    def merge(
        self, keys: NDArray[np.int64], positions: NDArray[np.int32], state: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """State of some keys put together from parts of it: where rows were folded piece by piece.

        Args:
            keys: the m distinct keys, for errors.
            positions: of each part's key among them.
            state: a line for each state column, of all parts.

        Returns:
            A line of m cells for each state column.

        Raises:
            StateError: a sum does not fit into 64 bits.
        """
        merged = np.empty((len(self.state_columns), len(keys)), dtype=np.int64)
        for line, found, spec, part in zip(
            merged, state, self.state_columns, self._parts, strict=True
        ):
            line[:] = spec.initial_bits
            aggregate = part.aggregate
            # Parts that were counted are added.
            adding = Sum("rows") if isinstance(aggregate, Count) else aggregate
            totals: Values = line.view(part.dtype)
            _fold(part.output, adding, keys, positions, found.view(part.dtype), totals)
        return merged

    def outputs_of(self, state: NDArray[np.int64]) -> list[pa.Array]:
        """The columns of the output, without the key, for state as `merge` gives it."""
        lines = [line.view(part.dtype) for line, part in zip(state, self._parts, strict=True)]
        return self._narrowed(self._results(lines))

    def _narrowed(self, results: Mapping[str, Values]) -> list[pa.Array]:
        return [self._outputs[name].narrowed(column) for name, column in results.items()]

    def _results(self, lines: Sequence[Values]) -> dict[str, Values]:
        """What the parts, a line each, say of each output."""
        results: dict[str, Values] = {}
        of_part = {part.name: line for part, line in zip(self._parts, lines, strict=True)}
        for name, aggregate in self.outputs.items():
            if isinstance(aggregate, Mean):
                results[name] = _mean(name, of_part)
            else:
                results[name] = of_part[name]
        return results


def _half(values: Values, half: int | None) -> Values:
    """The bits of each value that a part adds."""
    if half is None:
        return values
    numbers = values.view(np.int64)
    return numbers >> _LOW_BITS if half == _HIGH else numbers & ((1 << _LOW_BITS) - 1)


def _mean(name: str, of_part: Mapping[str, Values]) -> NDArray[np.float64]:
    rows = of_part[f"{name}/rows"].astype(np.float64)
    if f"{name}/sum" in of_part:
        mean: NDArray[np.float64] = of_part[f"{name}/sum"].view(np.float64) / rows
        return mean
    high = of_part[f"{name}/high"].astype(np.float64) * float(1 << _LOW_BITS)
    low: NDArray[np.float64] = of_part[f"{name}/low"].astype(np.float64)
    return (high + low) / rows


def _fold(
    name: str,
    aggregate: Aggregate,
    keys: NDArray[np.int64],
    positions: NDArray[np.int32],
    values: Values | None,
    totals: Values,
) -> None:
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
                key = keys[np.flatnonzero(carries)[0]]
                raise StateError(
                    f"the sum {name!r} of column {aggregate.column!r} for key {key} does not fit "
                    "into a signed 64-bit integer; sum a float64 column or a smaller unit"
                )
