"""Targets by name; property tests check that a spread is even and moves no more than it must."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import UsageError
from service.migration.target import named_target, spread

OWNERS = np.array([0, 0, 1, 1], dtype=np.int32)


def test_a_rescale_spreads_the_bins_and_serves_receivers_in_turn() -> None:
    owners = np.zeros(8, dtype=np.int32)
    assert spread(owners, 4) == {2: 1, 3: 2, 4: 3, 5: 1, 6: 2, 7: 3}
    assert spread(np.array([0, 1, 2, 2], dtype=np.int32), 2) == {2: 0, 3: 1}


def test_a_target_has_a_name_and_maybe_a_number() -> None:
    assert named_target("worker:1", OWNERS, 2) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert named_target("spread:1", OWNERS, 2) == {2: 0, 3: 0}
    assert named_target("uniform", OWNERS, 2) == {0: 0, 1: 1, 2: 0, 3: 1}
    assert named_target("uniform:1", OWNERS, 2) == dict.fromkeys(range(4), 0)
    assert named_target("half", OWNERS, 2) == dict.fromkeys(range(4), 0)
    assert named_target("uniform_skew", OWNERS, 2) == {0: 0, 1: 0, 2: 0, 3: 1}
    assert named_target("plan.json", OWNERS, 2) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spread", "after spread: comes a number of workers"),
        ("spread:x", "after spread: comes a number of workers"),
        ("spread:0", "the job has 2 workers; ask for 1 to 2 of them"),
        ("half:3", "the job has 2 workers; ask for 1 to 2 of them"),
        ("worker:2", "the job has workers 0 to 1"),
    ],
)
def test_a_target_that_the_job_cannot_have_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        named_target(text, OWNERS, 2)
