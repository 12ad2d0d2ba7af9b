"""The program of a store that has columns and applies no rows by it.

Flow: stores of windows, and blank stores that hold what was stored -> [Unapplied] -> `VertexStore`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.arena import KeyedTable
from service.statestore.columns import ColumnSpec, Values


class Unapplied:
    """State columns of a table whose rows its store changes itself, or only holds."""

    def __init__(self, columns: Sequence[ColumnSpec]) -> None:
        self.state_columns = columns

    def apply(
        self,
        table: KeyedTable,
        keys: NDArray[np.int64],
        values: Mapping[str, Values],
        version: int,
    ) -> tuple[NDArray[np.int64], dict[str, Values]]:
        """Refuse rows."""
        raise AssertionError("this store applies no rows by a program")

    def apply_rows(self, table: KeyedTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """Refuse rows."""
        raise AssertionError("this store applies no rows by a program")
