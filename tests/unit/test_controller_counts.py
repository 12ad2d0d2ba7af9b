"""What the controller tells of requests, plans, checkpoints, by the instructions it follows."""

from __future__ import annotations

import pytest

from service.controller_counts import ControllerCounts
from service.migration.controller_events import (
    CheckpointAborted,
    PublishStatus,
    WaveCompleted,
    WriteManifest,
)
from service.migration.plan_run import WaveRun
from service.migration.records import ManifestRecord, RequestState, StatusRecord

S = 1_000_000


class Controller:
    """Counts, and the clock of what is counted."""

    def __init__(self, cut: int | None = None, every_s: float | None = None) -> None:
        self.counts = ControllerCounts(cut, every_s)
        self.now = 100 * S

    def says(self, name: str, state: str, **more: object) -> None:
        record = StatusRecord(id=name, state=RequestState(state), **more)
        self.counts.note(PublishStatus(record), self.now)

    def told(self, name: str) -> object:
        return self.counts.reading(self.now + S, self.now).get(f"megaphone_{name}")

    @property
    def plans(self) -> tuple[object, object, object]:
        names = ("active_plans", "pending_plans", "pending_bins")
        active, pending, bins = (self.told(f"migration_{name}") for name in names)
        return active, pending, bins


@pytest.fixture
def controller() -> Controller:
    return Controller()


def test_answers_are_told_from_the_beginning_and_only_final_ones(controller) -> None:
    name = "control_requests_total"
    assert controller.told(name) == {"completed": 0, "rejected": 0, "aborted": 0}
    controller.says("a", "accepted", bins=2, waves=1)
    controller.says("a", "running", at=1)
    controller.says("a", "paused", at=1)
    controller.says("a", "completed", bins=2)
    controller.says("b", "aborted")
    assert controller.told(name) == {"completed": 1, "rejected": 0, "aborted": 1}


def test_a_status_that_is_published_again_behind_a_rejection_is_no_answer(controller) -> None:
    controller.says("a", "accepted", bins=2, waves=1)
    controller.says("a", "completed", bins=2)
    controller.says("a", "rejected")
    controller.says("a", "completed", bins=2)
    assert controller.told("control_requests_total") == {
        "completed": 1, "rejected": 1, "aborted": 0,
    }  # fmt: skip
    controller.says("c", "rejected")
    controller.says("d", "completed")
    assert controller.told("control_requests_total")["completed"] == 2


def test_a_plan_is_pending_then_active_then_over(controller) -> None:
    assert controller.plans == (0, 0, 0)
    controller.says("a", "accepted", bins=8, waves=2)
    assert controller.plans == (0, 1, 8)
    assert controller.told("migration_start_timestamp_seconds") is None
    controller.says("a", "running", at=101 * S)
    assert controller.plans == (1, 0, 8)
    controller.says("b", "accepted", bins=3, waves=3)
    controller.says("a", "paused", at=101 * S, bins=5, waves=1)
    assert controller.plans == (1, 1, 3 + 3)
    controller.now = 103 * S
    assert controller.told("migration_duration_seconds") == 2.0
    assert controller.told("migration_end_timestamp_seconds") is None
    controller.says("a", "completed", at=101 * S, bins=8, waves=2)
    controller.now = 110 * S
    assert controller.plans == (0, 1, 3)
    assert controller.told("migration_start_timestamp_seconds") == 101.0
    assert controller.told("migration_end_timestamp_seconds") == 103.0
    assert controller.told("migration_duration_seconds") == 2.0


def test_a_plan_that_is_taken_out_before_it_began_leaves_no_end(controller) -> None:
    controller.says("a", "accepted", bins=8, waves=2)
    controller.says("a", "aborted")
    assert controller.plans == (0, 0, 0)
    assert controller.told("migration_end_timestamp_seconds") is None


def test_neither_a_dry_run_nor_a_checkpoint_nor_a_plan_of_an_earlier_run_is_a_plan(
    controller,
) -> None:
    controller.says("dry", "completed", bins=8, waves=2, dry_run=True)
    controller.says("kept", "accepted", bins=8)
    controller.says("kept", "completed", bins=8)
    controller.says("old", "aborted", bins=1, waves=1)
    assert controller.plans == (0, 0, 0)
    assert controller.told("migration_start_timestamp_seconds") is None


def test_the_longest_wait_is_that_of_the_newest_plan(controller) -> None:
    def wave(wait_us: int) -> WaveCompleted:
        return WaveCompleted("a", WaveRun(1, 0, 1, {0: 1}, wait_us=wait_us), 250_000)

    for name, waits in (("a", (300_000, 100_000)), ("b", (20_000,))):
        controller.says(name, "accepted", bins=2, waves=2)
        controller.says(name, "running", at=1)
        for wait_us in waits:
            controller.counts.note(wave(wait_us), controller.now)
        assert controller.told("migration_longest_wait_seconds") == max(waits) / S
        controller.says(name, "completed", bins=2)
    waves = controller.told("migration_wave_seconds")
    assert (sum(waves.counts), waves.total) == (3, 0.75)


def manifest(cut: int) -> WriteManifest:
    return WriteManifest(
        ManifestRecord(
            name="1", generation=1, cut=cut, clock=cut, bins=1, workers=1, gateways=1,
            bin_owners=[0], sink_owners=[0], partition_owners={}, log_offset=0, positions={},
            files={},
        )
    )  # fmt: skip


def test_the_age_is_that_of_the_newest_checkpoint_and_absent_without_one(controller) -> None:
    assert controller.told("checkpoint_age_seconds") is None
    assert controller.told("checkpoint_interval_seconds") is None
    controller.counts.note(manifest(98 * S), controller.now)
    controller.counts.note(CheckpointAborted("a reason"), controller.now)
    assert controller.told("checkpoint_age_seconds") == 2.0
    assert controller.told("checkpoint_attempts_total") == {"written": 1, "aborted": 1}
    again = Controller(cut=90 * S, every_s=5)
    assert again.told("checkpoint_age_seconds") == 10.0
    assert again.told("checkpoint_interval_seconds") == 5


def test_the_horizon_is_told_until_it_is_endless(controller) -> None:
    assert controller.told("control_horizon_seconds") == 1.0
    endless = controller.counts.reading(1 << 62, controller.now)
    assert "megaphone_control_horizon_seconds" not in endless
    past = controller.counts.reading(controller.now - S, controller.now)
    assert past["megaphone_control_horizon_seconds"] == 0.0
