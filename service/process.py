"""The shell of one gateway or worker: clients, sockets, clock and files around a `Member`.

Flow: register in <app>.members -> wait for the generation that names this boot -> restore -> read
the log, poll Kafka, tick, step, serve receipts, tell how it is -> at a stop: leave.

    JOINING --generation--> RESTORING --state is there--> RUNNING --stopped, all applied--> LEAVING
       |                                                                                      |
       `--asked to stop------------------> ENDED <--checkpoint recorded by the controller-----'

Invariants
  PR1  One thread does everything but HTTP, the reading and writing of checkpoints, the search for
       the end of a batch that cannot be read (UB3), and asking the system for memory that bins to
       come will need (ME1); once running, nothing in a turn blocks longer than a tick.
  PR2  Reading stops under back-pressure, turns and ticks never do; ticks come less often (PA2).
  PR3  The process ends with status 0 only after the controller has recorded the checkpoint it is
       part of, or before it took part in anything; any error ends it with a named one.
  PR4  A gateway reads and ticks when `pace` says so, and sleeps until then or until a record comes.
"""

from __future__ import annotations

import gc
import secrets
from concurrent.futures import Future, wait
from enum import Enum, auto
from functools import partial

import msgspec

from service.addresses import advertised
from service.checkpointing import Checkpointing
from service.clock import Clock, SystemClock, sleep
from service.config import Config
from service.control_topics import Admin, AppTopics, RecordWriter
from service.dataflow.flow import Flow
from service.dataflow.transport.frame import FrameKind
from service.dataflow.worker import WorkerLimits
from service.departure import Departure, expect_controller
from service.edges import KafkaEdges
from service.errors import MegaphoneError
from service.heartbeat import Heartbeat
from service.ids import Membership, Role
from service.ingest.registry import SchemaRegistry
from service.links import STOP_ASKED, Links, socket_links
from service.log import Log
from service.log_reader import LogReader, addresses_of
from service.member import Member
from service.migration.records import Generation, MemberDetails, MemberState
from service.migration.reports import DrainedReport, PeerReport, plain
from service.pace import Pace
from service.process_options import ProcessOptions
from service.readings import behind_of, details_of, reading_of, state_rows
from service.refusals import Refusals
from service.slot_folder import SlotFolder
from service.statestore.checkpoint import SlotFiles
from service.stop_signals import StopSignals
from service.telling import Teller

_US = 1_000
_LOG_EVERY_NS = 20_000_000
#: Between looks for receipts while a cut's gate, or rows behind others, wait for them.
_RECEIPT_WAIT_S = 0.002
#: At other times only the sinks' frontiers wait, and each look costs a progress batch.
_RECEIPTS_EVERY_NS = 10_000_000
_IDLE_WAIT_S = 0.010


class Stage(Enum):
    """How far a process is; see the picture above."""

    JOINING = auto()
    RESTORING = auto()
    RUNNING = auto()
    LEAVING = auto()
    ENDED = auto()


_TOLD = {
    Stage.JOINING: MemberState.WAITING,
    Stage.RESTORING: MemberState.STARTING,
    Stage.RUNNING: MemberState.RUNNING,
    Stage.LEAVING: MemberState.RUNNING,
    Stage.ENDED: MemberState.STOPPED,
}


