"""Rows and columns as people write them, made into Arrow: for lists, files and the test kit.

Flow: dictionaries, `{"price": "float64"}` -> [schema_of, rows_as] -> schemas and record batches.

Invariants
  SH1  Every row has every column, unless the row says None: a name misspelt is an error, no null.
  SH2  Nothing is rounded or wrapped to fit a type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import pyarrow as pa

from service.errors import GraphError

#: Columns as a user may declare them: a schema, or each column's type or its name.
Columns: TypeAlias = Mapping[str, object] | pa.Schema
#: What counts as some rows.
Rows: TypeAlias = Mapping[str, object] | pa.RecordBatch | pa.Table


def schema_of(columns: Columns) -> pa.Schema:
    """The schema that a user declared.

    Raises:
        GraphError: no column, or a type that Arrow does not know.

    Example:
        >>> from service.ingest.shape import schema_of
        >>> schema_of({"auction": "int64", "note": "string"}).names
        ['auction', 'note']
    """
    if isinstance(columns, pa.Schema):
        return columns
    if not columns:
        raise GraphError("a schema needs at least one column, such as {'auction': 'int64'}")
    return pa.schema([(name, _type_of(name, of)) for name, of in columns.items()])


def _type_of(name: str, of: object) -> pa.DataType:
    if isinstance(of, pa.DataType):
        return of
    try:
        return pa.type_for_alias(of)
    except (AttributeError, TypeError, ValueError) as error:
        raise GraphError(
            f"column {name!r}: {of!r} is no type; use a pyarrow type or its name, such as "
            "'int64', 'float64', 'string', 'bool'"
        ) from error


def rows_as(rows: Sequence[Rows], schema: pa.Schema | None, whose: str) -> Iterator[pa.RecordBatch]:
    """Rows as batches of one schema: that given, or that of the first ones.

    Args:
        rows: dictionaries, batches and tables; neighbouring dictionaries become one batch.
        schema: columns to take, in this order; further keys of a dictionary are left out.
        whose: who gave them, for messages.

    Raises:
        GraphError: a row lacks a column, has a value of another type, or is none of these.
    """
    gathered: list[Mapping[str, object]] = []
    for part in rows:
        if isinstance(part, Mapping):
            gathered.append(part)
            continue
        if gathered:
            batch = _from_dictionaries(gathered, schema, whose)
            schema, gathered = batch.schema, []
            yield batch
        for batch in _batches_of(part, whose):
            given = batch if schema is None else _fitted(batch, schema, whose)
            schema = given.schema
            yield given
    if gathered:
        yield _from_dictionaries(gathered, schema, whose)


def _batches_of(part: object, whose: str) -> list[pa.RecordBatch]:
    if isinstance(part, pa.RecordBatch):
        return [part]
    if isinstance(part, pa.Table):
        batches: list[pa.RecordBatch] = part.to_batches()
        return batches
    raise GraphError(f"{whose}: {part!r} is no row; give dictionaries, record batches or tables")


def _fitted(batch: pa.RecordBatch, schema: pa.Schema, whose: str) -> pa.RecordBatch:
    missing = [name for name in schema.names if name not in batch.schema.names]
    if missing:
        raise GraphError(f"{whose}: a batch lacks {missing}; it has {batch.schema.names}")
    try:
        return batch.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise GraphError(f"{whose}: a batch does not fit {_shown(schema)}: {error}") from error


def _from_dictionaries(
    rows: list[Mapping[str, object]], schema: pa.Schema | None, whose: str
) -> pa.RecordBatch:
    names = list(rows[0]) if schema is None else schema.names
    for number, row in enumerate(rows):
        missing = [name for name in names if name not in row]
        if missing:
            raise GraphError(
                f"{whose}: row {number} lacks {missing}; it is {dict(row)!r}. Write None where a "
                "value is missing"
            )
    arrays = [
        _column(
            name, [row[name] for row in rows], None if schema is None else schema.field(name), whose
        )
        for name in names
    ]
    if schema is None:
        schema = pa.schema([(name, array.type) for name, array in zip(names, arrays, strict=True)])
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(name: str, values: list[object], field: pa.Field | None, whose: str) -> pa.Array:
    wanted = None if field is None else field.type
    try:
        array = pa.array(values, wanted)
        if pa.types.is_integer(array.type):
            # SH2: Arrow makes 1 of 1.5.
            for value in values:
                if isinstance(value, float) and not value.is_integer():
                    raise ValueError(f"{value} is no integer")
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise GraphError(
            f"{whose}: column {name!r} has values {values[:4]!r} that are no "
            f"{wanted or 'column of one type'}: {error}"
        ) from error
    if pa.types.is_null(array.type):
        raise GraphError(
            f"{whose}: column {name!r} is None in every row, so its type is unknown; declare it, "
            f"such as schema={{{name!r}: 'int64'}}"
        )
    return array


def _shown(schema: pa.Schema) -> dict[str, str]:
    return dict(zip(schema.names, map(str, schema.types), strict=True))
