"""The routing table, case by case; the property test compares it with a naive one.

Cannot catch: a Router or StateHost that asks for the wrong epoch.
"""

from __future__ import annotations

import pytest

from service.errors import ProtocolViolation
from service.migration.records import MAX_EPOCH, Move
from service.migration.routing_table import BinMove, RoutingTable
from tests.unit.migration.test_horizon import generation


def wave(at: int, *moves: tuple[int, int]) -> Move:
    return Move(at=at, request="r", wave=1, waves=1, moves=list(moves), clock=0)


def test_an_epoch_before_the_cut_has_the_old_owner_and_the_cut_itself_the_new_one() -> None:
    table = RoutingTable([0, 0, 1, 1], 2)
    assert table.apply(wave(100, (0, 1), (3, 0))) == (BinMove(0, 0, 1), BinMove(3, 1, 0))
    assert [table.owner(0, epoch) for epoch in (0, 99, 100, 101)] == [0, 0, 1, 1]
    assert table.owners_at(99).tolist() == [0, 0, 1, 1]
    assert table.owners_at(100).tolist() == [1, 0, 1, 0]
    assert table.latest.tolist() == [1, 0, 1, 0]
    assert table.bins == 4


def test_an_interval_begins_at_the_last_cut_and_keeps_its_name_when_the_past_is_forgotten() -> None:
    table = RoutingTable([0, 1], 2, since=5)
    table.apply(wave(10, (0, 1)))
    table.apply(wave(20, (1, 0)))
    assert [table.interval_start(epoch) for epoch in (5, 9, 10, 19, 20, 99)] == [
        5,
        5,
        10,
        10,
        20,
        20,
    ]
    table.compact(15)
    assert [table.interval_start(epoch) for epoch in (15, 19, 20)] == [10, 10, 20]
    with pytest.raises(ProtocolViolation, match="RT3"):
        table.interval_start(14)


def test_one_interval_answers_with_one_array_that_nobody_can_change() -> None:
    table = RoutingTable([0, 1], 2)
    before = table.owners_at(5)
    table.apply(wave(10, (0, 1)))
    assert table.owners_at(9) is before
    assert table.owners_at(10) is table.owners_at(1000)
    assert table.owners_at(0) is before
    with pytest.raises(ValueError, match="read-only"):
        before[0] = 1


def test_the_table_refuses_at_and_beyond_its_horizon() -> None:
    table = RoutingTable([0], 1)
    table.advance(10)
    assert table.owner(0, 9) == 0
    for epoch in (10, 11):
        with pytest.raises(ProtocolViolation, match="RT3"):
            table.owners_at(epoch)
    with pytest.raises(ProtocolViolation, match="RT3"):
        table.advance(9)


def test_the_table_of_a_generation_begins_at_its_first_epoch_and_horizon() -> None:
    table = RoutingTable.of(generation(1, 5, 8))
    assert table.owner(0, 7) == 0
    for epoch in (4, 8):
        with pytest.raises(ProtocolViolation, match="RT3"):
            table.owner(0, epoch)


@pytest.mark.parametrize(
    "bad",
    [
        wave(50, (0, 1)),
        wave(49, (0, 1)),
        wave(60, (2, 1)),
        wave(60, (0, 2)),
        wave(60, (0, 0)),
    ],
)
def test_a_wave_that_cannot_be_is_refused_and_changes_nothing(bad: Move) -> None:
    table = RoutingTable([1, 0], 2)
    table.apply(wave(50, (0, 0), (1, 1)))
    with pytest.raises(ProtocolViolation, match="RT"):
        table.apply(bad)
    assert table.latest.tolist() == [0, 1]
    assert table.cuts_after(0) == (50,)


def test_a_cut_at_or_below_the_horizon_is_refused() -> None:
    table = RoutingTable([0], 2)
    table.advance(10)
    with pytest.raises(ProtocolViolation, match="RT2"):
        table.apply(wave(10, (0, 1)))
    table.apply(wave(11, (0, 1)))


@pytest.mark.parametrize("owners", [[], [2], [-1]])
def test_an_owner_table_must_fit_the_workers(owners: list[int]) -> None:
    with pytest.raises(ProtocolViolation):
        RoutingTable(owners, 2)


def test_cuts_and_moves_can_be_looked_up() -> None:
    table = RoutingTable([0, 0], 2)
    table.apply(wave(10, (0, 1)))
    table.apply(wave(20, (1, 1), (0, 0)))
    assert table.cuts_after(0) == (10, 20)
    assert table.cuts_after(10) == (20,)
    assert (table.next_cut(9), table.next_cut(10), table.next_cut(20)) == (10, 20, MAX_EPOCH)
    assert table.moves_at(20) == (BinMove(1, 0, 1), BinMove(0, 1, 0))
    assert table.moves_at(15) == ()
    assert table.last_cut == 20


def test_compaction_forgets_what_lies_below_and_keeps_every_later_answer() -> None:
    table = RoutingTable([0, 0], 2)
    for at, moves in ((10, (0, 1)), (20, (1, 1)), (30, (0, 0))):
        table.apply(wave(at, moves))
    table.compact(20)
    table.compact(15)
    assert table.since == 20
    assert table.owners_at(20).tolist() == [1, 1]
    assert table.owners_at(30).tolist() == [0, 1]
    assert table.moves_at(20) == (BinMove(1, 0, 1),)
    assert table.cuts_after(0) == (20, 30)
    for ask in (table.owners_at, table.moves_at):
        with pytest.raises(ProtocolViolation):
            ask(19)
    table.compact(25)
    assert table.cuts_after(0) == (30,)
    assert table.last_cut == 30
    table.compact(31)
    assert (table.cuts_after(0), table.last_cut) == ((), 31)


def test_compaction_beyond_the_horizon_is_refused() -> None:
    table = RoutingTable([0], 1)
    table.advance(10)
    with pytest.raises(ProtocolViolation, match="RT3"):
        table.compact(11)
