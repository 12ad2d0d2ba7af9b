"""From every checkpoint that was written while a job went on it ends as if it had never stopped."""

from __future__ import annotations

import os

import pytest

from tests.simulation.checkpoint_lives import FLOWS, live

SEEDS = int(os.environ.get("MEGAPHONE_CHECKPOINT_SEEDS", "3"))


@pytest.mark.parametrize("name", FLOWS)
def test_a_job_goes_on_from_every_checkpoint_to_the_same_end(name: str) -> None:
    lives = [live(name, seed) for seed in range(SEEDS)]
    # Or nothing was tested: checkpoints were written, and bins moved around them.
    assert sum(each.checkpoints for each in lives) >= SEEDS
    assert sum(each.moves for each in lives) >= SEEDS
