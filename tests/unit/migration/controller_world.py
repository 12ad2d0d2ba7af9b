"""A shell and a cluster around the controller, without Kafka, sockets or clocks.

It does what instructions say, checks the log as every process would, and lets members answer: every
wave is reported some time after its cut, a stop is answered by everyone's part of the checkpoint.
Cannot show: a real shell that fails between two instructions.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence

import numpy as np

from service.ids import Membership
from service.migration.controller import ControllerMachine
from service.migration.controller_events import (
    AppendToLog,
    CheckpointAborted,
    ControllerSettings,
    Done,
    Event,
    Fail,
    Instruction,
    LogAppended,
    MemberSeen,
    PublishStatus,
    Report,
    RequestRead,
    StopRequested,
    Tick,
    WriteManifest,
)
from service.migration.founding import JobShape
from service.migration.horizon import LogFollower
from service.migration.loads import load_report
from service.migration.records import (
    Checkpoint,
    LogRecord,
    ManifestRecord,
    MemberDetails,
    MemberRecord,
    MemberState,
    Move,
    PreCopy,
    RequestState,
    StatusRecord,
    Stop,
    decode_log,
    encode,
)
from service.migration.reports import (
    CheckpointedReport,
    CopiedReport,
    DrainedReport,
    MovedReport,
    plain,
)
from service.migration.routing_table import RoutingTable

START = 1_000_000_000_000
TICK = 10_000
JOB = JobShape(
    bins=8,
    workers=2,
    gateways=1,
    vertices=2,
    sink_groups=4,
    start={"bids": [3, 5], "auctions": [0]},
    until_end=False,
)

SECOND = 1_000_000


def member(
    slot: str,
    incarnation: str = "a",
    state: MemberState = MemberState.WAITING,
    reason: str | None = None,
) -> MemberRecord:
    return MemberRecord(
        slot=slot,
        role=slot.split("-", maxsplit=1)[0],
        incarnation=incarnation,
        address=f"tcp://{slot}.{incarnation}",
        state=state,
        heartbeat=1,
        details=MemberDetails(reason=reason),
    )


class ControllerWorld:
    """One run of a controller and its members."""

    def __init__(
        self,
        job: JobShape = JOB,
        settings: ControllerSettings | None = None,
        *,
        seed: int = 0,
        start: int = START,
        log: list[LogRecord] | None = None,
        manifest: ManifestRecord | None = None,
        answered: Mapping[str, StatusRecord] | None = None,
    ) -> None:
        self.job = job
        #: The accepted log of this and earlier runs.
        self.log: list[LogRecord] = list(log or [])
        history = LogFollower()
        #: A process that reads the log, as strict as any.
        self.reader = LogFollower()
        for record in self.log:
            history.apply(record)
            self.reader.apply(record)
        self.machine = ControllerMachine(
            job,
            settings or ControllerSettings(),
            start,
            history=history,
            manifest=manifest,
            answered=answered,
        )
        self.membership = Membership(job.workers, job.gateways)
        self.now = start
        self.statuses: list[StatusRecord] = []
        self.manifests: list[ManifestRecord] = []
        #: Why checkpoints were given up.
        self.aborted: list[str] = []
        self.failure: Fail | None = None
        self.done = False
        #: Routing as a process sees it.
        self.table: RoutingTable | None = None
        #: Members answer of themselves; a test that reports by hand switches it off.
        self.answering = True
        self._random = random.Random(seed)
        #: (due, peer, report), answered when the clock has come there.
        self._due: list[tuple[int, int, dict[str, object]]] = []
        self._offset = 0

    def send(self, event: Event) -> None:
        """Hand an event to the machine and do what it says."""
        for instruction in self.machine.handle(event):
            self._do(instruction)

    def request(self, body: bytes) -> list[StatusRecord]:
        """Publish a request; returns what is published about it at once."""
        before = len(self.statuses)
        self._offset += 1
        self.send(RequestRead(self._offset, body))
        return self.statuses[before:]

    def beat(self, *slots: str) -> None:
        """Heartbeats of the slots named, or of all members."""
        members = [str(self.membership.slot(p)) for p in range(self.membership.peers)]
        for slot in slots or members:
            self.send(MemberSeen(member(slot)))

    def pass_time(self, microseconds: int) -> None:
        """Tick, with everybody alive and answering what is due, for that long."""
        end = self.now + microseconds
        while self.now < end and not self.done and self.failure is None:
            self.now = min(self.now + TICK, end)
            self.beat()
            self.send(Tick(self.now))
            due = [entry for entry in self._due if entry[0] <= self.now]
            self._due = [entry for entry in self._due if entry[0] > self.now]
            for _, peer, body in sorted(due, key=lambda entry: entry[:2]):
                self.send(Report(peer, body))

    def finish_plan(self, microseconds: int) -> None:
        """Let time pass until no plan is under way, at most that long."""
        end = self.now + microseconds
        while self.machine.plan is not None and self.now < end:
            self.pass_time(100_000)

    def begin(self) -> None:
        """Let all members come and the generation begin."""
        self.beat()
        self.send(Tick(self.now))

    def tell_loads(self, updates_per_s: Sequence[float] = (), rows: Sequence[int] = ()) -> None:
        """Every worker tells the loads of its bins; without any, each bin has ten rows."""
        assert self.table is not None, "a generation has begun"
        bins = self.job.bins
        held = np.array(rows or [10] * bins)
        updates = np.array(updates_per_s or [1.0] * bins)
        for worker in range(self.job.workers):
            report = load_report(self.table.latest == worker, held, held * 100, updates)
            self.send(Report(worker, plain(report)))

    def drain(self) -> None:
        """Every gateway has read everything."""
        for gateway in range(self.job.gateways):
            self.send(Report(self.job.workers + gateway, plain(DrainedReport())))

    def newest(self) -> dict[str, StatusRecord]:
        """The status topic after compaction."""
        return {status.id: status for status in self.statuses}

    def states(self, identity: str) -> list[RequestState]:
        """States published under an id, in order."""
        return [status.state for status in self.statuses if status.id == identity]

    def commands(self) -> list[Move | Checkpoint | Stop]:
        """Commands in the log."""
        return [record for record in self.log if isinstance(record, Move | Checkpoint | Stop)]

    def _do(self, instruction: Instruction) -> None:
        assert not self.done, "nothing follows the end"
        assert self.failure is None, "nothing follows a failure"
        match instruction:
            case AppendToLog(record):
                self._append(record)
            case PublishStatus(status):
                self.statuses.append(status)
            case WriteManifest(manifest):
                self.manifests.append(manifest)
            case Fail():
                self.failure = instruction
            case CheckpointAborted(reason):
                self.aborted.append(reason)
            case Done():
                self.done = True

    def _append(self, record: LogRecord) -> None:
        record = decode_log(encode(record))
        commands = self.reader.apply(record)
        self.log.append(record)
        if self.reader.generation is record:
            self.table = RoutingTable.of(self.reader.generation)
        for command in commands:
            if isinstance(command, Move):
                assert self.table is not None, "a generation precedes its moves"
                self.table.apply(command)
                self._answer_move(command)
            elif isinstance(command, Checkpoint):
                self._answer_cut(command.at, command.at)
            else:
                self._answer_cut(command.at, max([0, *(due for due, _, _ in self._due)]))
        if isinstance(record, PreCopy):
            self._answer_copy(record)
        if self.table is not None:
            self.table.advance(self.reader.horizon)
        self.send(LogAppended(len(self.log) - 1))

    def _answer_move(self, move: Move) -> None:
        """Each new owner reports each vertex, whole or in two parts, after the cut."""
        if not self.answering:
            return
        for worker in sorted({worker for _, worker in move.moves}):
            bins = sum(w == worker for _, w in move.moves)
            for vertex in range(self.job.vertices):
                first = self._random.randint(1, bins)
                for part in (first, bins - first):
                    if part:
                        due = move.at + self._random.randint(5_000, 90_000)
                        report = MovedReport(
                            vertex=f"v{vertex}", cut=move.at, bins=part, bytes=100 * part, rows=part
                        )
                        self._due.append((due, worker, plain(report)))

    def _answer_copy(self, record: PreCopy) -> None:
        """Each old owner says of each vertex that its copies are ready."""
        assert self.table is not None, "a generation precedes its copies"
        owners = self.table.latest
        for worker in sorted({int(owners[bin_]) for bin_, _ in record.moves}):
            for vertex in range(self.job.vertices if self.answering else 0):
                report = CopiedReport(vertex=f"v{vertex}", number=record.number, left=3)
                due = self.now + self._random.randint(5_000, 90_000)
                self._due.append((due, worker, plain(report)))

    def _answer_cut(self, cut: int, after: int) -> None:
        """Everyone cuts its part, at a stop once all reports due are sent (RP2)."""
        if not self.answering:
            return
        after = max(cut, after)
        generation = self.reader.generation
        assert generation is not None, "a cut follows a generation"
        for peer in range(self.membership.peers):
            positions = [
                (topic, partition, generation.positions[topic][partition] + 10)
                for topic, owners in generation.partition_owners.items()
                for partition, owner in enumerate(owners)
                if owner + self.job.workers == peer
            ]
            files = {"digest": f"{peer:02x}"} if peer < self.job.workers else None
            report = CheckpointedReport(cut=cut, files=files, positions=positions)
            due = after + self._random.randint(1, 90_000)
            self._due.append((due, peer, plain(report)))


def request(identity: object = "r", **fields: object) -> bytes:
    body = {"id": identity, "kind": "move", "moves": [[0, 1], [1, 1]], "strategy": "fluid"}
    return json.dumps(body | fields).encode()


def running(**fields: object) -> ControllerWorld:
    world = ControllerWorld(dataclasses.replace(JOB, **fields))  # type: ignore[arg-type]  # by name
    world.begin()
    return world


def stopped() -> ControllerWorld:
    world = running()
    world.request(request())
    world.pass_time(3 * SECOND)
    world.send(StopRequested())
    world.pass_time(2 * SECOND)
    assert world.done
    return world
