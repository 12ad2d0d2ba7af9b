"""A process's part of a checkpoint, from its copies to its report, while the dataflow goes on.

Flow: CheckpointParts -> [Checkpointing] -> files, in the checkpoint thread -> CheckpointedReport ->
controller -> manifest.

Invariants
  CH1  A part is told when its files are on disk and everything below the cut is acknowledged, dead
       letters included (DP1 says the same of a stop).
  CH2  One part at a time, in the order of cuts; the loop never waits for one.
  CH3  A disk that refuses costs the checkpoint and not the job: the controller is told why.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from service.edges import KafkaEdges
from service.errors import StateError
from service.log import Log
from service.member import Member
from service.migration.reports import CheckpointedReport, PeerReport
from service.slot_folder import SlotFolder
from service.statestore.checkpoint import SlotFiles


class Checkpointing:
    """The checkpoints of one running member."""

    def __init__(
        self,
        member: Member,
        edges: KafkaEdges,
        folder: SlotFolder,
        send: Callable[[PeerReport], None],
        log: Log,
    ) -> None:
        """Nothing is under way; `send` takes the reports."""
        self._member = member
        self._edges = edges
        self._folder = folder
        self._send = send
        self._log = log
        self._cut = 0
        self._files: Future[SlotFiles | None] | None = None
        #: What must have been acknowledged of the dead letters; None before the cut is passed.
        self._letters: list[int] | None = None
        #: When rows were first seen to wait for the copies, and how long they did, ns.
        self._waits_from: int | None = None
        self._waited_ns = 0

    def turn(self, now_ns: int) -> None:
        """Do what is due; cheap without a checkpoint.

        Raises:
            BrokerError: a dead letter was lost.
        """
        parts = self._member.cuts
        cut = parts.first
        if cut is None:
            return
        if self._files is None:
            self._watch(now_ns)
            if not parts.is_copied(cut):
                return
            self._cut, frozen = cut, parts.take_frozen(cut)
            self._files = self._folder.write_frozen(self._member.slot, cut, frozen)
        if self._letters is None and parts.is_passed(cut):
            self._letters = self._edges.mark_letters()
        if self._files.done() and self._letters is not None:
            self._edges.check_letters()
            if self._edges.letters_stored(self._letters):
                self._tell(self._files)

    def _watch(self, now_ns: int) -> None:
        """How long rows wait for copies, to a turn."""
        waits = any(host.cutting and host.waiting for host in self._member.hosts.values())
        if waits and self._waits_from is None:
            self._waits_from = now_ns
        elif not waits and self._waits_from is not None:
            self._waited_ns = now_ns - self._waits_from
            self._waits_from = None

    def _tell(self, done: Future[SlotFiles | None]) -> None:
        parts, cut = self._member.cuts, self._cut
        try:
            files = done.result()
        except StateError as error:
            self._send(CheckpointedReport(cut=cut, failed=str(error)))
        else:
            self._send(parts.part(cut, files))
            if files is not None:
                self._folder.cut(files.bytes, self._waited_ns)
                self._log.info(
                    "checkpoint.cut",
                    cut=cut,
                    rows=files.rows,
                    bytes=files.bytes,
                    waited_ms=self._waited_ns // 1_000_000,
                )
        parts.done(cut)
        self._files = self._letters = None
        self._waited_ns = 0
