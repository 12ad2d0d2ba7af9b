"""What the controller is told and what it asks for: the seam between the machine and its shell.

Flow: shell -> Event -> ControllerMachine -> Instruction -> shell. Events are past outcomes,
instructions imperatives; both are values, so that a run can be written down and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from service.errors import MegaphoneError, PeerError
from service.migration.checkpoints import CheckpointSettings
from service.migration.pacing import Pacing
from service.migration.plan_run import WaveRun
from service.migration.records import LogRecord, ManifestRecord, MemberRecord, StatusRecord


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Knobs of the controller; times in µs."""

    lookahead_us: int = 1_000_000
    plan_lookahead_us: int = 200_000
    promise_every_us: int = 50_000
    members_wait_us: int = 60_000_000
    silence_us: int = 10_000_000
    stop_wait_us: int = 120_000_000
    #: A plan that waits keeps others from starting, so it may not wait for ever.
    at_ahead_us_max: int = 3_600_000_000
    pacing: Pacing = field(default_factory=Pacing)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)


class Phase(StrEnum):
    """Where the controller stands; see the picture in controller.py."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: the controller's clock (horizon.ControllerClock), which never decreases."""

    now_us: int


@dataclass(frozen=True, slots=True)
class RequestRead:
    """A record of the control topic was read; b"" for one without a value."""

    offset: int
    value: bytes


@dataclass(frozen=True, slots=True)
class MemberSeen:
    """A heartbeat was read that was written after this controller began to read."""

    record: MemberRecord


@dataclass(frozen=True, slots=True)
class Report:
    """A peer of the generation told something: `body` is a records.PeerReport as plain values."""

    peer: int
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The link to a member ended, or it said what it may not: what was raised, and its sentence."""

    error: type[PeerError]
    reason: str


@dataclass(frozen=True, slots=True)
class StopRequested:
    """SIGTERM or Ctrl-C came."""


@dataclass(frozen=True, slots=True)
class LogAppended:
    """The oldest record not yet acknowledged is durable at `offset`; one event per AppendToLog."""

    offset: int


Event = Tick | RequestRead | MemberSeen | Report | PeerGone | StopRequested | LogAppended


@dataclass(frozen=True, slots=True)
class AppendToLog:
    """Append to the accepted log; the order of instructions is the order of the log."""

    record: LogRecord


@dataclass(frozen=True, slots=True)
class PublishStatus:
    """Publish on the status topic, keyed by the record's id."""

    record: StatusRecord


@dataclass(frozen=True, slots=True)
class WaveCompleted:
    """A fact for logs and metrics; nothing is to be done."""

    request: str
    wave: WaveRun
    #: From the wave's cut to its completion.
    duration_us: int


@dataclass(frozen=True, slots=True)
class WriteManifest:
    """Make the manifest durable on the checkpoints topic before doing anything that follows."""

    record: ManifestRecord


@dataclass(frozen=True, slots=True)
class CheckpointAborted:
    """A fact for logs and metrics; nothing is to be done."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The job cannot go on: raise `error(reason)` once what stands before it is published."""

    error: type[MegaphoneError]
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """The job has ended as asked."""


Instruction = (
    AppendToLog | PublishStatus | WaveCompleted | WriteManifest | CheckpointAborted | Fail | Done
)
