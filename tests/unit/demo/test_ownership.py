"""Owners over time, judged from what outputs say; tables small enough to check by eye."""

from __future__ import annotations

import pytest

from demo.ownership import (
    MARGIN_US,
    Migration,
    Path,
    Sighting,
    judge,
    owners_by_phase,
    quiet_phases,
)

OUT = Migration("out", 1_000_000, 2_000_000, {0: 1, 2: 1})
BACK = Migration("back", 5_000_000, 6_000_000, {0: 0, 2: 0})
OWNERS = [0, 0, 0, 1]


def test_each_migration_opens_a_phase():
    assert owners_by_phase(OWNERS, [OUT, BACK]) == [OWNERS, [1, 0, 1, 1], OWNERS]


def test_quiet_phases_leave_the_migrations_out():
    first, second, third = quiet_phases([OUT, BACK])
    assert first == (0, 1_000_000 - MARGIN_US)
    assert second == (2_000_000 + MARGIN_US, 5_000_000 - MARGIN_US)
    assert third[0] == 6_000_000 + MARGIN_US


def test_seeing_old_and_new_owner_witnesses_a_change():
    sightings = [Sighting(0, 0, 0), Sighting(0, 1, 1), Sighting(2, 1, 1), Sighting(2, 2, 0)]
    judgement = judge(OWNERS, [OUT, BACK], [], sightings)
    assert judgement.violations == 0
    assert judgement.changes == [2, 2]
    assert judgement.witnessed == [1, 1]


@pytest.mark.parametrize(
    "workers", [[], [0], [1], [0, 1], [1, 0], [0, 1, 0]], ids=lambda value: str(value)
)
def test_a_path_may_miss_owners_but_keeps_their_order(workers):
    assert judge(OWNERS, [OUT, BACK], [Path(0, 0, workers)], []).violations == 0


@pytest.mark.parametrize("workers", [[1, 0, 1], [0, 1, 0, 1], [0, 2], [-1]], ids=str)
def test_a_path_beside_the_owners_is_a_violation(workers):
    judgement = judge(OWNERS, [OUT, BACK], [Path(0, 3, workers)], [])
    assert judgement.violations == 1
    assert "bin 0, partition 3" in judgement.samples[0]


def test_a_bin_that_nobody_moved_has_one_writer():
    assert judge(OWNERS, [OUT], [Path(1, 0, [0])], []).violations == 0
    assert judge(OWNERS, [OUT], [Path(1, 0, [1])], []).violations == 1
    assert judge(OWNERS, [OUT], [], [Sighting(3, 1, 0)]).violations == 1


@pytest.mark.parametrize(
    ("workers", "witnessed"),
    [([0], [0, 0]), ([0, 1], [1, 0]), ([1, 0], [0, 1]), ([0, 1, 0], [1, 1])],
    ids=str,
)
def test_a_successor_right_after_its_predecessor_witnesses_the_change(workers, witnessed):
    assert judge(OWNERS, [OUT, BACK], [Path(2, 0, workers)], []).witnessed == witnessed


def test_a_change_seen_twice_counts_once():
    paths = [Path(0, 0, [0, 1]), Path(0, 1, [0, 1, 0])]
    sightings = [Sighting(0, 0, 0), Sighting(0, 1, 1), Sighting(0, 2, 0)]
    assert judge(OWNERS, [OUT, BACK], paths, sightings).witnessed == [1, 1]
