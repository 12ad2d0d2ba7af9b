"""How a controller's life ends and goes on, in a world that checks what it writes.

Cannot catch: a shell that does instructions in another order.
"""

from __future__ import annotations

import dataclasses

import pytest

from service.errors import FormatMismatch, MegaphoneError, PeerLost, ProtocolViolation, UsageError
from service.migration.controller_events import (
    ControllerSettings,
    MemberSeen,
    Phase,
    Report,
    StopRequested,
    Tick,
)
from service.migration.horizon import HORIZON_END
from service.migration.records import (
    MemberState,
    RequestState,
    Stop,
)
from service.migration.reports import CheckpointedReport, DrainedReport, plain
from tests.unit.migration.controller_world import (
    JOB,
    SECOND,
    START,
    ControllerWorld,
    member,
    request,
    running,
    stopped,
)

SETTINGS = ControllerSettings()


# Ending -----------------------------------------------------------------------------------------


def test_a_stop_writes_one_manifest_after_everyone_has_cut_its_part() -> None:
    world = stopped()
    (manifest,) = world.manifests
    stop = world.commands()[-1]
    assert isinstance(stop, Stop)
    assert not stop.drain
    assert world.reader.horizon == HORIZON_END
    assert manifest.cut == stop.at
    assert manifest.name == f"1-{stop.at}"
    assert manifest.log_offset == len(world.log)
    assert manifest.bin_owners == [1, 1, 0, 0, 1, 1, 1, 1]
    assert manifest.positions == {"bids": [13, 15], "auctions": [10]}
    assert manifest.files == {"worker-0": {"digest": "00"}, "worker-1": {"digest": "01"}}
    assert world.machine.handle(Tick(world.now + 1)) == []


def test_a_stop_before_the_beginning_ends_at_once_and_answers_who_waited() -> None:
    world = ControllerWorld()
    world.request(request())
    world.send(StopRequested())
    assert world.done
    assert world.newest()["r"].reason == "the job was stopped before it began"
    assert world.log == []


def test_a_stop_lets_issued_waves_finish_and_aborts_the_rest() -> None:
    world = running()
    world.request(request(moves=[[b, 1] for b in range(4)]))
    world.pass_time(1_000_000)
    issued = len(world.commands())
    assert 0 < issued < 4
    world.send(StopRequested())
    assert world.machine.phase is Phase.STOPPING
    assert world.request(request("late"))[0].reason == "the job is stopping"
    world.send(StopRequested())
    world.pass_time(2 * SECOND)
    assert world.done
    aborted = world.newest()["r"]
    assert (aborted.state, aborted.waves, aborted.bins) == (RequestState.ABORTED, issued, issued)
    assert aborted.reason == f"the job was stopped after {issued} of 4 waves"
    assert world.manifests[0].bin_owners.count(1) == 4 + issued


def test_a_stop_does_not_wait_for_a_plan_that_has_not_begun() -> None:
    world = running()
    world.request(request(at=START + 600 * SECOND))
    world.send(StopRequested())
    stop = world.commands()[0]
    assert stop.at < START + 2 * SECOND
    assert world.newest()["r"].reason == "the job was stopped after 0 of 2 waves"
    world.pass_time(3 * SECOND)
    assert world.done


def test_until_end_stops_with_a_drain_when_all_gateways_are_through() -> None:
    world = running(gateways=2, until_end=True)
    world.send(Report(2, plain(DrainedReport())))
    world.send(Report(2, plain(DrainedReport())))
    assert world.commands() == []
    world.send(Report(3, plain(DrainedReport())))
    (stop,) = world.commands()
    assert isinstance(stop, Stop)
    assert stop.drain
    world.pass_time(3 * SECOND)
    assert world.manifests[0].drained


def test_until_end_carries_an_accepted_plan_out_first() -> None:
    world = running(until_end=True)
    world.request(request())
    world.drain()
    world.pass_time(5 * SECOND)
    assert world.done
    assert world.newest()["r"].state is RequestState.COMPLETED
    assert isinstance(world.commands()[-1], Stop)


def test_a_worker_cannot_drain() -> None:
    with pytest.raises(ProtocolViolation, match="drained what it does not read"):
        running(until_end=True).send(Report(0, plain(DrainedReport())))


def test_a_stop_that_somebody_misses_fails_with_the_name() -> None:
    world = running()
    world.answering = False
    world.send(StopRequested())
    stop = world.commands()[0]
    for peer in (0, 2):
        world.send(Report(peer, plain(CheckpointedReport(cut=stop.at))))
    world.pass_time(121 * SECOND)
    assert world.failure is not None
    assert world.failure.error is PeerLost
    assert world.failure.reason == "worker-1 did not come to the stop in time"


