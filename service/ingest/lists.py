"""A source that is a list, for tests and first steps.

Flow: rows or batches in memory -> [ListSource] -> SourceOperator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from service.errors import GraphError
from service.ingest.shape import Columns, rows_as, schema_of

_ROWS_MAX = 4_096


class ListSource:
    """Rows given when the flow is written.

    Args:
        rows: dictionaries, record batches or tables; what lies in them is not copied, so leave it
            as it is.
        schema: columns and their types, `{"auction": "int64"}` or a `pyarrow.Schema`; without it,
            those of the rows.

    Raises:
        GraphError: there is no row and no schema, or a row does not fit.

    Example:
        >>> from service.ingest.lists import ListSource
        >>> source = ListSource([{"auction": 7, "price": 1.5}, {"auction": 8, "price": 2.0}])
        >>> source.fields
        ('auction', 'price')
        >>> [batch.num_rows for batch in source.batches()]
        [2]
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, object] | pa.RecordBatch | pa.Table],
        schema: Columns | None = None,
    ) -> None:
        """Check the rows against the schema; see the class."""
        columns = None if schema is None else schema_of(schema)
        self._batches = list(rows_as(rows, columns, "ListSource"))
        if self._batches:
            self._schema = self._batches[0].schema
        elif columns is not None:
            self._schema = columns
        else:
            raise GraphError(
                "a ListSource without rows needs a schema, such as schema={'auction': 'int64'}"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns of the rows."""
        return tuple(self._schema.names)

    @property
    def label(self) -> str:
        """How many rows it has."""
        return f"list of {sum(batch.num_rows for batch in self._batches)} rows"

    def schema(self) -> pa.Schema:
        """Columns and types of the rows."""
        return self._schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, from the first one on."""
        for batch in self._batches:
            for start in range(0, batch.num_rows, _ROWS_MAX):
                yield batch.slice(start, _ROWS_MAX)
