"""Any stream of requests, any pace of the members: what the controller promises always holds.

The world applies every record to a follower of its own, so a log that a process would refuse fails
here at once. Cannot catch: lost or repeated instructions; those are the shell's.
"""

from __future__ import annotations

import json

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from service.migration.controller_events import ControllerSettings, StopRequested
from service.migration.founding import JobShape
from service.migration.pacing import Pacing
from service.migration.plan import Plan, make_plan
from service.migration.records import Move, RequestState, Stop
from service.migration.requests import Kind, Rejected, Request, parse
from service.migration.target import spread
from tests.unit.migration.controller_world import START, ControllerWorld

BINS = 8
WORKERS = 3
JOB = JobShape(
    bins=BINS,
    workers=WORKERS,
    gateways=2,
    vertices=2,
    sink_groups=2,
    start={"bids": [0, 0]},
    until_end=False,
)
FINAL = {RequestState.COMPLETED, RequestState.ABORTED}

IDS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
TIMES = st.none() | st.integers(START - 10, START + 9_000_000)
STRATEGIES = st.sampled_from(["all-at-once", "fluid", "batched", "optimized"])
COMMON = {"strategy": STRATEGIES, "batch": st.none() | st.integers(1, 4), "at": TIMES}
GOOD_MOVES = st.dictionaries(st.integers(0, BINS - 1), st.integers(0, WORKERS - 1)).map(
    lambda moves: list(moves.items())
)
WAVES = st.lists(GOOD_MOVES.filter(bool), min_size=1, max_size=4)
GOOD = (
    st.fixed_dictionaries(
        {"id": IDS, "kind": st.just("move"), "moves": GOOD_MOVES}, optional=COMMON
    )
    | st.fixed_dictionaries(
        {"id": IDS, "kind": st.just("move"), "waves": WAVES}, optional={"at": TIMES}
    )
    | st.fixed_dictionaries(
        {"id": IDS, "kind": st.just("rescale"), "workers": st.integers(1, WORKERS)}, optional=COMMON
    )
)
WILD = st.fixed_dictionaries(
    {"id": IDS, "kind": st.sampled_from(["move", "rescale", "admit"])},
    optional={
        "moves": st.lists(st.tuples(st.integers(0, BINS), st.integers(0, WORKERS)), max_size=BINS),
        "workers": st.integers(0, WORKERS + 1),
        "strategy": STRATEGIES | st.sampled_from(["fast"]),
        "batch": st.integers(-1, 4),
        "at": TIMES | st.booleans(),
    },
)
REQUESTS = GOOD | WILD
RECORDS = st.binary(max_size=8) | REQUESTS.map(lambda body: json.dumps(body).encode())
STEPS = st.lists(st.tuples(RECORDS, st.integers(0, 3_000_000)), max_size=8)
SETTINGS = st.builds(
    ControllerSettings,
    pacing=st.builds(Pacing, spacing_us=st.integers(1, 400_000), waves_late_max=st.integers(1, 4)),
)


def target_of(request: Request, owners: list[int]) -> list[int]:
    """Where the request wants every bin, worked out without waves."""
    after = list(owners)
    if request.kind is Kind.MOVE:
        moves = dict(move for wave in (request.moves, *request.waves) for move in wave)
    else:
        moves = spread(np.array(owners, dtype=np.int32), request.workers)
    for bin_, worker in moves.items():
        after[bin_] = worker
    return after


@settings(max_examples=60, deadline=None)
@given(STEPS, SETTINGS, st.integers(0, 1 << 30), st.booleans())
def test_accepted_plans_reach_their_target_and_rejected_ones_change_nothing(
    steps: list[tuple[bytes, int]], knobs: ControllerSettings, seed: int, stop_in_the_middle: bool
) -> None:
    world = ControllerWorld(JOB, knobs, seed=seed)
    world.begin()
    assert world.machine.table is not None
    for value, pause in steps:
        before = world.machine.table.latest.tolist()
        commands = len(world.commands())
        statuses = world.request(value)
        request = parse(value, 0)
        event(f"{statuses[0].state}, {len(statuses)} statuses")
        if any(status.state is RequestState.REJECTED for status in statuses):
            assert world.machine.table.latest.tolist() == before
            assert len(world.commands()) == commands
        else:
            assert isinstance(request, Request)
            assert statuses[0].state is RequestState.ACCEPTED
            expected = target_of(request, before)
            if not stop_in_the_middle:
                world.finish_plan(60_000_000)
                assert world.newest()[request.id].state is RequestState.COMPLETED
                assert world.machine.table.latest.tolist() == expected
        world.pass_time(pause)
    world.send(StopRequested())
    world.pass_time(20_000_000)
    assert world.done
    assert world.failure is None
    assert world.table is not None
    assert world.manifests[0].bin_owners == world.table.latest.tolist()
    accepted = {s.id for s in world.statuses if s.state is RequestState.ACCEPTED}
    assert all(world.newest()[identity].state in FINAL for identity in accepted)


