"""The controller's life, in a world that does what it says and checks what it writes.

Cannot catch: a shell that does instructions in another order.
"""

from __future__ import annotations

import pytest

from service.errors import PeerLost, ProtocolViolation, UsageError
from service.migration.controller import EARLY_REQUESTS_MAX
from service.migration.controller_events import (
    ControllerSettings,
    LogAppended,
    MemberSeen,
    Report,
    Tick,
)
from service.migration.records import (
    Generation,
    MemberState,
    Move,
    Promise,
    RequestState,
    StatusRecord,
)
from service.migration.reports import CheckpointedReport, DrainedReport, MovedReport, plain
from service.migration.status_book import IDS_MAX, StatusBook
from tests.unit.migration.controller_world import (
    SECOND,
    START,
    ControllerWorld,
    member,
    request,
    running,
)

SETTINGS = ControllerSettings()


# Beginning --------------------------------------------------------------------------------------


def test_nothing_is_written_before_every_member_is_there() -> None:
    world = ControllerWorld()
    world.beat("worker-0", "gateway-0")
    world.send(Tick(START))
    assert world.log == []
    assert world.machine.missing == ["worker-1"]
    world.beat("worker-1")
    world.send(Tick(START + 1))
    assert isinstance(world.log[0], Generation)


def test_the_first_generation_deals_everything_out_evenly() -> None:
    generation = running(gateways=2).log[0]
    assert isinstance(generation, Generation)
    assert generation.generation == 1
    assert generation.first_epoch == START
    assert generation.horizon == START + SETTINGS.lookahead_us
    assert generation.bin_owners == [0, 0, 0, 0, 1, 1, 1, 1]
    assert generation.sink_owners == [0, 1, 0, 1]
    assert generation.partition_owners == {"auctions": [0], "bids": [1, 0]}
    assert generation.positions == {"bids": [3, 5], "auctions": [0]}
    assert [binding.slot for binding in generation.slots] == [
        "worker-0",
        "worker-1",
        "gateway-0",
        "gateway-1",
    ]
    assert generation.slots[0].address == "tcp://worker-0.a"
    assert (generation.manifest, generation.until_end) == (None, False)


def test_members_that_never_come_end_the_job_with_their_names() -> None:
    world = ControllerWorld()
    world.beat("gateway-0")
    for seconds in range(1, 62):
        world.beat("gateway-0")
        world.send(Tick(START + seconds * SECOND))
    assert world.failure is not None
    assert world.failure.error is UsageError
    assert world.failure.reason.startswith("worker-0, worker-1 did not come within 60 s; start")


def test_a_member_that_left_before_the_beginning_is_waited_for_again() -> None:
    world = ControllerWorld()
    world.beat("worker-0", "worker-1")
    world.send(MemberSeen(member("worker-1", state=MemberState.STOPPED)))
    world.beat("gateway-0")
    world.send(Tick(START))
    assert world.machine.missing == ["worker-1"]
    for seconds in range(1, 13):
        world.beat("gateway-0")
        world.send(Tick(START + seconds * SECOND))
    assert world.machine.missing == ["worker-0", "worker-1"]


def test_two_processes_of_one_slot_are_refused() -> None:
    world = ControllerWorld()
    world.beat()
    world.send(MemberSeen(member("worker-1", "b")))
    world.send(Tick(START))
    assert world.machine.missing == ["worker-1"]
    world.beat("worker-1")
    assert world.failure is not None
    assert world.failure.reason == (
        "worker-1 was started twice, at tcp://worker-1.a and at tcp://worker-1.b; stop one of them"
    )


@pytest.mark.parametrize("how", ["stops", "falls silent"])
def test_a_process_that_was_restarted_before_the_beginning_takes_its_slot_over(how: str) -> None:
    world = ControllerWorld()
    world.beat("worker-1")
    world.send(MemberSeen(member("worker-1", "b")))
    if how == "stops":
        world.send(MemberSeen(member("worker-1", state=MemberState.STOPPED)))
    for seconds in range(12):
        world.beat("worker-0", "gateway-0")
        world.send(MemberSeen(member("worker-1", "b")))
        world.send(Tick(START + seconds * SECOND))
    generation = world.log[0]
    assert isinstance(generation, Generation)
    assert generation.slots[1].incarnation == "b"


