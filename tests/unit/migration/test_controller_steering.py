"""Pause, resume, abort, queues and dry runs of plans, in the controller's world.

Cannot catch: what becomes of the bins themselves; the simulation moves real ones.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from service.errors import ProtocolViolation
from service.migration.controller_events import Report, StopRequested
from service.migration.loads import load_report
from service.migration.plan_desk import QUEUE_MAX
from service.migration.plan_run import PlanPhase
from service.migration.records import Move, RequestState, StatusRecord
from service.migration.reports import MovedReport, plain
from tests.unit.migration.controller_world import SECOND, ControllerWorld, request, running

ALL = [[b, 1] for b in range(32)]


def steer(world: ControllerWorld, kind: str, identity: str = "", **fields: object) -> StatusRecord:
    """Publish pause, resume or abort; returns what was said of it last."""
    identity = identity or f"{kind}-{world.now}"
    statuses = world.request(json.dumps({"id": identity, "kind": kind} | fields).encode())
    return [status for status in statuses if status.id == identity][-1]


def halfway() -> ControllerWorld:
    """A fluid plan of 32 waves, some of which are complete."""
    world = running(bins=64)
    world.tell_loads()
    world.request(request(moves=ALL))
    while world.newest()["r"].waves < 4 or world.newest()["r"].state is RequestState.ACCEPTED:
        world.pass_time(20_000)
    return world


def test_a_pause_holds_back_what_has_no_cut_and_a_resume_lets_it_go() -> None:
    world = halfway()
    issued = len(world.commands())
    assert steer(world, "pause").state is RequestState.COMPLETED
    assert world.newest()["r"].state is RequestState.PAUSED
    world.pass_time(3 * SECOND)
    assert len(world.commands()) == issued, "nothing was issued meanwhile"
    held = world.newest()["r"]
    assert (held.state, held.waves) == (RequestState.PAUSED, issued)
    assert steer(world, "resume", plan="r").state is RequestState.COMPLETED
    assert world.newest()["r"].state is RequestState.RUNNING
    world.finish_plan(20 * SECOND)
    done = world.newest()["r"]
    assert (done.state, done.waves, done.bins) == (RequestState.COMPLETED, 32, 32)


def test_a_pause_before_the_first_cut_lets_promises_go_on() -> None:
    """Otherwise no gateway could tick beyond a cut that nobody gives."""
    world = running()
    at = world.now + 2 * SECOND
    world.request(request(at=at))
    steer(world, "pause")
    world.pass_time(5 * SECOND)
    assert world.reader.horizon > world.now
    assert world.commands() == []
    steer(world, "resume")
    world.finish_plan(5 * SECOND)
    done = world.newest()["r"]
    assert done.state is RequestState.COMPLETED
    assert done.at is not None
    assert done.at > at
    assert done.duration_ms < 1_000


def test_an_abort_leaves_bins_where_issued_waves_put_them() -> None:
    world = halfway()
    issued = len(world.commands())
    assert issued < 32
    assert steer(world, "abort", "enough").state is RequestState.COMPLETED
    assert world.machine.plan is not None
    assert world.machine.plan.phase is PlanPhase.ENDING
    world.finish_plan(5 * SECOND)
    assert len(world.commands()) == issued
    ended = world.newest()["r"]
    assert (ended.state, ended.waves, ended.bins) == (RequestState.ABORTED, issued, issued)
    assert ended.reason == f"request 'enough' aborted it after {issued} of 32 waves"
    assert world.table is not None
    assert world.table.latest[:32].tolist() == [1] * issued + [0] * (32 - issued)


def test_an_abort_before_the_first_cut_ends_the_plan_at_once() -> None:
    world = running()
    world.request(request())
    steer(world, "abort", "no")
    ended = world.newest()["r"]
    assert (ended.state, ended.waves) == (RequestState.ABORTED, 0)
    assert ended.reason == "request 'no' aborted it after 0 of 2 waves"
    world.pass_time(2 * SECOND)
    assert world.commands() == []


def test_a_paused_plan_can_be_aborted_and_a_stop_ends_it() -> None:
    for end in ("abort", "stop"):
        world = halfway()
        steer(world, "pause")
        if end == "abort":
            steer(world, "abort")
        else:
            world.send(StopRequested())
        world.pass_time(3 * SECOND)
        assert world.newest()["r"].state is RequestState.ABORTED
        assert world.done is (end == "stop")


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        (["resume"], "plan 'r' is not paused"),
        (["pause", "pause"], "plan 'r' is paused already"),
        (["abort", "pause"], "plan 'r' is ending already; it is over when the waves under way are"),
        (["abort", "abort"], "plan 'r' is ending already; it is over when the waves under way are"),
    ],
)
def test_what_a_plan_cannot_do_now_is_rejected(kinds: list[str], reason: str) -> None:
    world = halfway()
    for number, kind in enumerate(kinds[:-1]):
        assert steer(world, kind, f"first-{number}").state is RequestState.COMPLETED
    rejected = steer(world, kinds[-1], "then")
    assert (rejected.state, rejected.reason) == (RequestState.REJECTED, reason)


def test_steering_without_a_plan_or_another_one_is_rejected() -> None:
    world = running()
    assert steer(world, "pause").reason == "no plan is under way"
    world.request(request())
    rejected = steer(world, "abort", plan="q")
    assert rejected.reason == "plan 'q' is not under way; that one is 'r'"
    world.pass_time(1_150_000)
    assert len(world.commands()) == 2
    if world.machine.plan is not None:
        assert steer(world, "abort").reason == (
            "plan 'r' has given every wave its cut; it is over when they are complete"
        )
    assert world.states("r")[-1] is not RequestState.ABORTED


def test_a_plan_may_wait_for_the_one_under_way() -> None:
    world = running()
    world.request(request())
    (queued,) = world.request(request("next", moves=[[0, 0], [1, 0], [2, 1]], queue=True))
    assert (queued.state, queued.bins, queued.waves) == (RequestState.ACCEPTED, 3, 3)
    world.finish_plan(10 * SECOND)
    assert world.states("r")[-1] is world.states("next")[-1] is RequestState.COMPLETED
    assert world.table is not None
    assert world.table.latest.tolist() == [0, 0, 1, 0, 1, 1, 1, 1]
    commands = [c.request for c in world.commands() if isinstance(c, Move)]
    assert commands == ["r", "r", "next", "next", "next"]


def test_a_plan_that_queued_is_made_anew_when_the_one_before_was_aborted() -> None:
    """Bins 0 and 1 never left, so bringing them back has become nothing."""
    world = running()
    world.request(request())
    world.request(request("back", moves=[[0, 0], [1, 0]], queue=True))
    steer(world, "abort")
    back = world.newest()["back"]
    assert (back.state, back.waves) == (RequestState.COMPLETED, 0)
    assert world.machine.plan is None


def test_a_plan_that_queues_can_be_taken_out() -> None:
    world = running()
    world.request(request())
    world.request(request("next", moves=[[2, 1]], queue=True))
    rejected = steer(world, "pause", plan="next")
    assert rejected.reason == "plan 'next' has not begun; abort it, or pause another"
    steer(world, "abort", "out", plan="next")
    gone = world.newest()["next"]
    assert gone.state is RequestState.ABORTED
    assert gone.reason == "request 'out' aborted it before it began"
    world.finish_plan(5 * SECOND)
    assert {c.request for c in world.commands() if isinstance(c, Move)} == {"r"}


def test_the_queue_has_an_end_and_a_stop_empties_it() -> None:
    world = running()
    world.request(request())
    for number in range(QUEUE_MAX):
        moves = [[2, (number + 1) % 2]]
        (status,) = world.request(request(str(number), moves=moves, queue=True))
        assert status.state is RequestState.ACCEPTED
    (full,) = world.request(request("late", moves=[[3, 1]], queue=True))
    assert full.reason == "16 plans wait already; send the request again later"
    world.send(StopRequested())
    world.pass_time(5 * SECOND)
    assert world.done
    for number in range(QUEUE_MAX):
        status = world.newest()[str(number)]
        assert status.reason == "the job was stopped before it began"


def test_a_dry_run_says_what_it_would_take_and_takes_nothing() -> None:
    world = running(bins=64)
    early = world.request(request(moves=ALL, dry_run=True))
    assert early[0].reason == "workers have not told their loads yet; try again soon"
    world.tell_loads(rows=[100_000] * 64)
    (told,) = world.request(request(moves=ALL, dry_run=True))
    assert (told.state, told.bins, told.waves) == (RequestState.COMPLETED, 32, 32)
    assert told.dry_run is True
    assert told.bytes == pytest.approx(32 * 10_000_000, rel=0.01)
    assert told.longest_wait_ms == pytest.approx(50 + 50, abs=2)
    assert told.duration_ms == pytest.approx(32 * 50 + 50, rel=0.05)
    world.pass_time(2 * SECOND)
    assert world.commands() == []
    (accepted,) = world.request(request(moves=ALL))
    assert accepted.state is RequestState.ACCEPTED, "its id is free"
    (beside,) = world.request(request("beside", moves=[[0, 1]], dry_run=True))
    assert (beside.state, beside.waves) == (RequestState.COMPLETED, 0), "after the plan under way"


def test_a_rebalance_follows_what_workers_tell() -> None:
    world = running()
    body = {"id": "even", "kind": "rebalance", "strategy": "fluid"}
    (early,) = world.request(json.dumps(body).encode())
    assert early.reason == "no worker has told its loads yet; try again in a second"
    world.tell_loads(updates_per_s=[90, 10, 10, 10, 0, 0, 0, 0])
    world.request(json.dumps(body).encode())
    world.finish_plan(5 * SECOND)
    assert world.newest()["even"].state is RequestState.COMPLETED
    assert world.table is not None
    owners = world.table.latest
    assert sorted(owners[:4].tolist()) in ([0, 0, 0, 1], [0, 1, 1, 1])
    assert owners[4:].tolist() == [1, 1, 1, 1]


def test_the_longest_wait_is_told_once_it_is_known() -> None:
    world = running()
    world.answering = False
    world.request(request())
    world.pass_time(1_100_000)
    first, second = (command.at for command in world.commands())
    for cut, wait_us in ((first, 41_300), (second, 7_000)):
        for vertex in ("a", "b"):
            moved = MovedReport(vertex=vertex, cut=cut, bins=1, bytes=9, rows=1, wait_us=wait_us)
            world.send(Report(1, plain(moved)))
    assert [s.longest_wait_ms for s in world.statuses if s.waves and s.bytes] == [42, 42]
    assert world.newest()["r"].state is RequestState.COMPLETED


def test_loads_of_somebody_who_hosts_nothing_are_refused() -> None:
    world = running()
    assert world.table is not None
    bins = world.job.bins
    report = load_report(
        world.table.latest == 0, np.zeros(bins, np.int64), np.zeros(bins, np.int64), np.zeros(bins)
    )
    with pytest.raises(ProtocolViolation, match="has none of"):
        world.send(Report(world.job.workers, plain(report)))
