"""Checkpoints at the controller: one at a time, whole or not at all, and what users are told."""

from __future__ import annotations

import dataclasses
import json

import pytest

from service.dataflow.delaying import Rounding
from service.dataflow.row_vertices import DelayVertex, Postponement
from service.errors import NotYetSupported, PeerLost, ProtocolViolation
from service.migration.checkpoints import Checkpoints, CheckpointSettings
from service.migration.clear_cuts import ClearCuts
from service.migration.controller_events import (
    ControllerSettings,
    PeerGone,
    Phase,
    Report,
    StopRequested,
)
from service.migration.records import Checkpoint, Move, RequestState, Stop
from service.migration.reports import CheckpointedReport, plain
from tests.unit.migration.controller_world import JOB, SECOND, START, ControllerWorld, request

WAIT = CheckpointSettings(wait_us=3 * SECOND)
EVERY = CheckpointSettings(every_us=5 * SECOND, wait_us=3 * SECOND)


def world(checkpoints: CheckpointSettings = WAIT, *, seed: int = 0, **job: object):
    shape = dataclasses.replace(JOB, **job)  # type: ignore[arg-type]  # by name
    made = ControllerWorld(shape, ControllerSettings(checkpoints=checkpoints), seed=seed)
    made.begin()
    return made


def ask(identity: str = "c") -> bytes:
    return json.dumps({"id": identity, "kind": "checkpoint"}).encode()


def part(cut: int, **fields: object) -> dict[str, object]:
    return plain(CheckpointedReport(cut=cut, **fields))  # type: ignore[arg-type]  # by name


def cuts(made: ControllerWorld) -> list[int]:
    return [record.at for record in made.commands() if isinstance(record, Checkpoint)]


def test_a_checkpoint_is_cut_reported_by_all_and_written_while_the_job_goes_on():
    made = world()
    (accepted,) = made.request(ask())
    assert accepted.state is RequestState.ACCEPTED
    made.pass_time(3 * SECOND)
    assert made.states("c") == [
        RequestState.ACCEPTED,
        RequestState.RUNNING,
        RequestState.COMPLETED,
    ]
    (cut,) = cuts(made)
    (manifest,) = made.manifests
    assert (manifest.cut, manifest.name, manifest.drained) == (cut, f"1-{cut}", False)
    assert manifest.positions == {"bids": [13, 15], "auctions": [10]}
    assert manifest.files == {"worker-0": {"digest": "00"}, "worker-1": {"digest": "01"}}
    place = next(n for n, record in enumerate(made.log) if isinstance(record, Checkpoint))
    assert manifest.log_offset == place + 1
    status = made.newest()["c"]
    assert (status.at, status.bins, status.waves) == (cut, JOB.bins, 0)
    assert made.machine.phase is Phase.RUNNING
    made.request(ask("again"))
    made.pass_time(3 * SECOND)
    assert len(made.manifests) == 2


def test_a_manifest_has_the_owners_of_its_cut_and_not_those_of_its_end():
    made = world()
    made.request(request(moves=[[0, 1], [1, 1]]))
    made.request(ask())
    made.pass_time(200_000)
    made.finish_plan(3 * SECOND)
    made.pass_time(3 * SECOND)
    (manifest,) = made.manifests
    owners = [0, 0, 0, 0, 1, 1, 1, 1]
    for record in made.commands():
        if isinstance(record, Move) and record.at < manifest.cut:
            for bin_id, worker in record.moves:
                owners[bin_id] = worker
    assert manifest.bin_owners == owners
    assert made.table is not None
    assert made.table.latest.tolist() == [1, 1, 0, 0, 1, 1, 1, 1]


def test_a_checkpoint_waits_for_no_plan_but_for_a_cut_that_one_has_reserved():
    made = world()
    at = START + 4 * SECOND
    made.request(request(moves=[[0, 1]], at=at))
    # Promises stand right below the reserved cut, so that a command now would take its place.
    made.pass_time(3_300_000)
    made.request(ask())
    made.pass_time(100_000)
    assert cuts(made) == []
    made.pass_time(3 * SECOND)
    (cut,) = cuts(made)
    moves = [record.at for record in made.commands() if isinstance(record, Move)]
    assert moves == [at]
    assert cut > at
    assert made.states("r")[-1] is RequestState.COMPLETED
    assert made.states("c")[-1] is RequestState.COMPLETED


def test_a_second_one_is_rejected_while_one_is_under_way():
    made = world()
    made.request(ask())
    (rejected,) = made.request(ask("other"))
    assert rejected.state is RequestState.REJECTED
    assert rejected.reason == "checkpoint 'c' is under way; ask again after it"
    made.pass_time(100_000)
    (again,) = made.request(ask("other"))[:1]
    assert again.state is RequestState.REJECTED
    made.pass_time(3 * SECOND)
    assert len(made.manifests) == 1


def test_a_checkpoint_without_anybodys_part_is_aborted_and_the_next_one_is_free():
    made = world()
    made.answering = False
    made.request(ask())
    made.pass_time(100_000)
    (cut,) = cuts(made)
    made.send(Report(0, part(cut, files={}, bytes=3)))
    made.pass_time(6 * SECOND)
    status = made.newest()["c"]
    assert status.state is RequestState.ABORTED
    assert status.reason == "worker-1, gateway-0 did not come to the cut in time"
    assert made.aborted == [status.reason]
    assert made.manifests == []
    # What comes late changes nothing.
    made.send(Report(1, part(cut, files={})))
    made.send(Report(2, part(cut)))
    assert made.manifests == []
    made.answering = True
    made.request(ask("next"))
    made.pass_time(3 * SECOND)
    assert made.states("next")[-1] is RequestState.COMPLETED


