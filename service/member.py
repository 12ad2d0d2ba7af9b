"""One process of a generation, without its sockets, clock and Kafka clients.

Flow: accepted log, decoded rows, frames and receipts -> [Member] -> frames, rows to producers,
reports to the controller. The shell (`service.process`) and the simulator both drive this class.

Invariants
  M1  All members of a generation build an equal graph from the same flow and generation record.
  M2  Reading stops when this process lacks room or may not tick, or any process's held store is
      over its budget; ticking never stops for room.
  M3  `complete` means: stopped, everything below the cut applied everywhere and acknowledged by the
      sinks, nothing held, no bin on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pyarrow as pa

from service.cuts import CheckpointParts
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import roles_of
from service.dataflow.operator import Operator
from service.dataflow.progress.antichain import Antichain
from service.dataflow.transport.base import Transport
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.dataflow.worker import Worker, WorkerLimits
from service.egress.sink import Producer, SinkOperator
from service.errors import ProtocolViolation
from service.hashing import bin_bits_of
from service.ids import Membership, Role, Slot
from service.ingest.source import SourceOperator
from service.ingest.watermarks import PartitionWatermarks
from service.ingest.words import SourceWords
from service.migration.control_source import ControlSource
from service.migration.handover import CopyReport, CutReport
from service.migration.horizon import LogFollower, TickClock
from service.migration.lowering import Edges, lower
from service.migration.records import Generation, LogRecord, Move, PreCopy
from service.migration.routing_table import RoutingTable
from service.statestore.hosted import HostedStore
from service.statestore.timed import NEVER

#: So many epochs of a gateway may be on their way before it makes them larger (PA2 of `pace`).
_UNDER_WAY = 3


class Member:
    """The dataflow of one process, ready to be driven."""

    def __init__(
        self,
        flow: Flow,
        generation: Generation,
        slot: Slot,
        transport: Transport,
        producer_of: Callable[[SinkVertex, pa.Schema], Producer],
        schema_of: Callable[[SourceVertex], pa.Schema],
        *,
        limits: WorkerLimits | None = None,
        held_budget: int = 256 << 20,
    ) -> None:
        """Build everything for `slot` as `generation` says.

        Args:
            flow: what to run, equal in every process.
            generation: members, owner tables and first epoch.
            slot: which member this is.
            transport: links to the other members.
            producer_of: makes what a sink vertex writes rows of these columns through; called where
                rows reach it.
            schema_of: columns a source gives, equal in every process.
            limits: bounds in bytes.
            held_budget: bytes of held rows beyond which gateways are asked not to read.
        """
        self.slot = slot
        self.generation = generation
        self.membership = Membership(generation.workers, generation.gateways)
        self.peer = self.membership.peer(slot)
        self.bin_bits = bin_bits_of(generation.bins)
        self.table = RoutingTable.of(generation)
        self.follower = LogFollower()
        self.follower.apply(generation)
        self.control = ControlSource(self.follower, self.table)
        self.ticks = TickClock(generation.first_epoch)
        #: The last epochs that were closed here, the oldest first.
        self._closed: deque[int] = deque(maxlen=_UNDER_WAY)
        self.sources: dict[str, SourceOperator] = {}
        self.sinks: dict[str, SinkOperator] = {}
        self._producer_of = producer_of
        roles = roles_of(flow.vertices)
        #: Where rows leave each vertex, by its name.
        self._roles = dict(zip((vertex.name for vertex in flow.vertices), roles, strict=True))
        self._held_budget = held_budget
        self._numbers = {vertex.name: number for number, vertex in enumerate(flow.vertices)}
        edges = Edges(
            self._source, self._sink, schema_of, self._store, watermark=generation.watermarks.get
        )
        lowered = lower(flow, generation.bins, self.control, edges)
        self.hosts = lowered.hosts
        self.routers = lowered.routers
        self.delays = lowered.delays
        #: This process's parts of checkpoints that are under way.
        self.cuts = CheckpointParts(self.control, self.hosts, self.sources, self.sinks, self.delays)
        self._arrivals = lowered.arrivals
        #: Location of each vertex's output, by the vertex's name (a `Probe` asks there).
        self.places = lowered.places
        self.worker = Worker(
            lowered.dataflow,
            self.peer,
            self.membership.peers,
            (generation.first_epoch,),
            transport,
            limits,
        )

    def apply_log(self, record: LogRecord, monotonic_us: int) -> None:
        """Take the next record of the accepted log, read at `monotonic_us` of the local clock.

        Raises:
            ProtocolViolation: the log breaks its own rules.
        """
        self.ticks.observe(record.clock, monotonic_us)
        self.control.feed(record)
        if isinstance(record, Move | PreCopy) and self.slot.role is Role.WORKER:
            self._expect(record)

    def tick(self, monotonic_us: int) -> bool:
        """Close an epoch in every source; whether the horizon left room for one.

        None is closed once a stop was read: its sources may not have seen it, and behind it there
        is no horizon that would keep the tick below its cut.
        """
        if self.follower.stop is not None:
            return False
        epoch = self.ticks.next(monotonic_us, self.follower.horizon)
        if epoch is None:
            return False
        self.cuts.before_tick(epoch)
        self._closed.append(epoch)
        for source in self.sources.values():
            source.tick(epoch)
        return True

    def step(self) -> None:
        """Let the dataflow run and watch the held store's budget. Never blocks."""
        for sink in self.sinks.values():
            sink.retry()
        self.worker.step()
        pressed = self.peer in self.worker.pressed
        # Ends at half of where it begins, so that it is not announced with every batch.
        limit = self._held_budget // 2 if pressed else self._held_budget
        if (self.held_bytes > limit) != pressed:
            self.worker.announce_pressure(not pressed)

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something although nothing arrives; do not sleep then."""
        return self.worker.has_work

    def may_read(self, source: str) -> bool:
        """Whether the gateway may poll more records for `source` now (M2)."""
        return (
            not self.worker.pressed
            and self.ticks.last + 1 < self.follower.horizon
            and self.sources[source].may_read
        )

    @property
    def busy(self) -> bool:
        """Whether something waits for frontiers to move, so that ticks should be fine."""
        return (
            any(source.has_rows for source in self.sources.values())
            or bool(self.table.cuts_after(self.ticks.last))
            # Others wait for this gateway's frontier to pass what they are working on.
            or self.worker.newest_epoch > self.ticks.last
            or any(not host.settled for host in self.hosts.values())
        )

    def crowded(self) -> bool:
        """Whether the epoch before the last two closed here is still on its way to some S.

        They tell when nothing earlier can come (`ProgressSender.ready`), so a gateway that lags
        crowds the others as well, until its next tick.
        """
        if len(self._closed) < _UNDER_WAY:
            return False
        oldest, counts = self._closed[0], self.worker.tracker.pointstamps
        return any(
            time[0] == oldest and count > 0
            for location in self._arrivals
            for time, count in counts(location).items()
        )

    @property
    def awaits_cut(self) -> bool:
        """Whether some sink's frontier has not reached a cut: bins' rows may wait for receipts."""
        epochs = (sink.frontier().epoch() for sink in self.sinks.values())
        oldest = min((epoch for epoch in epochs if epoch is not None), default=None)
        return oldest is not None and bool(self.table.cuts_after(oldest - 1))

    @property
    def held_bytes(self) -> int:
        """Bytes of rows that wait for a frontier in this process."""
        return (
            sum(host.held_bytes for host in self.hosts.values())
            + sum(router.held_bytes for router in self.routers.values())
            + sum(delay.held_bytes for delay in self.delays.values())
        )

    @property
    def complete(self) -> bool:
        """Whether the job has stopped and nothing is left to do (M3)."""
        return (
            self.control.stop is not None
            and self.worker.complete
            and all(host.settled for host in self.hosts.values())
        )

    def frontiers(self) -> dict[str, int | None]:
        """Oldest epoch that may still arrive at each stateful vertex and each sink, by name.

        None means nothing can. Every process computes the same, up to delay.
        """
        named = {name: host.input_frontier().epoch() for name, host in self.hosts.items()}
        return named | {name: sink.frontier().epoch() for name, sink in self.sinks.items()}

    def frontier_at(self, location: int) -> Antichain:
        """Times that may still leave a location, over all processes (`Probe` asks here)."""
        return self.worker.tracker.frontier(location)

    @property
    def stores(self) -> dict[str, HostedStore]:
        """The state of each stateful vertex here, by its name."""
        return {name: host.store for name, host in self.hosts.items()}

    def take_reports(self) -> list[CutReport]:
        """Reports for the controller since the last call."""
        reports = []
        for host in self.hosts.values():
            reports.extend(host.reports)
            host.reports.clear()
        return reports

    def take_copy_reports(self) -> list[CopyReport]:
        """Copies from here that have become ready since the last call."""
        reports = []
        for host in self.hosts.values():
            reports.extend(host.copies.reports)
            host.copies.reports.clear()
        return reports

    def owned_bins(self) -> list[int]:
        """Bins hosted here now; empty if the flow has no state."""
        for host in self.hosts.values():
            return [int(number) for number in host.installed.nonzero()[0]]
        return []

    def _expect(self, record: Move | PreCopy) -> None:
        """Let stores have memory for bins that come with this wave and, it seems, the next."""
        here = [bin_id for bin_id, worker in record.moves if worker == self.slot.ordinal]
        for host in self.hosts.values():
            if isinstance(record, PreCopy):
                host.store.expect(host.copies.coming)
                continue
            # A bin that was copied here has its memory, and so, it seems, have those of next waves.
            whole = sum(host.store.copier.staged(bin_id) is None for bin_id in here)
            host.store.expect(whole * (record.waves - record.wave + 1))

    def _source(self, vertex: SourceVertex) -> Operator:
        owners = self.generation.partition_owners
        for topic in vertex.inputs:
            if topic not in owners:
                raise ProtocolViolation(
                    f"generation {self.generation.generation} knows no partitions of {topic!r}, "
                    f"which {vertex.name!r} reads; do all processes run the same flow?"
                )
        owned = self.slot.role is Role.GATEWAY and any(
            self.slot.ordinal in owners[topic] for topic in vertex.inputs
        )
        source = SourceOperator(owns_partitions=owned, words=self._words(vertex, owned=owned))
        if owned:
            self.sources[vertex.name] = source
        return source

    def _words(self, vertex: SourceVertex, *, owned: bool) -> SourceWords | None:
        """What is told of a source's event time; None if it has none."""
        number, workers = self._numbers[vertex.name], self.membership.workers
        if vertex.watermarks is None:
            return None
        if not owned:
            return SourceWords(number, workers, None)
        owners, known = self.generation.partition_owners, self.generation.partition_watermarks
        begin: dict[tuple[str, int], int] = {}
        for topic in vertex.inputs:
            values = known.get(topic, [])
            for partition, owner in enumerate(owners[topic]):
                if owner == self.slot.ordinal:
                    value = values[partition] if partition < len(values) else None
                    begin[topic, partition] = NEVER if value is None else value
        return SourceWords(
            number, workers, PartitionWatermarks(vertex.watermarks.idle_after_us, begin)
        )

    def _store(self, store: HostedStore) -> HostedStore:
        """What keeps a vertex's state; the flow's own store, but in a benchmark."""
        return store

    def _sink(self, vertex: SinkVertex, columns: pa.Schema) -> Operator:
        reached = self.slot.role in self._roles[vertex.name]
        sink = SinkOperator(self._producer_of(vertex, columns) if reached else _NoProducer())
        self.sinks[vertex.name] = sink
        return sink


class _NoProducer:
    """The producer of a sink that no row can reach in this process."""

    def has_room(self) -> bool:
        """Nothing can be taken."""
        return False

    def submit(self, rows: object, acknowledged: Callable[[], None]) -> None:
        """Refuse rows.

        Raises:
            AssertionError: always; see `roles_of`.
        """
        raise AssertionError("rows reached a sink where `roles_of` says that none do")