@settings(max_examples=40, deadline=None)
@given(STEPS, SETTINGS, st.integers(0, 1 << 30))
def test_statuses_go_forward_and_completed_figures_match_the_log(
    steps: list[tuple[bytes, int]], knobs: ControllerSettings, seed: int
) -> None:
    world = ControllerWorld(JOB, knobs, seed=seed)
    world.begin()
    for value, pause in steps:
        world.request(value)
        world.pass_time(pause)
    world.finish_plan(60_000_000)
    order = [RequestState.ACCEPTED, RequestState.RUNNING, RequestState.COMPLETED]
    for identity, newest in world.newest().items():
        ranks = [order.index(state) for state in world.states(identity) if state in order]
        if newest.state is RequestState.REJECTED:
            continue
        # A rejection under a taken id repeats the true status, which is never an older one.
        assert ranks == sorted(ranks)
        waves = [c for c in world.commands() if isinstance(c, Move) and c.request == identity]
        assert newest.waves == len(waves)
        assert newest.bins == sum(len(wave.moves) for wave in waves)
        assert newest.bytes == 200 * newest.bins
        if waves:
            assert newest.at == waves[0].at
            assert [wave.wave for wave in waves] == list(range(1, waves[0].waves + 1))


STEERING = st.fixed_dictionaries(
    {"id": st.uuids().map(str), "kind": st.sampled_from(["pause", "resume", "abort"])},
    optional={"plan": IDS | st.none()},
)
QUEUED = GOOD.map(lambda body: body | {"queue": True})


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(STEERING | QUEUED, st.integers(0, 1_000_000)), max_size=14),
    SETTINGS,
    st.integers(0, 1 << 30),
)
def test_pauses_aborts_and_queues_leave_each_bin_where_the_log_put_it(
    steps: list[tuple[dict[str, object], int]], knobs: ControllerSettings, seed: int
) -> None:
    world = ControllerWorld(JOB, knobs, seed=seed)
    world.begin()
    for body, pause in steps:
        waves = len(world.commands())
        statuses = world.request(json.dumps(body).encode())
        event(f"{body['kind']}: {statuses[0].state}")
        assert len(world.commands()) == waves, "a request issues nothing at once"
        world.pass_time(pause)
    # What is paused goes on, and then everything ends by itself.
    while world.machine.plan is not None:
        world.request(json.dumps({"id": f"go-{world.now}", "kind": "resume"}).encode())
        world.finish_plan(1_000_000)
        assert world.now < START + 200_000_000, "the plans do not end"
    assert world.failure is None
    newest = world.newest()
    accepted = {s.id for s in world.statuses if s.state is RequestState.ACCEPTED}
    assert all(newest[identity].state in FINAL for identity in accepted)
    assert world.machine.table is not None
    assert world.table is not None
    assert world.machine.table.latest.tolist() == world.table.latest.tolist()
    for identity in accepted:
        status = newest[identity]
        waves = [c for c in world.commands() if isinstance(c, Move) and c.request == identity]
        assert status.waves == len(waves)
        assert status.bins == sum(len(wave.moves) for wave in waves)
        if status.state is RequestState.ABORTED:
            assert status.reason is not None
            assert "aborted it" in status.reason


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=4), st.integers(0, 1 << 30))
def test_runs_that_follow_one_another_write_one_lawful_log(pauses: list[int], seed: int) -> None:
    """Each run is stopped, plainly or by a crash, with a plan under way, and the next goes on."""
    world = ControllerWorld(JOB, seed=seed)
    for number, pause in enumerate(pauses):
        world.begin()
        body = {"id": str(number), "kind": "rescale", "workers": 1 + number % WORKERS}
        world.request(json.dumps(body).encode())
        world.pass_time(pause)
        if seed & 1 << number:
            world.send(StopRequested())
            world.pass_time(20_000_000)
            assert isinstance(world.commands()[-1], Stop)
        world = ControllerWorld(
            JOB,
            seed=seed,
            start=max(world.now - 500_000, world.reader.clock),
            log=world.log,
            manifest=world.manifests[-1] if world.manifests else None,
            answered=world.newest(),
        )
    world.begin()
    assert world.reader.generation is not None
    assert world.reader.generation.generation == len(pauses) + 1
    unfinished = {RequestState.ACCEPTED, RequestState.RUNNING}
    assert not [s for s in world.newest().values() if s.state in unfinished]


@given(REQUESTS)
def test_every_rejection_has_a_reason_and_every_plan_only_what_moves(body: object) -> None:
    request = parse(json.dumps(body).encode(), 5)
    owners = np.array([0, 0, 0, 1, 1, 1, 2, 2], dtype=np.int32)
    plan: Plan | Rejected
    if isinstance(request, Request):
        plan = make_plan(request, owners, WORKERS, earliest=START, latest=START + 10**6)
    else:
        plan = request
    event(type(plan).__name__)
    if isinstance(plan, Rejected):
        assert plan.reason
    else:
        for wave in plan.waves:
            assert all(owners[bin_] != worker for bin_, worker in wave)
            for bin_, worker in wave:
                owners[bin_] = worker
