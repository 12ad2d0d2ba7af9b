"""Python functions of single records, as functions of batches.

Flow: `map_rows`, `filter_rows`, `flat_map_rows` -> [record functions] -> MapOperator. Pure.

One Python loop a batch: a record becomes a dict and what comes back becomes a row, about 1 us a
record for two columns beside the function itself, against some nanoseconds for a function of
batches. docs/benchmarks/operations.md has the figures.

Invariants
  RF1  Results stand in the order of the records.
  RF2  The columns are those declared: a result that lacks one, or has more, raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

Record = dict[str, Any]
#: Results by name and type; or, as Arrow has it, a schema.
Columns: TypeAlias = pa.Schema | Mapping[str, pa.DataType]


class RecordFunction(ABC):
    """A function of batches that calls a function for each record."""

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Results for all records; raises what the function raises."""
        return self._results(rows, rows.to_pylist())

    def sifted(
        self, rows: pa.RecordBatch
    ) -> tuple[pa.RecordBatch, Sequence[tuple[int, Exception]]]:
        """Results for the records the function takes, and the row of each other with its error.

        Each record is a batch of its own here, so that it alone is lost: 10 us a record and more.
        """
        parts = [self._results(rows.slice(0, 0), [])]
        refused = []
        for row, record in enumerate(rows.to_pylist()):
            try:
                parts.append(self._results(rows.slice(row, 1), [record]))
            except Exception as error:  # noqa: BLE001 - a function of a user may raise anything
                refused.append((row, error))
        return pa.concat_batches(parts), refused

    @abstractmethod
    def _results(self, rows: pa.RecordBatch, records: list[Record]) -> pa.RecordBatch:
        """Results for `records`, which are those of `rows`."""


class MapRows(RecordFunction):
    """One record for each."""

    def __init__(self, function: Callable[[Record], Record], schema: pa.Schema) -> None:
        """Call `function`, whose results have the columns of `schema`."""
        self._function = function
        self._schema = schema

    def _results(self, rows: pa.RecordBatch, records: list[Record]) -> pa.RecordBatch:
        return batch_of([*map(self._function, records)], self._schema)


class FlatMapRows(RecordFunction):
    """Any number of records for each."""

    def __init__(self, function: Callable[[Record], Iterable[Record]], schema: pa.Schema) -> None:
        """Call `function`, whose results have the columns of `schema`."""
        self._function = function
        self._schema = schema

    def _results(self, rows: pa.RecordBatch, records: list[Record]) -> pa.RecordBatch:
        function = self._function
        return batch_of([found for each in records for found in function(each)], self._schema)


class FilterRows(RecordFunction):
    """Those records for which the function says True."""

    def __init__(self, function: Callable[[Record], bool]) -> None:
        """Ask `function`."""
        self._function = function

    def _results(self, rows: pa.RecordBatch, records: list[Record]) -> pa.RecordBatch:
        return rows.filter(pa.array([*map(self._function, records)], pa.bool_()))


def batch_of(records: list[Record], schema: pa.Schema) -> pa.RecordBatch:
    """Records as a batch (RF2).

    Raises:
        KeyError: a record lacks a column.
        ValueError: a record has a column that was not declared.
        pa.ArrowException: a value does not fit its column.
    """
    names = schema.names
    columns = [
        pa.array([record[name] for record in records], field_type)
        for name, field_type in zip(names, schema.types, strict=True)
    ]
    if sum(map(len, records)) != len(names) * len(records):
        more = next(set(record) - set(names) for record in records if len(record) > len(names))
        raise ValueError(f"a record has columns {sorted(more)}, which were not declared")
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def schema_of(columns: Columns) -> pa.Schema:
    """Declared columns as a schema."""
    return columns if isinstance(columns, pa.Schema) else pa.schema(list(columns.items()))
