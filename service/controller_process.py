"""The shell of the controller: clients, sockets and clock around a `ControllerMachine`.

Flow: members, requests, reports and the clock -> machine -> accepted log, statuses, manifest.

Invariants
  CP1  What the machine appends is committed before anything later is done: a promise that a process
       could read is one this controller will keep.
  CP2  The controller takes no part in the dataflow: it receives reports and sends nothing to peers.
"""

from __future__ import annotations

import secrets
import signal
from dataclasses import dataclass
from types import FrameType

import msgspec

from service.admin import AdminServer, Verdict
from service.clock import Clock, SystemClock
from service.config import Config
from service.control_topics import (
    START_AT_BEGINNING,
    START_AT_COMMITTED,
    START_AT_END,
    Admin,
    AppTopics,
    LogWriter,
    RecordWriter,
    TopicTail,
    read_compacted,
)
from service.dataflow.flow import AggregateVertex, Flow, SourceVertex
from service.dataflow.transport.frame import FrameKind
from service.dataflow.transport.link import LinkLimits, PeerAddress
from service.dataflow.transport.zeromq import ZmqTransport
from service.errors import MegaphoneError
from service.ids import Membership, Role, Slot
from service.ingest.consumer import KafkaPartitions
from service.log import Log
from service.migration.controller import ControllerMachine
from service.migration.controller_events import (
    AppendToLog,
    ControllerSettings,
    Done,
    Event,
    Fail,
    LogAppended,
    MemberSeen,
    Phase,
    PublishStatus,
    Report,
    RequestRead,
    StopRequested,
    Tick,
    WaveCompleted,
    WriteManifest,
)
from service.migration.founding import JobShape
from service.migration.horizon import ControllerClock, LogFollower
from service.migration.records import (
    Generation,
    LogRecord,
    ManifestRecord,
    MemberDetails,
    MemberRecord,
    MemberState,
    RequestState,
    SlotBinding,
    StatusRecord,
    decode_log,
    decode_manifest,
    decode_member,
    decode_status,
    encode,
)
from service.telemetry import Reading, registry_of

_TURN_S = 0.01


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """What the command line says about the job."""

    bootstrap_servers: str
    app: str
    workers: int
    gateways: int
    bins: int
    until_end: bool
    address: str = "tcp://127.0.0.1:*"
    http_port: int | None = None


