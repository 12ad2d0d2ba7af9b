"""The order of timestamps, by examples."""

from __future__ import annotations

import pytest

from service.dataflow.progress.timestamp import less_equal, less_than


def test_epochs_alone_are_ordered_like_numbers() -> None:
    assert less_equal((3,), (3,))
    assert less_equal((3,), (4,))
    assert not less_equal((4,), (3,))
    assert less_than((3,), (4,))
    assert not less_than((3,), (3,))


def test_counters_compare_lexicographically_within_comparable_epochs() -> None:
    assert less_equal((1, 0, 9), (1, 1, 0))
    assert less_equal((1, 0, 9), (2, 0, 9))
    assert not less_equal((1, 1, 0), (1, 0, 9))


def test_later_epoch_with_earlier_counters_is_unrelated() -> None:
    assert not less_equal((1, 5), (2, 0))
    assert not less_equal((2, 0), (1, 5))


def test_timestamps_of_different_scopes_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="TS2"):
        less_equal((1,), (1, 0))
