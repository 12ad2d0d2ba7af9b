"""One generation of a job in one thread: controller, members and links, without Kafka.

Flow: requests, inputs, a clock -> [StandaloneJob] -> rows stored, statuses, a manifest. It runs the
`ControllerMachine` and the `Member` that processes run; around them, where a process has Kafka,
files and sockets, stands what its caller gives: `Surroundings`.

Whoever drives it decides in which order things happen: every method is one thing that can happen,
and says whether it did. So `megaphone run --local` takes them in turn, and the test kit lets a seed
choose.

Invariants
  SJ1  A record of the log reaches every member in the order written, after it was kept.
  SJ2  Positions are told after everything below the stop was stored; the manifest follows.
  SJ3  Nothing here reads a clock or draws a random number.
Not handled here: what a lost process means for others. All are in this one; its end is theirs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa

from service.dataflow.flow import Flow
from service.dataflow.transport.memory import LinkName, MemoryNetwork
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.egress.sink import Producer
from service.errors import ProtocolViolation
from service.ids import Membership, Role
from service.ingest.source import ReadRows
from service.ingest.watermarks import Estimator
from service.member import Member
from service.migration.controller import ControllerMachine
from service.migration.controller_events import (
    AppendToLog,
    CheckpointAborted,
    ControllerSettings,
    Done,
    Event,
    Fail,
    LogAppended,
    MemberSeen,
    PublishStatus,
    Report,
    RequestRead,
    StopRequested,
    Tick,
    WaveCompleted,
    WriteManifest,
)
from service.migration.founding import JobShape
from service.migration.horizon import LogFollower
from service.migration.records import (
    MAX_EPOCH,
    Generation,
    LogRecord,
    MemberRecord,
    MemberState,
)
from service.migration.reports import DrainedReport, PeerReport, plain
from service.standalone.outbox import Outbox, SinkEnd
from service.standalone.parts import Parts
from service.standalone.surroundings import Remains, Surroundings
from service.statestore.checkpoint import SlotFiles, read_checkpoint
from service.telling import Teller

#: Frames taken from a link at once when links take turns.
_ALL = 1 << 30


class StandaloneJob:
    """Every role of one generation; the caller lets things happen."""

    def __init__(
        self,
        flow: Flow,
        shape: JobShape,
        surroundings: Surroundings,
        settings: ControllerSettings,
        now_us: int,
        *,
        remains: Remains | None = None,
        state_dir: Path | None = None,
        idle_tick_us: int = 0,
    ) -> None:
        """Begin a generation at once: everybody is there.

        Args:
            flow: what to run.
            shape: the job.
            surroundings: inputs, outputs and what is kept.
            settings: the controller's; nobody here falls silent or comes too late, so that its
                waits do not count.
            now_us: the clock, which every call with a time carries on.
            remains: what to go on from.
            state_dir: where a stop writes state and a start finds it; None: nothing is kept.
            idle_tick_us: least time between two ticks without rows.

        Raises:
            MegaphoneError: the flow cannot be built, or the remains do not fit it.
        """
        self.ended = False
        self._flow = flow
        self._shape = shape
        self._around = surroundings
        self._state_dir = state_dir
        self._idle_tick_us = idle_tick_us
        self._slots = Membership(shape.workers, shape.gateways)
        self.peers = range(self._slots.peers)
        self.network = MemoryNetwork(self._slots.peers, stepped=True)
        self.members: list[Member] = []
        self._tellers = [Teller() for _ in self.peers]
        #: Records of the log that each member has not read.
        self._unread: list[deque[LogRecord]] = [deque() for _ in self.peers]
        self._outboxes = [
            Outbox(partial(surroundings.store, self._slots.slot(peer))) for peer in self.peers
        ]
        #: By gateway peer and source: next row to read of each partition.
        self._positions: dict[int, dict[str, dict[tuple[str, int], int]]] = {}
        #: Inputs that had nothing more when they were last asked.
        self._dry: set[tuple[str, int]] = set()
        #: What estimates the event time of each source whose vertices below ask for it.
        self._estimators: dict[str, Estimator] = {}
        #: Members to which something happened since they were stepped.
        self._awake: set[int] = set()
        self._drained: set[int] = set()
        self._cut: set[int] = set()
        self._parts = Parts(state_dir)
        past = remains or Remains(LogFollower(), None, {})
        self._manifest = past.manifest
        self.machine = ControllerMachine(
            shape,
            replace(settings, silence_us=MAX_EPOCH, stop_wait_us=MAX_EPOCH),
            now_us,
            history=past.history,
            manifest=past.manifest,
            answered=past.answered,
        )
        for peer in self.peers:
            self._handle(MemberSeen(self._heartbeat(peer)), now_us)
        self._handle(Tick(now_us), now_us)

    # What can happen ----------------------------------------------------------------------------

    def control(self, now_us: int) -> bool:
        """The controller's turn: promises, waves."""
        return self._handle(Tick(now_us), now_us)

    def request(self, value: bytes, offset: int, now_us: int) -> None:
        """A record of the control topic."""
        self._handle(RequestRead(offset, value), now_us)

    def ask_stop(self, now_us: int) -> None:
        """A plain stop; asking again changes nothing."""
        self._handle(StopRequested(), now_us)

    def read_log(self, peer: int, now_us: int, most: int = _ALL) -> bool:
        """A member reads records of the log."""
        unread, member = self._unread[peer], self.members[peer]
        count = min(most, len(unread))
        for _ in range(count):
            member.apply_log(unread.popleft(), now_us)
        return self._happened(peer, count)

    def read_input(self, peer: int, now_us: int) -> bool:
        """A gateway reads what it may and closes an epoch if there is reason to."""
        member, did = self.members[peer], False
        for name, positions in self._positions.get(peer, {}).items():
            for (topic, partition), position in positions.items():
                if not member.may_read(name):
                    break
                rows = self._around.read(topic, partition, position)
                if rows is None:
                    self._dry.add((topic, partition))
                    continue
                self._dry.discard((topic, partition))
                positions[topic, partition] = position + rows.num_rows
                read = self._read_rows(name, (topic, partition), position + rows.num_rows, rows)
                member.sources[name].offer(read)
                did = True
        has_rows = any(source.has_rows for source in member.sources.values())
        clock = min(member.ticks.now_us(now_us), member.follower.horizon - 1)
        # Ordered vertices wait for every gateway to pass what one of them has sent.
        behind = member.worker.newest_epoch > member.ticks.last
        if has_rows or behind or clock > member.ticks.last + self._idle_tick_us:
            did = member.tick(now_us) or did
        if self._shape.until_end and peer not in self._drained and self._is_drained(peer):
            self._drained.add(peer)
            self._tell(peer, DrainedReport(), now_us)
            did = True
        return self._happened(peer, did)

    def links(self) -> list[LinkName]:
        """Links on which frames wait, in a fixed order."""
        return self.network.pending_links()

    def deliver(self, link: LinkName, most: int = _ALL) -> bool:
        """Frames of a link arrive."""
        count = min(most, self.network.pending_frames(link))
        for _ in range(count):
            self.network.deliver(link)
        return self._happened(link.target, count) if link.target in self.peers else count > 0

    def acknowledge(self, peer: int, most: int = _ALL) -> bool:
        """What a process has written is stored."""
        return self._happened(peer, self._outboxes[peer].acknowledge(most))

    def step(self, peer: int, now_us: int) -> bool:
        """A member to which something happened goes on.

        Raises:
            UserFunctionError: a function of the flow raised.
        """
        if peer not in self._awake:
            return False
        member = self.members[peer]
        member.step()
        if not member.has_work:
            self._awake.discard(peer)
        for report in self._tellers[peer].reports(member, now_us):
            self._tell(peer, report, now_us)
        part = self._parts.turn(member)
        if part is not None:
            self._tell(peer, part, now_us)
        if member.complete and peer not in self._cut and not len(self._outboxes[peer]):
            self._cut.add(peer)
            self._tell(peer, self._parts.at_stop(member), now_us)
        return True

    def is_out_of_ticks(self) -> bool:
        """Whether a gateway can close no epoch, so read nothing, before the clock goes on."""
        return any(
            member.follower.stop is None and member.ticks.last + 1 >= member.follower.horizon
            for member in self.members
            if member.slot.role is Role.GATEWAY
        )

    def turn(self, now_us: int) -> bool:
        """Everything once, in a fixed order; whether anything happened."""
        did = self.control(now_us)
        for peer in self.peers:
            did |= self.read_log(peer, now_us)
            did |= self.read_input(peer, now_us)
        for link in self.links():
            did |= self.deliver(link)
        for peer in self.peers:
            did |= self.step(peer, now_us)
            did |= self.acknowledge(peer)
        return did

    # Beginning ----------------------------------------------------------------------------------

    def _heartbeat(self, peer: int) -> MemberRecord:
        slot = self._slots.slot(peer)
        return MemberRecord(
            slot=str(slot),
            role=str(slot.role),
            incarnation=str(slot),
            address=f"memory:{peer}",
            state=MemberState.WAITING,
            heartbeat=0,
        )

    def _begin(self, generation: Generation, now_us: int) -> None:
        """Build and fill every member as `generation` says."""
        for peer in self.peers:
            slot = self._slots.slot(peer)

            def producer(
                vertex: SinkVertex, columns: pa.Schema, outbox: Outbox = self._outboxes[peer]
            ) -> Producer:
                self._around.open_sink(vertex, columns)
                return SinkEnd(outbox, vertex)

            member = Member(
                self._flow,
                generation,
                slot,
                self.network.transport(peer),
                producer,
                self._around.schema_of,
            )
            self._restore(member)
            member.ticks.observe(generation.clock, now_us)
            self.members.append(member)
            self._awake.add(peer)
            if slot.role is Role.GATEWAY:
                self._positions[peer] = self._partitions_of(member)
                self._listen(member)

    def _listen(self, member: Member) -> None:
        """Prepare for the words on event time that a gateway's sources are to tell."""
        for vertex in self._flow.vertices:
            if isinstance(vertex, SourceVertex) and vertex.name in member.sources:
                words = member.sources[vertex.name].words
                if words is not None and vertex.watermarks is not None:
                    words.at_end = self._dry.__contains__
                    schema = self._around.schema_of(vertex)
                    self._estimators[vertex.name] = Estimator(
                        vertex.name, vertex.watermarks, schema
                    )

    def _read_rows(
        self, source: str, which: tuple[str, int], position: int, rows: pa.RecordBatch
    ) -> ReadRows:
        """Rows of one partition, behind which it stands at `position`."""
        estimator = self._estimators.get(source)
        allowed = None if estimator is None else estimator.of(rows)
        return ReadRows(rows, {which: position}, {} if allowed is None else {which: allowed})

    def _partitions_of(self, member: Member) -> dict[str, dict[tuple[str, int], int]]:
        """Where a gateway begins to read, by source."""
        generation, owner = member.generation, member.slot.ordinal
        return {
            vertex.name: {
                (topic, partition): generation.positions[topic][partition]
                for topic in vertex.inputs
                for partition, reader in enumerate(generation.partition_owners[topic])
                if reader == owner
            }
            for vertex in self._flow.vertices
            if isinstance(vertex, SourceVertex) and vertex.name in member.sources
        }

    def _restore(self, member: Member) -> None:
        files = None if self._manifest is None else self._manifest.files.get(str(member.slot))
        if files is not None:
            assert self._state_dir is not None, "a checkpoint has a folder"
            folder = self._state_dir / str(member.slot)
            read_checkpoint(folder, msgspec.convert(files, SlotFiles), member.stores)

    # Telling ------------------------------------------------------------------------------------

    def _happened(self, peer: int, count: int) -> bool:
        if count:
            self._awake.add(peer)
        return bool(count)

    def _is_drained(self, peer: int) -> bool:
        ends = all(
            self._around.at_end(topic, partition, position)
            for positions in self._positions.get(peer, {}).values()
            for (topic, partition), position in positions.items()
        )
        sources = self.members[peer].sources.values()
        is_gateway = self._slots.slot(peer).role is Role.GATEWAY
        return is_gateway and ends and not any(source.has_rows for source in sources)

    def _tell(self, peer: int, report: PeerReport, now_us: int) -> None:
        self._handle(Report(peer, plain(report)), now_us)

    def _handle(self, event: Event, now_us: int) -> bool:
        """Give the machine an event and carry out what it says; whether it said anything."""
        queue: deque[Event] = deque([event])
        said = False
        while queue:
            for instruction in self.machine.handle(queue.popleft()):
                said = True
                match instruction:
                    case AppendToLog(record=record):
                        queue.append(LogAppended(self._append(record, now_us)))
                    case PublishStatus(record=status):
                        self._around.publish(status)
                    case WriteManifest(record=manifest):
                        self._around.keep_manifest(manifest)
                    case Fail(error=error, reason=reason):
                        raise error(reason)
                    case Done():
                        self.ended = True
                    case WaveCompleted() | CheckpointAborted():
                        pass
        return said

    def _append(self, record: LogRecord, now_us: int) -> int:
        offset = self._around.keep(record)
        if isinstance(record, Generation):
            if self.members:
                raise ProtocolViolation("a job without Kafka has one generation at a time")
            self._begin(record, now_us)
        else:
            for unread in self._unread:
                unread.append(record)
        return offset
