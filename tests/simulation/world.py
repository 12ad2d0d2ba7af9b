"""A whole job in one thread: members over stepped links, a log, plans, and a seed that decides all.

The seed picks who steps, which link delivers its next frame, who reads how much of the log, when the
sink's broker acknowledges, what is read, and which bins move when. What it cannot catch: anything in
the shells (sockets, Kafka clients, clocks), and the cost of anything.

Checked while it runs
  WO1  Outputs of one key leave in the order of their counts, whatever worker they come from.
  WO2  Every output equals the running aggregate of its key at its count.
Checked at the end
  WO3  Nothing is lost: the last output of each key has all of its inputs.
  WO4  Each bin is where the log says, with its rows, and nowhere else.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from service.dataflow.flow import (
    Flow,
    KafkaSink,
    KafkaSource,
    SinkVertex,
    SourceVertex,
    count,
    highest,
    oldest,
    total,
)
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.worker import WorkerLimits
from service.ids import Membership, Role
from service.ingest.source import ReadRows
from service.member import Member
from service.migration.records import Generation, LogRecord, Move, Promise, SlotBinding, Stop

FIRST_EPOCH = 1_000_000
COLUMNS = pa.schema([("auction", pa.int64()), ("price", pa.int64()), ("date_time", pa.int64())])
#: Steps after which a world that still has work counts as stuck.
STEPS_MAX = 400_000
WAVES_MAX = 60


def one_stage() -> Flow:
    """The demo's flow."""
    flow = Flow("one")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    stats = bids.key_by("auction").aggregate(
        "stats",
        bids=count(),
        total=total("price"),
        highest=highest("price"),
        oldest=oldest("date_time"),
    )
    return stats.sink("out", KafkaSink("out", key="auction", schema=4))


def two_stages() -> Flow:
    """Per group of auctions, the greatest number of bids of any auction in it."""
    flow = Flow("two")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    stats = bids.key_by("auction").aggregate("stats", bids=count())
    groups = stats.map_batches("group", _group, columns=["group", "bids"])
    return (
        groups.key_by("group")
        .aggregate("groups", top=highest("bids"))
        .sink("out", KafkaSink("out", key="group", schema=4))
    )


def _group(rows: pa.RecordBatch) -> pa.RecordBatch:
    keys = rows.column("auction").to_numpy() % GROUPS
    return pa.RecordBatch.from_arrays([pa.array(keys), rows.column("bids")], ["group", "bids"])


GROUPS = 5


@dataclass
class SimulatedBroker:
    """The producer of one worker: keeps batches until the world acknowledges them."""

    emit: Callable[[pa.RecordBatch], None]
    room: int
    queue: deque[tuple[pa.RecordBatch, Callable[[], None]]] = field(default_factory=deque)

    def has_room(self) -> bool:
        """Whether another batch fits."""
        return len(self.queue) < self.room

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        """Keep a batch."""
        self.queue.append((rows, acknowledged))

    def acknowledge(self) -> None:
        """Store the oldest batch: only now others can see it."""
        rows, acknowledged = self.queue.popleft()
        self.emit(rows)
        acknowledged()


@dataclass(frozen=True)
class Shape:
    """Everything about a world that its seed does not decide."""

    flow: Callable[[], Flow] = one_stage
    workers: int = 3
    gateways: int = 2
    bins: int = 8
    keys: int = 40
    rows: int = 1_500
    plans: bool = True
    limits: WorkerLimits = WorkerLimits()
    held_budget: int = 1 << 20


