"""Who must have owned a bin when, and whether the outputs agree.

Flow: owners at the start and completed migrations -> expected owners; headers of the outputs ->
observed workers -> [judge] -> violations. Pure.

Invariants
  W1  In each output partition the workers that wrote a bin's records, repetitions merged, are its
      owners in their order: nobody else, nobody twice, nobody after its successor.
  W2  What was written while no migration ran was written by the owner of that time.
  W3  A change of ownership is *witnessed* when W2 saw the bin's old owner before the migration and
      its new owner behind it.

W1 needs no clock, W2 uses the producers' timestamps and leaves `MARGIN_US` around each migration.
A bin without outputs between two migrations can be judged by W1 only, and is not witnessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

#: Producers stamp in whole milliseconds, after the wave that let them write.
MARGIN_US = 50_000
_FOREVER_US = 1 << 62
_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Migration:
    """A completed plan: from its first cut to its completion (epoch µs), and its bins' targets."""

    id: str
    first_cut_us: int
    completed_us: int
    targets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Path:
    """Workers that wrote a bin's outputs to one partition, in order, repetitions merged."""

    bin: int
    partition: int
    workers: Sequence[int]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A worker wrote outputs of a bin in a quiet phase: 0 before the first migration, and so on."""

    bin: int
    phase: int
    worker: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the outputs say about ownership."""

    violations: int
    samples: Sequence[str]
    #: Per migration: changes of ownership that it claims, and how many the outputs show (W3).
    changes: Sequence[int]
    witnessed: Sequence[int]


def owners_by_phase(owners: Sequence[int], migrations: Sequence[Migration]) -> list[list[int]]:
    """Owner of each bin, by phase: row 0 at the start, row k behind the k-th migration."""
    phases = [list(owners)]
    for migration in migrations:
        after = list(phases[-1])
        for bin_, worker in migration.targets.items():
            after[bin_] = worker
        phases.append(after)
    return phases


def quiet_phases(migrations: Sequence[Migration]) -> list[tuple[int, int]]:
    """[start, end) in epoch µs of the phase before, between and behind the migrations."""
    starts = [0, *(migration.completed_us + MARGIN_US for migration in migrations)]
    ends = [*(migration.first_cut_us - MARGIN_US for migration in migrations), _FOREVER_US]
    return list(zip(starts, ends))


def judge(
    owners: Sequence[int],
    migrations: Sequence[Migration],
    paths: Iterable[Path],
    sightings: Iterable[Sighting],
) -> Judgement:
    """Compare the outputs' headers with the owners they should have had (W1 to W3)."""
    phases = owners_by_phase(owners, migrations)
    problems: list[str] = []
    for path in paths:
        expected = [worker for worker, _ in groupby(phase[path.bin] for phase in phases)]
        if not _is_subsequence(path.workers, expected):
            problems.append(
                f"bin {path.bin}, partition {path.partition}: written by workers "
                f"{_arrows(path.workers)}, owned by {_arrows(expected)}"
            )
    seen: set[tuple[int, int]] = set()
    for sighting in sightings:
        owner = phases[sighting.phase][sighting.bin]
        if sighting.worker == owner:
            seen.add((sighting.bin, sighting.phase))
        else:
            problems.append(
                f"bin {sighting.bin}: written by worker {sighting.worker} in quiet phase "
                f"{sighting.phase}, owned by {owner}"
            )
    changes, witnessed = [], []
    for phase, (before, after) in enumerate(pairwise(phases)):
        changed = [bin_ for bin_, (old, new) in enumerate(zip(before, after)) if old != new]
        changes.append(len(changed))
        witnessed.append(
            sum((bin_, phase) in seen and (bin_, phase + 1) in seen for bin_ in changed)
        )
    return Judgement(len(problems), problems[:_SAMPLES], changes, witnessed)


def _is_subsequence(observed: Sequence[int], expected: Sequence[int]) -> bool:
    rest = iter(expected)
    return all(worker in rest for worker in observed)


def _arrows(workers: Sequence[int]) -> str:
    return " → ".join(map(str, workers))