def test_a_member_that_fails_ends_the_job_with_its_reason() -> None:
    world = running()
    world.send(MemberSeen(member("worker-0", state=MemberState.FAILED, reason="disk full")))
    assert world.failure is not None
    assert (world.failure.error, world.failure.reason) == (
        PeerLost,
        "worker-0 failed: disk full",
    )


def test_processes_of_no_slot_of_the_job_are_ignored() -> None:
    world = running()
    for slot in ("worker-9", "controller", "nonsense"):
        world.send(MemberSeen(member(slot, state=MemberState.FAILED)))
    assert world.failure is None


def test_a_silent_member_ends_the_job_and_aborts_its_plan() -> None:
    world = running()
    world.request(request())
    for seconds in range(1, 13):
        world.beat("worker-0", "gateway-0")
        world.send(Tick(START + seconds * SECOND))
    assert world.failure is not None
    assert world.failure.error is PeerLost
    lost = "worker-1 at tcp://worker-1.a is lost, silent for 10 s"
    assert world.failure.reason == lost
    assert world.newest()["r"].state is RequestState.ABORTED
    assert world.newest()["r"].reason == f"the job failed: {lost}"


def test_nobody_is_silent_while_the_controller_sleeps() -> None:
    world = running()
    world.now += 60 * SECOND
    world.send(Tick(world.now))
    assert world.failure is None
    world.pass_time(SECOND)
    assert world.failure is None


def test_a_member_that_restarts_in_a_generation_is_lost() -> None:
    world = running()
    world.send(MemberSeen(member("worker-0", "b")))
    assert world.failure is not None
    assert world.failure.reason.startswith(
        "worker-0 was started again at tcp://worker-0.b while the job"
    )


def test_a_member_that_stops_without_having_done_its_part_is_lost_after_a_grace() -> None:
    world = running()
    world.send(MemberSeen(member("worker-0", state=MemberState.STOPPED)))
    assert world.failure is None, "its report may still be on its way, by another channel"
    for seconds in range(1, 5):
        world.beat("worker-1", "gateway-0")
        world.send(Tick(START + seconds * SECOND))
    assert world.failure is not None
    assert world.failure.reason == (
        "worker-0 at tcp://worker-0.a is lost, it stopped while the job runs"
    )


# Promises ---------------------------------------------------------------------------------------


def test_promises_come_at_their_interval_and_carry_the_clock() -> None:
    world = running()
    world.pass_time(SECOND)
    promises = [record for record in world.log if isinstance(record, Promise)]
    assert [p.clock for p in promises] == [START + n * 50_000 for n in range(21)]
    assert all(p.horizon == p.clock + SETTINGS.lookahead_us for p in promises)


def test_while_a_plan_runs_the_horizon_is_near() -> None:
    world = running()
    world.request(request(moves=[[b, 1] for b in range(4)]))
    world.pass_time(1_100_000)
    assert world.states("r")[-1] is RequestState.RUNNING
    assert world.reader.horizon <= world.now + SETTINGS.plan_lookahead_us
    world.pass_time(2 * SECOND)
    assert world.states("r")[-1] is RequestState.COMPLETED
    assert world.reader.horizon > world.now + SETTINGS.lookahead_us - 60_000


# Plans ------------------------------------------------------------------------------------------


