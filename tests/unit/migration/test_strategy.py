"""Strategies by example; the property test checks ST1-ST3 for all."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import NotYetSupported, UsageError
from service.migration.strategy import (
    Strategy,
    all_at_once,
    batched,
    fluid,
    moves_towards,
    strategy_named,
    waves_of,
)

OWNERS = np.array([0, 0, 1, 1], dtype=np.int32)
TARGET = {3: 0, 0: 1, 2: 1, 1: 1}


def test_a_bin_that_is_already_in_place_does_not_move() -> None:
    assert moves_towards(OWNERS, TARGET) == ((3, 0), (0, 1), (1, 1))
    assert moves_towards(OWNERS, {2: 1}) == ()


def test_all_at_once_is_one_wave() -> None:
    assert all_at_once(OWNERS, TARGET) == (((3, 0), (0, 1), (1, 1)),)


def test_fluid_is_a_wave_for_each_bin() -> None:
    assert fluid(OWNERS, TARGET) == (((3, 0),), ((0, 1),), ((1, 1),))


def test_batched_waves_are_full_except_the_last() -> None:
    assert batched(OWNERS, TARGET, 2) == (((3, 0), (0, 1)), ((1, 1),))


@pytest.mark.parametrize("strategy", list(Strategy))
def test_nothing_to_move_means_no_wave(strategy: Strategy) -> None:
    assert waves_of(strategy, OWNERS, {}, 1) == ()


def test_strategies_are_chosen_by_name() -> None:
    assert [strategy_named(s) for s in ("all-at-once", "fluid", "batched")] == list(Strategy)
    assert waves_of(Strategy.ALL_AT_ONCE, OWNERS, TARGET, 2) == all_at_once(OWNERS, TARGET)
    assert waves_of(Strategy.FLUID, OWNERS, TARGET, 2) == fluid(OWNERS, TARGET)
    assert waves_of(Strategy.BATCHED, OWNERS, TARGET, 2) == batched(OWNERS, TARGET, 2)


@pytest.mark.parametrize("name", ["optimized", "plan"])
def test_a_strategy_of_a_later_version_is_refused_by_name(name: str) -> None:
    with pytest.raises(NotYetSupported, match="not supported in this version; use one of all-at"):
        strategy_named(name)


def test_a_strategy_that_nobody_has_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown strategy 'fast'"):
        strategy_named("fast")
