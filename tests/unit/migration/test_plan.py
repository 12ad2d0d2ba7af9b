"""Plans: what a request becomes against a job, its bins and their loads."""

from __future__ import annotations

import numpy as np
import pytest

from service.migration.loads import LoadBook, load_report
from service.migration.plan import Plan, make_plan
from service.migration.requests import MOVES_MAX, Kind, LoadKind, Rejected, Request
from service.migration.strategy import Strategy, default_batch

OWNERS = np.array([0, 0, 1, 1], dtype=np.int32)


def moving(*moves: tuple[int, int], at: int | None = None, batch: int | None = None) -> Request:
    return Request("r", Kind.MOVE, Strategy.BATCHED, moves=moves, at=at, batch=batch)


def rescaling(workers: int, strategy: Strategy = Strategy.ALL_AT_ONCE) -> Request:
    return Request("r", Kind.RESCALE, strategy, workers=workers)


def planned(request: Request, workers: int = 2) -> Plan | Rejected:
    return make_plan(request, OWNERS, workers, earliest=50, latest=1000)


def test_a_move_becomes_waves_from_the_earliest_time() -> None:
    assert planned(moving((3, 0), (0, 1), (1, 1), batch=2)) == Plan(
        "r", (((3, 0), (0, 1)), ((1, 1),)), 50
    )


def test_a_plan_begins_at_the_time_asked_for() -> None:
    plan = planned(moving((3, 0), at=1000))
    assert isinstance(plan, Plan)
    assert (plan.first_cut, plan.bins) == (1000, 1)


def test_without_a_batch_a_plan_has_sixteen_waves_if_it_has_the_bins() -> None:
    owners = np.zeros(100, dtype=np.int32)
    request = Request("r", Kind.MOVE, Strategy.BATCHED, moves=tuple((b, 1) for b in range(100)))
    plan = make_plan(request, owners, 2, earliest=1, latest=2)
    assert isinstance(plan, Plan)
    assert [len(wave) for wave in plan.waves] == [7] * 14 + [2]


@pytest.mark.parametrize(
    ("mib_each", "waves"),
    [(0, 16), (0.1, 16), (1, 50), (2, 100), (1_000, 100)],
)
def test_large_bins_make_more_waves_than_sixteen(mib_each: float, waves: int) -> None:
    sizes = np.full(100, mib_each * (1 << 20), dtype=np.int64)
    target = dict.fromkeys(range(100), 1)
    batch = default_batch(Strategy.BATCHED, target, sizes)
    assert -(-100 // batch) == pytest.approx(waves, abs=1)
    assert default_batch(Strategy.OPTIMIZED, target, sizes) == 1


def test_a_plan_of_very_much_has_no_more_than_some_thousand_waves() -> None:
    sizes = np.full(1 << 16, 1 << 30, dtype=np.int64)
    target = dict.fromkeys(range(1 << 16), 1)
    assert default_batch(Strategy.BATCHED, target, sizes) == (1 << 16) // 1_024


def test_a_move_to_the_current_owner_is_dropped() -> None:
    assert planned(moving((0, 0), (2, 1))) == Plan("r", (), 50)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (moving((4, 0)), "unknown bin 4; the job has bins 0 to 3"),
        (moving((0, 1), (3, 2)), "unknown worker 2; the job has workers 0 to 1"),
        (rescaling(3), "workers is 3, but the job has 2; start it with --workers 3 to have more"),
        (moving((0, 1), at=49), "at 49 is in the past; the earliest possible is 50, or null"),
        (moving((0, 1), at=1001), "at 1001 is too far in the future; the latest possible is 1000"),
    ],
)
def test_what_the_job_does_not_have_is_rejected_with_the_reason(
    request_: Request, reason: str
) -> None:
    assert planned(request_) == Rejected("r", reason)