class MemberProcess:
    """One gateway or worker, from registration to its checkpoint."""

    def __init__(
        self,
        options: ProcessOptions,
        config: Config,
        flow: Flow,
        registry: SchemaRegistry,
        log: Log,
        *,
        clock: Clock | None = None,
        links: Links | None = None,
    ) -> None:
        """Check what can be checked, bind sockets and HTTP; nothing is read yet.

        Raises:
            UsageError: the state folder, an address or a topic cannot be used.
            MegaphoneError: the broker or the registry does not answer, or has no such schema.
        """
        self._slot = options.slot
        self._config = config
        self._flow = flow
        self._log = log
        self._clock = clock or SystemClock()
        self._stage = Stage.JOINING
        self._stop_asked = self._drained_told = self._failed = False
        self._teller = Teller()
        self._member: Member | None = None
        self._generation: Generation | None = None
        self._restoring: Future[SlotFiles | None] | None = None
        self._departure: Departure | None = None
        self._checkpointing: Checkpointing | None = None
        servers, app, slot = options.bootstrap_servers, options.app, options.slot
        limits = config.limits
        topics = AppTopics(app)
        incarnation = secrets.randbits(62) | 1
        Admin(servers, limits.broker_timeout_s).ensure_app(topics)
        self._folder = SlotFolder(options.state_dir, servers, app, slot, config)
        if slot.role is Role.WORKER:
            self._folder.check()
        self._edges = KafkaEdges(servers, app, slot, config, flow, registry, self._clock)
        self._edges.prepare()
        self._next_log = self._next_receipts = now = self._clock.monotonic_ns()
        # Where others take turns with us (`--local`) nobody can wait for a record.
        self._pace = Pace(config.gateway, woken=links is None)
        self._reader = LogReader(servers, topics, slot, incarnation, limits, now)
        self._records = RecordWriter(servers, f"{app}.{slot}")
        self._links = links or socket_links(slot, incarnation, limits, config.links, log)
        listens = self._links.bind(options.address or config.links.address)
        self._endpoint = advertised(listens, config.links.advertise, servers)
        self._heartbeat = Heartbeat(
            slot, incarnation, topics, self._records, config, options.http_port, self._clock
        )
        self._heartbeat.listens_at(self._endpoint)
        self._heartbeat.watches(Refusals(self._links.counters, log))

    def run(self) -> None:
        """Take part in one generation, to its end.

        Raises:
            MegaphoneError: the generation cannot go on; the error says why and what to do.
        """
        frozen = False
        with StopSignals() as signals:
            try:
                while not self.ended:
                    if signals.asked:
                        self.ask_stop()
                    self.turn()
                    if self._stage is Stage.RUNNING and not frozen:
                        # What start-up made stays to the end. Without this every full walk of the
                        # interpreter over its objects stops the process for 0.1 s.
                        gc.collect()
                        gc.freeze()
                        frozen = True
                    self._rest()
            except MegaphoneError as error:
                self.fail(error)
                raise
            finally:
                self.close()

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to do."""
        return self._stage is Stage.ENDED

    def ask_stop(self) -> None:
        """Ask the controller for a plain stop of the job; leave if there is no job yet."""
        if self._stage is Stage.JOINING:
            self._end()
        elif self._stage is Stage.RUNNING and not self._stop_asked:
            self._stop_asked = True
            self._send(STOP_ASKED)

    def turn(self) -> None:
        """Do what is due now (PR1).

        Raises:
            MegaphoneError: the generation cannot go on.
        """
        now = self._clock.monotonic_ns()
        match self._stage:
            case Stage.RUNNING:
                self._run(now)
            case Stage.JOINING:
                generation = self._reader.await_generation(now)
                if generation is not None:
                    self._build(generation)
            case Stage.RESTORING:
                self._restore()
            case Stage.LEAVING:
                assert self._departure is not None, "a member that leaves has begun to"
                if self._departure.turn(now):
                    rows, cut = state_rows(self._require_member()), self._departure.cut
                    self._log.info("member.stopped", cut=cut, rows=rows)
                    self._end()
        if self._heartbeat.turn(now) and not self.ended:
            self._beat()

    def wait_s(self) -> float:
        """How long nothing is due here unless a frame arrives."""
        if self._stage is not Stage.RUNNING:
            # Joining and restoring wait in their turns.
            return _RECEIPT_WAIT_S if self._stage is Stage.LEAVING else 0.0
        until = self._next_log
        if self._edges.feeds:
            until = min(until, self._pace.next_read)
        left = (until - self._clock.monotonic_ns()) / 1e9
        member = self._require_member()
        if member.has_work:
            return 0.0
        soon = member.awaits_cut or self._edges.producer.waiting
        most = _RECEIPT_WAIT_S if soon else _IDLE_WAIT_S
        return min(max(left, 0.0), most)

    def _rest(self) -> None:
        """Wait until something is due, or for what can matter before: a frame, or a record (PR4).

        A gateway that may send does not wake for frames: what it hears of the others' progress can
        wait for its next reading, and to wake for each cost a tenth of its time.
        """
        left = self.wait_s()
        reads = self._stage is Stage.RUNNING and bool(self._edges.feeds)
        if not reads or not left or self._require_member().worker.is_refused:
            self._links.wait(left)
        elif self._pace.record_came:
            sleep(left)
        elif self._edges.wait(left):
            self._pace.came(self._clock.monotonic_ns())

    def fail(self, error: MegaphoneError) -> None:
        """Tell everybody why this process ends."""
        self._stage, self._failed = Stage.ENDED, True
        self._links.leave(because=str(error))
        self._heartbeat.last_word(str(error), self._generation_number, self._log)

    def close(self) -> None:
        """Release clients and sockets."""
        self._heartbeat.close()
        self._links.close()
        self._folder.close()
        if not self._failed:
            # A consumer's farewell waits for the broker, which may be what failed.
            self._edges.close()
            self._reader.close()

    # Start --------------------------------------------------------------------------------------

    def _build(self, generation: Generation) -> None:
        """Build the dataflow that `generation` says and begin to load its state."""
        if self._slot.is_any:
            self._slot = slot = self._reader.slot
            self._edges.plays(slot)
            self._folder.plays(slot)
            self._heartbeat.plays(slot)
            self._log.plays(slot)
        worker = self._config.worker
        self._generation = generation
        self._member = Member(
            self._flow,
            generation,
            self._slot,
            self._links,
            partial(self._edges.writer, bins=generation.bins),
            self._edges.schema_of,
            limits=WorkerLimits(
                data_window=worker.data_window_bytes,
                state_window=worker.state_window_bytes,
                local_queue=worker.local_queue_bytes,
            ),
            held_budget=worker.held_budget_bytes,
        )
        self._restoring = self._folder.restore(self._member, generation.manifest)
        self._stage = Stage.RESTORING
        self._beat()

    def _restore(self) -> None:
        """Once the state is there: greet the others, open the sources, run."""
        assert self._restoring is not None, "state is loaded before the dataflow runs"
        if not wait([self._restoring], _IDLE_WAIT_S).done:
            return
        files = self._restoring.result()
        if files is not None:
            self._log.info("state.restored", rows=files.rows, cut=files.cut)
        member, generation = self._require_member(), self._require_generation()
        membership = Membership(generation.workers, generation.gateways)
        index = membership.peer(self._slot)
        addresses = addresses_of(generation)
        self._checkpointing = Checkpointing(
            member, self._edges, self._folder, self._send_report, self._log
        )
        self._links.start(generation.generation, index, membership.peers, addresses)
        self._edges.open_feeds(member.sources, generation)
        now = self._clock.monotonic_ns()
        member.ticks.observe(generation.clock, now // _US)
        self._reader.begin(now)
        self._next_log = now
        self._pace.begin(now)
        self._stage = Stage.RUNNING
        self._beat()
        self._log.info(
            "member.started",
            generation=generation.generation,
            endpoint=self._endpoint,
            http=self._heartbeat.http,
            bins=len(member.owned_bins()),
        )

    # Running ------------------------------------------------------------------------------------

    def _run(self, now: int) -> None:
        member = self._require_member()
        if now >= self._next_log:
            self._read_log(member, now)
            self._links.tick(now)
            self._next_log = now + _LOG_EVERY_NS
        if self._edges.feeds and self._pace.reads(now, member.crowded):
            full = self._edges.read(member)
            if self._pace.has_read(now, full=full, busy=member.busy):
                self._edges.tick(member, now // _US)
        if now >= self._next_receipts or member.awaits_cut or self._edges.producer.waiting:
            self._edges.producer.poll()
            self._next_receipts = now + _RECEIPTS_EVERY_NS
        member.step()
        self._edges.watch(member)
        self._report(member)
        if self._checkpointing is not None:
            self._checkpointing.turn(now)
        if member.complete:
            deadline = now + int(self._config.limits.stop_timeout_s * 1e9)
            self._departure = Departure(
                member, self._edges, self._folder, self._links, self._send_report, deadline
            )
            self._stage = Stage.LEAVING

    def _read_log(self, member: Member, now: int) -> None:
        stopping = member.control.stop is not None
        records = self._reader.read(now, silence_allowed=stopping)
        # The clock as of the reading, not of the turn's beginning: in between the process may have
        # slept while the promise was written, and its clock would run ahead by as much.
        read_us = self._clock.monotonic_ns() // _US
        for record in records:
            member.apply_log(record, read_us)
        if stopping:
            expect_controller(self._links)

    def _report(self, member: Member) -> None:
        """Tell the controller what only this process knows."""
        for report in self._teller.reports(member, self._clock.monotonic_ns() // _US):
            self._send_report(report)
        # A gateway without partitions has nothing to read and says so at once.
        drains = self._slot.role is Role.GATEWAY and self._require_generation().until_end
        if drains and not self._drained_told and self._edges.drained(member):
            self._drained_told = True
            self._send_report(DrainedReport())

    def _send_report(self, report: PeerReport) -> None:
        self._send(plain(report))

    def _send(self, body: dict[str, object]) -> None:
        encoded = msgspec.json.encode(body)
        self._links.send(self._links.observer, FrameKind.REPORT, 0, (), [encoded])

    # Telling ------------------------------------------------------------------------------------

    def _beat(self) -> None:
        state, member, heartbeat = _TOLD[self._stage], self._member, self._heartbeat
        if member is None or self._stage is Stage.RESTORING:
            details = MemberDetails(http=heartbeat.http)
            heartbeat.beat(state, self._generation_number, details, {}, ready=False)
            return
        edges, lag = self._edges, self._edges.lag
        if self._stage is Stage.RUNNING:
            edges.commit_advisory()
        now_us = self._clock.monotonic_ns() // _US
        running = state is MemberState.RUNNING and self._links.connected
        behind = behind_of(member, now_us, self._config.limits.ready_lag_s)
        heartbeat.beat(
            state,
            self._generation_number,
            details_of(member, edges, lag, heartbeat.http, self._teller),
            reading_of(member, edges, lag, self._teller, self._links, now_us)
            | self._folder.reading(),
            ready=running and not behind,
            behind=behind,
        )

    def _end(self) -> None:
        self._stage = Stage.ENDED
        self._beat()
        self._records.flush(self._config.limits.broker_timeout_s)

    @property
    def _generation_number(self) -> int | None:
        return None if self._generation is None else self._generation.generation

    def _require_generation(self) -> Generation:
        assert self._generation is not None, "a generation comes before its dataflow"
        return self._generation

    def _require_member(self) -> Member:
        assert self._member is not None, "the member is built before it runs"
        return self._member
