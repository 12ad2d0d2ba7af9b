"""The shell of the controller: clients, sockets and clock around a `ControllerMachine`.

Flow: members, requests, reports and the clock -> machine -> accepted log, statuses, manifest.

Invariants
  CP1  What the machine appends is committed before anything later is done: a promise that a process
       could read is one this controller will keep.
  CP2  The controller takes no part in the dataflow: it receives reports, and sends its peers
       nothing but the farewell that says the checkpoint is recorded.
  CP3  Heartbeats of members of another generation are not shown to the machine: they can neither
       join this one nor be lost by it.
  CP4  A request is behind the committed place in the control topic only once its answer is stored.
"""

from __future__ import annotations

import secrets

import msgspec

from service.accepted_log import LogWriter
from service.addresses import advertised
from service.clock import Clock, SystemClock
from service.config import Config
from service.control_topics import (
    START_AT_COMMITTED,
    START_AT_END,
    Admin,
    AppTopics,
    Entry,
    RecordWriter,
    TopicTail,
)
from service.controller_counts import ControllerCounts
from service.controller_start import ControllerOptions, find_past, settings_of, shape_of
from service.dataflow.flow import Flow
from service.dataflow.transport.frame import FrameKind
from service.errors import MegaphoneError, PeerError
from service.heartbeat import Heartbeat
from service.ids import Membership, Role, Slot
from service.links import STOP_ASKED, Links, report_of, socket_links
from service.log import Log
from service.log_reader import addresses_of
from service.migration.controller import ControllerMachine
from service.migration.controller_events import (
    AppendToLog,
    CheckpointAborted,
    Done,
    Event,
    Fail,
    Instruction,
    LogAppended,
    MemberSeen,
    PeerGone,
    Phase,
    PublishStatus,
    Report,
    RequestRead,
    StopRequested,
    Tick,
    WaveCompleted,
    WriteManifest,
)
from service.migration.horizon import ControllerClock
from service.migration.records import (
    Generation,
    LogRecord,
    ManifestRecord,
    MemberRecord,
    MemberState,
    RequestState,
    SlotBinding,
    StatusRecord,
    decode_member,
    encode,
)
from service.readings import controller_details, links_reading
from service.refusals import Refusals
from service.slot_folder import CHECKPOINTS_KEPT
from service.stop_signals import StopSignals

_US = 1_000
_TURN_S = 0.01
_SLOT = Slot(Role.CONTROLLER, 0)