def test_a_wave_too_large_for_a_log_record_is_rejected() -> None:
    owners = np.zeros(2 * MOVES_MAX + 2, dtype=np.int32)
    plan = make_plan(rescaling(2), owners, 2, earliest=1, latest=2)
    assert isinstance(plan, Rejected)
    assert plan.reason == "a wave may move 65,536 bins at most; use strategy 'batched' with a batch"
    assert isinstance(
        make_plan(rescaling(2, Strategy.BATCHED), owners, 2, earliest=1, latest=2), Plan
    )


def loads(updates: list[float], rows: list[int]) -> LoadBook:
    book = LoadBook(len(rows))
    held = np.array(rows)
    book.take(load_report(np.ones(len(rows), np.bool_), held, held * 100, np.array(updates)))
    return book


def test_waves_asked_for_are_kept_without_bins_that_are_there_when_their_turn_comes() -> None:
    request = Request(
        "r",
        Kind.MOVE,
        waves=(((0, 0),), ((0, 1), (2, 1)), ((0, 1),), ((0, 0), (3, 0))),
        after_us=(0, 40, 50, 90),
    )
    plan = planned(request)
    assert isinstance(plan, Plan)
    assert plan.waves == (((0, 1),), ((0, 0), (3, 0)))
    assert (plan.first_cut, plan.after_us) == (90, (0, 50))
    assert plan.bins == 3


def test_waves_without_times_follow_one_another_as_they_can() -> None:
    plan = planned(Request("r", Kind.MOVE, waves=(((0, 1),), ((1, 1),))))
    assert plan == Plan("r", (((0, 1),), ((1, 1),)), 50)


def test_a_bin_in_a_wave_that_the_job_does_not_have_is_rejected() -> None:
    request = Request("r", Kind.MOVE, waves=(((0, 1),), ((9, 1),)))
    assert planned(request) == Rejected("r", "unknown bin 9; the job has bins 0 to 3")


def test_optimized_moves_one_bin_a_pair_unless_asked_for_more() -> None:
    owners = np.array([0, 0, 1, 1], dtype=np.int32)
    moves = ((0, 2), (1, 2), (2, 3), (3, 3))
    for batch, waves in ((None, 2), (2, 1)):
        request = Request("r", Kind.MOVE, Strategy.OPTIMIZED, moves=moves, batch=batch)
        plan = make_plan(request, owners, 4, earliest=1, latest=2)
        assert isinstance(plan, Plan)
        assert len(plan.waves) == waves


def test_a_rebalance_evens_out_what_it_is_asked_to() -> None:
    book = loads([70.0, 30.0, 0.0, 0.0], [1, 1, 50, 50])
    plans = {}
    for by in LoadKind:
        request = Request("r", Kind.REBALANCE, Strategy.FLUID, by=by)
        plans[by] = make_plan(request, OWNERS, 2, earliest=1, latest=2, loads=book)
    updates, rows, size = (plans[by] for by in (LoadKind.UPDATES, LoadKind.ROWS, LoadKind.BYTES))
    assert isinstance(updates, Plan)
    assert updates.waves == (((1, 1),),)
    assert isinstance(rows, Plan)
    assert rows.waves == (((2, 0),),)
    assert size == rows


def test_a_rebalance_needs_loads() -> None:
    request = Request("r", Kind.REBALANCE)
    for book in (None, LoadBook(4)):
        plan = make_plan(request, OWNERS, 2, earliest=1, latest=2, loads=book)
        assert plan == Rejected("r", "no worker has told its loads yet; try again in a second")


def test_a_plan_knows_the_bytes_of_the_busiest_worker_of_each_wave() -> None:
    book = loads([0.0] * 4, [10, 20, 30, 40])
    request = Request("r", Kind.MOVE, Strategy.BATCHED, moves=((0, 1), (1, 2), (3, 2)), batch=3)
    plan = make_plan(request, OWNERS, 3, earliest=1, latest=2, loads=book)
    assert isinstance(plan, Plan)
    (size,) = plan.sizes
    assert size == pytest.approx(6_000, rel=0.01)