class World:
    """One job under one seed."""

    def __init__(self, seed: int, shape: Shape) -> None:
        """Build all members; nothing has happened yet."""
        self.random = random.Random(seed)
        self.shape = shape
        self.members_of = Membership(shape.workers, shape.gateways)
        peers = self.members_of.peers
        self.network = MemoryNetwork(peers, stepped=True)
        self.outputs: list[dict[str, int]] = []
        self.brokers: list[SimulatedBroker] = []
        owners = [number % shape.workers for number in range(shape.bins)]
        self.owners = list(owners)
        self.generation = Generation(
            clock=FIRST_EPOCH,
            generation=1,
            horizon=FIRST_EPOCH + 1000,
            first_epoch=FIRST_EPOCH,
            bins=shape.bins,
            workers=shape.workers,
            gateways=shape.gateways,
            slots=[
                SlotBinding(slot=str(self.members_of.slot(peer)), incarnation="i", address="a")
                for peer in range(peers)
            ],
            bin_owners=owners,
            sink_owners=list(range(shape.workers)),
            partition_owners={"events": list(range(shape.gateways))},
            positions={"events": [0] * shape.gateways},
            manifest=None,
            until_end=False,
        )
        self.members = [self._member(peer) for peer in range(peers)]
        self.log: list[LogRecord] = []
        self.read = [0] * peers
        self.clock = FIRST_EPOCH
        self.horizon = self.generation.horizon
        self.cut = self.horizon
        self.step_count = 0
        self.rows_read = 0
        self.stopping = False
        self.waves = 0
        #: Rows read by each gateway and not yet stamped, and rows stamped, per key in order.
        self.unstamped: list[list[tuple[int, int]]] = [[] for _ in range(shape.gateways)]
        self.stamped: dict[int, list[int]] = {}

    def run(self) -> None:
        """Let the seed decide until everything is done.

        Raises:
            AssertionError: the world got stuck (liveness), or a check failed.
        """
        while not (self.stopping and all(member.complete for member in self.members)):
            self.step_count += 1
            assert self.step_count < STEPS_MAX, f"stuck: {self._where()}"
            self._turn()

    def _turn(self) -> None:
        chance = self.random.random()
        if chance < 0.04:
            self._control()
        elif chance < 0.20:
            self._read_log()
        elif chance < 0.40:
            self._gateway()
        elif chance < 0.60:
            links = self.network.pending_links()
            if links:
                self.network.deliver(self.random.choice(links))
        elif chance < 0.70:
            waiting = [broker for broker in self.brokers if broker.queue]
            if waiting:
                self.random.choice(waiting).acknowledge()
        else:
            self.random.choice(self.members).step()

    def _member(self, peer: int) -> Member:
        def producer(_: SinkVertex) -> SimulatedBroker:
            broker = SimulatedBroker(self._emit, room=self.random.randrange(1, 6))
            self.brokers.append(broker)
            return broker

        def schema(_: SourceVertex) -> pa.Schema:
            return COLUMNS

        return Member(
            self.shape.flow(),
            self.generation,
            self.members_of.slot(peer),
            self.network.transport(peer),
            producer,
            schema,
            limits=self.shape.limits,
            held_budget=self.shape.held_budget,
        )

    def _emit(self, rows: pa.RecordBatch) -> None:
        self.outputs.extend(rows.to_pylist())

    def _control(self) -> None:
        """The controller's turn: some moves, a promise, in the end the stop."""
        if self.stopping:
            return
        self.clock += self.random.randrange(300)
        # A plan paces its waves; without a bound, waiting rows stop the reading that ends the run.
        if self.shape.plans and self.waves < WAVES_MAX and self.random.random() < 0.5:
            for _ in range(self.random.randrange(1, 4)):
                self._move()
        self.horizon = max(self.horizon, self.clock + 1000, self.cut + 1)
        self.log.append(Promise(horizon=self.horizon, clock=self.clock))
        if self.rows_read >= self.shape.rows:
            self.cut = self.horizon + self.random.randrange(1, 50)
            self.log.append(Stop(at=self.cut, drain=False, clock=self.clock))
            self.stopping = True

    def _move(self) -> None:
        self.cut = max(self.cut, self.horizon) + self.random.randrange(1, 100)
        self.waves += 1
        moves = []
        most = self.random.randrange(1, max(2, self.shape.bins // 2))
        for moved in self.random.sample(range(self.shape.bins), most):
            others = [w for w in range(self.shape.workers) if w != self.owners[moved]]
            self.owners[moved] = self.random.choice(others)
            moves.append((moved, self.owners[moved]))
        self.log.append(
            Move(at=self.cut, request="r", wave=1, waves=1, moves=moves, clock=self.clock)
        )

    def _read_log(self) -> None:
        peer = self.random.randrange(len(self.members))
        for _ in range(self.random.randrange(1, 4)):
            if self.read[peer] < len(self.log):
                self.members[peer].apply_log(self.log[self.read[peer]], self._now_us())
                self.read[peer] += 1

    def _gateway(self) -> None:
        gateway = self.random.randrange(self.shape.gateways)
        member = self.members[self.shape.workers + gateway]
        source = member.sources["bids"]
        if member.may_read("bids") and self.random.random() < 0.7:
            rows = []
            for _ in range(self.random.randrange(1, 20)):
                key = self.random.randrange(self.shape.keys) * self.shape.gateways + gateway
                rows.append((key, self.random.randrange(1000)))
            self.unstamped[gateway] += rows
            self.rows_read += len(rows)
            columns = [
                pa.array([key for key, _ in rows]),
                pa.array([price for _, price in rows]),
                pa.array([self.step_count] * len(rows)),
            ]
            position = {("events", gateway): self.rows_read}
            source.offer(ReadRows(pa.RecordBatch.from_arrays(columns, schema=COLUMNS), position))
        if source.stop is None and member.tick(self._now_us()):
            for key, price in self.unstamped[gateway]:
                self.stamped.setdefault(key, []).append(price)
            self.unstamped[gateway].clear()

    def _now_us(self) -> int:
        return self.step_count * 20

    def _where(self) -> str:
        return "; ".join(
            f"{member.slot} complete={member.complete} "
            f"pointstamps={member.worker.tracker.changes()}"
            for member in self.members
        )

    # Checks -------------------------------------------------------------------------------------

    def check_one_stage(self) -> int:
        """WO1-WO4 for `one_stage`; returns the number of outputs compared."""
        seen: dict[int, int] = {}
        for output in self.outputs:
            key, bids = output["auction"], output["bids"]
            prices = self.stamped[key][:bids]
            assert bids > seen.get(key, 0), f"WO1: auction {key} at {bids} after {seen.get(key)}"
            assert output["total"] == sum(prices), f"WO2: {output}"
            assert output["highest"] == max(prices), f"WO2: {output}"
            seen[key] = bids
        assert seen == {key: len(prices) for key, prices in self.stamped.items()}, "WO3"
        self.check_ownership(rows=len(self.stamped))
        return len(self.outputs)

    def check_two_stages(self) -> int:
        """WO3 and WO4 for `two_stages`; returns the number of outputs compared."""
        last: dict[int, int] = {}
        for output in self.outputs:
            group, top = output["group"], output["top"]
            assert top >= last.get(group, 0), f"WO1: group {group} at {top} after {last[group]}"
            last[group] = top
        expected: dict[int, int] = {}
        for key, prices in self.stamped.items():
            group = key % GROUPS
            expected[group] = max(expected.get(group, 0), len(prices))
        assert last == expected, "WO3"
        self.check_ownership(rows=None)
        return len(self.outputs)

    def check_ownership(self, rows: int | None) -> None:
        """WO4: bins are where the log says, and the state has `rows` rows in all."""
        for worker in range(self.shape.workers):
            member = self.members[worker]
            owned = [b for b in range(self.shape.bins) if self.owners[b] == worker]
            for host in member.hosts.values():
                assert host.installed.nonzero()[0].tolist() == owned, "WO4"
                for number in range(self.shape.bins):
                    assert number in owned or host.store.rows(number) == 0, "WO4: a copy is left"
        if rows is not None:
            found = sum(
                host.store.table.row_count
                for member in self.members
                for host in member.hosts.values()
            )
            assert found == rows, "WO4: rows of state"
