"""Members' parts of checkpoints in a job without processes: written at once, in the job's thread.

Flow: Member -> [Parts] -> files in the state folder -> CheckpointedReport -> the controller.

Invariants
  PT1  A part is told when its files are on disk and everything below its cut was stored, as CH1 and
       DP1 say of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from service.ids import Role
from service.member import Member
from service.migration.reports import CheckpointedReport
from service.statestore.checkpoint import SlotFiles, write_checkpoint
from service.statestore.description import write_description
from service.statestore.hosted import WrittenStore


class Parts:
    """The parts of all members of one job."""

    def __init__(self, state_dir: Path | None) -> None:
        """Write into a folder per slot in `state_dir`; None: nothing is kept."""
        self._state_dir = state_dir
        #: {slot: (cut, files)} of a part whose cut has not been passed.
        self._written: dict[str, tuple[int, SlotFiles | None]] = {}

    def turn(self, member: Member) -> CheckpointedReport | None:
        """A member's part of the checkpoint under way, once it is whole.

        Raises:
            StateError: the disk refused.
        """
        parts, slot = member.cuts, str(member.slot)
        cut = parts.first
        if cut is None:
            return None
        if slot not in self._written:
            if not parts.is_copied(cut):
                return None
            frozen = parts.take_frozen(cut)
            bins = next(iter(frozen.values())).copied if frozen else []
            self._written[slot] = cut, self._write(member, cut, frozen, bins)
        if not parts.is_passed(cut):
            return None
        _, files = self._written.pop(slot)
        report = parts.part(cut, files)
        parts.done(cut)
        return report

    def at_stop(self, member: Member) -> CheckpointedReport:
        """The part of a member that is complete.

        Raises:
            StateError: the disk refused.
        """
        assert member.control.stop is not None, "only a stop completes a member"
        cut = member.control.stop.at
        files = self._write(member, cut, member.stores, member.owned_bins())
        return member.cuts.at_stop(cut, files)

    def _write(
        self, member: Member, cut: int, stores: Mapping[str, WrittenStore], bins: Sequence[int]
    ) -> SlotFiles | None:
        if self._state_dir is None or member.slot.role is not Role.WORKER or not stores:
            return None
        folder = self._state_dir / str(member.slot)
        files = write_checkpoint(folder, cut, stores, bins)
        write_description(folder, files)
        return files
