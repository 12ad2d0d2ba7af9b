"""Checkpoints while the job goes on: which one is under way, what of it is there, what users hear.

Flow: request or schedule -> [Checkpoints] -> a Checkpoint record in the log -> every process's part
-> manifest -> status. Pure: clock, routing and log are arguments.

    asked or due --its turn--> cut --all parts there, record durable--> written
                                |--deadline, stop or failure--> aborted: the manifest before stands

Invariants
  CK1  At most one checkpoint is asked for or under way: a request meanwhile is rejected, a due one
       of the schedule waits for its next time.
  CK2  A manifest is made of the parts of all processes, of owners and of read positions as of one
       cut, and only once the log holds that cut.
  CK3  A part that comes when its checkpoint was aborted changes nothing; a part that no checkpoint
       of this generation asked for is refused.
  CK4  A cut lies below whatever cut a plan has reserved, and is clear of delays (CC1): it waits
       until such a time is near.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.errors import NotYetSupported, ProtocolViolation
from service.migration.clear_cuts import ClearCuts
from service.migration.founding import manifest_of
from service.migration.records import (
    Checkpoint,
    Generation,
    ManifestRecord,
    RequestState,
    StatusRecord,
)
from service.migration.reports import CheckpointedReport
from service.migration.requests import Rejected


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """When checkpoints are cut and given up; µs."""

    #: Between two of the schedule; 0: none but those asked for.
    every_us: int = 0
    #: From the cut to the last part, beyond which it is aborted.
    wait_us: int = 120_000_000
    #: How far ahead of the earliest time a cut may lie; other commands are then later than it.
    ahead_us: int = 1_000_000


@dataclass(slots=True)
class _Run:
    """A checkpoint asked for or under way."""

    #: Of the request; None: of the schedule.
    id: str | None
    #: Its cut, and what goes with it; None until it is its turn.
    record: Checkpoint | None = None
    owners: Sequence[int] = ()
    #: Where its record stands in the log, once durable.
    offset: int | None = None
    parts: dict[int, CheckpointedReport] = field(default_factory=dict)

    @property
    def cut(self) -> int:
        """The cut, once it has one."""
        assert self.record is not None, "a checkpoint under way has its cut"
        return self.record.at


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is whole: its manifest, and what its request, if one asked, is told."""

    manifest: ManifestRecord
    statuses: Sequence[StatusRecord]


