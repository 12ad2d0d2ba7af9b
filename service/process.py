"""The shell of one gateway or worker: clients, sockets, clock and files around a `Member`.

Flow: register in <app>.members -> wait for the generation that names this boot -> restore -> loop:
read the log, poll Kafka, tick, step, serve receipts, tell how it is -> at a stop: checkpoint, tell,
leave.

Invariants
  PR1  One thread does everything but HTTP; nothing in the loop blocks longer than a tick.
  PR2  Reading stops under back-pressure, the loop and the ticks never do.
  PR3  The process ends with status 0 only after its checkpoint is complete and the controller was
       told; any error ends it with a named one.
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec
import pyarrow as pa

from service.admin import AdminServer, Verdict
from service.avro.encoder import compile_encoder
from service.clock import Clock, SystemClock
from service.config import Config
from service.control_topics import (
    START_AT_END,
    Admin,
    AppTopics,
    RecordWriter,
    TopicTail,
    read_compacted,
)
from service.dataflow.flow import Flow, SinkVertex, SourceVertex
from service.dataflow.transport.frame import FrameKind
from service.dataflow.transport.link import LinkLimits, PeerAddress
from service.dataflow.transport.zeromq import ZmqTransport
from service.dataflow.worker import WorkerLimits
from service.egress.producer import KafkaProducer, KafkaSinkWriter
from service.errors import MegaphoneError, PeerLost, ProtocolViolation, StateCorrupt
from service.hashing import bin_bits_of
from service.ids import Membership, Role, Slot
from service.ingest.consumer import KafkaPartitions
from service.ingest.dead_letter import DeadLetters
from service.ingest.decode import DecodeLimits, RecordDecoder
from service.ingest.feed import SourceFeed
from service.ingest.registry import SchemaRegistry
from service.log import Log
from service.member import Member
from service.migration.records import (
    Generation,
    LogRecord,
    MemberDetails,
    MemberRecord,
    MemberState,
    decode_log,
    decode_manifest,
    encode,
)
from service.migration.reports import (
    CheckpointedReport,
    DrainedReport,
    MovedReport,
    PeerReport,
)
from service.statestore.checkpoint import SlotFiles, read_checkpoint, write_checkpoint
from service.telemetry import Reading, registry_of

_US = 1_000
_LOG_EVERY_NS = 20_000_000
#: Between looks for receipts while some are due; the gate of a migration waits for them.
_RECEIPT_WAIT_S = 0.002
_IDLE_WAIT_S = 0.010


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """What the command line says about one process."""

    bootstrap_servers: str
    app: str
    slot: Slot
    state_dir: Path
    address: str = "tcp://127.0.0.1:*"
    http_port: int | None = None


class MemberProcess:
    """One gateway or worker, from registration to its checkpoint."""

    def __init__(
        self,
        options: ProcessOptions,
        config: Config,
        flow: Flow,
        registry: SchemaRegistry,
        log: Log,
        clock: Clock | None = None,
    ) -> None:
        """Bind sockets and HTTP; nothing is read yet."""
        self._options = options
        self._config = config
        self._flow = flow
        self._registry = registry
        self._log = log
        self._clock = clock or SystemClock()
        self._topics = AppTopics(options.app)
        self._incarnation = secrets.randbits(62) | 1
        self._stop_asked = False
        self._state = MemberState.WAITING
        self._member: Member | None = None
        self._feeds: dict[str, SourceFeed] = {}
        self._decoders: dict[str, RecordDecoder] = {}
        self._writers: list[KafkaSinkWriter] = []
        self._drained_told = False
        self._bins_received = 0
        self._bytes_received = 0
        self._lag = 0
        self._turned_ns = self._clock.monotonic_ns()
        limits = config.limits
        Admin(options.bootstrap_servers, limits.broker_timeout_s).ensure_app(self._topics)
        self._records = RecordWriter(options.bootstrap_servers, str(options.slot))
        # From its end: the generation that names this boot can only come after it registers.
        self._tail = TopicTail(options.bootstrap_servers, self._topics.accepted, START_AT_END)
        self._producer = KafkaProducer(
            options.bootstrap_servers,
            f"{options.app}.{options.slot}",
            config.worker.linger_ms,
        )
        self._transport = ZmqTransport(
            options.slot,
            self._incarnation,
            limits=LinkLimits(
                hello_timeout_ns=int(limits.start_timeout_s * 1e9),
                peer_timeout_ns=int(limits.peer_timeout_s * 1e9),
            ),
        )
        self._endpoint = self._transport.bind(options.address)
        port = options.http_port if options.http_port is not None else config.http.port
        self._http = AdminServer(
            config.http.host,
            port,
            registry_of(options.app, str(options.slot), self._reading),
            self._healthy,
            self._ready,
        )

    def run(self) -> None:
        """Take part in one generation, to its end.

        Raises:
            MegaphoneError: the generation cannot go on; the error says why and what to do.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        try:
            generation = self._join()
            self._build(generation)
            self._loop()
            self._checkpoint()
        except MegaphoneError as error:
            self._state = MemberState.FAILED
            self._tell(reason=str(error))
            raise
        finally:
            self._http.close()
            for feed in self._feeds.values():
                feed.close()
            self._tail.close()
            self._transport.close()

    # Start --------------------------------------------------------------------------------------

    def _join(self) -> Generation:
        """Register, and wait for the generation that names this boot."""
        deadline = self._clock.monotonic_ns() + int(self._config.limits.start_timeout_s * 1e9)
        next_beat = 0
        while True:
            now = self._clock.monotonic_ns()
            if now > deadline:
                raise PeerLost(
                    f"no generation began within {self._config.limits.start_timeout_s:g} s; are the "
                    "controller and all the workers and gateways it waits for running?"
                )
            if self._stop_asked:
                raise PeerLost("stopped before a generation began")
            if now >= next_beat:
                self._tell()
                next_beat = now + int(self._config.control.heartbeat_ms * 1e6)
            self._turned_ns = now
            self._records.poll()
            for entry in self._tail.poll(0.05):
                record = decode_log(entry.value or b"")
                if isinstance(record, Generation) and self._is_named(record):
                    self._log_offset = entry.offset
                    return record

    def _is_named(self, generation: Generation) -> bool:
        return any(
            binding.slot == str(self._options.slot)
            and binding.incarnation == str(self._incarnation)
            for binding in generation.slots
        )

    def _build(self, generation: Generation) -> None:
        self._state = MemberState.STARTING
        self._tell()
        membership = Membership(generation.workers, generation.gateways)
        peers = {
            membership.peer(Slot.parse(binding.slot)): PeerAddress(
                Slot.parse(binding.slot), int(binding.incarnation), binding.address
            )
            for binding in generation.slots
        }
        observer = membership.peers
        if generation.controller is not None:
            binding = generation.controller
            peers[observer] = PeerAddress(
                Slot.parse(binding.slot), int(binding.incarnation), binding.address
            )
        self._generation = generation
        index = membership.peer(self._options.slot)
        self._transport.start(generation.generation, index, observer, peers)
        worker = self._config.worker
        member = Member(
            self._flow,
            generation,
            self._options.slot,
            self._transport,
            self._sink_writer,
            self._source_schema,
            limits=WorkerLimits(
                data_window=worker.data_window_bytes,
                state_window=worker.state_window_bytes,
                local_queue=worker.local_queue_bytes,
            ),
            held_budget=worker.held_budget_bytes,
        )
        self._member = member
        self._restore(member)
        for vertex in self._flow.vertices:
            if isinstance(vertex, SourceVertex) and vertex.name in member.sources:
                self._feeds[vertex.name] = self._feed(vertex)
        member.ticks.observe(generation.clock, self._now_us())
        self._state = MemberState.RUNNING
        self._tell()
        self._log.info(
            "member.started",
            generation=generation.generation,
            endpoint=self._endpoint,
            http=self._http.address,
            bins=len(member.owned_bins()),
        )

    def _restore(self, member: Member) -> None:
        """Load this slot's state as of the manifest's cut."""
        name = self._generation.manifest
        if name is None:
            return
        manifests = read_compacted(
            self._options.bootstrap_servers,
            self._topics.checkpoints,
            self._config.limits.broker_timeout_s,
        )
        entry = manifests.get(name)
        if entry is None or entry.value is None:
            raise StateCorrupt(f"manifest {name!r} is not in {self._topics.checkpoints!r}")
        files = decode_manifest(entry.value).files.get(str(self._options.slot))
        if files is None:
            return
        slot_files = msgspec.convert(files, SlotFiles)
        stores = {name: host.store for name, host in member.hosts.items()}
        read_checkpoint(self._folder(), slot_files, stores)
        self._log.info("state.restored", rows=slot_files.rows, cut=slot_files.cut)

    def _feed(self, vertex: SourceVertex) -> SourceFeed:
        positions = {
            (topic, partition): self._generation.positions[topic][partition]
            for topic in vertex.connector.topics
            for partition, owner in enumerate(self._generation.partition_owners[topic])
            if owner == self._options.slot.ordinal
        }
        servers = self._options.bootstrap_servers
        limits = self._config.limits
        admin = Admin(servers, limits.broker_timeout_s)
        for topic in vertex.connector.topics:
            admin.create(f"{topic}.dlq", 1)
        source = KafkaPartitions(
            servers,
            group=self._options.app,
            client_id=f"{self._options.app}.{self._options.slot}.{vertex.name}",
            prefetch_kb=self._config.gateway.prefetch_kb,
            timeout_s=limits.broker_timeout_s,
        )
        return SourceFeed(
            source,
            self._decoders[vertex.name],
            DeadLetters(self._producer.client),
            positions,
            until_end=self._generation.until_end,
        )

    def _source_schema(self, vertex: SourceVertex) -> pa.Schema:
        """Columns of a source; every process resolves them, so that all build the same graph."""
        connector = vertex.connector
        decoder = RecordDecoder(
            self._registry,
            connector.record,
            connector.fields,
            DecodeLimits(self._config.limits.record_bytes_max),
            connector.topics,
        )
        self._decoders[vertex.name] = decoder
        return decoder.arrow_schema

    def _sink_writer(self, vertex: SinkVertex) -> KafkaSinkWriter:
        connector = vertex.connector
        schema = self._registry.schema(connector.schema)
        writer = KafkaSinkWriter(
            self._producer,
            connector.topic,
            connector.key,
            compile_encoder(schema),
            connector.schema,
            worker=self._options.slot.ordinal,
            bin_bits=bin_bits_of(self._generation.bins),
        )
        self._writers.append(writer)
        return writer

    def _folder(self) -> Path:
        return self._options.state_dir / self._options.app / str(self._options.slot)

    # Loop ---------------------------------------------------------------------------------------

    def _loop(self) -> None:
        member = self._require_member()
        gateway = bool(self._feeds)
        control = self._config.control
        tick_ns = int(self._config.gateway.tick_ms * 1e6)
        idle_ns = int(self._config.gateway.idle_tick_ms * 1e6)
        now = self._clock.monotonic_ns()
        next_tick = next_log = next_beat = now
        while not member.complete:
            now = self._clock.monotonic_ns()
            self._turned_ns = now
            if now >= next_log:
                self._read_log(member)
                self._transport.tick(now)
                next_log = now + _LOG_EVERY_NS
            if gateway and now >= next_tick:
                full = self._read_sources(member)
                # Rows on their way, or a cut that waits for this gateway's ticks: stay fine.
                fine = member.busy
                member.tick(now // _US)
                next_tick = now if full else now + (tick_ns if fine else idle_ns)
            self._producer.poll()
            member.step()
            self._report(member)
            if now >= next_beat:
                self._beat(member)
                next_beat = now + int(control.heartbeat_ms * 1e6)
            self._wait(member, min(next_log, next_tick if gateway else next_log))

    def _wait(self, member: Member, until_ns: int) -> None:
        """Sleep until something arrives or is due (PR1)."""
        left = (until_ns - self._clock.monotonic_ns()) / 1e9
        if member.awaits_receipts:
            left = min(left, _RECEIPT_WAIT_S)
        if left > 0:
            self._transport.wait(min(left, _IDLE_WAIT_S))

    def _read_log(self, member: Member) -> None:
        for entry in self._tail.poll():
            self._log_offset = entry.offset
            record: LogRecord = decode_log(entry.value or b"")
            if isinstance(record, Generation):
                if record.generation > self._generation.generation:
                    raise ProtocolViolation(
                        f"generation {record.generation} was announced while "
                        f"{self._generation.generation} runs; this process is not part of it. Is "
                        "another controller running for the same --app?"
                    )
                continue
            member.apply_log(record, self._now_us())

    def _read_sources(self, member: Member) -> bool:
        """Poll every source that may read; whether one came back full."""
        full = False
        for name, feed in self._feeds.items():
            if not member.may_read(name):
                feed.hold()
                continue
            rows, more = feed.read(self._config.gateway.poll_records)
            if rows is not None:
                member.sources[name].offer(rows)
            full = full or more
        return full

    def _report(self, member: Member) -> None:
        """Tell the controller what only this process knows."""
        for report in member.take_reports():
            self._bins_received += report.bins
            self._bytes_received += report.bytes
            self._send(
                MovedReport(
                    vertex=report.vertex,
                    cut=report.cut,
                    bins=report.bins,
                    bytes=report.bytes,
                    rows=report.rows,
                )
            )
        if (
            not self._drained_told
            and self._options.slot.role is Role.GATEWAY
            and self._generation.until_end
            # A gateway without partitions has nothing to read and says so at once.
            and all(feed.drained for feed in self._feeds.values())
            and not any(source.has_rows for source in member.sources.values())
        ):
            self._drained_told = True
            self._send(DrainedReport())

    def _send(self, report: PeerReport | dict[str, object]) -> None:
        body = msgspec.json.encode(report)
        self._transport.send(self._transport.observer, FrameKind.REPORT, 0, (), [body])

    # End ----------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Write this slot's state as of the stop's cut, tell the controller, leave."""
        member = self._require_member()
        stop = member.control.stop
        assert stop is not None, "PR3: only a stop completes a member"
        files: object = None
        if self._options.slot.role is Role.WORKER and member.hosts:
            stores = {name: host.store for name, host in member.hosts.items()}
            written = write_checkpoint(self._folder(), stop.at, stores, member.owned_bins())
            files = msgspec.to_builtins(written)
        self._producer.close()
        positions = [
            (topic, partition, offset)
            for source in member.sources.values()
            for (topic, partition), offset in source.positions.items()
        ]
        for feed in self._feeds.values():
            feed.commit_advisory()
        self._send(CheckpointedReport(cut=stop.at, files=files, positions=positions))
        self._state = MemberState.STOPPED
        self._beat(member)
        self._records.flush(self._config.limits.broker_timeout_s)
        self._transport.leave()
        self._log.info("member.stopped", cut=stop.at, rows=self._state_rows(member))

    # Telling ------------------------------------------------------------------------------------

    def _beat(self, member: Member) -> None:
        self._records.poll()
        self._lag = sum(feed.lag() for feed in self._feeds.values())
        for feed in self._feeds.values():
            feed.commit_advisory()
        self._tell()

    def _tell(self, reason: str | None = None) -> None:
        """Publish how this process is."""
        record = MemberRecord(
            slot=str(self._options.slot),
            role=self._options.slot.role,
            incarnation=str(self._incarnation),
            address=self._endpoint,
            state=self._state,
            heartbeat=self._clock.wall_us(),
            generation=self._generation.generation if self._member is not None else None,
            details=self._details(reason),
        )
        self._records.write(self._topics.members, record.slot, encode(record))

    def _details(self, reason: str | None) -> MemberDetails:
        member = self._member
        if member is None:
            return MemberDetails(reason=reason, http=self._http.address)
        feeds = self._feeds.values()
        return MemberDetails(
            reason=reason,
            http=self._http.address,
            frontiers=member.frontiers(),
            rows_read=sum(feed.records_in for feed in feeds),
            rows_skipped=sum(feed.skipped for feed in feeds),
            bad_records=sum(feed.rejected for feed in feeds),
            lag=self._lag,
            rows_applied=sum(host.rows_applied for host in member.hosts.values()),
            outputs=sum(writer.rows for writer in self._writers),
            bins_owned=len(member.owned_bins()),
            state_rows=self._state_rows(member),
            state_bytes=sum(host.store.table.nbytes for host in member.hosts.values()),
            held_bytes=member.held_bytes,
        )

    def _reading(self) -> Reading:
        """What Prometheus sees (see telemetry.CATALOGUE)."""
        age = (self._clock.monotonic_ns() - self._turned_ns) / 1e9
        reading: dict[str, float | Mapping[str, float]] = {"megaphone_process_loop_age_seconds": age}
        member = self._member
        if member is None:
            return reading
        feeds = list(self._feeds.values())
        if feeds:
            rejected: dict[str, float] = {}
            for feed in feeds:
                for reason, count in feed.rejected_by_reason().items():
                    rejected[reason] = rejected.get(reason, 0) + count
            reading |= {
                "megaphone_ingest_records_total": sum(feed.records_in for feed in feeds),
                "megaphone_ingest_skipped_total": sum(feed.skipped for feed in feeds),
                "megaphone_ingest_rejected_total": rejected,
                "megaphone_ingest_lag_records": self._lag,
                "megaphone_ingest_paused": float(any(feed.paused for feed in feeds)),
            }
        if self._options.slot.role is Role.WORKER:
            reading |= {
                "megaphone_state_rows": self._state_rows(member),
                "megaphone_state_bytes": sum(h.store.table.nbytes for h in member.hosts.values()),
                "megaphone_state_rows_applied_total": sum(
                    host.rows_applied for host in member.hosts.values()
                ),
                "megaphone_migration_bins_owned": len(member.owned_bins()),
                "megaphone_migration_bins_received_total": self._bins_received,
                "megaphone_migration_bytes_received_total": self._bytes_received,
                "megaphone_egress_records_total": sum(writer.rows for writer in self._writers),
                "megaphone_egress_unacknowledged": sum(
                    sink.unacknowledged for sink in member.sinks.values()
                ),
            }
        oldest = min((t for t in member.frontiers().values() if t is not None), default=None)
        if oldest is not None:
            lag_us = max(0, member.ticks.now_us(self._now_us()) - oldest)
            reading["megaphone_dataflow_frontier_lag_seconds"] = lag_us / 1e6
        return reading | {
            "megaphone_dataflow_queued_bytes": member.worker.queued_bytes(),
            "megaphone_dataflow_held_bytes": member.held_bytes,
            "megaphone_dataflow_progress_batches_total": member.worker.progress_batches_sent,
            "megaphone_dataflow_progress_bytes_total": member.worker.progress_bytes_sent,
        }

    def _state_rows(self, member: Member) -> int:
        return sum(host.store.table.row_count for host in member.hosts.values())

    def _healthy(self) -> Verdict:
        age = (self._clock.monotonic_ns() - self._turned_ns) / 1e9
        return age < self._config.limits.peer_timeout_s, f"the loop turned {age:.1f} s ago"

    def _ready(self) -> Verdict:
        running = self._state is MemberState.RUNNING and self._transport.connected
        return running, str(self._state)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Ask for a plain stop once; a second signal of the other kind does not hurry it."""
        if self._stop_asked:
            return
        self._stop_asked = True
        if self._member is not None:
            self._send({"kind": "stop_asked", "signal": number})

    def _now_us(self) -> int:
        return self._clock.monotonic_ns() // _US

    def _require_member(self) -> Member:
        assert self._member is not None, "the member is built before the loop"
        return self._member
