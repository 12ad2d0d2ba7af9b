"""Which rows are among the best of their group, by one column.

Flow: the rows of a batch -> [Ranking.of] -> a number for each -> [Ranking.best] of those of each
window or session.

Invariants
  WK1  Best are `count` rows of a group, and with `ties` all that are equal to the last of these.
  WK2  Without ties, of equal rows those that come first in the order given are best.
  WK3  NaN is below every number, whichever end is sought; -0.0 is 0.0.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import UsageError
from service.statestore.number_types import number_type

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: The column of state that says how good a row is.
RANK = "window.rank"
#: Below every rank but that of NaN.
LEAST = np.iinfo(np.int64).min


class Ranking:
    """Ranks rows by a column, and chooses the best."""

    def __init__(self, schema: pa.Schema, by: str, count: int, *, ties: bool, lowest: bool) -> None:
        """Rank rows with the columns of `schema` by column `by`; the greatest are best, or least.

        Raises:
            UsageError: `by` is no column of numbers or times.
        """
        kind = number_type(schema.field(by).type)
        if kind is None:
            raise UsageError(
                f"rows cannot be ranked by column {by!r}, which is {schema.field(by).type}; "
                "numbers, booleans and times can"
            )
        self._kind = kind
        self._by, self._lowest, self._ties = by, lowest, ties
        #: How many rows of a group are best.
        self.count = count

    def of(self, rows: pa.RecordBatch) -> Int64s:
        """A number for each row: the greater, the better (WK3)."""
        values = self._kind.widened(rows.column(self._by))
        if self._kind.kept == "int64":
            numbers = np.ascontiguousarray(values).view(np.int64)
            return ~numbers if self._lowest else numbers
        # Of floats the bits are in order, those of negative ones backwards; -0.0 is 0.0.
        floats = np.ascontiguousarray(values).view(np.float64) + 0.0
        bits = floats.view(np.int64)
        ranks: Int64s = np.where(bits < 0, bits ^ np.iinfo(np.int64).max, bits)
        if self._lowest:
            ranks = ~ranks
        ranks[np.isnan(floats)] = LEAST
        return ranks

    def best(self, groups: NDArray[np.signedinteger], ranks: Int64s) -> Flags:
        """Which rows are among the best of their group; they come by group and falling rank."""
        begins = np.ones(len(groups), dtype=np.bool_)
        begins[1:] = groups[1:] != groups[:-1]
        starts = np.flatnonzero(begins)
        group = np.cumsum(begins) - 1
        place = np.arange(len(groups)) - starts[group]
        best: Flags = place < self.count
        if self._ties:
            sizes = np.diff(np.append(starts, len(groups)))
            last = ranks[starts + np.minimum(sizes, self.count) - 1]
            best |= ranks == last[group]
        return best
