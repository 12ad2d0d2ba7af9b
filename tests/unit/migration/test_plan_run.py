"""Plans under way: how waves get their cuts and are completed, and what pause and abort do.

Cannot catch: workers that report what they did not do.
"""

from __future__ import annotations

import pytest

from service.errors import ProtocolViolation
from service.migration.pacing import Pacing, TransferRate
from service.migration.plan import Plan
from service.migration.plan_run import PlanPhase, PlanRun
from service.migration.reports import MovedReport
from service.migration.strategy import Moves

PACING = Pacing(
    spacing_us=100, spacing_us_min=10, spacing_us_max=1000, waves_late_max=2, waves_probing_max=3
)
FAR = 10**9


def sized() -> TransferRate:
    return TransferRate(empty_us=10)


def plan_of(*waves: Moves, first_cut: int = 1000) -> Plan:
    return Plan("r", waves, first_cut)


def moved(cut: int, bins: int = 1, vertex: str = "stats", **more: int) -> MovedReport:
    return MovedReport(vertex=vertex, cut=cut, bins=bins, bytes=10, rows=2, **more)


def test_the_first_wave_waits_until_its_time_is_worth_writing() -> None:
    run = PlanRun(plan_of(((0, 1),)), 1, PACING)
    assert run.issue(earliest=1, latest=999, now_us=0) is None
    before = run.reserved_cut
    wave = run.issue(earliest=1, latest=1000, now_us=0)
    assert wave is not None
    assert (wave.number, wave.cut, wave.bins) == (1, 1000, 1)
    assert [before, run.reserved_cut] == [1000, None]
    assert run.issue(earliest=1, latest=FAR, now_us=0) is None


def test_cuts_are_spaced_and_never_below_what_the_log_allows() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),), ((2, 1),)), 1, PACING)
    cuts = []
    for earliest in (1, 1, 5000):
        wave = run.issue(earliest, FAR, 0)
        assert wave is not None
        cuts.append(wave.cut)
        run.report(1, moved(wave.cut), wave.cut + 100)
    assert cuts == [1000, 1100, 5000]


def test_no_wave_is_issued_while_too_many_are_late() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),), ((2, 1),)), 1, PACING, sized())
    assert run.issue(1, FAR, 0) is not None
    assert run.issue(1, FAR, 0) is not None
    assert run.issue(1, FAR, 1100) is None
    assert run.report(1, moved(1000), 1110) is not None
    assert run.issue(1, FAR, 1110) is not None


def test_a_wave_with_a_time_of_its_own_is_not_cut_before_it() -> None:
    plan = Plan("r", (((0, 1),), ((1, 1),), ((2, 1),)), 1000, after_us=(0, 0, 5000))
    run = PlanRun(plan, 1, PACING)
    cuts = []
    for _ in plan.waves:
        wave = run.issue(1, FAR, 0)
        assert wave is not None
        cuts.append(wave.cut)
        run.report(1, moved(wave.cut), wave.cut + 10)
    assert cuts == [1000, 1100, 6000]


def test_a_pause_gives_the_first_cut_up_and_a_resume_takes_the_next_that_may_be() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),)), 1, PACING)
    run.pause()
    paused = [run.reserved_cut, run.issue(1, FAR, 0)]
    run.resume()
    wave = run.issue(7000, FAR, 0)
    assert wave is not None
    assert (paused, wave.cut, run.first_cut) == ([None, None], 7000, 7000)
    run.report(1, moved(7000), 7050)
    assert run.duration_us == 50


def test_a_paused_plan_issues_nothing_and_its_issued_waves_complete() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),)), 1, PACING)
    assert run.issue(1, FAR, 0) is not None
    run.pause()
    assert run.issue(1, FAR, 0) is None
    assert run.report(1, moved(1000), 1010) is not None
    before = (run.is_over, run.phase)
    run.resume()
    assert before == (False, PlanPhase.PAUSED)
    assert run.issue(1, FAR, 0) is not None


def test_a_wave_is_complete_when_every_owner_has_reported_every_vertex() -> None:
    run = PlanRun(plan_of(((0, 1), (1, 1), (2, 0))), 2, PACING)
    assert run.issue(1, FAR, 0) is not None
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
    assert run.wait_us == 7
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
    assert run.issue(1, FAR, 0) is not None
    assert run.report(1, moved(1000, 1, "a"), 1010) is None
    assert run.report(1, moved(1000, 1, "b"), 1010) is None
    with pytest.raises(ProtocolViolation, match="PL3"):
        run.report(worker, report, 1010)


def test_a_plan_cut_off_is_over_when_its_issued_waves_are_complete() -> None:
    run = PlanRun(plan_of(((0, 1),), ((1, 1),)), 1, PACING)
    assert run.issue(1, FAR, 0) is not None
    run.cut_off("somebody")
    assert run.issue(1, FAR, 0) is None
    before = run.is_over
    run.report(1, moved(1000), 900)
    assert [before, run.is_over, run.is_whole, run.duration_us] == [False, True, False, 0]
