"""The lives must be able to differ: checkpoints with one rule taken out, each caught by some seed.

As `test_mutants`; what catches is a check of `checkpoint_lives`, or the engine itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from service.cuts import CheckpointParts
from service.dataflow.delaying import DelayOperator
from service.errors import MegaphoneError
from service.migration.clear_cuts import ClearCuts
from service.migration.cutting import Cutting
from tests.simulation.checkpoint_lives import live

SEEDS = int(os.environ.get("MEGAPHONE_MUTANT_SEEDS", "12"))

CUTTING = "service.migration.state_host.Cutting"
PARTS = "service.member.CheckpointParts"
CLEAR = "service.migration.controller.ClearCuts"
DELAY = "service.migration.stateless.DelayOperator"


class NoWaiting:
    """Lets nothing wait."""

    def wait_for(self, *_: object) -> None:
        pass

    def release(self, *_: object) -> None:
        pass


class NotWaiting(Cutting):
    """Applies rows behind the cut before the copy is made."""

    def add(self, cut: int, owned: np.ndarray) -> None:
        self._waiting, waiting = NoWaiting(), self._waiting
        super().add(cut, owned)
        self._waiting = waiting

    def step(self) -> bool:
        self._waiting, waiting = NoWaiting(), self._waiting
        more = super().step()
        self._waiting = waiting
        return more


class Hasty(Cutting):
    """Copies before everything below the cut has come."""

    def step(self) -> bool:
        self._inputs_reached = lambda _: True
        self._unsettled = lambda _: np.zeros(self._store.bins, dtype=np.bool_)
        return super().step()


class Tardy(CheckpointParts):
    """Takes the positions behind the tick that passes the cut."""

    def before_tick(self, epoch: int) -> None:
        pass


class Anywhere(ClearCuts):
    """Has every time for a clear one."""

    def at(self, earliest: int) -> int:
        return earliest


class Blind(DelayOperator):
    """Does not see what is put off across a cut."""

    def holds_across(self, cut: int) -> bool:
        return False


@dataclass(frozen=True)
class Mutant:
    """What is replaced, and the pattern of what catches it."""

    patches: Iterable[tuple[str, Any]]
    caught_by: str
    flow: str = "aggregate"


MUTANTS = {
    "rows behind a checkpoint's cut do not wait for the copy": Mutant(
        [(CUTTING, NotWaiting)], "CL[13]"
    ),
    "a bin is copied before rows below the cut were applied": Mutant(
        [(CUTTING, Hasty)], "CL[123]|S1"
    ),
    "positions are those behind the cut's tick": Mutant([(PARTS, Tardy)], "CL[13]"),
    "a cut is not clear of rows that were put off": Mutant(
        [(CLEAR, Anywhere), (DELAY, Blind)], "CL[13]", "delays"
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_some_seed_catches_checkpoints_in_which(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And checkpoints as they are pass under the very seed that caught the others."""
    mutant = MUTANTS[name]
    with monkeypatch.context() as patched:
        for target, replacement in mutant.patches:
            patched.setattr(target, replacement)
        findings = ((_finding(mutant, seed), seed) for seed in range(SEEDS))
        nothing = (f"nothing in {SEEDS} schedules", 0)
        found, seed = next((each for each in findings if each[0]), nothing)
        assert re.search(mutant.caught_by, str(found)), found
    assert _finding(mutant, seed) is None


def _finding(mutant: Mutant, seed: int) -> str | None:
    """What ended the lives under `seed`, or None if nothing did."""
    try:
        live(mutant.flow, seed, again=False)
    except (AssertionError, MegaphoneError) as caught:
        return str(caught)
    return None
