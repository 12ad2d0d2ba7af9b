"""Which waves of a plan are copied before their cut, and whether their copies are ready.

Flow: Plan -> [PreCopying.due] -> `PreCopy` records; old owners -> [PreCopying.report]; PlanRun asks
[PreCopying.may_move] before it gives a wave its cut. Pure: the clock is an argument.

Invariants
  PY1  Copies of at most `AHEAD` waves that have no cut yet are under way: what is staged takes
       memory at the new owners.
  PY2  Numbers rise along the log, wave by wave; a wave is announced once.
  PY3  A wave may move once every old owner has said, for each stateful vertex, that its copies of
       the wave are ready; or after `PATIENCE_US`, since what is not copied moves at the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import ProtocolViolation
from service.migration.records import PreCopy
from service.migration.strategy import Moves

AHEAD = 2
PATIENCE_US = 60_000_000


@dataclass(slots=True)
class _Wave:
    """A wave whose copies are under way."""

    number: int
    announced_us: int
    #: (worker, vertex) that said it is ready.
    ready: set[tuple[int, str]] = field(default_factory=set)
    #: How many have to.
    expected: int = 0


class PreCopying:
    """The copies of one plan."""

    def __init__(self, request: str, waves: Sequence[Moves], vertices: int) -> None:
        """Copy `waves` of `request`, each of `vertices` stateful vertices."""
        self._request = request
        self._waves = waves
        self._vertices = vertices
        #: Newest number given.
        self._last = 0
        self._under_way: dict[int, _Wave] = {}
        self._announced = 0

    def follows(self, last: int) -> None:
        """Note the newest number in the log: reports of copies before these may still come."""
        self._last = max(self._last, last)

    def due(self, issued: int, owners: NDArray[np.int32], last: int, now_us: int) -> list[PreCopy]:
        """Records of copies to be announced now (PY1, PY2).

        Args:
            issued: waves that have a cut.
            owners: worker ordinal of each bin, after every move accepted so far.
            last: newest number in the log.
            now_us: the controller's clock.
        """
        records = []
        self.follows(last)
        after = owners.copy()
        for wave in self._waves[issued : self._announced]:
            for bin_, worker in wave:
                after[bin_] = worker
        while self._announced < min(len(self._waves), issued + AHEAD):
            moves = self._waves[self._announced]
            sources = {int(after[bin_]) for bin_, _ in moves}
            if self._announced > issued and _moves_twice(self._waves[issued : self._announced + 1]):
                # Its owner of then has it only after a wave before it.
                break
            self._last += 1
            expected = len(sources) * self._vertices
            self._under_way[self._announced] = _Wave(self._last, now_us, expected=expected)
            self._announced += 1
            for bin_, worker in moves:
                after[bin_] = worker
            records.append(
                PreCopy(number=self._last, request=self._request, moves=list(moves), clock=now_us)
            )
        return records

    def report(self, worker: int, vertex: str, number: int) -> None:
        """Note that a worker's copies of one vertex are ready.

        A report of a wave that has its cut already comes too late to matter.

        Raises:
            ProtocolViolation: no copy of that number was announced.
        """
        if number > self._last:
            raise ProtocolViolation(f"worker {worker} is ready with copy {number}, which is none")
        for wave in self._under_way.values():
            if wave.number == number:
                wave.ready.add((worker, vertex))

    def may_move(self, wave: int, now_us: int) -> bool:
        """Whether the wave of that place, from 0 on, may be given its cut (PY3)."""
        found = self._under_way.get(wave)
        if found is None:
            return False
        return len(found.ready) >= found.expected or now_us >= found.announced_us + PATIENCE_US

    def moved(self, wave: int) -> int:
        """Note that the wave has its cut; the number of its copies, 0 if it was not copied."""
        found = self._under_way.pop(wave, None)
        self._announced = max(self._announced, wave + 1)
        return 0 if found is None else found.number

    @property
    def is_open(self) -> bool:
        """Whether copies are under way that no move has claimed."""
        return bool(self._under_way)


def _moves_twice(waves: Sequence[Moves]) -> bool:
    bins = [bin_ for wave in waves for bin_, _ in wave]
    return len(set(bins)) < len(bins)
