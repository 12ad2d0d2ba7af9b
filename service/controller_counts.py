"""What the controller tells Prometheus: answers to requests, plans, waves and checkpoints.

Flow: the machine's instructions, as they are carried out -> [ControllerCounts] -> reading. The
clock is an argument.

Invariants
  CC1  Each answer is counted once: a status that is published again after a rejection under its id
       (SB2 of `status_book`) is not another answer.
  CC2  A plan is pending from its acceptance to its first wave, active from then to its end, and
       neither before nor after; a dry run is no plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from service.migration.controller_events import (
    CheckpointAborted,
    Instruction,
    PublishStatus,
    WaveCompleted,
    WriteManifest,
)
from service.migration.records import RequestState, StatusRecord
from service.telemetry import Histogram, Reading, Value

_UNDER_WAY = (RequestState.ACCEPTED, RequestState.RUNNING, RequestState.PAUSED)
#: Further ahead no promise goes, but the end after a stop does.
_HORIZON_ENDLESS_S = 86_400.0


class ControllerCounts:
    """Counts of one controller's life."""

    def __init__(self, checkpoint_cut: int | None, checkpoint_every_s: float | None) -> None:
        """Begin a job.

        Args:
            checkpoint_cut: of the newest checkpoint of earlier runs, if there is one.
            checkpoint_every_s: time between those that nobody asked for; None: there are none.
        """
        # Told from the beginning: what first appears as 1 has not grown for Prometheus.
        self._answers: Counter[str] = Counter(
            dict.fromkeys((str(state) for state in RequestState if state not in _UNDER_WAY), 0)
        )
        self._attempts = Counter({"written": 0, "aborted": 0})
        self._waves = Histogram()
        self._newest_cut = checkpoint_cut
        self._every_s = checkpoint_every_s
        #: Bins of plans that have not begun, by id.
        self._pending: dict[str, int] = {}
        #: Bins still to be moved by plans that have, by id.
        self._active: dict[str, int] = {}
        #: Bins of all plans that are not over, by id.
        self._bins: dict[str, int] = {}
        self._rejected: str | None = None
        self._start_us: int | None = None
        self._end_us: int | None = None
        self._wait_us = 0

    def note(self, instruction: Instruction, now_us: int) -> None:
        """Count what is carried out at `now_us` of the controller's clock."""
        match instruction:
            case PublishStatus(record=record):
                self._answered(record, now_us)
            case WaveCompleted(wave=wave, duration_us=duration_us):
                self._waves.count(duration_us / 1e6)
                self._wait_us = max(self._wait_us, wave.wait_us)
            case WriteManifest(record=manifest):
                self._attempts["written"] += 1
                self._newest_cut = manifest.cut
            case CheckpointAborted():
                self._attempts["aborted"] += 1

    def _answered(self, record: StatusRecord, now_us: int) -> None:
        again = self._rejected == record.id and record.state is not RequestState.REJECTED
        self._rejected = record.id if record.state is RequestState.REJECTED else None
        if again:
            return
        if record.state not in _UNDER_WAY:
            self._answers[record.state] += 1
        if self._rejected is None and record.dry_run is msgspec.UNSET:
            self._planned(record, now_us)

    def _planned(self, record: StatusRecord, now_us: int) -> None:
        """Follow a plan (CC2); other requests have no waves."""
        name = record.id
        if record.state is RequestState.ACCEPTED:
            if record.waves:
                self._pending[name] = self._bins[name] = record.bins
            return
        if name not in self._bins:
            return
        if record.state in (RequestState.RUNNING, RequestState.PAUSED):
            if self._pending.pop(name, None) is not None:
                self._start_us = record.at if record.at is not None else now_us
                self._end_us, self._wait_us = None, 0
            self._active[name] = self._bins[name] - record.bins
            return
        del self._bins[name]
        self._pending.pop(name, None)
        if self._active.pop(name, None) is not None:
            self._end_us = now_us

    def reading(self, horizon_us: int, now_us: int) -> Reading:
        """What is told at `now_us`; after a stop the horizon is endless and not told."""
        reading: dict[str, Value] = {
            "megaphone_control_requests_total": dict(self._answers),
            "megaphone_checkpoint_attempts_total": dict(self._attempts),
            "megaphone_migration_active_plans": len(self._active),
            "megaphone_migration_pending_plans": len(self._pending),
            "megaphone_migration_pending_bins": _sum(self._pending) + _sum(self._active),
            "megaphone_migration_wave_seconds": self._waves.read(),
        }
        ahead_s = (horizon_us - now_us) / 1e6
        if ahead_s < _HORIZON_ENDLESS_S:
            reading["megaphone_control_horizon_seconds"] = max(0.0, ahead_s)
        if self._newest_cut is not None:
            age_s = max(0, now_us - self._newest_cut) / 1e6
            reading["megaphone_checkpoint_age_seconds"] = age_s
        if self._every_s:
            reading["megaphone_checkpoint_interval_seconds"] = self._every_s
        if self._start_us is not None:
            end_us = now_us if self._end_us is None else self._end_us
            duration_s = max(0, end_us - self._start_us) / 1e6
            reading["megaphone_migration_start_timestamp_seconds"] = self._start_us / 1e6
            reading["megaphone_migration_duration_seconds"] = duration_s
            reading["megaphone_migration_longest_wait_seconds"] = self._wait_us / 1e6
        if self._end_us is not None:
            reading["megaphone_migration_end_timestamp_seconds"] = self._end_us / 1e6
        return reading


def _sum(bins: Mapping[str, int]) -> int:
    return sum(bins.values())