def test_a_member_may_stop_once_its_part_is_cut() -> None:
    world = running()
    world.answering = False
    world.send(StopRequested())
    stop = world.commands()[0]
    world.send(Report(0, plain(CheckpointedReport(cut=stop.at))))
    world.send(MemberSeen(member("worker-0", state=MemberState.STOPPED)))
    assert world.failure is None
    with pytest.raises(ProtocolViolation, match="unasked"):
        world.send(Report(0, plain(CheckpointedReport(cut=stop.at))))


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        ([("bids", 2, 9)], "does not read bids/2"),
        ([("sales", 0, 9)], "does not read sales/0"),
        ([("bids", 0, 2)], "went back in bids/0"),
    ],
)
def test_positions_that_cannot_be_true_are_refused(
    positions: list[tuple[str, int, int]], reason: str
) -> None:
    world = running()
    world.answering = False
    world.send(StopRequested())
    cut = world.commands()[0].at
    for peer in (0, 1):
        world.send(Report(peer, plain(CheckpointedReport(cut=cut))))
    with pytest.raises(ProtocolViolation, match=reason):
        world.send(Report(2, plain(CheckpointedReport(cut=cut, positions=positions))))


def test_a_checkpoint_with_bins_on_the_way_is_refused() -> None:
    world = running()
    world.answering = False
    world.request(request())
    world.pass_time(1_000_000)
    world.send(StopRequested())
    cut = world.commands()[-1].at
    for peer in (0, 1):
        world.send(Report(peer, plain(CheckpointedReport(cut=cut))))
    with pytest.raises(ProtocolViolation, match="still on the way"):
        world.send(Report(2, plain(CheckpointedReport(cut=cut))))


# Going on ---------------------------------------------------------------------------------------


def test_the_next_run_goes_on_from_the_manifest() -> None:
    first = stopped()
    (manifest,) = first.manifests
    world = ControllerWorld(
        dataclasses.replace(JOB, gateways=2, workers=3),
        start=first.now + SECOND,
        log=first.log,
        manifest=manifest,
        answered=first.newest(),
    )
    world.begin()
    generation = world.reader.generation
    assert generation is not None
    assert generation.generation == 2
    assert generation.first_epoch > manifest.cut
    assert generation.bin_owners == manifest.bin_owners
    assert generation.positions == manifest.positions
    assert generation.manifest == manifest.name
    assert generation.partition_owners == {"auctions": [0], "bids": [1, 0]}
    rejected, again = world.request(request())
    assert (rejected.state, again.state) == (RequestState.REJECTED, RequestState.COMPLETED)


def test_the_next_run_may_know_of_the_log_only_what_follows_the_manifest() -> None:
    first = stopped()
    (manifest,) = first.manifests
    world = ControllerWorld(start=manifest.cut - 5, manifest=manifest)
    world.begin()
    generation = world.reader.generation
    assert generation is not None
    assert (generation.generation, generation.first_epoch) == (2, manifest.cut + 1)


def test_after_a_crash_epochs_begin_above_everything_promised_and_plans_are_aborted() -> None:
    first = running()
    first.request(request(at=START + 2 * SECOND))
    first.pass_time(SECOND)
    world = ControllerWorld(start=first.now, log=first.log, answered=first.newest())
    world.begin()
    generation = world.reader.generation
    assert generation is not None
    assert generation.first_epoch == first.reader.earliest_command
    assert world.newest()["r"].state is RequestState.ABORTED
    assert world.newest()["r"].reason == "the job ended before the plan was completed"


def test_new_partitions_of_a_topic_are_read_from_their_start() -> None:
    (manifest,) = stopped().manifests
    job = dataclasses.replace(JOB, start={"bids": [3, 5, 7], "auctions": [0]})
    world = ControllerWorld(job, start=manifest.clock, manifest=manifest)
    world.begin()
    generation = world.reader.generation
    assert generation is not None
    assert generation.positions == {"bids": [13, 15, 7], "auctions": [10]}


@pytest.mark.parametrize(
    ("fields", "error", "reason"),
    [
        (
            {"bins": 16},
            FormatMismatch,
            "has 8 bins and the job 16; their number is fixed for the life of the state: start "
            "with --bins 8",
        ),
        (
            {"workers": 1},
            UsageError,
            "has 6 bins on workers that the job does not have; start with --workers 2, publish a "
            "request of kind 'rescale' with workers 1, stop when it has completed, and start again",
        ),
        (
            {"start": {"sales": [0]}},
            FormatMismatch,
            "was made reading auctions, bids, the flow reads sales; run a changed flow under "
            "another --app",
        ),
        (
            {"start": {"bids": [3], "auctions": [0]}},
            FormatMismatch,
            "and has 1 now; run under another --app to begin anew",
        ),
    ],
)
def test_a_job_that_cannot_go_on_from_its_manifest_says_why_at_once(
    fields: dict[str, object], error: type[MegaphoneError], reason: str
) -> None:
    (manifest,) = stopped().manifests
    job = dataclasses.replace(JOB, **fields)  # type: ignore[arg-type]  # fields by name
    world = ControllerWorld(job, start=manifest.clock, manifest=manifest)
    world.send(Tick(manifest.clock))
    assert world.failure is not None
    assert world.failure.error is error
    assert world.failure.reason.endswith(reason)
