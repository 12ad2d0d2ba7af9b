"""Columns of keyed state: their names, types and the values a new row starts with.

Flow: an aggregate program names its state columns -> [ColumnSpec] -> the arena lays them out; chunk
and checkpoint write them under these names.

Invariants
  C1  Every state column is 64 bits wide; a cell is stored as its bits, whatever its type.
  C2  Two tables hold the same kind of rows exactly if their column names and types agree in order;
      initial values do not count, they are needed for new keys only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import FormatMismatch, UsageError

ColumnType = Literal["int64", "float64"]
#: A column of state or input values; which of the two is said by its ColumnSpec.
Values = NDArray[np.int64] | NDArray[np.float64]

#: Of rows whose key is text: F writes the keys' hashes there, S puts their ids in the place.
KEY_ID = "key.id"

#: Names that every table has beside its state columns.
RESERVED_NAMES = ("key", "version")


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """One state column: `name`, `dtype`, and the value `initial` of a key seen for the first time.

    Raises:
        UsageError: the name is empty or reserved, or the type is not one of the two.
    """

    name: str
    dtype: ColumnType
    initial: int | float
    #: The type whose values the column stands for, where that is another one.
    meaning: str = ""

    def __post_init__(self) -> None:
        """Refuse a column that the arena could not hold (C1)."""
        if not self.name or self.name in RESERVED_NAMES:
            raise UsageError(
                f"state column {self.name!r}: choose another name than {RESERVED_NAMES}"
            )
        if self.dtype not in ("int64", "float64"):
            raise UsageError(
                f"state column {self.name!r}: type {self.dtype!r} is not int64 or float64"
            )

    @property
    def described(self) -> str:
        """The type as a checkpoint names it: under another one the same bits mean other values."""
        return self.meaning or self.dtype

    @property
    def initial_bits(self) -> int:
        """The initial value as the bits of a cell (C1)."""
        return int(np.array([self.initial], dtype=self.dtype).view(np.int64)[0])


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of state outside a table: n keys, their versions and n values of each state column.

    Keys are distinct; their order means nothing. The arrays are copies, never views of a table.
    """

    keys: NDArray[np.int64]
    #: Epoch of the last change of each row; 0 if it was never marked.
    versions: NDArray[np.int64]
    columns: Mapping[str, Values]

    def __len__(self) -> int:
        return int(self.keys.shape[0])

    def slice(self, start: int, length: int) -> Rows:
        """Up to `length` rows from `start` on; the arrays are views."""
        end = start + length
        columns = {name: values[start:end] for name, values in self.columns.items()}
        return Rows(self.keys[start:end], self.versions[start:end], columns)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return 8 * len(self) * (2 + len(self.columns))


@cache
def type_name(dtype: np.dtype[Any]) -> str:
    """The name of an array's type; NumPy builds it anew each time, in 10 us."""
    return str(dtype)


def numbers_of(rows: pa.RecordBatch, name: str) -> Values:
    """A column without nulls as NumPy sees it; not copied."""
    values: Values = rows.column(name).to_numpy(zero_copy_only=False)
    return values


def no_rows(columns: Sequence[ColumnSpec]) -> Rows:
    """Zero rows of the given columns."""
    empty = np.empty(0, dtype=np.int64)
    return Rows(empty, empty, {spec.name: np.empty(0, dtype=spec.dtype) for spec in columns})


def require_same_columns(
    what: str, expected: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]]
) -> None:
    """Check that `found` columns are the `expected` ones (C2); both as (name, type) in order.

    Raises:
        FormatMismatch: they are not; the text opens with `what`.
    """
    if tuple(expected) != tuple(found):
        raise FormatMismatch(
            f"{what} has columns {_listed(found)} but this job keeps {_listed(expected)}; "
            "restore it with the flow that wrote it"
        )


def _listed(columns: Sequence[tuple[str, str]]) -> str:
    return "(" + ", ".join(f"{name}: {dtype}" for name, dtype in columns) + ")"
