"""Which rows of a batch to keep: masks, from wherever they come.

Flow: `filter` and `branch` -> [masks] -> MapOperator, BranchOperator. Pure.

Invariants
  MK1  A mask has one boolean for each row; where it is null, the row is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from service.dataflow.row_vertices import MaskFunction


@dataclass(frozen=True)
class Keep:
    """The rows for which a mask is true.

    Cost: 1 us beside the mask where it keeps all rows or none; else one pass over the columns.
    """

    mask: MaskFunction

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Compute the mask and filter."""
        mask = checked_mask(self.mask(rows), rows)
        kept = mask.true_count
        if kept == rows.num_rows:
            return rows
        return rows.filter(mask) if kept else rows.slice(0, 0)


def checked_mask(found: Any, rows: pa.RecordBatch) -> pa.BooleanArray:
    """`found` as a mask for `rows` (MK1); NumPy and Polars booleans are taken as well.

    Raises:
        TypeError: it holds something else than booleans.
        ValueError: it has not one value for each row.
    """
    mask = found if type(found) is pa.BooleanArray else _as_booleans(found)
    if len(mask) != rows.num_rows:
        raise ValueError(f"the mask has {len(mask)} values for {rows.num_rows} rows")
    return mask


def _as_booleans(found: Any) -> pa.BooleanArray:
    if hasattr(found, "to_arrow"):
        found = found.to_arrow()
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    elif not isinstance(found, pa.Array):
        if not hasattr(found, "__array__"):
            raise TypeError(f"the mask must be an array of booleans, not {type(found).__name__}")
        found = pa.array(found)
    if pa.types.is_null(found.type):
        # An array made of an empty list, or of nulls only, has no type of its own.
        found = found.cast(pa.bool_())
    if not pa.types.is_boolean(found.type):
        raise TypeError(f"the mask must hold booleans, not {found.type}")
    return found
