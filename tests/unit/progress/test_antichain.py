"""Frontiers by examples; laws are in tests/property."""

from __future__ import annotations

import pytest

from service.dataflow.progress.antichain import Antichain, MutableAntichain


def test_empty_antichain_means_complete() -> None:
    frontier = Antichain()
    assert frontier.is_empty
    assert frontier.epoch() is None
    assert frontier.reached(10**18)
    assert not frontier.less_equal((0,))
    assert repr(frontier) == "Antichain([])"


def test_frontier_has_reached_an_epoch_when_no_element_is_below_it() -> None:
    frontier = Antichain([(5, 9), (7, 2)])
    assert len(frontier) == 2
    assert frontier.reached(5)
    assert not frontier.reached(6)
    assert frontier.epoch() == 5


def test_insert_drops_what_the_new_element_precedes() -> None:
    frontier = Antichain([(5, 9), (7, 2)])
    assert not frontier.insert((6, 9))
    assert frontier.insert((6, 0))
    assert frontier.elements() == ((5, 9), (6, 0))


def test_relations_refuse_a_timestamp_of_another_scope() -> None:
    with pytest.raises(AssertionError, match="TS2"):
        Antichain([(1,)]).less_equal((1, 0))
    with pytest.raises(AssertionError, match="TS2"):
        Antichain([(1,)]).less_than((1, 0))


def test_antichain_equals_only_antichains() -> None:
    assert Antichain([(1,)]) == Antichain([(2,), (1,)])
    assert Antichain([(1,)]) != ((1,),)


def test_frontier_moves_only_when_its_last_support_goes() -> None:
    counted = MutableAntichain()
    assert list(counted.update([((1,), 2), ((3,), 1)])) == [((1,), 1)]
    assert list(counted.update([((1,), -1)])) == []
    assert list(counted.update([((1,), -1)])) == [((1,), -1), ((3,), 1)]
    assert counted.frontier == Antichain([(3,)])
    assert counted.count((3,)) == 1
    assert not counted.is_empty


def test_receipt_that_overtakes_its_sending_counts_below_zero_and_cancels() -> None:
    counted = MutableAntichain()
    assert not counted.update([((4,), -1)])
    assert counted.count((4,)) == -1
    assert counted.frontier.is_empty
    assert not counted.update([((4,), 1)])
    assert counted.is_empty


def test_changes_of_one_update_are_seen_all_at_once() -> None:
    counted = MutableAntichain()
    counted.update([((1,), 1)])
    assert list(counted.update([((1,), -1), ((2,), 1)])) == [((1,), -1), ((2,), 1)]
    assert list(counted.update([((9,), 1), ((9,), -1)])) == []
    assert repr(counted) == "MutableAntichain({(2,): 1})"
