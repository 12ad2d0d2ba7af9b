"""Evening out measured load with few moves.

Flow: owners and load of each bin -> [rebalance] -> target -> strategy. Pure.

Invariants
  RB1  A bin moves at most once, from a worker above the mean to one below it.
  RB2  No move makes its receiver as busy as its sender was: the greatest load never rises.
  RB3  It ends with nobody over (1 + threshold) x mean, or when no single move off the busiest
       worker to the least busy one would help.
Cost: O(bins log bins). Finding the fewest moves is bin packing; taking the largest bin that fits is
what needs few.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray


def rebalance(
    owners: NDArray[np.int32], loads: NDArray[np.float64], workers: int, threshold: float = 0.1
) -> dict[int, int]:
    """Target in which no worker's load is far above the mean.

    Args:
        owners: worker ordinal of each bin.
        loads: load of each bin, >= 0, in any unit.
        workers: how many may hold bins.
        threshold: how far above the mean a worker may stay, as a part of it.

    Returns:
        bin -> worker for the bins that move, the largest moves first; empty if nothing is over.

    >>> rebalance(np.array([0, 0, 1]), np.array([5.0, 4.0, 1.0]), 2)
    {1: 1}
    """
    carried = np.bincount(owners, weights=loads, minlength=workers)
    mean = float(carried.sum()) / workers
    #: By worker: bins that may still leave, ascending in load.
    bins = [_ascending(owners, loads, worker) for worker in range(workers)]
    target: dict[int, int] = {}
    while True:
        sender, receiver = int(carried.argmax()), int(carried.argmin())
        over = float(carried[sender])
        if over <= mean * (1 + threshold):
            return target
        place = _best(bins[sender], loads, over - mean, mean - float(carried[receiver]))
        if place is None:
            return target
        moved = bins[sender][place]
        if float(carried[receiver]) + float(loads[moved]) >= over:
            return target
        del bins[sender][place]
        carried[sender] -= loads[moved]
        carried[receiver] += loads[moved]
        target[moved] = receiver


def _ascending(owners: NDArray[np.int32], loads: NDArray[np.float64], worker: int) -> list[int]:
    """Bins of a worker that have any load, by it."""
    own = np.flatnonzero((owners == worker) & (loads > 0))
    found: list[int] = own[np.argsort(loads[own], kind="stable")].tolist()
    return found


def _best(bins: list[int], loads: NDArray[np.float64], too_much: float, room: float) -> int | None:
    """Place of the largest bin that neither end has too much of, else of the smallest."""
    if not bins:
        return None
    fits = bisect_right(bins, min(too_much, room), key=lambda bin_: float(loads[bin_]))
    return max(0, fits - 1)
