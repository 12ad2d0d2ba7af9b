"""What paths do to timestamps, by examples."""

from __future__ import annotations

import pytest

from service.dataflow.progress.summary import PathSummary, egress, feedback, identity, ingress


def test_each_operator_of_a_loop_has_its_action() -> None:
    assert identity(2).results_in((7, 3)) == (7, 3)
    assert ingress(2).results_in((7, 3)) == (7, 3, 0)
    assert egress(3).results_in((7, 3, 5)) == (7, 3)
    assert feedback(3).results_in((7, 3, 5)) == (7, 3, 6)


def test_leaving_an_inner_loop_and_going_round_the_outer_resets_the_inner_counter() -> None:
    outer = egress(3).followed_by(feedback(2)).followed_by(ingress(2))
    assert outer == PathSummary(2, 1, (0,))
    assert outer.results_in((7, 3, 5)) == (7, 4, 0)


def test_rounds_of_a_loop_entered_on_the_way_are_counted_in_the_tail() -> None:
    entered = ingress(1).followed_by(feedback(2)).followed_by(feedback(2))
    assert entered == PathSummary(1, 0, (2,))


def test_only_an_increment_inside_the_loop_advances_every_timestamp() -> None:
    assert feedback(1).advances(1)
    assert feedback(3).advances(3)
    assert PathSummary(2, 1, (0,)).advances(3)
    assert not identity(2).advances(2)
    assert not PathSummary(2, 0, (4,)).advances(3)
    assert not PathSummary(1, 1, (0,)).advances(2)


def test_summary_that_needs_a_deeper_timestamp_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="PS1"):
        identity(2).results_in((1,))
    with pytest.raises(AssertionError, match="PS1"):
        egress(1)
