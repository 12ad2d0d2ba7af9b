"""Strategies: how the moves towards a target are cut into waves.

Flow: request -> plan -> [strategy] -> waves -> controller gives each a cut. Pure functions of
(routing table, target, sizes).

Invariants
  ST1  Every bin whose owner differs from its target is in exactly one wave; no other bin is in any.
  ST2  Waves keep the order in which the target names the bins; those of `optimized` that of sizes.
  ST3  No wave is empty.
  ST4  In a wave of `optimized` a worker sends or receives, to or from one other, at most `batch`
       bins; without workers that do both there are as few waves as these rules allow.

Source: Hoffmann et al., "Megaphone", VLDB 2019, section 4.4 (all-at-once, fluid, batched), and its
evaluation (bipartite matching).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from service.errors import UsageError
from service.migration.matching import Pair, pair_waves

#: One (bin, worker) pair.
Assignment = tuple[int, int]
#: The moves of one cut.
Moves = tuple[Assignment, ...]
#: Waves of a batched plan whose request does not say how many bins a wave has: at least, and at
#: most where bins are large.
WAVES_DEFAULT = 16
WAVES_DEFAULT_MOST = 1_024
#: Bytes of such a wave: a few milliseconds of work, so that hardly anybody waits for it.
WAVE_BYTES_DEFAULT = 2 << 20


class Strategy(StrEnum):
    """Names of the strategies that a request may choose."""

    ALL_AT_ONCE = "all-at-once"
    FLUID = "fluid"
    BATCHED = "batched"
    OPTIMIZED = "optimized"


def strategy_named(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return Strategy(name)
    except ValueError:
        known = ", ".join(Strategy)
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


def optimized(
    owners: NDArray[np.int32],
    target: Mapping[int, int],
    batch: int = 1,
    sizes: NDArray[np.int64] | None = None,
) -> tuple[Moves, ...]:
    """Waves of disjoint pairs of workers, `batch` bins a pair (ST4): as low as fluid, and parallel.

    Args:
        owners: worker ordinal of each bin.
        target: bin -> worker; bins it does not name stay.
        batch: bins that a pair moves in a wave, >= 1.
        sizes: bytes of each bin; with them, pairs of a wave move bins of like size, largest first,
            so that none waits long for another.
    """
    queues: dict[Pair, list[Assignment]] = {}
    for bin_, worker in moves_towards(owners, target):
        queues.setdefault((int(owners[bin_]), worker), []).append((bin_, worker))
    for queue in queues.values():
        if sizes is not None:
            queue.sort(key=lambda move: -int(sizes[move[0]]))
        # Taken from the end below.
        queue.reverse()
    waves = []
    for pairs in pair_waves({pair: -(-len(queue) // batch) for pair, queue in queues.items()}):
        moves: list[Assignment] = []
        for pair in pairs:
            queue = queues[pair]
            moves.extend(queue.pop() for _ in range(min(batch, len(queue))))
        waves.append(tuple(moves))
    return tuple(waves)


def waves_of(
    strategy: Strategy,
    owners: NDArray[np.int32],
    target: Mapping[int, int],
    batch: int,
    sizes: NDArray[np.int64] | None = None,
) -> tuple[Moves, ...]:
    """The waves of the strategy chosen.

    Args:
        strategy: which.
        owners: worker ordinal of each bin.
        target: bin -> worker; bins it does not name stay.
        batch: counts for `batched` and `optimized` only.
        sizes: bytes of each bin, where they are known; counts for `optimized` only.
    """
    match strategy:
        case Strategy.ALL_AT_ONCE:
            return all_at_once(owners, target)
        case Strategy.FLUID:
            return fluid(owners, target)
        case Strategy.BATCHED:
            return batched(owners, target, batch)
        case Strategy.OPTIMIZED:
            return optimized(owners, target, batch, sizes)


def default_batch(
    strategy: Strategy, target: Mapping[int, int], sizes: NDArray[np.int64] | None
) -> int:
    """Bins a wave, or a pair of workers, where the request does not say.

    Args:
        strategy: how waves are made.
        target: bin -> worker.
        sizes: bytes of each bin, as far as they are known.
    """
    if strategy is Strategy.OPTIMIZED:
        return 1
    nbytes = 0 if sizes is None else int(sizes[list(target)].sum())
    waves = min(max(WAVES_DEFAULT, -(-nbytes // WAVE_BYTES_DEFAULT)), WAVES_DEFAULT_MOST)
    return max(1, -(-len(target) // waves))
