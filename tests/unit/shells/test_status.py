"""What `megaphone status` makes of the newest heartbeats and statuses."""

from __future__ import annotations

import io

from rich.console import Console

from service.migration.records import (
    MemberDetails,
    MemberRecord,
    MemberState,
    RequestState,
    StatusRecord,
)
from service.status import status_of, text_of

NOW_US = 10_000_000


def member(slot, generation=2, state=MemberState.RUNNING, **details):
    return MemberRecord(
        slot=slot,
        role=slot.partition("-")[0],
        incarnation="7",
        address="tcp://127.0.0.1:5",
        state=state,
        heartbeat=NOW_US - 1_500_000,
        generation=generation,
        details=MemberDetails(**details),
    )


CONTROLLER = member("controller", owners=[0, 1])


def test_frontiers_are_the_oldest_that_a_member_of_this_generation_sees():
    status = status_of(
        "shop",
        [
            CONTROLLER,
            member("worker-0", frontiers={"stats": 7, "out": None, "late": None}),
            member("worker-1", frontiers={"stats": 5, "out": None, "late": 9}),
            member("gateway-0", frontiers={"stats": 8, "out": None, "late": None}),
            member("worker-2", generation=1, frontiers={"stats": 1, "old": 1}),
        ],
        [],
    )
    assert status.frontiers == {"stats": 5, "out": None, "late": 9}
    assert status.owners == [0, 1]
    assert status.generation == 2


def test_the_plan_is_the_request_under_way():
    done = StatusRecord(id="a", state=RequestState.COMPLETED, at=1)
    running = StatusRecord(id="b", state=RequestState.RUNNING, at=1, bins=4, waves=2)
    assert status_of("shop", [CONTROLLER], [done, running]).plan == running
    assert status_of("shop", [CONTROLLER], [done]).plan is None
    queued = StatusRecord(id="c", state=RequestState.ACCEPTED, at=1, bins=4, waves=2)
    paused = StatusRecord(id="d", state=RequestState.PAUSED, at=1, bins=4, waves=2)
    assert status_of("shop", [CONTROLLER], [queued]).plan == queued
    assert status_of("shop", [CONTROLLER], [queued, paused]).plan == paused


def test_before_anything_began_there_is_nothing_to_tell():
    status = status_of("shop", [], [])
    assert (status.generation, status.owners, status.frontiers) == (None, None, {})


def test_the_text_shows_what_each_role_does_and_why_something_failed():
    running = StatusRecord(id="r[1]", state=RequestState.RUNNING, at=1, bins=4, waves=2)
    status = status_of(
        "shop",
        [
            CONTROLLER,
            member(
                "worker-0",
                bins_owned=32,
                state_rows=12_345,
                state_bytes=3_500_000,
                updates_per_s=70_001,
                frontiers={"stats": 9_000_000},
            ),
            member("gateway-0", rows_read=999, lag=17),
            member("worker-1", state=MemberState.FAILED, reason="disk [full]"),
        ],
        [running],
    )
    stream = io.StringIO()
    Console(file=stream, width=80).print(text_of(status, NOW_US))
    text = stream.getvalue()
    for expected in (
        "shop, generation 2",
        "1.5 s ago",
        "12,345",
        "3.5 MB",
        "70,001",
        "999",
        "17",
        "worker-1: disk [full]",
        "frontier of stats: 1.000 s behind",
        "plan r[1]: running, 4 bins, 2 waves, 0 ms",
    ):
        assert expected in text
