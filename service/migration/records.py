"""The words the control plane says: records of the accepted log and of its other topics.

Flow: controller -> `<app>.accepted` -> every process (log records); every process ->
`<app>.members` -> controller; controller -> `<app>.status` -> users; controller ->
`<app>.checkpoints` (manifests).
Pure values and their JSON; nothing here decides anything.

Invariants
  R1  A log record decodes completely or not at all: an unknown type or field, a missing one, a
      bool or float where an integer belongs, raises ProtocolViolation. A process that does not
      understand the log must stop, because it would route differently from those that do.
  R2  Every time is an integer, microseconds since 1970, in 0..MAX_EPOCH.
  R3  Every log record carries the controller's clock at which it was written.
  R4  A `Generation` agrees with itself: one owner per bin, owners name members, one slot per peer
      in peer order (I1 of service.ids), positions and partition owners of the same partitions.

Members and manifests tolerate unknown fields (they are read by older versions during an upgrade);
the log does not, by R1.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec

from service.errors import FormatMismatch, ProtocolViolation
from service.ids import Membership

#: The last time there can be; as a horizon it means "no further command, ever". Fits an int64.
MAX_EPOCH = (1 << 63) - 1

MANIFEST_VERSION = 1

Time = Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=MAX_EPOCH)]
#: In the unit of an event time; may be negative.
Watermark = Annotated[int, msgspec.Meta(ge=-MAX_EPOCH - 1, le=MAX_EPOCH)]


class _LogRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True
):
    """Base of the log's records (R1, R3)."""

    #: Controller's clock, µs; never decreases along the log.
    clock: Time


class Promise(_LogRecord, frozen=True, kw_only=True, tag="promise"):
    """No command written after this one has a time at or below `horizon`."""

    horizon: Time


class Move(_LogRecord, frozen=True, kw_only=True, tag="move"):
    """One wave: from epoch `at` on, each bin of `moves` belongs to the worker beside it."""

    at: Time
    #: Id of the request this wave serves.
    request: str
    #: 1-based number of the wave, and how many the plan has.
    wave: Positive
    waves: Positive
    #: (bin, worker ordinal), bins distinct, at least one.
    moves: list[tuple[Count, Count]]
    #: Number of the `PreCopy` that this move completes; 0: none.
    precopy: Count = 0

    def __post_init__(self) -> None:
        if self.wave > self.waves:
            raise ValueError(f"wave {self.wave} of {self.waves}")
        _check_moves(self.moves)


class PreCopy(_LogRecord, frozen=True, kw_only=True, tag="precopy"):
    """Copies of these bins begin to travel to the workers beside them; nothing moves by it."""

    #: Rises along the log of a generation.
    number: Positive
    #: Id of the request it serves.
    request: str
    #: As in `Move`.
    moves: list[tuple[Count, Count]]

    def __post_init__(self) -> None:
        _check_moves(self.moves)


class PreCopyEnd(_LogRecord, frozen=True, kw_only=True, tag="precopy-end"):
    """Every copy that no move has claimed is dropped."""


class Checkpoint(_LogRecord, frozen=True, kw_only=True, tag="checkpoint"):
    """Keep state and read positions as of epoch `at`, and go on."""

    at: Time
    #: Id of the request that asked for it; null for one of the schedule.
    request: str | None = None


class Stop(_LogRecord, frozen=True, kw_only=True, tag="stop"):
    """The last command of a generation: cut state and read positions at `at`, then end."""

    at: Time
    #: True for `--until-end`: the input is complete, so what is open is closed.
    drain: bool


def _check_moves(moves: Sequence[tuple[int, int]]) -> None:
    if not moves:
        raise ValueError("a move without bins")
    if len({bin_ for bin_, _ in moves}) != len(moves):
        raise ValueError("a bin moves twice in one wave")


