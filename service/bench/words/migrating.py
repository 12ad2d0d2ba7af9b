"""What a word-count run moves, and when: the original's patterns as requests to the controller.

Flow: `--migration` -> [steps_of] -> steps, each a request of the service -> director, which sends a
step when it is due and the one before has completed. Pure.

The original's pattern is uniform -> skew -> uniform: at a third of the run a quarter of all bins
moves to workers that already have their share, at two thirds it moves back, and the paper reports
the second move only. Here each odd worker gives the lower half of its bins to the worker before it.

Invariants
  MG1  A step names bins by where they are to be, so that it does not matter when the one before it
       was done.
  MG2  After the last step of a named strategy every bin is where it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bench.words.options import WordOptions
from service.errors import UsageError
from service.migration.founding import JobShape

#: The original's names of strategies, and the service's.
STRATEGIES = {
    "sudden": "all-at-once",
    "fluid": "fluid",
    "batched": "batched",
    "optimized": "optimized",
}
NONE = "none"
#: A topic without partitions: rows come from memory.
_NO_INPUT: dict[str, list[int]] = {"words": []}


@dataclass(frozen=True, slots=True)
class Step:
    """One request, due at a time of the run."""

    #: Since the run began; None: before the keys are loaded.
    at_ns: int | None
    #: (bin, worker), bins distinct.
    target: tuple[tuple[int, int], ...]
    #: The service's name of the strategy.
    strategy: str

    def request(self, number: int, wave_bins: int) -> bytes:
        """The step as a record of the control topic."""
        body: dict[str, object] = {
            "id": f"step-{number}",
            "kind": "move",
            "moves": self.target,
            "strategy": self.strategy,
        }
        if self.strategy == "batched" and wave_bins:
            body["batch"] = wave_bins
        return msgspec.json.encode(body)


def shape_of(options: WordOptions) -> JobShape:
    """The job that a run is, as a controller takes it."""
    return JobShape(
        bins=options.bins,
        workers=options.workers,
        gateways=0,
        vertices=0 if options.backend.native else 1,
        sink_groups=options.workers,
        start=_NO_INPUT,
        until_end=False,
    )


def first_owners(options: WordOptions) -> NDArray[np.int32]:
    """Owner of each bin when the job begins (FD3 of founding)."""
    return (np.arange(options.bins, dtype=np.int64) * options.workers // options.bins).astype(
        np.int32
    )


def skewed(owners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each odd worker's lower half of bins is with the worker before it: a quarter of all bins."""
    after = owners.copy()
    for worker in range(1, int(owners.max()) + 1, 2):
        held = np.flatnonzero(owners == worker)
        after[held[: len(held) // 2]] = worker - 1
    return after


def steps_of(options: WordOptions) -> list[Step]:
    """The steps that `--migration` names.

    Raises:
        UsageError: it names no strategy.
    """
    if options.migration == NONE:
        return []
    strategy = STRATEGIES.get(options.migration)
    if strategy is None:
        raise UsageError(
            f"--migration {options.migration}: must be {NONE}, {', '.join(STRATEGIES)}"
        )
    uniform = first_owners(options)
    skew = skewed(uniform)
    third = options.duration_ns // 3
    return [
        Step(third, _differences(uniform, skew), strategy),
        Step(2 * third, _differences(skew, uniform), strategy),
    ]


def moving_bins(options: WordOptions, steps: list[Step]) -> NDArray[np.bool_]:
    """bool[bins]: which bins a step of the run itself names."""
    moving = np.zeros(options.bins, dtype=np.bool_)
    for step in steps:
        if step.at_ns is not None:
            moving[[bin_ for bin_, _ in step.target]] = True
    return moving


def _differences(
    before: NDArray[np.int32], after: NDArray[np.int32]
) -> tuple[tuple[int, int], ...]:
    changed = np.flatnonzero(before != after)
    return tuple(zip(changed.tolist(), after[changed].tolist(), strict=True))
