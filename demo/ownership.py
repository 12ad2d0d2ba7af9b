"""Who must have owned a bin when, and whether the outputs agree.

Flow: owners at the start and completed migrations -> expected owners; headers of the outputs ->
observed workers -> [judge] -> violations. Pure.

Invariants
  W1  In each output partition the workers that wrote a bin's records, repetitions merged, are its
      owners in their order: nobody else, nobody twice, nobody after its successor.
  W2  What was written while no migration ran was written by the owner of that time.
  W3  A change of ownership is *witnessed* when W1 saw the new owner write straight after the old
      one in some partition, or W2 saw the old one before the migration and the new one behind it.

W1 needs no clock, W2 uses the producers' timestamps and leaves `MARGIN_US` around each migration.
A bin without outputs on one side of a migration cannot witness it; that alone is no violation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    #: (bin, migration) whose change of ownership was seen.
    witnessed: set[tuple[int, int]] = set()
    for path in paths:
        history = _history([phase[path.bin] for phase in phases])
        places = _places(path.workers, [owner for _, owner in history])
        if places is None:
            problems.append(
                f"bin {path.bin}, partition {path.partition}: written by workers "
                f"{_arrows(path.workers)}, owned by {_arrows([owner for _, owner in history])}"
            )
            continue
        for before, after in pairwise(places):
            if after == before + 1:
                witnessed.add((path.bin, history[after][0] - 1))
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
    changes, counts = [], []
    for number, (before_all, after_all) in enumerate(pairwise(phases)):
        changed = [b for b, (old, new) in enumerate(zip(before_all, after_all)) if old != new]
        changes.append(len(changed))
        counts.append(
            sum(
                (bin_, number) in witnessed
                or ((bin_, number) in seen and (bin_, number + 1) in seen)
                for bin_ in changed
            )
        )
    return Judgement(len(problems), problems[:_SAMPLES], changes, counts)


def _history(owners: Sequence[int]) -> list[tuple[int, int]]:
    """(first phase, owner) of each stretch of phases with one owner."""
    history: list[tuple[int, int]] = []
    for phase, owner in enumerate(owners):
        if not history or history[-1][1] != owner:
            history.append((phase, owner))
    return history


def _places(observed: Sequence[int], expected: Sequence[int]) -> list[int] | None:
    """Where each observed worker stands among the expected ones, in order; None if it does not."""
    places = []
    start = 0
    for worker in observed:
        while start < len(expected) and expected[start] != worker:
            start += 1
        if start == len(expected):
            return None
        places.append(start)
        start += 1
    return places


def _arrows(workers: Sequence[int]) -> str:
    return " → ".join(map(str, workers))
