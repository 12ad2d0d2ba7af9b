"""One process's part of a checkpoint while the job goes on: copied state, positions, what is left.

Flow: ControlSource says where cuts are; hosts copy, gateways tick -> [CheckpointParts] -> the shell
writes the copies and tells the controller (`service.checkpointing`, `service.standalone.job`).

Invariants
  CP1  Positions at a cut c are those behind the rows stamped below c (Q4): taken before the first
       tick at or beyond c.
  CP2  A part is `passed` once every sink's frontier has reached c, over all processes: whatever the
       rows below c led to is acknowledged.
  CP3  Parts are taken in the order of their cuts.
  CP4  A part says if rows below its cut were put off to it or beyond: they are in no state, and the
       checkpoint is not to be (DL3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from service.dataflow.delaying import DelayOperator
from service.egress.sink import SinkOperator
from service.ingest.source import SourceOperator
from service.ingest.watermarks import TopicPartition
from service.migration.control_source import ControlSource
from service.migration.records import Checkpoint, LogRecord
from service.migration.reports import CheckpointedReport
from service.migration.state_host import StateHost
from service.migration.timed_host import TimedHost
from service.statestore.checkpoint import SlotFiles
from service.statestore.frozen import FrozenStore


@dataclass(frozen=True, slots=True)
class Read:
    """How far a gateway has come: of each partition the next offset, and its watermark."""

    positions: Mapping[TopicPartition, int]
    watermarks: Mapping[TopicPartition, int]


class CheckpointParts:
    """The parts of checkpoints under way in one process."""

    def __init__(
        self,
        control: ControlSource,
        hosts: Mapping[str, StateHost],
        sources: Mapping[str, SourceOperator],
        sinks: Mapping[str, SinkOperator],
        delays: Mapping[str, DelayOperator],
    ) -> None:
        """Watch the operators of one member."""
        self._control = control
        self._hosts = hosts
        self._sources = sources
        self._sinks = sinks
        self._delays = delays
        control.followers.append(self._read)
        #: {cut: what all sources have read}, of cuts that a tick has passed.
        self._read_at: dict[int, Read] = {}

    def before_tick(self, epoch: int) -> None:
        """Note positions at every cut that a tick at `epoch` passes (CP1)."""
        for cut in self._control.checkpoints:
            if cut <= epoch and cut not in self._read_at:
                self._read_at[cut] = self._current()

    @property
    def first(self) -> int | None:
        """The cut whose part is next (CP3), if there is one."""
        cuts = self._control.checkpoints
        return cuts[0] if cuts else None

    def is_copied(self, cut: int) -> bool:
        """Whether the state of all vertices here is copied as of `cut`."""
        return all(cut in host.cutting.frozen for host in self._hosts.values())

    def take_frozen(self, cut: int) -> dict[str, FrozenStore]:
        """The copies, once; they are then the caller's."""
        return {name: host.cutting.frozen.pop(cut) for name, host in self._hosts.items()}

    def is_passed(self, cut: int) -> bool:
        """Whether everything below `cut` has left the job, acknowledged (CP2)."""
        delays = self._delays.values()
        return all(sink.frontier().reached(cut) for sink in self._sinks.values()) and all(
            delay.has_passed(cut) for delay in delays
        )

    def part(self, cut: int, files: SlotFiles | None) -> CheckpointedReport:
        """What this process tells of a cut that is passed: its part, or why there is none (CP4)."""
        for name, delay in self._delays.items():
            if delay.holds_across(cut):
                reason = f"delay {name!r} put rows from before the cut {cut} off to after it"
                return CheckpointedReport(cut=cut, failed=reason)
        return self._report(cut, files, self.read_below(cut))

    def read_below(self, cut: int) -> Read:
        """Where this gateway's partitions stand at `cut`; once it is passed."""
        found = self._read_at.get(cut)
        # No tick came at or beyond it yet: everything stamped lies below it.
        return self._current() if found is None else found

    def at_stop(self, cut: int, files: SlotFiles | None) -> CheckpointedReport:
        """What this process tells of the cut of a stop, after which nothing happens."""
        return self._report(cut, files, self._current())

    def _report(self, cut: int, files: SlotFiles | None, read: Read) -> CheckpointedReport:
        timed = self._timed() if files is not None else {}
        return CheckpointedReport(
            cut=cut,
            files=None if files is None else msgspec.to_builtins(files),
            bytes=0 if files is None else files.bytes,
            positions=[(topic, number, at) for (topic, number), at in read.positions.items()],
            partition_watermarks=[
                (topic, number, at) for (topic, number), at in read.watermarks.items()
            ],
            watermarks={name: host.watermark_at(cut) for name, host in timed.items()},
        )

    def _timed(self) -> dict[str, TimedHost]:
        return {name: host for name, host in self._hosts.items() if isinstance(host, TimedHost)}

    def done(self, cut: int) -> None:
        """Forget a cut: its part is told."""
        self._control.checkpoints.remove(cut)
        self._read_at.pop(cut, None)
        for host in self._timed().values():
            host.forget(cut)
        for delay in self._delays.values():
            delay.forget(cut)

    def _read(self, record: LogRecord) -> None:
        """A cut is read before any frontier here can have passed it."""
        if isinstance(record, Checkpoint):
            for delay in self._delays.values():
                delay.mark(record.at)

    def _current(self) -> Read:
        positions: dict[TopicPartition, int] = {}
        watermarks: dict[TopicPartition, int] = {}
        for source in self._sources.values():
            positions.update(source.positions)
            watermarks.update(source.watermarks)
        return Read(positions, watermarks)
