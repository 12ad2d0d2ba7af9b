"""Plans: what a request becomes against a job, and how waves get their cuts and are completed.

Cannot catch: workers that report what they did not do.
"""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import ProtocolViolation
from service.migration.plan import Pacing, Plan, PlanRun, make_plan, spread
from service.migration.reports import MovedReport
from service.migration.requests import MOVES_MAX, Kind, Rejected, Request
from service.migration.strategy import Moves, Strategy

OWNERS = np.array([0, 0, 1, 1], dtype=np.int32)
PACING = Pacing(spacing_us=100, spacing_us_min=10, spacing_us_max=1000, waves_in_flight_max=2)
FAR = 10**9


def moving(*moves: tuple[int, int], at: int | None = None, batch: int | None = None) -> Request:
    return Request("r", Kind.MOVE, Strategy.BATCHED, moves=moves, at=at, batch=batch)


def rescaling(workers: int, strategy: Strategy = Strategy.ALL_AT_ONCE) -> Request:
    return Request("r", Kind.RESCALE, strategy, workers=workers)


def planned(request: Request, workers: int = 2) -> Plan | Rejected:
    return make_plan(request, OWNERS, workers, earliest=50, latest=1000)


def plan_of(*waves: Moves, first_cut: int = 1000) -> Plan:
    return Plan("r", waves, first_cut)


def moved(cut: int, bins: int = 1, vertex: str = "stats", **more: int) -> MovedReport:
    return MovedReport(vertex=vertex, cut=cut, bins=bins, bytes=10, rows=2, **more)


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


def test_a_rescale_spreads_the_bins_and_serves_receivers_in_turn() -> None:
    owners = np.zeros(8, dtype=np.int32)
    assert spread(owners, 4) == {2: 1, 3: 2, 4: 3, 5: 1, 6: 2, 7: 3}
    assert spread(np.array([0, 1, 2, 2], dtype=np.int32), 2) == {2: 0, 3: 1}


def test_the_first_wave_waits_until_its_time_is_worth_writing() -> None:
    run = PlanRun(plan_of(((0, 1),)), 1, PACING)
    assert run.issue(earliest=1, latest=999) is None
    before = run.reserved_cut
    wave = run.issue(earliest=1, latest=1000)
    assert wave is not None
    assert (wave.number, wave.cut, wave.bins) == (1, 1000, 1)
    assert [before, run.reserved_cut] == [1000, None]
    assert run.issue(earliest=1, latest=FAR) is None


def test_cuts_are_spaced_and_never_below_what_the_log_allows() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),), ((2, 1),)), 1, PACING)
    cuts = []
    for earliest in (1, 1, 5000):
        wave = run.issue(earliest, FAR)
        assert wave is not None
        cuts.append(wave.cut)
        run.report(1, moved(wave.cut), wave.cut + 100)
    assert cuts == [1000, 1100, 5000]


def test_no_more_waves_are_issued_than_may_be_in_flight() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),), ((2, 1),)), 1, PACING)
    assert run.issue(1, FAR) is not None
    assert run.issue(1, FAR) is not None
    assert run.issue(1, FAR) is None
    assert run.report(1, moved(1000), 1010) is not None
    assert run.issue(1, FAR) is not None


def test_spacing_follows_what_waves_take_within_its_bounds() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),), ((2, 1),), ((3, 1),)), 1, PACING)
    spacings = []
    for took in (300, 0, 0, 10_000):
        wave = run.issue(1, FAR)
        assert wave is not None
        run.report(1, moved(wave.cut), wave.cut + took)
        spacings.append(run.spacing_us)
    assert spacings == [200, 100, 50, 1000]
    assert Pacing().spacing_us_min <= Pacing().spacing_us <= Pacing().spacing_us_max


def test_a_wave_is_complete_when_every_owner_has_reported_every_vertex() -> None:
    run = PlanRun(plan_of(((0, 1), (1, 1), (2, 0))), 2, PACING)
    assert run.issue(1, FAR) is not None
    assert run.report(1, moved(1000, 2, "a"), 1010) is None
    assert run.report(0, moved(1000, 1, "a"), 1020) is None
    assert run.report(0, moved(1000, 1, "b"), 1030) is None
    assert run.report(1, moved(1000, 1, "b", wait_us=7), 1040) is None
    wave = run.report(1, moved(1000, 1, "b", wait_us=5), 1050)
    assert wave is not None
    assert (wave.bytes, wave.rows, wave.wait_us) == (50, 10, 7)
    assert run.is_over
    assert run.is_whole
    assert (run.bins_moved, run.bytes_moved, run.waves_completed) == (3, 50, 1)
    assert run.duration_us == 50


@pytest.mark.parametrize(
    ("worker", "report"),
    [
        (1, moved(999)),
        (2, moved(1000)),
        (0, moved(1000, 2)),
        (1, moved(1000, 1, "a")),
        (1, moved(1000, 1, "c")),
    ],
)
def test_a_report_that_no_wave_expects_is_refused(worker: int, report: MovedReport) -> None:
    run = PlanRun(plan_of(((0, 1), (2, 0))), 2, PACING)
    assert run.issue(1, FAR) is not None
    assert run.report(1, moved(1000, 1, "a"), 1010) is None
    assert run.report(1, moved(1000, 1, "b"), 1010) is None
    with pytest.raises(ProtocolViolation, match="PL3"):
        run.report(worker, report, 1010)


def test_a_plan_cut_off_is_over_when_its_issued_waves_are_complete() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),)), 1, PACING)
    assert run.issue(1, FAR) is not None
    run.cut_off()
    assert run.issue(1, FAR) is None
    before = run.is_over
    run.report(1, moved(1000), 900)
    assert [before, run.is_over, run.is_whole, run.duration_us] == [False, True, False, 0]