def test_a_plan_is_accepted_runs_and_completes_with_its_figures() -> None:
    world = running()
    (accepted,) = world.request(request())
    first_cut = START + SETTINGS.lookahead_us + 1
    assert accepted == StatusRecord(
        id="r", state=RequestState.ACCEPTED, at=first_cut, bins=2, waves=2
    )
    world.pass_time(3 * SECOND)
    states = world.states("r")
    assert states[:2] == [RequestState.ACCEPTED, RequestState.RUNNING]
    assert states[-1] is RequestState.COMPLETED
    completed = world.newest()["r"]
    assert (completed.at, completed.bins, completed.bytes, completed.waves) == (
        first_cut,
        2,
        400,
        2,
    )
    assert 0 < completed.duration_ms < 400
    assert world.table is not None
    assert world.table.latest.tolist() == [1, 1, 0, 0, 1, 1, 1, 1]
    moves = world.commands()
    assert [(m.wave, m.waves, m.request) for m in moves if isinstance(m, Move)] == [
        (1, 2, "r"),
        (2, 2, "r"),
    ]


def test_a_plan_begins_at_the_cut_asked_for_and_is_written_shortly_before() -> None:
    world = running()
    at = START + 5 * SECOND
    world.request(request(at=at, strategy="all-at-once"))
    world.pass_time(4 * SECOND + 700_000)
    assert world.commands() == []
    assert world.reader.horizon < at
    world.pass_time(SECOND)
    (move,) = world.commands()
    assert move.at == at
    assert world.newest()["r"].state is RequestState.COMPLETED


def test_waves_are_written_with_promises_and_never_by_themselves() -> None:
    """CT7: ticks come five times as often as promises, and waves are nearer to one another."""
    world = running(bins=64)
    world.tell_loads()
    world.request(request(moves=[[b, 1] for b in range(32)], strategy="fluid"))
    world.pass_time(4 * SECOND)
    assert world.states("r")[-1] is RequestState.COMPLETED
    moves = [record.clock for record in world.log if isinstance(record, Move)]
    promises = {record.clock for record in world.log if isinstance(record, Promise)}
    assert len(moves) == 32
    assert set(moves) <= promises
    assert len(set(moves)) < 32


def test_waves_in_flight_are_bounded_however_long_they_take() -> None:
    pacing = SETTINGS.pacing
    for sized in (False, True):
        world = running(bins=64)
        world.answering = False
        if sized:
            world.tell_loads()
        world.request(request(moves=[[b, 1] for b in range(32)]))
        world.pass_time(10 * SECOND)
        ahead = SETTINGS.plan_lookahead_us // pacing.spacing_us + 1
        most = pacing.waves_late_max + ahead if sized else pacing.waves_probing_max
        assert pacing.waves_probing_max <= len(world.commands()) <= most


def test_a_plan_of_nothing_completes_at_once_without_waves() -> None:
    world = running()
    accepted, completed = world.request(request(moves=[[0, 0]]))
    assert accepted.state is RequestState.ACCEPTED
    assert completed.state is RequestState.COMPLETED
    assert (completed.waves, completed.bins, completed.bytes, completed.duration_ms) == (0, 0, 0, 0)
    assert world.machine.plan is None


def test_a_rescale_empties_the_workers_above_and_back() -> None:
    world = running(workers=3, bins=9)
    world.request(request(kind="rescale", moves=None, workers=1, strategy="all-at-once"))
    world.pass_time(2 * SECOND)
    assert world.machine.table is not None
    assert world.machine.table.latest.tolist() == [0] * 9
    world.request(request("back", kind="rescale", moves=None, workers=3, batch=2))
    world.pass_time(3 * SECOND)
    assert sorted(world.machine.table.latest.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"moves": [[8, 0]]}, "unknown bin 8"),
        ({"moves": [[0, 2]]}, "unknown worker 2"),
        ({"at": START}, f"at {START} is in the past; the earliest possible is "),
        ({"at": START + SECOND}, "at 1000001000000 is in the past"),
        ({"at": START + 3601 * SECOND}, "at 1003601000000 is too far in the future"),
        ({"kind": "rescale", "moves": None, "workers": 3}, "workers is 3, but the job has 2"),
    ],
)
def test_a_rejected_request_changes_nothing(fields: dict[str, object], reason: str) -> None:
    world = running()
    (status,) = world.request(request(**fields))
    assert status.state is RequestState.REJECTED
    assert status.reason is not None
    assert status.reason.startswith(reason)
    world.pass_time(2 * SECOND)
    assert world.commands() == []
    assert len(world.statuses) == 1


