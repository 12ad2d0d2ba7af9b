"""Targets: where bins are to be, named by a word or by a pattern.

Flow: `--target`, kind `rescale` -> [named_target, spread] -> bin -> worker -> strategy. Pure.

Invariants
  TG1  A spread moves as few bins as an even one allows: no worker's share differs from another's by
       more than one, and a bin moves only off a worker that has too many.
  TG2  A target names workers of the job only.
Source: the patterns `uniform`, `half` and `uniform_skew` are those of the experiments in Hoffmann
et al., "Megaphone", VLDB 2019, as its benchmarks compute them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from service.errors import UsageError


def spread(owners: NDArray[np.int32], workers: int) -> dict[int, int]:
    """Target that has all bins on workers 0..`workers`-1, evenly, moving as few as possible (TG1).

    Workers that already have more keep the larger shares; each gives away its highest bins, and the
    receivers are served in turn, so that every stretch of the plan has many receivers.

    Returns:
        bin -> worker for the bins that move, ascending in bins.
    """
    held = np.bincount(owners, minlength=workers)
    share, larger = divmod(owners.size, workers)
    by_load = sorted(range(workers), key=lambda worker: (-int(held[worker]), worker))
    quota = {worker: share + (place < larger) for place, worker in enumerate(by_load)}
    moving: list[int] = []
    for worker in range(held.size):
        surplus = int(held[worker]) - quota.get(worker, 0)
        if surplus > 0:
            moving.extend(np.flatnonzero(owners == worker)[-surplus:].tolist())
    wanted = {w: quota[w] - int(held[w]) for w in range(workers) if quota[w] > held[w]}
    target: dict[int, int] = {}
    bins = iter(sorted(moving))
    while wanted:
        for worker in list(wanted):
            target[next(bins)] = worker
            wanted[worker] -= 1
            if not wanted[worker]:
                del wanted[worker]
    assert next(bins, None) is None, "TG1: as many bins are given as are wanted"
    return target


def uniform(bins: int, workers: int) -> NDArray[np.int32]:
    """Bin i on worker i mod W."""
    return (np.arange(bins) % workers).astype(np.int32)


def half(bins: int, workers: int) -> NDArray[np.int32]:
    """Bins of odd workers on even ones; with two workers all on the first."""
    if workers <= 2:
        return np.zeros(bins, dtype=np.int32)
    number = np.arange(bins)
    even, odd = number - number % 2, number % 2
    return ((even + odd * (workers // 2)) % workers).astype(np.int32)


def uniform_skew(bins: int, workers: int) -> NDArray[np.int32]:
    """The first half of the bins as `half` has them, the second as `uniform`: a quarter moves."""
    owners = uniform(bins, workers)
    owners[: bins // 2] = half(bins, workers)[: bins // 2]
    return owners


_PATTERNS: Mapping[str, Callable[[int, int], NDArray[np.int32]]] = {
    "uniform": uniform,
    "half": half,
    "uniform_skew": uniform_skew,
}
#: What `named_target` understands, for help and errors.
TARGETS_KNOWN = "spread:N, worker:K, uniform, half, uniform_skew"


def named_target(text: str, owners: NDArray[np.int32], workers: int) -> dict[int, int] | None:
    """The target that `text` names, or None if it is no name.

    Args:
        text: `spread:N` (evenly over workers 0 to N-1), `worker:K` (all on worker K), or one of the
            patterns `uniform`, `half`, `uniform_skew` over all workers, or over N with `:N`.
        owners: worker ordinal of each bin now.
        workers: how many the job has.

    Raises:
        UsageError: the number is missing, or the job has no such worker.
    """
    word, colon, rest = text.partition(":")
    if word not in ("spread", "worker", *_PATTERNS):
        return None
    if word in _PATTERNS and not colon:
        number = workers
    elif rest.isascii() and rest.isdigit():
        number = int(rest)
    else:
        raise UsageError(f"--target {text}: after {word}: comes a number of workers; known are "
                         f"{TARGETS_KNOWN}, or a file")  # fmt: skip
    if word == "worker":
        if number >= workers:
            raise UsageError(
                f"--target {text}: the job has workers 0 to {workers - 1}; start it with more"
            )
        return dict.fromkeys(range(owners.size), number)
    if not 1 <= number <= workers:
        raise UsageError(
            f"--target {text}: the job has {workers} workers; ask for 1 to {workers} of them"
        )
    if word == "spread":
        return spread(owners, number)
    return dict(enumerate(_PATTERNS[word](owners.size, number).tolist()))
