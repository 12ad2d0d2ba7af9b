"""An inner join on the key: each row meets all rows of the other side that came before it.

Flow: two streams -> one of tagged rows -> F -> S -> RowStore -> [JoinProgram] -> pairs.

A tagged row has the key, its side, the columns of the left side and those of the right, of which
the other side's are null. A key's state is two chains of typed rows, one a side. Sides with columns
of other types than `is_typed` names are joined by `ObjectJoin`, which gives the same.

Invariants
  JO1  Every pair of a left and a right row of one key leaves exactly once: when the later one of
       the two is applied.
  JO2  Pairs leave in the order of the rows that completed them, and for one such row in the order
       in which the others came.
Cost: no Python a row. Every row of both sides is kept, for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.columns import numbers_of
from service.statestore.row_format import Records, RowFormat
from service.statestore.row_table import RowTable

#: Values of the column that tells the sides apart.
LEFT, RIGHT = 0, 1
SIDE = "join.side"


class JoinProgram:
    """The join of tagged rows whose columns are typed."""

    def __init__(self, key: str, left: Sequence[str], right: Sequence[str], out: pa.Schema) -> None:
        """Name the tagged columns of each side; `out` is key, left's columns, right's columns.

        Raises:
            UsageError: a column's type is none that typed rows can have.
        """
        self.key = key
        self._columns = (list(left), list(right))
        self._out = out
        kinds = [field.type for field in list(out)[1:]]
        sides = (kinds[: len(left)], kinds[len(left) :])
        self.formats = tuple(
            RowFormat(pa.schema(list(zip(names, types, strict=True))))
            for names, types in zip(self._columns, sides, strict=True)
        )

    def apply_rows(self, table: RowTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """Keep the rows, and return the pairs that they complete (JO1, JO2).

        Raises:
            StateError: a row or a column of the pairs is too large, or the table is full.
        """
        keys = numbers_of(rows, self.key).view(np.int64)
        sides = numbers_of(rows, SIDE).view(np.int64)
        records = (self._side(rows, sides, LEFT), self._side(rows, sides, RIGHT))
        pairs = table.meet(keys, sides, records, version)
        from_left = sides[pairs.rows] == LEFT
        left = np.where(from_left, pairs.added, pairs.met)
        right = np.where(from_left, pairs.met, pairs.added)
        columns = [
            pa.array(keys[pairs.rows]),
            *table.read(LEFT, left),
            *table.read(RIGHT, right),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._out)

    def _side(self, rows: pa.RecordBatch, sides: NDArray[np.int64], side: int) -> Records:
        """The rows of one side, encoded."""
        chosen = np.flatnonzero(sides == side)
        of_side = rows.select(self._columns[side])
        if len(chosen) < rows.num_rows:
            # A run, which is what comes from one stream, is not copied.
            run = len(chosen) and chosen[-1] - chosen[0] + 1 == len(chosen)
            if run or not len(chosen):
                of_side = of_side.slice(int(chosen[0]) if run else 0, len(chosen))
            else:
                of_side = of_side.take(pa.array(chosen))
        return self.formats[side].encode(of_side.columns, len(chosen))
