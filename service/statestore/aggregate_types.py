"""How aggregates read their columns, and which they cannot read.

Flow: an aggregate's output and the types of the input columns -> [type_of, sum_of] -> the types
that are kept and given.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from service.errors import UsageError
from service.statestore.number_types import KEPT, NumberType, number_type


def type_of(name: str, column: str, dtypes: Mapping[str, pa.DataType | str]) -> NumberType:
    """How the aggregate of this output reads its column; raises UsageError if it cannot."""
    known = {name: _known(kind) for name, kind in dtypes.items()}
    found = known.get(column)
    if found is None:
        numbers = [name for name, kind in known.items() if kind is not None]
        raise UsageError(
            f"output {name!r} reads column {column!r}, which is {dtypes.get(column, 'missing')}; "
            f"columns of numbers, booleans and times are {numbers}"
        )
    return found


def _known(kind: pa.DataType | str) -> NumberType | None:
    if isinstance(kind, str):
        return next((kept for name, kept in KEPT.items() if name == kind), None)
    return number_type(kind)


def sum_of(name: str, column: str, what: str, read: NumberType) -> NumberType:
    """Type of the sum of a column, or of its mean; raises UsageError if there is none."""
    summed = None if read.summed is None else number_type(read.summed)
    if summed is None or (what == "mean" and pa.types.is_duration(read.kind)):
        castable = read.kind == pa.uint64() or summed is not None
        advice = "cast it to int64 or float64 before" if castable else "count it"
        raise UsageError(
            f"output {name!r} is the {what} of column {column!r}, which is {read.kind}; "
            f"{advice}, or take its greatest or least value"
        )
    return summed
