"""A cell of a state column as JSON has it.

Flow: stored bits and the column's type -> [cell_of] -> `megaphone state`.

Invariants
  SL1  A cell of a type that this version does not know is refused, and never shown as another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.statestore.columns import Values
from service.statestore.number_types import NumberType, number_type
from service.statestore.row_kinds import as_json, type_named


def cell_of(cell: NDArray[np.int64], kind: str) -> object:
    """The value of one cell, of a column whose type has this name.

    Raises:
        StateCorrupt: this version does not know the type.
    """
    known = number_named(kind)
    if known is None:
        raise StateCorrupt(f"a column has type {kind!r}, which this version does not know")
    values: Values = cell.astype(np.int64).view(known.kept)
    return as_json(known.narrowed(values)[0].as_py())


def number_named(kind: str) -> NumberType | None:
    """How values of the type with this name are kept; None if there is no such type."""
    known = type_named(kind)
    return None if known is None else number_type(known)
