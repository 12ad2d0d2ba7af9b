"""What the job says, added up."""

from __future__ import annotations

import msgspec

from demo.observe import Details, JobView, MemberBeat, RequestStatus
from service.ids import Membership
from service.migration.records import (
    MemberDetails,
    MemberRecord,
    MemberState,
    RequestState,
    StatusRecord,
    encode,
)


def beat(slot, heartbeat=0, state="running", **details):
    return MemberBeat(slot, state, heartbeat, Details(**details))


def job(*beats, workers=2, gateways=1):
    view = JobView(Membership(workers, gateways))
    for each in beats:
        view.take_member(each)
    return view


def test_numbers_of_all_members_are_added():
    view = job(
        beat("gateway-0", rows_read=100, rows_skipped=8, bad_records=1, lag=5),
        beat("worker-0", rows_applied=50, bins_owned=3, state_rows=20),
        beat("worker-1", rows_applied=41, bins_owned=5, state_rows=21),
    )
    assert (view.read, view.applied, view.processed, view.lag) == (100, 91, 100, 5)
    assert view.bins_by_worker == [3, 5]
    assert view.state_rows == 41


def test_a_job_runs_when_every_process_of_it_does():
    beats = [beat("controller"), beat("gateway-0"), beat("worker-0"), beat("worker-1")]
    assert job(*beats).running
    for missing in range(4):
        assert not job(*beats[:missing], *beats[missing + 1 :]).running
    assert not job(*beats[:3], beat("worker-1", state="starting")).running


def test_the_rate_is_that_of_the_last_heartbeats():
    view = job()
    for second in range(6):
        view.take_member(beat("worker-0", second * 1_000_000, rows_applied=second * 500))
    assert view.processed_per_second == 500


def test_owners_are_the_controllers_if_they_fit_the_bins():
    view = job(beat("controller", owners=[0, 1, 0, 1]))
    assert view.owners(4) == [0, 1, 0, 1]
    assert view.owners(8) is None
    assert job().owners(4) is None


def test_records_of_the_job_are_understood():
    member = MemberRecord(
        slot="worker-1",
        role="worker",
        incarnation="7",
        address="tcp://x",
        state=MemberState.RUNNING,
        heartbeat=5,
        details=MemberDetails(rows_applied=9, bins_owned=4, state_rows=2, held_bytes=1),
    )
    found = msgspec.json.decode(encode(member), type=MemberBeat)
    assert found == beat("worker-1", 5, rows_applied=9, bins_owned=4, state_rows=2, held_bytes=1)
    status = StatusRecord(id="out", state=RequestState.COMPLETED, at=3, bins=2, waves=1)
    read = msgspec.json.decode(encode(status), type=RequestStatus)
    assert (read.id, read.state, read.at, read.bins, read.waves) == ("out", "completed", 3, 2, 1)
    assert read.final
