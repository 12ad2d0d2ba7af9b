"""Plans whose bins are copied first: what is announced, what waits for it, what calls it off.

Cannot catch: what workers make of the records; the simulation does.
"""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import ProtocolViolation
from service.migration.controller_events import Report, StopRequested
from service.migration.precopy import AHEAD, PATIENCE_US, PreCopying
from service.migration.records import Move, PreCopy, PreCopyEnd, RequestState, Stop
from service.migration.reports import CopiedReport, plain
from tests.unit.migration.controller_world import SECOND, ControllerWorld, request, running

OWNERS = np.array([0, 0, 1, 1], dtype=np.int32)
WAVES = (((0, 1),), ((2, 0),), ((1, 1),), ((3, 0),))


def copies_of(world: ControllerWorld) -> list[PreCopy]:
    return [record for record in world.log if isinstance(record, PreCopy)]


def moves_of(world: ControllerWorld) -> list[Move]:
    return [record for record in world.log if isinstance(record, Move)]


def ends_of(world: ControllerWorld) -> list[PreCopyEnd]:
    return [record for record in world.log if isinstance(record, PreCopyEnd)]


def ready(world: ControllerWorld, record: PreCopy) -> None:
    """Every worker says of every vertex that it is ready, whether it has such bins or not."""
    for worker in range(world.job.workers):
        for vertex in range(world.job.vertices):
            report = CopiedReport(vertex=f"v{vertex}", number=record.number, left=0)
            world.send(Report(worker, plain(report)))


def test_copies_of_two_waves_are_announced_ahead_of_their_cuts() -> None:
    copying = PreCopying("r", WAVES, 1)
    first = copying.due(0, OWNERS, 4, 10)
    assert [(record.number, record.moves) for record in first] == [(5, [(0, 1)]), (6, [(2, 0)])]
    assert copying.due(0, OWNERS, 6, 20) == []
    assert copying.moved(0) == 5
    assert [record.number for record in copying.due(1, OWNERS, 6, 30)] == [7]
    assert copying.is_open


def test_a_wave_may_move_once_every_old_owner_is_ready_with_every_vertex() -> None:
    copying = PreCopying("r", [((0, 1), (2, 0))], 2)
    copying.due(0, OWNERS, 0, 10)
    for worker, vertex in ((0, "a"), (1, "a"), (0, "b"), (0, "b")):
        copying.report(worker, vertex, 1)
        assert not copying.may_move(0, 20)
    copying.report(1, "b", 1)
    assert copying.may_move(0, 20)
    assert copying.moved(0) == 1
    assert not copying.is_open
    copying.report(1, "b", 1)
    with pytest.raises(ProtocolViolation, match="copy 2, which is none"):
        copying.report(0, "a", 2)


def test_a_wave_does_not_wait_for_its_copies_for_ever() -> None:
    copying = PreCopying("r", WAVES, 1)
    copying.due(0, OWNERS, 0, 10)
    assert not copying.may_move(0, PATIENCE_US)
    assert copying.may_move(0, PATIENCE_US + 10)
    assert not copying.may_move(2, PATIENCE_US + 10)


def test_a_bin_that_moves_twice_is_copied_again_only_after_its_first_wave_has_a_cut() -> None:
    copying = PreCopying("r", [((0, 1),), ((0, 0),)], 1)
    assert len(copying.due(0, OWNERS, 0, 10)) == 1
    copying.moved(0)
    after = OWNERS.copy()
    after[0] = 1
    assert [record.moves for record in copying.due(1, after, 1, 10)] == [[(0, 0)]]


def test_every_wave_of_a_plan_completes_the_copy_that_was_announced_for_it() -> None:
    world = running()
    world.request(request(kind="rescale", moves=None, workers=1, batch=1, precopy=True))
    world.finish_plan(60 * SECOND)
    announced = {record.number: record.moves for record in copies_of(world)}
    claimed = {move.precopy: move.moves for move in moves_of(world)}
    assert len(claimed) == len(moves_of(world)) > AHEAD
    assert claimed == announced
    assert ends_of(world) == []
    assert world.states("r")[-1] is RequestState.COMPLETED


def test_a_wave_waits_for_copies_and_promises_do_not() -> None:
    world = running()
    world.answering = False
    world.request(request(precopy=True))
    world.pass_time(5 * SECOND)
    assert moves_of(world) == []
    assert len(copies_of(world)) == AHEAD
    assert world.reader.horizon > world.now
    ready(world, copies_of(world)[0])
    world.pass_time(SECOND)
    assert [move.precopy for move in moves_of(world)] == [1]


def test_a_first_cut_that_was_asked_for_is_not_put_off_by_copies() -> None:
    world = running()
    world.answering = False
    at = world.now + 3 * SECOND
    world.request(request(precopy=True, at=at))
    world.pass_time(4 * SECOND)
    assert [(move.at, move.precopy) for move in moves_of(world)] == [(at, 1)]


def test_copies_of_a_first_cut_far_ahead_begin_a_minute_before_it() -> None:
    world = running()
    at = world.now + 5 * PATIENCE_US
    world.request(request(precopy=True, at=at))
    world.pass_time(SECOND)
    assert copies_of(world) == []


def test_copies_of_a_plan_that_is_aborted_are_called_off() -> None:
    world = running()
    world.answering = False
    world.request(request(precopy=True))
    world.pass_time(SECOND)
    world.request(b'{"id": "a", "kind": "abort"}')
    world.pass_time(SECOND)
    assert world.states("r")[-1] is RequestState.ABORTED
    assert len(ends_of(world)) == 1
    ready(world, copies_of(world)[0])
    world.pass_time(SECOND)
    assert moves_of(world) == []
    world.answering = True
    world.request(request("again", precopy=True))
    world.finish_plan(60 * SECOND)
    assert [move.precopy for move in moves_of(world)] == [AHEAD + 1, AHEAD + 2]


@pytest.mark.parametrize("paused", [False, True])
def test_old_owners_may_still_be_ready_for_a_plan_that_was_aborted(*, paused: bool) -> None:
    world = running()
    world.answering = False
    world.request(request(precopy=True))
    world.pass_time(SECOND)
    world.request(b'{"id": "a", "kind": "abort"}')
    world.request(request("again", precopy=True, at=world.now + 5 * PATIENCE_US))
    if paused:
        world.request(b'{"id": "p", "kind": "pause"}')
    world.pass_time(SECOND)
    (first, *_) = copies_of(world)
    ready(world, first)
    assert world.states("again")[-1] is (RequestState.PAUSED if paused else RequestState.ACCEPTED)
    assert len(copies_of(world)) == AHEAD


def test_a_paused_plan_announces_no_further_copies() -> None:
    world = running()
    world.request(request(kind="rescale", moves=None, workers=1, batch=1, precopy=True))
    world.pass_time(SECOND // 2)
    world.request(b'{"id": "p", "kind": "pause"}')
    before = len(copies_of(world))
    world.pass_time(3 * SECOND)
    assert len(copies_of(world)) == before
    world.request(b'{"id": "g", "kind": "resume"}')
    world.finish_plan(60 * SECOND)
    assert world.states("r")[-1] is RequestState.COMPLETED


def test_a_stop_ends_copies_by_itself() -> None:
    world = running()
    world.answering = False
    world.request(request(precopy=True))
    world.pass_time(SECOND)
    world.answering = True
    world.send(StopRequested())
    world.pass_time(2 * SECOND)
    assert world.done
    assert isinstance(world.log[-1], Stop)
    assert ends_of(world) == []
