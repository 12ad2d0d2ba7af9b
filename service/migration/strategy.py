"""Strategies: how the moves towards a target are cut into waves.

Flow: request -> plan -> [strategy] -> waves -> controller gives each a cut. Pure functions of
(routing table, target); sizes and loads come with `optimized`, in a later version.

Invariants
  ST1  Every bin whose owner differs from its target is in exactly one wave; no other bin is in any.
  ST2  Waves keep the order in which the target names the bins.
  ST3  No wave is empty.

Source: Hoffmann et al., "Megaphone", VLDB 2019, section 4.4 (all-at-once, fluid, batched).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from service.errors import NotYetSupported, UsageError

#: One (bin, worker) pair.
Assignment = tuple[int, int]
#: The moves of one cut.
Moves = tuple[Assignment, ...]


class Strategy(StrEnum):
    """Names of the strategies that a request may choose."""

    ALL_AT_ONCE = "all-at-once"
    FLUID = "fluid"
    BATCHED = "batched"


#: Strategies that the design names and this version refuses.
_LATER = {
    "optimized": "strategy 'optimized' (disjoint pairs of senders and receivers)",
    "plan": "a plan of waves read from a file",
}


def strategy_named(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        NotYetSupported: a later version will have it.
        UsageError: nobody has it.
    """
    known = ", ".join(Strategy)
    if name in _LATER:
        raise NotYetSupported(_LATER[name], f"use one of {known}")
    try:
        return Strategy(name)
    except ValueError:
        raise UsageError(f"unknown strategy {name!r}; use one of {known}") from None


def moves_towards(owners: NDArray[np.int32], target: Mapping[int, int]) -> Moves:
    """The moves that turn `owners` into `target`, in the target's order (ST1, ST2).

    Args:
        owners: worker ordinal of each bin.
        target: bin -> worker; bins it does not name stay.
    """
    return tuple((bin_, worker) for bin_, worker in target.items() if owners[bin_] != worker)


def all_at_once(owners: NDArray[np.int32], target: Mapping[int, int]) -> tuple[Moves, ...]:
    """One wave: shortest migration, highest latency while it lasts."""
    moves = moves_towards(owners, target)
    return (moves,) if moves else ()


def fluid(owners: NDArray[np.int32], target: Mapping[int, int]) -> tuple[Moves, ...]:
    """One bin a wave: lowest latency, longest migration."""
    return batched(owners, target, 1)


def batched(owners: NDArray[np.int32], target: Mapping[int, int], batch: int) -> tuple[Moves, ...]:
    """Waves of `batch` bins, batch >= 1; the last one may be smaller."""
    moves = moves_towards(owners, target)
    return tuple(moves[start : start + batch] for start in range(0, len(moves), batch))


def waves_of(
    strategy: Strategy, owners: NDArray[np.int32], target: Mapping[int, int], batch: int
) -> tuple[Moves, ...]:
    """The waves of the strategy chosen; `batch` counts for `batched` only."""
    match strategy:
        case Strategy.ALL_AT_ONCE:
            return all_at_once(owners, target)
        case Strategy.FLUID:
            return fluid(owners, target)
        case Strategy.BATCHED:
            return batched(owners, target, batch)