def test_an_unreadable_request_is_answered_under_its_offset() -> None:
    (status,) = running().request(b"{")
    assert (status.id, status.state) == ("invalid@1", RequestState.REJECTED)


def test_a_request_while_a_plan_runs_is_rejected_and_may_come_again() -> None:
    world = running()
    world.request(request())
    (status,) = world.request(request("second"))
    assert status.state is RequestState.REJECTED
    assert status.reason == (
        "plan 'r' is under way, 0 of 2 waves completed; send the request again after it, or with "
        "queue: true"
    )
    world.pass_time(3 * SECOND)
    assert world.request(request("second", moves=[[0, 1]]))[-1].state is RequestState.COMPLETED


@pytest.mark.parametrize("fields", [{}, {"moves": [[5, 0]]}, {"strategy": "fast"}])
def test_a_taken_id_is_rejected_and_its_true_status_follows(fields: dict[str, object]) -> None:
    world = running()
    world.request(request())
    world.pass_time(3 * SECOND)
    completed = world.newest()["r"]
    rejected, again = world.request(request(**fields))
    assert rejected.state is RequestState.REJECTED
    assert again == completed
    if fields.get("strategy") is None:
        assert rejected.reason == "id 'r' is taken by an earlier request, which is completed"
    assert len(world.commands()) == 2


def test_the_oldest_ids_are_forgotten_so_that_memory_stays_bounded() -> None:
    book = StatusBook()
    for number in range(IDS_MAX + 1):
        book.note(StatusRecord(id=str(number), state=RequestState.COMPLETED, at=1))
    assert book.get("0") is None
    assert book.get("1") is not None


def test_the_id_of_a_rejected_request_is_free_again() -> None:
    world = running()
    world.request(request(moves=[[8, 0]]))
    (accepted,) = world.request(request())
    assert accepted.state is RequestState.ACCEPTED


def test_a_flow_without_state_has_nothing_to_move() -> None:
    (status,) = running(vertices=0).request(request())
    assert status.reason == "the flow has no keyed state that could move"


def test_requests_that_come_early_are_answered_when_the_job_begins() -> None:
    world = ControllerWorld()
    assert world.request(request()) == []
    world.begin()
    assert world.states("r") == [RequestState.ACCEPTED]


def test_too_many_early_requests_are_rejected() -> None:
    world = ControllerWorld()
    for number in range(EARLY_REQUESTS_MAX):
        assert world.request(request(str(number))) == []
    (status,) = world.request(request("late"))
    assert status.reason == (
        "the job still waits for worker-0, worker-1, gateway-0; try again later"
    )
    assert (status.id, status.state) == ("late", RequestState.REJECTED)


@pytest.mark.parametrize(
    ("peer", "report"),
    [
        (0, MovedReport(vertex="v", cut=1, bins=1, bytes=1, rows=1)),
        (2, MovedReport(vertex="v", cut=1, bins=1, bytes=1, rows=1)),
        (3, MovedReport(vertex="v", cut=1, bins=1, bytes=1, rows=1)),
        (-1, MovedReport(vertex="v", cut=1, bins=1, bytes=1, rows=1)),
        (2, DrainedReport()),
        (0, CheckpointedReport(cut=1)),
    ],
)
def test_a_report_that_cannot_be_true_is_refused(
    peer: int, report: MovedReport | DrainedReport | CheckpointedReport
) -> None:
    with pytest.raises(ProtocolViolation):
        running().send(Report(peer, plain(report)))


def test_a_report_before_the_generation_or_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="no member"):
        ControllerWorld().send(Report(0, plain(DrainedReport())))
    with pytest.raises(ProtocolViolation, match="unknown report"):
        running().send(Report(0, {"kind": "novelty"}))


def test_an_acknowledgement_of_nothing_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="nothing was appended"):
        ControllerWorld().send(LogAppended(0))
