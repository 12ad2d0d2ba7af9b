"""Kernels that fold the rows of a batch into one accumulator per distinct key.

Flow: state of the touched keys (gathered) -> [these kernels] fold the batch's rows into it, in row
order -> written back. Because an accumulator starts from the state, a float sum is the same however
its rows were cut into batches.

All take `positions`, the number of each row's key among the distinct keys, and change `totals`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.statestore import _signatures as kinds
from service.statestore.columns import Values

Positions = NDArray[np.int32]


@njit(kinds.COUNT, cache=True, nogil=True)
def count(positions: Positions, totals: NDArray[np.int64]) -> None:
    """Add one for each row."""
    for row in range(positions.shape[0]):
        totals[positions[row]] += 1


@njit(kinds.ADD_INTEGERS, cache=True, nogil=True)
def add_integers(
    positions: Positions,
    values: NDArray[np.int64],
    totals: NDArray[np.int64],
    carries: NDArray[np.int32],
) -> bool:
    """Add each row's value modulo 2**64; `carries` gets +1 and -1 for each turn through the end.

    The sum is exact if and only if its carry ends at zero.

    Returns:
        Whether any addition turned.
    """
    turned = False
    for row in range(positions.shape[0]):
        position = positions[row]
        value = values[row]
        before = totals[position]
        after = before + value
        totals[position] = after
        if ((before ^ after) & (value ^ after)) < 0:
            carries[position] += 1 if value > 0 else -1
            turned = True
    return turned


@njit(kinds.ADD_FLOATS, cache=True, nogil=True)
def add_floats(
    positions: Positions, values: NDArray[np.float64], totals: NDArray[np.float64]
) -> None:
    """Add each row's value, in row order."""
    for row in range(positions.shape[0]):
        totals[positions[row]] += values[row]


@njit(kinds.KEEP_ONE, cache=True, nogil=True)
def raise_to(positions: Positions, values: Values, totals: Values) -> None:
    """Keep the greatest; a NaN is never greater."""
    for row in range(positions.shape[0]):
        if values[row] > totals[positions[row]]:
            totals[positions[row]] = values[row]


@njit(kinds.KEEP_ONE, cache=True, nogil=True)
def lower_to(positions: Positions, values: Values, totals: Values) -> None:
    """Keep the least; a NaN is never less."""
    for row in range(positions.shape[0]):
        if values[row] < totals[positions[row]]:
            totals[positions[row]] = values[row]