def test_a_disk_that_refuses_aborts_the_checkpoint_and_not_the_job():
    made = world()
    made.answering = False
    made.request(ask())
    made.pass_time(100_000)
    (cut,) = cuts(made)
    made.send(Report(1, part(cut, failed="no room")))
    assert made.newest()["c"].reason == "worker-1: no room"
    assert made.machine.phase is Phase.RUNNING


def test_parts_that_nobody_asked_for_end_the_job():
    made = world()
    made.answering = False
    with pytest.raises(ProtocolViolation, match="cut its part at 7, unasked"):
        made.send(Report(0, part(7)))
    made.request(ask())
    made.pass_time(100_000)
    (cut,) = cuts(made)
    made.send(Report(0, part(cut, files={})))
    with pytest.raises(ProtocolViolation, match="unasked"):
        made.send(Report(0, part(cut, files={})))


def test_a_stop_and_a_failure_abort_it():
    made = world()
    made.answering = False
    made.request(ask())
    made.pass_time(100_000)
    (cut,) = cuts(made)
    made.answering = True
    made.send(StopRequested())
    assert made.newest()["c"].state is RequestState.ABORTED
    made.send(Report(0, part(cut, files={})))
    made.pass_time(3 * SECOND)
    (manifest,) = made.manifests
    stop = made.commands()[-1]
    assert isinstance(stop, Stop)
    assert manifest.cut == stop.at
    lost = world()
    lost.request(ask())
    lost.send(PeerGone(PeerLost, "worker-1 ended"))
    assert lost.newest()["c"].reason == "the job failed: worker-1 ended"
    assert lost.manifests == []


def test_a_schedule_cuts_by_itself_and_tells_nobody():
    made = world(EVERY)
    made.pass_time(4_900_000)
    assert cuts(made) == []
    made.pass_time(12 * SECOND)
    assert len(made.manifests) == 3
    assert made.statuses == []
    distances = [late - early for early, late in zip(cuts(made), cuts(made)[1:])]
    assert all(abs(distance - 5 * SECOND) < SECOND for distance in distances)


def test_a_due_one_is_skipped_while_another_is_under_way():
    made = world(EVERY)
    made.answering = False
    made.pass_time(4_900_000)
    made.request(ask())
    made.pass_time(500_000)
    assert len(cuts(made)) == 1
    assert made.statuses[-1].id == "c"


def late(until: Postponement) -> DelayVertex:
    return DelayVertex("later", until, 0)


def test_a_flow_that_puts_every_row_off_has_none_while_it_runs():
    always = late(lambda epoch: epoch + 1)
    made = world(delays=(always,))
    (rejected,) = made.request(ask())
    assert rejected.reason is not None
    assert "no time is left alone by all of 'later' is not supported" in rejected.reason
    with pytest.raises(NotYetSupported, match="a plain stop writes a checkpoint"):
        Checkpoints(EVERY, 0, ClearCuts((always,)))


def test_a_flow_that_puts_rows_off_is_cut_where_none_is_put_off():
    made = world(delays=(late(Rounding(3 * SECOND)), late(Rounding(7 * SECOND))))
    (accepted,) = made.request(ask())
    clear = -(-START // (21 * SECOND)) * 21 * SECOND + 1
    assert accepted.at == clear
    # Only when it is near: whatever is commanded behind it is later than it.
    made.pass_time(clear - 5 * SECOND - made.now)
    assert cuts(made) == []
    made.request(request("move", moves=[[0, 1]]))
    made.pass_time(8 * SECOND)
    assert cuts(made) == [clear]
    assert made.states("c")[-1] is RequestState.COMPLETED
    assert made.states("move")[-1] is RequestState.COMPLETED


def test_a_function_that_fails_later_costs_checkpoints_and_not_the_job():
    def until(epoch: int) -> int:
        if epoch > START + 12 * SECOND:
            raise ValueError("too late in the day")
        return Rounding(SECOND)(epoch)

    made = world(EVERY, delays=(late(until),))
    made.pass_time(30 * SECOND)
    assert len(made.manifests) == 2
    assert made.aborted
    assert all("no time is left alone by all of 'later'" in reason for reason in made.aborted)
    assert made.machine.phase is Phase.RUNNING
    (rejected,) = made.request(ask())
    assert rejected.state is RequestState.REJECTED


def test_a_taken_id_and_fields_of_plans_are_rejected():
    made = world()
    made.request(ask())
    (rejected, _) = made.request(ask())
    assert rejected.reason is not None
    assert "is taken by an earlier request" in rejected.reason
    body = json.dumps({"id": "d", "kind": "checkpoint", "workers": 2}).encode()
    (rejected,) = made.request(body)
    assert rejected.reason is not None
    assert rejected.reason.startswith("workers belongs to ")


@pytest.mark.parametrize("seed", range(6))
def test_a_later_controller_goes_on_from_a_checkpoint(seed: int):
    made = world(seed=seed)
    made.request(request(moves=[[bin_id, 1] for bin_id in range(4)]))
    made.pass_time(100_000 * seed)
    made.request(ask())
    made.pass_time(4 * SECOND)
    (manifest,) = made.manifests
    later = ControllerWorld(
        log=made.log[manifest.log_offset :], manifest=manifest, start=made.now + 1
    )
    later.begin()
    generation = later.machine.generation
    assert generation is not None
    assert generation.generation == 2
    assert generation.bin_owners == manifest.bin_owners
    assert generation.positions == manifest.positions
    assert generation.first_epoch > max(record.clock for record in made.log)
