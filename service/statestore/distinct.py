"""The first row of each key: a set of keys in an arena, and the batch's rows that were new to it.

Flow: S -> VertexStore -> [DistinctProgram] -> the rows whose keys the table did not have.

Invariants
  DI1  A key's first row leaves whole, and no other row of it ever does.
  DI2  Rows leave in the order in which they came.
Cost: one lookup per distinct key of the batch, 24 bytes a key; no Python per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.arena import KeyedTable
from service.statestore.columns import ColumnSpec, Values, numbers_of

#: Whether a key was there before: 0 in a row that `touch` has just made.
_SEEN = ColumnSpec("seen", "int64", 0)


class DistinctProgram:
    """Keys seen, under the column `key`."""

    state_columns = (_SEEN,)

    def __init__(self, key: str, columns: Sequence[str]) -> None:
        """Tell rows apart by the int64 column `key`, and give their `columns`."""
        self.key = key
        self._columns = list(columns)

    def apply(
        self,
        table: KeyedTable,
        keys: NDArray[np.int64],
        values: Mapping[str, Values],
        version: int,
    ) -> tuple[NDArray[np.int64], dict[str, Values]]:
        """Enter `keys`; those that are new, and under "row" the number of the first row of each.

        Raises:
            StateError: the table is full.
        """
        touched = table.touch(keys)
        fresh = np.flatnonzero(touched.state[0] == 0)
        # Of several assignments to one place the last stays, so backwards it is the first row.
        first = np.empty(len(touched.keys), dtype=np.int64)
        first[touched.positions[::-1]] = np.arange(len(keys) - 1, -1, -1)
        found = touched.keys[fresh]
        touched.state[0, fresh] = 1
        table.store(touched, version)
        return found, {"row": first[fresh]}

    def apply_rows(self, table: KeyedTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """The rows of the batch that are the first of their keys (DI1, DI2)."""
        keys = numbers_of(rows, self.key).view(np.int64)
        _, outputs = self.apply(table, keys, {}, version)
        return rows.select(self._columns).take(pa.array(outputs["row"]))
