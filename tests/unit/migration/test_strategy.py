"""Strategies by example; the property test checks ST1-ST3 for all."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import UsageError
from service.migration.strategy import (
    Strategy,
    all_at_once,
    batched,
    fluid,
    moves_towards,
    optimized,
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
    named = ("all-at-once", "fluid", "batched", "optimized")
    assert [strategy_named(s) for s in named] == list(Strategy)
    assert waves_of(Strategy.OPTIMIZED, OWNERS, TARGET, 2) == optimized(OWNERS, TARGET, 2)
    assert waves_of(Strategy.ALL_AT_ONCE, OWNERS, TARGET, 2) == all_at_once(OWNERS, TARGET)
    assert waves_of(Strategy.FLUID, OWNERS, TARGET, 2) == fluid(OWNERS, TARGET)
    assert waves_of(Strategy.BATCHED, OWNERS, TARGET, 2) == batched(OWNERS, TARGET, 2)


def test_optimized_moves_a_bin_of_each_pair_of_workers_at_once() -> None:
    owners = np.array([0, 0, 0, 2, 2], dtype=np.int32)
    target = {0: 1, 1: 1, 2: 1, 3: 3, 4: 3}
    assert optimized(owners, target) == (((0, 1), (3, 3)), ((1, 1), (4, 3)), ((2, 1),))
    assert optimized(owners, target, 2) == (((0, 1), (1, 1), (3, 3), (4, 3)), ((2, 1),))


def test_optimized_pairs_bins_of_like_size_largest_first() -> None:
    owners = np.array([0, 0, 2, 2], dtype=np.int32)
    target = {0: 1, 1: 1, 2: 3, 3: 3}
    sizes = np.array([10, 900, 800, 20])
    assert optimized(owners, target, sizes=sizes) == (((1, 1), (2, 3)), ((0, 1), (3, 3)))


def test_optimized_lets_nobody_send_and_receive_at_once() -> None:
    """Two workers that change places, and a ring of three: their links run one by one."""
    swap = optimized(np.array([0, 1], dtype=np.int32), {0: 1, 1: 0})
    assert swap == (((0, 1),), ((1, 0),))
    ring = optimized(np.array([0, 1, 2], dtype=np.int32), {0: 1, 1: 2, 2: 0})
    assert sorted(ring) == [((0, 1),), ((1, 2),), ((2, 0),)]


def test_optimized_takes_no_longer_than_the_busiest_worker_must() -> None:
    """Worker 0 has three bins to give to three workers, who get others beside them."""
    owners = np.array([0, 0, 0, 1, 1], dtype=np.int32)
    target = {0: 2, 1: 3, 2: 4, 3: 2, 4: 3}
    waves = optimized(owners, target)
    assert [len(wave) for wave in waves] == [2, 2, 1]


def test_a_strategy_that_nobody_has_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown strategy 'fast'"):
        strategy_named("fast")
