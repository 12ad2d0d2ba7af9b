"""Columns of any numeric type as the two types that aggregates keep, int64 and float64.

Flow: a batch's column -> [NumberType.widened] -> the kernels fold it -> [NumberType.narrowed] -> a
column of the output, in the type that the flow's author expects.

Invariants
  NT1  Widening keeps every value and the order of values; narrowing a value that was widened gives
       it back, in its type.
  NT2  Kernels see int64 and float64 only; columns of these two are not copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.columns import ColumnType, Values

_SIGN = np.int64(-(2**63))


@dataclass(frozen=True, slots=True)
class NumberType:
    """How columns of the Arrow type `kind` are kept."""

    kind: pa.DataType
    kept: ColumnType
    #: Type of a sum; None where a sum of such values means nothing or may not fit.
    summed: pa.DataType | None
    #: Whether it is kept as it is: then nothing is asked about a column.
    plain: bool = False

    def widened(self, column: pa.Array) -> Values:
        """A column without nulls as the kernels take it. Cost: a copy, but for the kept types."""
        if self.plain:
            values: Values = column.to_numpy(zero_copy_only=False)
            return values
        if pa.types.is_boolean(self.kind):
            column = column.cast(pa.uint8())
        elif pa.types.is_temporal(self.kind):
            column = column.view(pa.int32() if self.kind.bit_width == 32 else pa.int64())
        numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        if self.kind == pa.uint64():
            return numbers.view(np.int64) ^ _SIGN
        return numbers.astype(self.kept, copy=False)

    def narrowed(self, values: Values) -> pa.Array:
        """Values that came of widened ones, in their type (NT1)."""
        if self.plain:
            return pa.array(values)
        if self.kind == pa.uint64():
            return pa.array((values.view(np.int64) ^ _SIGN).view(np.uint64))
        if self.kind == pa.float16():
            return pa.array(values.astype(np.float16))
        if pa.types.is_temporal(self.kind):
            width = np.int32 if self.kind.bit_width == 32 else np.int64
            return pa.array(values.astype(width, copy=False)).view(self.kind)
        return pa.array(values).cast(self.kind)


#: The types that are kept as they are.
KEPT: dict[ColumnType, NumberType] = {
    "int64": NumberType(pa.int64(), "int64", pa.int64(), plain=True),
    "float64": NumberType(pa.float64(), "float64", pa.float64(), plain=True),
}


def number_type(kind: pa.DataType) -> NumberType | None:
    """How columns of this type are kept; None if they are no numbers of at most 64 bits."""
    for kept in KEPT.values():
        if kept.kind == kind:
            return kept
    if pa.types.is_floating(kind):
        return NumberType(kind, "float64", pa.float64())
    if kind == pa.uint64():
        return NumberType(kind, "int64", None)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return NumberType(kind, "int64", pa.int64())
    if pa.types.is_duration(kind):
        return NumberType(kind, "int64", kind)
    if pa.types.is_temporal(kind) and kind.bit_width <= 64:
        return NumberType(kind, "int64", None)
    return None
