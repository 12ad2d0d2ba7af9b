"""Checkpoints as the controller handles them: what `Checkpoints` decides becomes records and words.

Flow: ControllerMachine -> [CheckpointDesk] -> log record, statuses, manifest. It says the same
things in the same order whoever asked, so that the machine has one line for each.

Invariants
  CD1  A manifest is to be written before its request is told that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.migration.checkpoints import Checkpoints
from service.migration.controller_events import CheckpointAborted, Instruction, WriteManifest
from service.migration.records import Generation, LogRecord, StatusRecord
from service.migration.reports import CheckpointedReport
from service.migration.requests import Rejected


class CheckpointDesk:
    """The checkpoints of one machine."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        say: Callable[[Instruction], None],
        append: Callable[[LogRecord], None],
        publish: Callable[..., None],
    ) -> None:
        """Speak through the machine's own ways: instructions, log records, statuses."""
        self._checkpoints = checkpoints
        self._say = say
        self._append = append
        self._publish: Callable[..., None] = publish

    @property
    def under_way(self) -> str | None:
        """How messages name what is under way; None if nothing is."""
        return self._checkpoints.under_way

    def ask(self, identity: str, earliest: int) -> Rejected | None:
        """Take a request on; why not, if it is not."""
        answer = self._checkpoints.ask(identity, earliest)
        if isinstance(answer, StatusRecord):
            self._publish(answer)
            return None
        return answer

    def tick(
        self,
        now_us: int,
        slots: Sequence[str],
        earliest: int,
        reserved: int | None,
        owners: Callable[[], Sequence[int]],
    ) -> None:
        """Cut what is due and give up what is late; arguments as of `Checkpoints.cut`."""
        late = self._checkpoints.late(slots, now_us)
        if late is not None:
            self.abort(late, now_us)
        record = self._checkpoints.cut(now_us, earliest, reserved, owners)
        if record is not None:
            self._append(record)
            self._publish(*self._checkpoints.running(now_us))

    def appended(
        self, record: LogRecord, offset: int, generation: Generation | None, now_us: int
    ) -> None:
        """The log holds `record` at `offset`."""
        self._checkpoints.appended(record, offset)
        if generation is not None:
            self._write(generation, now_us)

    def report(
        self, peer: int, report: CheckpointedReport, generation: Generation, now_us: int
    ) -> bool:
        """Take a process's part; whether it is one of a checkpoint, and not of the stop.

        Raises:
            ProtocolViolation: CK3 of `checkpoints`.
        """
        if not self._checkpoints.concerns(report.cut):
            return False
        failed = self._checkpoints.report(peer, report)
        if failed is not None:
            self.abort(f"{generation.slots[peer].slot}: {failed}", now_us)
        self._write(generation, now_us)
        return True

    def abort(self, reason: str, now_us: int) -> None:
        """Give up what is asked for or under way, if anything is."""
        if self._checkpoints.under_way is not None:
            self._say(CheckpointAborted(reason))
            self._publish(*self._checkpoints.abort(reason, now_us))

    def _write(self, generation: Generation, now_us: int) -> None:
        written = self._checkpoints.written(generation, now_us)
        if written is not None:
            self._say(WriteManifest(written.manifest))
            self._publish(*written.statuses)