class ControllerProcess:
    """Runs one job's control plane from the members' arrival to the manifest."""

    def __init__(
        self,
        options: ControllerOptions,
        config: Config,
        flow: Flow,
        log: Log,
        *,
        clock: Clock | None = None,
        links: Links | None = None,
    ) -> None:
        """Take the log over and read what earlier runs left.

        Raises:
            UsageError: an input topic, an address or a port cannot be used.
            MegaphoneError: the broker does not answer, or what it holds cannot be read.
        """
        self._config = config
        self._log = log
        self._clock = clock or SystemClock()
        self._topics = topics = AppTopics(options.app)
        self._incarnation = secrets.randbits(62) | 1
        self._stop_asked = self._ended = self._failed = False
        servers, timeout = options.bootstrap_servers, config.limits.broker_timeout_s
        shape = shape_of(options, flow, timeout)
        Admin(servers, timeout).ensure_app(topics)
        self._writer = LogWriter(servers, topics, timeout)
        self._records = RecordWriter(servers, f"{options.app}.controller")
        # Heartbeats of earlier boots mean nothing: read only what comes from now on.
        self._members = TopicTail(servers, topics.members, START_AT_END, timeout)
        self._control = TopicTail(servers, topics.control, START_AT_COMMITTED, timeout)
        self._past = past = find_past(servers, topics, timeout)
        cut = None if past.manifest is None else past.manifest.cut
        self._counts = ControllerCounts(cut, options.checkpoint_every_s)
        self._links = links or socket_links(
            _SLOT, self._incarnation, config.limits, config.links, log
        )
        listens = self._links.bind(options.address or config.links.address)
        self._endpoint = advertised(listens, config.links.advertise, servers)
        self._machine_clock = ControllerClock(
            wall_us=self._clock.wall_us(),
            promised_us=past.history.clock,
            monotonic_us=self._clock.monotonic_ns() // _US,
        )
        self._machine = ControllerMachine(
            shape,
            settings_of(config, options.checkpoint_every_s),
            self._now_us(),
            history=past.history,
            manifest=past.manifest,
            answered=past.answered,
        )
        self._heartbeat = Heartbeat(
            _SLOT,
            self._incarnation,
            topics,
            self._records,
            config,
            options.http_port,
            self._clock,
        )
        self._heartbeat.listens_at(self._endpoint)
        self._heartbeat.watches(Refusals(self._links.counters, log))

    def run(self) -> None:
        """Run the job to its end.

        Raises:
            MegaphoneError: the job failed; the error says why and what to do.
        """
        with StopSignals() as signals:
            try:
                while not self.ended:
                    if signals.asked:
                        self.ask_stop()
                    self.turn()
                    self._links.wait(self.wait_s())
            except MegaphoneError as error:
                self.fail(error)
                raise
            finally:
                self.close()

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to do."""
        return self._ended

    def ask_stop(self) -> None:
        """Stop the job plainly; asking again changes nothing."""
        if not self._stop_asked:
            self._stop_asked = True
            self._handle(StopRequested())

    def turn(self) -> None:
        """Do what is due now; blocks while the broker commits what is written.

        Raises:
            MegaphoneError: the job failed.
        """
        now = self._clock.monotonic_ns()
        due = self._heartbeat.turn(now)
        self._handle(Tick(self._now_us()))
        self._read(now)
        self._records.poll()
        if due and not self._ended:
            self._beat(MemberState.RUNNING)
        if self._ended:
            self._beat(MemberState.STOPPED)
            self._records.flush(self._config.limits.broker_timeout_s)
            self._links.leave()

    def wait_s(self) -> float:
        """How long nothing is due here unless a frame arrives."""
        return 0.0 if self._ended else _TURN_S

    def fail(self, error: MegaphoneError) -> None:
        """Tell everybody why the job ends."""
        self._ended = self._failed = True
        generation = self._machine.generation
        number = None if generation is None else generation.generation
        self._heartbeat.last_word(str(error), number, self._log)

    def close(self) -> None:
        """Release clients and sockets."""
        self._heartbeat.close()
        self._links.close()
        if not self._failed:
            # A consumer's farewell waits for the broker, which may be what failed.
            self._control.close()
            self._members.close()

    # Events -------------------------------------------------------------------------------------

    def _read(self, now: int) -> None:
        # Polled first and handled last: a member reports what it did before it says it has stopped.
        beats = self._members.poll()
        self._answer(self._control.poll())
        if self._machine.generation is not None:
            try:
                self._links.tick(now)
                self._receive()
            except PeerError as error:
                # The machine ends what is under way; what it says is then raised.
                self._handle(PeerGone(type(error), str(error)))
        for entry in beats:
            if entry.value is not None and entry.key != str(Role.CONTROLLER):
                record = decode_member(entry.value)
                if self._concerns(record):
                    self._handle(MemberSeen(record))

    def _answer(self, requests: list[Entry]) -> None:
        for entry in requests:
            self._handle(RequestRead(entry.offset, entry.value or b""))
        if requests:
            self._records.flush(self._config.limits.broker_timeout_s)
            self._control.commit(requests[-1].offset + 1)

    def _receive(self) -> None:
        for frame in self._links.receive(1000):
            if frame.kind is not FrameKind.REPORT:
                continue
            body = report_of(frame)
            if body == STOP_ASKED:
                self.ask_stop()
            else:
                self._handle(Report(frame.sender, body))

    def _concerns(self, record: MemberRecord) -> bool:
        """Whether a heartbeat is of this generation, or of one that waits for it (CP3)."""
        own = self._machine.generation
        return record.generation is None or (
            own is not None and record.generation == own.generation
        )

    def _handle(self, event: Event) -> None:
        """Give the machine an event and carry out what it says, in order (CP1)."""
        queue: list[Event] = [event]
        while queue:
            records: list[LogRecord] = []
            for instruction in self._machine.handle(queue.pop(0)):
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
        named = [self._with_controller(r) if isinstance(r, Generation) else r for r in records]
        offsets = self._writer.append([encode(record) for record in named])
        for record in named:
            if isinstance(record, Generation):
                self._begin(record)
        return [LogAppended(offset) for offset in offsets]

    def _with_controller(self, record: Generation) -> Generation:
        binding = SlotBinding(
            slot=str(_SLOT), incarnation=str(self._incarnation), address=self._endpoint
        )
        return msgspec.structs.replace(record, controller=binding)

    def _begin(self, generation: Generation) -> None:
        """Listen to the members of the generation just announced."""
        index = Membership(generation.workers, generation.gateways).peers
        peers = addresses_of(generation)
        self._links.start(generation.generation, index, index, peers)
        self._log.info(
            "generation.began",
            generation=generation.generation,
            first_epoch=generation.first_epoch,
            manifest=generation.manifest,
            http=self._heartbeat.http,
        )
        # Whoever asks now is told of this generation, not of the time before it.
        self._beat(MemberState.RUNNING)

    def _carry_out(self, instruction: Instruction) -> None:
        self._counts.note(instruction, self._now_us())
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
            case WriteManifest(record=manifest):
                self._record(manifest)
            case CheckpointAborted(reason=reason):
                self._log.info("checkpoint.aborted", reason=reason)
            case Fail(error=error, reason=reason):
                raise error(reason)
            case Done():
                self._ended = True

    def _record(self, manifest: ManifestRecord) -> None:
        """Make the manifest durable; only then forget the oldest ones."""
        timeout_s = self._config.limits.broker_timeout_s
        self._records.write(self._topics.checkpoints, manifest.name, encode(manifest))
        self._records.flush(timeout_s)
        kept = self._past.manifests
        kept.insert(0, manifest)
        for old in kept[CHECKPOINTS_KEPT:]:
            self._records.write(self._topics.checkpoints, old.name, None)
        del kept[CHECKPOINTS_KEPT:]
        self._records.flush(timeout_s)
        self._log.info("checkpoint.written", manifest=manifest.name, cut=manifest.cut)

    def _publish(self, record: StatusRecord) -> None:
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

    def _beat(self, state: MemberState) -> None:
        machine, horizon = self._machine, self._past.history.horizon
        if state is MemberState.RUNNING and machine.phase is Phase.WAITING:
            state = MemberState.WAITING
        self._heartbeat.beat(
            state,
            None if machine.generation is None else machine.generation.generation,
            controller_details(machine, self._heartbeat.http),
            {**self._counts.reading(horizon, self._now_us()), **links_reading(self._links)},
            ready=machine.phase is Phase.RUNNING,
        )

    def _now_us(self) -> int:
        return self._machine_clock.now_us(self._clock.monotonic_ns() // _US)