class Checkpoints:
    """The checkpoints of one generation."""

    def __init__(
        self, settings: CheckpointSettings, now_us: int, clear: ClearCuts | None = None
    ) -> None:
        """Nothing is under way; the first one of the schedule is due a period from now.

        Args:
            settings: when.
            now_us: the controller's clock.
            clear: where the flow can be cut; None: everywhere.

        Raises:
            NotYetSupported: it can be nowhere, and there is a schedule.
        """
        self._clear = ClearCuts(()) if clear is None else clear
        if settings.every_us and self._clear.at(now_us) is None:
            raise self._unclear("--checkpoint-every")
        self._settings = settings
        self._due_us = now_us + settings.every_us
        self._run: _Run | None = None
        #: Whether no clear cut was found for the one asked for, though there was one before.
        self._nowhere = False
        #: Cuts that were aborted: their parts may still come (CK3).
        self._aborted: set[int] = set()

    @property
    def under_way(self) -> str | None:
        """How messages name what is asked for or under way; None if nothing is."""
        run = self._run
        if run is None:
            return None
        return f"checkpoint {run.id!r}" if run.id is not None else "a checkpoint of the schedule"

    def ask(self, identity: str, earliest: int) -> StatusRecord | Rejected:
        """Take a request on (CK1); its status, or why not. `earliest` as in `cut`."""
        if self._run is not None:
            return Rejected(identity, f"{self.under_way} is under way; ask again after it")
        at = self._clear.at(earliest)
        if at is None:
            return Rejected(identity, str(self._unclear("a checkpoint")))
        self._run = _Run(identity)
        return StatusRecord(id=identity, state=RequestState.ACCEPTED, at=at)

    def cut(
        self, now_us: int, earliest: int, reserved: int | None, owners: Callable[[], Sequence[int]]
    ) -> Checkpoint | None:
        """The record to append now, if it is a checkpoint's turn.

        Args:
            now_us: the controller's clock.
            earliest: smallest time that a command may have.
            reserved: the cut that a plan has reserved, if any (CK4).
            owners: asked for the worker of each bin after every command written so far.
        """
        if self._run is None and self._settings.every_us and now_us >= self._due_us:
            self._run = _Run(None)
        if self._settings.every_us and now_us >= self._due_us:
            self._due_us = now_us + self._settings.every_us
        run = self._run
        if run is None or run.record is not None:
            return None
        at = self._clear.at(earliest)
        self._nowhere = at is None
        if at is None or at > earliest + self._settings.ahead_us:
            return None
        if reserved is not None and at >= reserved:
            return None
        run.record = Checkpoint(at=at, request=run.id, clock=now_us)
        run.owners = list(owners())
        return run.record

    def running(self, now_us: int) -> Sequence[StatusRecord]:
        """What the request is told of a checkpoint that has just been cut."""
        assert self._run is not None, "it is under way"
        return self._statuses(self._run, RequestState.RUNNING, now_us)

    def concerns(self, cut: int) -> bool:
        """Whether a part at `cut` is one of a checkpoint, aborted ones included."""
        run = self._run
        return cut in self._aborted or (
            run is not None and run.record is not None and run.cut == cut
        )

    def appended(self, record: object, offset: int) -> None:
        """The log holds `record` at `offset`."""
        if self._run is not None and record is self._run.record:
            self._run.offset = offset

    def report(self, peer: int, report: CheckpointedReport) -> str | None:
        """Take a process's part; why the checkpoint is to be aborted, if the part cannot be had.

        Raises:
            ProtocolViolation: none was asked for, or it comes twice (CK3).
        """
        if report.cut in self._aborted:
            return None
        run = self._run
        if run is None or run.record is None or report.cut != run.cut or peer in run.parts:
            raise ProtocolViolation(f"peer {peer} cut its part at {report.cut}, unasked")
        run.parts[peer] = report
        return report.failed

    def written(self, generation: Generation, now_us: int) -> Written | None:
        """The checkpoint under way, if it is whole now (CK2); it is over then.

        Raises:
            ProtocolViolation: the parts do not fit the generation.
        """
        run = self._run
        peers = generation.workers + generation.gateways
        if run is None or run.offset is None or len(run.parts) < peers:
            return None
        manifest = manifest_of(
            generation,
            run.cut,
            run.parts,
            owners=list(run.owners),
            log_offset=run.offset + 1,
            now_us=now_us,
        )
        self._run = None
        return Written(manifest, self._statuses(run, RequestState.COMPLETED, now_us))

    def late(self, slots: Sequence[str], now_us: int) -> str | None:
        """Why the checkpoint under way is to be aborted, if its time is over.

        Args:
            slots: name of each peer.
            now_us: the controller's clock.
        """
        run = self._run
        if run is not None and run.record is None and self._nowhere:
            return str(self._unclear("a checkpoint"))
        if run is None or run.record is None or now_us <= run.cut + self._settings.wait_us:
            return None
        missing = [slot for peer, slot in enumerate(slots) if peer not in run.parts]
        return f"{', '.join(missing) or 'the log'} did not come to the cut in time"

    def abort(self, reason: str, now_us: int) -> Sequence[StatusRecord]:
        """Give up what is asked for or under way; returns what its request is told."""
        run, self._run = self._run, None
        self._nowhere = False
        if run is None:
            return ()
        if run.record is not None:
            self._aborted.add(run.cut)
        return self._statuses(run, RequestState.ABORTED, now_us, reason)

    def _unclear(self, feature: str) -> NotYetSupported:
        return NotYetSupported(
            f"{feature} where no time is left alone by all of {self._clear.names}",
            "a plain stop writes a checkpoint; `delay(step=...)` leaves every multiple alone",
        )

    def _statuses(
        self, run: _Run, state: RequestState, now_us: int, reason: str | None = None
    ) -> Sequence[StatusRecord]:
        """What a request is told: bins of the job, bytes of the parts that are there."""
        if run.id is None:
            return ()
        begun = run.record is not None
        status = StatusRecord(
            id=run.id,
            state=state,
            reason=reason,
            at=run.cut if begun else now_us,
            bins=len(run.owners),
            bytes=sum(part.bytes for part in run.parts.values()),
            duration_ms=-(-max(0, now_us - run.cut) // 1000) if begun else 0,
        )
        return (status,)
