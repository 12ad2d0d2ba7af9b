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

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bench.words.options import WordOptions
from service.errors import UsageError
from service.migration.founding import JobShape
from service.migration.plan_file import read_plan
from service.migration.strategy import Moves

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
    """One request, due at a time of the run: a target and a strategy, or waves as they are."""

    #: Since the run began; None: before the keys are loaded.
    at_ns: int | None
    #: (bin, worker); in each of them bins are distinct, and several are waves of a plan's file.
    waves: tuple[Moves, ...]
    #: The service's name of the strategy; None where the waves are as they are to be.
    strategy: str | None = None

    def request(self, number: int, options: WordOptions) -> bytes:
        """The step as a record of the control topic."""
        body: dict[str, object] = {"id": f"step-{number}", "kind": "move"}
        if self.strategy is None:
            body["waves"] = self.waves
        else:
            (body["moves"],) = self.waves
            body["strategy"] = self.strategy
            if self.strategy == "batched" and options.wave_bins:
                body["batch"] = options.wave_bins
        if options.precopy:
            body["precopy"] = True
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
    """The steps that `--migration` names: a strategy's two, or those of a plan's file.

    Raises:
        UsageError: it names neither a strategy nor a file, or the file holds no plan.
    """
    if options.migration == NONE:
        return []
    strategy = STRATEGIES.get(options.migration)
    if strategy is None:
        return list(_steps_of_file(options.migration))
    uniform = first_owners(options)
    skew = skewed(uniform)
    third = options.duration_ns // 3
    return [
        Step(third, (_differences(uniform, skew),), strategy),
        Step(2 * third, (_differences(skew, uniform),), strategy),
    ]


def _steps_of_file(name: str) -> Iterator[Step]:
    """A step for each time that the waves of a plan's file name; time 0 is before the load."""
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--migration {name}: must be {NONE}, {', '.join(STRATEGIES)}, or a plan's file; "
            f"there is no such file ({error.strerror})"
        ) from error
    timed = read_plan(text, path.name).waves
    for after_us, waves in groupby(timed, key=attrgetter("after_us")):
        at_ns = after_us * 1_000 if after_us else None
        yield Step(at_ns, tuple(wave.moves for wave in waves))


def moving_bins(options: WordOptions, steps: list[Step]) -> NDArray[np.bool_]:
    """bool[bins]: which bins a step of the run itself moves.

    Raises:
        UsageError: a step names a bin that there is not.
    """
    moving = np.zeros(options.bins, dtype=np.bool_)
    owners = first_owners(options)
    for step in steps:
        for bin_, worker in chain.from_iterable(step.waves):
            if bin_ >= options.bins:
                raise UsageError(
                    f"--migration {options.migration}: there is no bin {bin_} of {options.bins}"
                )
            moving[bin_] |= step.at_ns is not None and owners[bin_] != worker
            owners[bin_] = worker
    return moving


def _differences(before: NDArray[np.int32], after: NDArray[np.int32]) -> Moves:
    changed = np.flatnonzero(before != after)
    return tuple(zip(changed.tolist(), after[changed].tolist(), strict=True))