class ControllerProcess:
    """Runs one job's control plane from the members' arrival to the manifest."""

    def __init__(
        self,
        options: ControllerOptions,
        config: Config,
        flow: Flow,
        log: Log,
        clock: Clock | None = None,
    ) -> None:
        """Take the log over and read what earlier runs left."""
        self._options = options
        self._config = config
        self._flow = flow
        self._log = log
        self._clock = clock or SystemClock()
        self._topics = AppTopics(options.app)
        self._incarnation = secrets.randbits(62) | 1
        self._stop_asked = False
        self._stop_sent = False
        self._ended = False
        self._requests: dict[str, int] = {}
        self._turned_ns = self._clock.monotonic_ns()
        timeout = config.limits.broker_timeout_s
        servers = options.bootstrap_servers
        Admin(servers, timeout).ensure_app(self._topics)
        self._writer = LogWriter(servers, self._topics, timeout)
        self._records = RecordWriter(servers, f"{options.app}.controller")
        # Heartbeats of earlier boots mean nothing: read only what comes from now on.
        self._members = TopicTail(servers, self._topics.members, START_AT_END)
        self._members.end(timeout)
        manifest = self._newest_manifest()
        self._control = TopicTail(servers, self._topics.control, START_AT_COMMITTED)
        self._transport = ZmqTransport(
            Slot(Role.CONTROLLER, 0),
            self._incarnation,
            limits=LinkLimits(
                hello_timeout_ns=int(config.limits.start_timeout_s * 1e9),
                peer_timeout_ns=int(config.limits.peer_timeout_s * 1e9),
            ),
        )
        self._endpoint = self._transport.bind(options.address)
        history = self._history = self._read_history(manifest)
        self._machine_clock = ControllerClock(
            wall_us=self._clock.wall_us(),
            promised_us=history.clock,
            monotonic_us=self._clock.monotonic_ns() // 1000,
        )
        answered = {
            key: decode_status(entry.value)
            for key, entry in read_compacted(servers, self._topics.status, timeout).items()
            if entry.value is not None
        }
        self._machine = ControllerMachine(
            self._job(),
            self._settings(),
            self._now_us(),
            history=history,
            manifest=manifest,
            answered=answered,
        )
        port = options.http_port if options.http_port is not None else config.http.port
        self._http = AdminServer(
            config.http.host,
            port,
            registry_of(options.app, "controller", self._reading),
            self._healthy,
            self._ready,
        )

    def run(self) -> None:
        """Run the job to its end.

        Raises:
            MegaphoneError: the job failed; the error says why and what to do.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        next_beat = 0
        try:
            while not self._ended:
                now = self._clock.monotonic_ns()
                self._turned_ns = now
                self._handle(Tick(self._now_us()))
                self._read()
                if self._stop_asked and not self._stop_sent:
                    self._stop_sent = True
                    self._handle(StopRequested())
                self._records.poll()
                if now >= next_beat:
                    self._tell(MemberState.RUNNING)
                    next_beat = now + int(self._config.control.heartbeat_ms * 1e6)
                if not self._ended:
                    self._transport.wait(_TURN_S)
            self._tell(MemberState.STOPPED)
            self._records.flush(self._config.limits.broker_timeout_s)
            self._transport.leave()
        except MegaphoneError as error:
            self._tell(MemberState.FAILED, str(error))
            self._records.flush(self._config.limits.broker_timeout_s)
            raise
        finally:
            self._http.close()
            self._transport.close()
            self._control.close()
            self._members.close()

    # Start --------------------------------------------------------------------------------------

    def _newest_manifest(self) -> ManifestRecord | None:
        found = read_compacted(
            self._options.bootstrap_servers,
            self._topics.checkpoints,
            self._config.limits.broker_timeout_s,
        )
        manifests = [decode_manifest(entry.value) for entry in found.values() if entry.value]
        return max(manifests, key=lambda manifest: manifest.cut, default=None)

    def _read_history(self, manifest: ManifestRecord | None) -> LogFollower:
        """What earlier runs wrote after the newest manifest's cut, or from the beginning."""
        start = manifest.log_offset if manifest is not None else START_AT_BEGINNING
        history = LogFollower()
        tail = TopicTail(self._options.bootstrap_servers, self._topics.accepted, start)
        timeout = self._config.limits.broker_timeout_s
        try:
            for entry in tail.read_to_end(timeout):
                history.apply(decode_log(entry.value or b""))
        finally:
            tail.close()
        return history

    def _job(self) -> JobShape:
        topics = [
            topic
            for vertex in self._flow.vertices
            if isinstance(vertex, SourceVertex)
            for topic in vertex.connector.topics
        ]
        source = KafkaPartitions(
            self._options.bootstrap_servers,
            group=self._options.app,
            client_id=f"{self._options.app}.controller",
            timeout_s=self._config.limits.broker_timeout_s,
        )
        try:
            first = source.beginning_offsets(source.partitions_of(topics))
        finally:
            source.close()
        start: dict[str, list[int]] = {topic: [] for topic in topics}
        for (topic, _), offset in sorted(first.items()):
            start[topic].append(offset)
        vertices = sum(isinstance(vertex, AggregateVertex) for vertex in self._flow.vertices)
        return JobShape(
            bins=self._options.bins,
            workers=self._options.workers,
            gateways=self._options.gateways,
            vertices=vertices,
            sink_groups=self._options.workers,
            start=start,
            until_end=self._options.until_end,
        )

    def _settings(self) -> ControllerSettings:
        control = self._config.control
        limits = self._config.limits
        return ControllerSettings(
            lookahead_us=int(control.lookahead_ms * 1000),
            plan_lookahead_us=int(control.plan_lookahead_ms * 1000),
            promise_every_us=int(control.promise_every_ms * 1000),
            members_wait_us=int(limits.start_timeout_s * 1e6),
            silence_us=int(limits.peer_timeout_s * 1e6),
            stop_wait_us=int(limits.stop_timeout_s * 1e6),
        )

    # Events -------------------------------------------------------------------------------------

    def _read(self) -> None:
        # Polled first and handled last: a member reports what it did before it says it has stopped.
        beats = self._members.poll()
        requests = self._control.poll()
        for entry in requests:
            self._handle(RequestRead(entry.offset, entry.value or b""))
        if requests:
            # The next controller begins behind them; a request answered twice is only a duplicate.
            self._control.commit(requests[-1].offset + 1)
        if self._machine.generation is not None:
            self._transport.tick(self._clock.monotonic_ns())
            for frame in self._transport.receive(1000):
                if frame.kind is FrameKind.REPORT:
                    body: dict[str, object] = msgspec.json.decode(bytes(frame.body), type=dict)
                    if body.get("kind") == "stop_asked":
                        self._stop_asked = True
                    else:
                        self._handle(Report(frame.sender, body))
        for entry in beats:
            if entry.value is not None and entry.key != str(Role.CONTROLLER):
                self._handle(MemberSeen(decode_member(entry.value)))

    def _handle(self, event: Event) -> None:
        """Give the machine an event and carry out what it says, in order (CP1)."""
        queue: list[Event] = [event]
        while queue:
            instructions = self._machine.handle(queue.pop(0))
            records = []
            for instruction in instructions:
                if isinstance(instruction, AppendToLog):
                    records.append(instruction.record)
                    continue
                queue += self._append(records)
                records = []
                self._carry_out(instruction)
            queue += self._append(records)

    def _append(self, records: list[LogRecord]) -> list[Event]:
        if not records:
            return []
        begun = [self._with_controller(r) if isinstance(r, Generation) else r for r in records]
        offsets = self._writer.append([encode(record) for record in begun])
        for record in begun:
            if isinstance(record, Generation):
                self._begin(record)
        return [LogAppended(offset) for offset in offsets]

    def _with_controller(self, record: Generation) -> Generation:
        binding = SlotBinding(
            slot=str(Role.CONTROLLER),
            incarnation=str(self._incarnation),
            address=self._endpoint,
        )
        return msgspec.structs.replace(record, controller=binding)

    def _begin(self, generation: Generation) -> None:
        """Listen to the members of the generation just announced."""
        membership = Membership(generation.workers, generation.gateways)
        peers = {
            membership.peer(Slot.parse(binding.slot)): PeerAddress(
                Slot.parse(binding.slot), int(binding.incarnation), binding.address
            )
            for binding in generation.slots
        }
        self._transport.start(generation.generation, membership.peers, membership.peers, peers)
        self._log.info(
            "generation.began",
            generation=generation.generation,
            first_epoch=generation.first_epoch,
            manifest=generation.manifest,
            http=self._http.address,
        )

    def _carry_out(self, instruction: object) -> None:
        match instruction:
            case PublishStatus(record=record):
                self._publish(record)
            case WaveCompleted(request=request, wave=wave, duration_us=duration):
                self._log.info(
                    "wave.completed",
                    request=request,
                    wave=wave.number,
                    cut=wave.cut,
                    bins=wave.bins,
                    bytes=wave.bytes,
                    duration_ms=duration // 1000,
                )
            case WriteManifest(record=record):
                self._records.write(self._topics.checkpoints, record.name, encode(record))
                self._records.flush(self._config.limits.broker_timeout_s)
                self._log.info("checkpoint.written", manifest=record.name, cut=record.cut)
            case Fail(error=error, reason=reason):
                raise error(reason)
            case Done():
                self._ended = True

    def _publish(self, record: StatusRecord) -> None:
        self._requests[record.state] = self._requests.get(record.state, 0) + 1
        self._records.write(self._topics.status, record.id, encode(record))
        if record.state is not RequestState.RUNNING:
            self._log.info(
                "request.answered",
                id=record.id,
                state=str(record.state),
                reason=record.reason,
                bins=record.bins,
                waves=record.waves,
                duration_ms=record.duration_ms,
            )

    # Telling ------------------------------------------------------------------------------------

    def _tell(self, state: MemberState, reason: str | None = None) -> None:
        generation = self._machine.generation
        if state is MemberState.RUNNING and self._machine.phase is Phase.WAITING:
            state = MemberState.WAITING
        plan = self._machine.plan
        table = self._machine.table
        record = MemberRecord(
            slot=str(Role.CONTROLLER),
            role=str(Role.CONTROLLER),
            incarnation=str(self._incarnation),
            address=self._endpoint,
            state=state,
            heartbeat=self._clock.wall_us(),
            generation=generation.generation if generation is not None else None,
            details=MemberDetails(
                reason=reason,
                http=self._http.address,
                plan=plan.plan.id if plan is not None else None,
                owners=table.latest.tolist() if table is not None else None,
            ),
        )
        self._records.write(self._topics.members, record.slot, encode(record))

    def _reading(self) -> Reading:
        age = (self._clock.monotonic_ns() - self._turned_ns) / 1e9
        ahead = max(0, self._history.horizon - self._now_us()) / 1e6
        return {
            "megaphone_process_loop_age_seconds": age,
            "megaphone_control_requests_total": dict(self._requests),
            "megaphone_control_horizon_seconds": min(ahead, 3600.0),
        }

    def _healthy(self) -> Verdict:
        age = (self._clock.monotonic_ns() - self._turned_ns) / 1e9
        return age < self._config.limits.peer_timeout_s, f"the loop turned {age:.1f} s ago"

    def _ready(self) -> Verdict:
        phase = self._machine.phase
        return phase is Phase.RUNNING, str(phase)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stop_asked = True

    def _now_us(self) -> int:
        return self._machine_clock.now_us(self._clock.monotonic_ns() // 1000)
