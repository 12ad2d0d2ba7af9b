"""The measured process of `bench state`: keys drawn alike each time, counts judged by NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from service.bench import state_side
from service.bench.state_side import BATCH, SideOptions, measure


@pytest.mark.parametrize("budget", [0, 4 << 20])
def test_a_side_counts_exactly_with_rows_on_disk_and_without(budget, tmp_path):
    options = SideOptions(budget, keys=60_000, runs=1, skewed=2 * BATCH, uniform=BATCH)
    result = measure(options, tmp_path)
    assert result.exact
    assert (result.away > 20_000) == bool(budget)
    assert len(result.skewed) == len(result.uniform) == 1


def test_the_judge_notices_a_record_that_was_not_counted(tmp_path, monkeypatch):
    options = SideOptions(0, keys=1_000, runs=1, skewed=BATCH, uniform=BATCH)
    apply = state_side._Driven.apply
    monkeypatch.setattr(
        state_side._Driven, "apply", lambda self, keys, clocked: apply(self, keys[1:], clocked)
    )
    assert not measure(options, tmp_path).exact


def test_skewed_keys_follow_zipfs_law_and_are_the_same_each_time():
    options = SideOptions(0, keys=10_000, runs=1, skewed=20 * BATCH, uniform=BATCH)
    first = np.concatenate(list(state_side._drawn(state_side._SKEWED, 1, options)))
    again = np.concatenate(list(state_side._drawn(state_side._SKEWED, 1, options)))
    assert (first == again).all()
    counts = np.sort(np.bincount(first, minlength=options.keys))[::-1]
    # By the law 10**0.99 to 1, but for what the integral rounds.
    assert 5 < counts[0] / counts[9] < 13
