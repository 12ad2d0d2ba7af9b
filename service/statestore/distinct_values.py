"""How many different values a column has: what tells two values apart in state.

Flow: `distinct_count(column)` of a window -> [ValueLines] -> identities of `WindowTable`: one entry
for each key, pane and value. A window's result counts the values of its panes together.

Invariants
  DV1  Numbers and times are told apart by their bits: exactly; 0.0 and -0.0 are one value, and so
       are all NaN.
  DV2  Texts and bytes are told apart by 128 bits of hashes of their length and bytes. That two of
       n texts are taken for one happens with a chance of n * n / 2**129.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import UsageError
from service.hashing import hash_texts
from service.statestore import _window_kernels as kernels
from service.statestore.columns import ColumnSpec
from service.statestore.number_types import number_type
from service.statestore.row_format import is_text, texts_of

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DistinctCount:
    """Number of different values of `column`."""

    column: str


class ValueLines:
    """Values of one column as lines of int64 that are equal exactly if the values are."""

    def __init__(self, output: str, column: str, kind: pa.DataType) -> None:
        """Tell values of type `kind` apart.

        Raises:
            UsageError: the type is none of numbers, booleans, times, text and bytes.
        """
        self.column = column
        self._number = number_type(kind)
        if self._number is None and not is_text(kind):
            raise UsageError(
                f"output {output!r} counts values of column {column!r}, which is {kind}; numbers, "
                "booleans, times, text and bytes can be counted"
            )
        count = 1 if self._number is not None else 2
        #: State columns that hold a value.
        self.specs = tuple(ColumnSpec(f"window.value.{line}", "int64", 0) for line in range(count))

    def of(self, rows: pa.RecordBatch) -> list[Int64s]:
        """The lines of a batch's values (DV1, DV2)."""
        values = rows.column(self.column)
        if self._number is None:
            offsets, data = texts_of(values)
            second = np.empty(len(values), dtype=np.int64)
            kernels.fingerprint(data, offsets, second)
            return [hash_texts(data, offsets), second]
        numbers = np.ascontiguousarray(self._number.widened(values))
        if numbers.dtype == np.float64:
            numbers = np.where(np.isnan(numbers), np.nan, numbers + 0.0)
        return [numbers.view(np.int64)]