class SlotBinding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which boot of which process plays a slot in a generation."""

    slot: str
    incarnation: str
    address: str


class Generation(_LogRecord, frozen=True, kw_only=True, tag="generation"):
    """A dataflow begins: its members and the three owner tables as of `first_epoch` (R4).

    It cancels every earlier command and is a promise itself.
    """

    generation: Positive
    horizon: Time
    #: No tick of this generation lies below it; above every earlier horizon, command and cut.
    first_epoch: Time
    bins: Positive
    workers: Positive
    #: 0 where workers draw their records themselves, as in a benchmark.
    gateways: Count
    #: One per peer, in peer order.
    slots: list[SlotBinding]
    #: Worker ordinal of each bin.
    bin_owners: list[Count]
    #: Worker ordinal of each sink group.
    sink_owners: list[Count]
    #: Gateway ordinal of each partition of each topic.
    partition_owners: dict[str, list[Count]]
    #: Next offset to read of each partition of each topic.
    positions: dict[str, list[Count]]
    #: Name of the manifest to restore from; null: begin empty.
    manifest: str | None
    #: Read to the end offsets found at start and report `drained`.
    until_end: bool
    #: Event time as of the manifest: W of each vertex that has one, and what the rows read so far
    #: say of each partition; null: nothing.
    watermarks: dict[str, Watermark] = {}
    partition_watermarks: dict[str, list[Watermark | None]] = {}
    #: Where members report to; the controller is no member.
    controller: SlotBinding | None = None

    def __post_init__(self) -> None:
        if self.horizon < self.first_epoch:
            raise ValueError("horizon below the first epoch")
        members = Membership(self.workers, self.gateways)
        expected = [str(members.slot(peer)) for peer in range(members.peers)]
        if [binding.slot for binding in self.slots] != expected:
            raise ValueError(f"slots are not {', '.join(expected)}")
        check_owner_tables(
            bins=self.bins,
            members=members,
            bin_owners=self.bin_owners,
            sink_owners=self.sink_owners,
            partition_owners=self.partition_owners,
        )
        check_positions(self.partition_owners, self.positions)


LogRecord = Promise | Move | PreCopy | PreCopyEnd | Checkpoint | Stop | Generation


def check_owner_tables(
    *,
    bins: int,
    members: Membership,
    bin_owners: Sequence[int],
    sink_owners: Sequence[int],
    partition_owners: dict[str, list[int]],
) -> None:
    """Check the three owner tables against the members (R4).

    Raises:
        ValueError: a table has the wrong length or names no member.
    """
    if len(bin_owners) != bins:
        raise ValueError(f"{len(bin_owners)} bin owners for {bins} bins")
    if any(owner >= members.workers for owner in bin_owners):
        raise ValueError("a bin's owner is no member")
    if any(owner >= members.workers for owner in sink_owners):
        raise ValueError("a sink group's owner is no member")
    for topic, owners in partition_owners.items():
        if any(owner >= members.gateways for owner in owners):
            raise ValueError(f"the owner of a partition of {topic} is no member")


def check_positions(owners: dict[str, list[int]], positions: dict[str, list[int]]) -> None:
    """Check that both tables speak of the same partitions (R4).

    Raises:
        ValueError: a topic or partition is in one table only.
    """
    if {t: len(v) for t, v in owners.items()} != {t: len(v) for t, v in positions.items()}:
        raise ValueError("positions and partition owners speak of different partitions")


class RequestState(StrEnum):
    """Where a request stands; the last three are final."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    PAUSED = "paused"
    REJECTED = "rejected"
    COMPLETED = "completed"
    ABORTED = "aborted"


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What users read about a request, keyed by `id` (docs/contracts/status-record.schema.json).

    `bins` and `waves` say what the plan will move while it is `accepted`, and what has moved so far
    from then on. The last two fields are written only where they say something.
    """

    id: str
    state: RequestState
    #: Why it was rejected or aborted; otherwise null.
    reason: str | None = None
    #: First cut, µs; null when rejected before a time was chosen.
    at: Time | None = None
    bins: Count = 0
    bytes: Count = 0
    waves: Count = 0
    #: From the first cut to the last completion.
    duration_ms: Count = 0
    #: Longest that rows of a moved bin waited for it, where that is known.
    longest_wait_ms: Count | msgspec.UnsetType = msgspec.UNSET
    #: True: nothing moves; bins, bytes, waves and times are what was estimated.
    dry_run: bool | msgspec.UnsetType = msgspec.UNSET


class MemberState(StrEnum):
    """What a process says about itself."""

    #: Up, waiting for the generation that names it.
    WAITING = "waiting"
    #: Builds its dataflow and restores its state.
    STARTING = "starting"
    RUNNING = "running"
    #: Ended as asked; its slot is free.
    STOPPED = "stopped"
    #: Ended by an error, told in `details.reason`.
    FAILED = "failed"


class MemberDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What a member tells about itself for people; nothing decides on it but `reason` is shown."""

    #: Why it failed.
    reason: str | None = None
    #: Where /metrics answers.
    http: str | None = None
    #: Smallest epoch that may still arrive, by vertex name; null: none can.
    frontiers: dict[str, Time | None] = {}
    #: Gateway: records read, of these skipped (other types) and dead-lettered, and not read yet.
    rows_read: Count = 0
    rows_skipped: Count = 0
    bad_records: Count = 0
    lag: Count = 0
    #: Worker: rows folded into state, rows written, what it hosts.
    rows_applied: Count = 0
    outputs: Count = 0
    bins_owned: Count = 0
    state_rows: Count = 0
    state_bytes: Count = 0
    #: Rows folded into state a second, of late.
    updates_per_s: Count = 0
    held_bytes: Count = 0
    #: Controller: the request under way, and the owner of each bin.
    plan: str | None = None
    owners: list[Count] | None = None


class MemberRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Heartbeat of a process on `<app>.members`, keyed by slot."""

    slot: str
    role: str
    incarnation: str
    address: str
    state: MemberState
    #: The member's own clock, µs; compared with nobody else's.
    heartbeat: Time
    #: Generation it takes part in; null while it waits.
    generation: Positive | None = None
    details: MemberDetails = MemberDetails()


class ManifestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint of the job: everything a later generation needs to go on at `cut`."""

    format_version: Positive = MANIFEST_VERSION
    #: Unique per job: generation and cut.
    name: str
    generation: Positive
    cut: Time
    clock: Time
    bins: Positive
    workers: Positive
    gateways: Positive
    bin_owners: list[Count]
    sink_owners: list[Count]
    partition_owners: dict[str, list[Count]]
    #: Offset in the accepted log after the record that made this cut.
    log_offset: Count
    #: Next offset to read of each partition as of `cut`.
    positions: dict[str, list[Count]]
    #: slot -> files with digests, bytes and row counts, written by the state store; opaque here.
    files: dict[str, object]
    drained: bool = False
    #: Event time as of `cut`, as in `Generation`.
    watermarks: dict[str, Watermark] = {}
    partition_watermarks: dict[str, list[Watermark | None]] = {}

    def __post_init__(self) -> None:
        if self.format_version != MANIFEST_VERSION:
            return
        check_owner_tables(
            bins=self.bins,
            members=Membership(self.workers, self.gateways),
            bin_owners=self.bin_owners,
            sink_owners=self.sink_owners,
            partition_owners=self.partition_owners,
        )
        check_positions(self.partition_owners, self.positions)


_LOG_DECODER: msgspec.json.Decoder[LogRecord] = msgspec.json.Decoder(LogRecord)
_STATUS_DECODER = msgspec.json.Decoder(StatusRecord)
_MEMBER_DECODER = msgspec.json.Decoder(MemberRecord)
_MANIFEST_DECODER = msgspec.json.Decoder(ManifestRecord)

#: What msgspec raises on bytes that are no JSON of the type asked for.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(record: LogRecord | StatusRecord | MemberRecord | ManifestRecord) -> bytes:
    """JSON of any record of the control plane."""
    return msgspec.json.encode(record)


def decode_log(data: bytes) -> LogRecord:
    """Read a record of the accepted log.

    Raises:
        ProtocolViolation: not a record this version knows, or one that contradicts itself (R1, R4).
    """
    try:
        return _LOG_DECODER.decode(data)
    except DECODE_ERRORS as error:
        raise ProtocolViolation(f"unknown record in the accepted log: {error}") from error


def decode_status(data: bytes) -> StatusRecord:
    """Read a status record.

    Raises:
        ProtocolViolation: the bytes are no status record.
    """
    try:
        return _STATUS_DECODER.decode(data)
    except DECODE_ERRORS as error:
        raise ProtocolViolation(f"malformed status record: {error}") from error


def decode_member(data: bytes) -> MemberRecord:
    """Read a member's heartbeat.

    Raises:
        ProtocolViolation: the bytes are no member record.
    """
    try:
        return _MEMBER_DECODER.decode(data)
    except DECODE_ERRORS as error:
        raise ProtocolViolation(f"malformed member record: {error}") from error


def decode_manifest(data: bytes) -> ManifestRecord:
    """Read a manifest.

    Raises:
        FormatMismatch: it was written in another format version.
        ProtocolViolation: the bytes are no manifest, or it contradicts itself.
    """
    try:
        manifest = _MANIFEST_DECODER.decode(data)
    except DECODE_ERRORS as error:
        raise ProtocolViolation(f"malformed manifest: {error}") from error
    if manifest.format_version != MANIFEST_VERSION:
        raise FormatMismatch(
            f"manifest {manifest.name} has format {manifest.format_version}, this version reads "
            f"{MANIFEST_VERSION}; start the job with the version that wrote it"
        )
    return manifest
