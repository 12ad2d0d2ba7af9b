"""A whole job in one thread: members over stepped links, a log, plans, a seed that decides all.

The seed picks who steps, which link delivers how many frames, who reads how much of the log, when
the sinks' broker acknowledges, what is read, and which bins move when; and for the whole run how
often each of that happens, who reads the log late and which links are slow. Only a member to which
something happened is stepped, so nobody makes progress by being stepped for no reason. What it
cannot catch: anything in the shells (sockets, Kafka clients, clocks), and the cost of anything.

Checked while it runs, beside one owner of each bin (WO4) and what bins arrive with (`handovers`)
  WO1  Outputs of one key leave in the order of their counts, whatever worker they come from.
  WO2  Every output equals the running aggregate of its key at its count.
  WO5  It never stands still before it is done: something is left to deliver, read or step.
Checked at the end
  WO3  Nothing is lost: the last output of each key has all of its inputs.
  WO4  Each bin is where the log says, with its rows, and nowhere else.
  WO6  No epoch is stamped at or beyond the stop, and positions are those of what was stamped.
  WO7  Nothing is held, nobody is under pressure, and all credit is accounted for.
  WO8  Every arrival of every wave was reported once.
  WO9  No copy is under way or staged, and none was reported ready twice.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.dataflow.worker import WorkerLimits
from service.ids import Membership
from service.ingest.source import ReadRows
from service.member import Member
from service.migration.handover import CopyReport, CutReport
from service.migration.records import (
    Generation,
    LogRecord,
    Move,
    PreCopy,
    PreCopyEnd,
    Promise,
    SlotBinding,
    Stop,
)
from service.statestore.slot_database import SlotDatabase
from service.statestore.tiers import back_stores
from tests.simulation.flows import COLUMNS, FlowUnderTest, one_stage
from tests.simulation.handovers import Handovers

FIRST_EPOCH = 1_000_000
#: Turns after which a world counts as stuck although things happen: five times the most seen.
TURNS_MAX = 40_000
#: Records of the log that a late reader may be behind.
BEHIND_MAX = 20


class Broker:
    """What one worker writes to: keeps batches until the world acknowledges them."""

    def __init__(self, emit: Callable[[str, pa.RecordBatch], None], room: int) -> None:
        self._emit = emit
        self._room = room
        self._queues: dict[str, deque[tuple[pa.RecordBatch, Callable[[], None]]]] = {}
        self.size = 0

    def has_room(self) -> bool:
        """Whether another batch fits, of any sink."""
        return self.size < self._room

    def submit(self, sink: str, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        """Keep a batch."""
        self._queues.setdefault(sink, deque()).append((rows, acknowledged))
        self.size += 1

    def acknowledge(self, choose: random.Random) -> None:
        """Store the oldest batch of some sink: only now others can see it."""
        sink = choose.choice([name for name, queue in self._queues.items() if queue])
        rows, acknowledged = self._queues[sink].popleft()
        self.size -= 1
        self._emit(sink, rows)
        acknowledged()


@dataclass(frozen=True)
class SinkWriter:
    """The producer of one sink: all sinks of a worker share its broker."""

    broker: Broker
    sink: str

    def has_room(self) -> bool:
        """Whether another batch fits."""
        return self.broker.has_room()

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        """Keep a batch."""
        self.broker.submit(self.sink, rows, acknowledged)


@dataclass(frozen=True)
class Shape:
    """Everything about a world that its seed does not decide."""

    flow: FlowUnderTest = field(default_factory=one_stage)
    workers: int = 3
    gateways: int = 2
    bins: int = 8
    keys: int = 30
    rows: int = 800
    #: Waves of the run; 0: nothing moves.
    waves: int = 25
    #: Whether bins are copied before they move, some of them in vain.
    copies: bool = False
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    held_budget: int = 1 << 20
    #: Where workers keep rows on disk, as they then have no memory for any between two batches.
    databases: Path | None = None


class World:
    """One job under one seed."""

    def __init__(self, seed: int, shape: Shape) -> None:
        """Build all members; nothing has happened yet."""
        self.seed = seed
        self.random = random.Random(seed)
        self.shape = shape
        self.slots = Membership(shape.workers, shape.gateways)
        peers = self.slots.peers
        self.network = MemoryNetwork(peers, stepped=True)
        #: Rows that others can see, in the order they became visible, by sink.
        self.outputs: dict[str, list[dict[str, int]]] = {}
        self.owners = [number % shape.workers for number in range(shape.bins)]
        self.generation = self._generation()
        rooms = [self.random.randrange(1, 6) for _ in range(shape.workers)]
        self.brokers = [Broker(self._emit, room) for room in rooms]
        self.databases: list[SlotDatabase] = []
        self.handovers = Handovers()
        self.members = [self._member(peer) for peer in range(peers)]
        #: Members to which something happened since they were stepped.
        self.awake = set(range(peers))
        self.log: list[LogRecord] = []
        self.read = [0] * peers
        self.clock = FIRST_EPOCH
        self.horizon = self.cut = self.generation.horizon
        self.waves: list[Move] = []
        self.stop: Stop | None = None
        self.turns = 0
        self.reports: list[CutReport] = []
        #: By number: copies announced and neither claimed nor called off.
        self.copies: dict[int, list[tuple[int, int]]] = {}
        self.copies_announced = 0
        self.copy_reports: list[tuple[int, CopyReport]] = []
        #: By member: how often it was stepped.
        self.steps = [0] * peers
        #: By gateway: rows read, and how many of them a tick has stamped.
        self.rows_read = [0] * shape.gateways
        self.rows_stamped = [0] * shape.gateways
        #: Rows read by each gateway and not yet stamped, and rows stamped, per key in order.
        self.unstamped: list[list[tuple[int, int]]] = [[] for _ in range(shape.gateways)]
        self.stamped: dict[int, list[int]] = {}
        #: (epoch, key, price) of each row stamped.
        self.timed: list[tuple[int, int, int]] = []
        self._draw_habits()

    def _draw_habits(self) -> None:
        """How often each kind of thing happens in this run, who reads late, what is slow."""
        draw = self.random
        self._habits = (
            self._step,
            self._deliver,
            self._acknowledge,
            self._read_log,
            self._gateway,
            self._control,
        )
        least_most = ((20, 50), (10, 40), (3, 15), (4, 20), (8, 25), (2, 8))
        self._bounds = list(accumulate(draw.randrange(*bounds) for bounds in least_most))
        #: How fast gateways' clocks run beside the controller's, µs a turn.
        self._pace = draw.choice((10, 40, 200, 1_000))
        self._late = {peer for peer in range(self.slots.peers) if draw.random() < 0.2}
        self._slow = {peer for peer in range(self.slots.peers) if draw.random() < 0.2}

    #: How many times TURNS_MAX a run may take.
    patience = 1
    #: Whether the stop says that the input is complete.
    drain = False

    def run(self) -> None:
        """Let the seed decide until everything is done.

        Raises:
            AssertionError: the world got stuck (WO5).
        """
        with self._named():
            while not (self.stop and all(member.complete for member in self.members)):
                self.turns += 1
                most = TURNS_MAX * self.patience
                assert self.turns < most, f"WO5, after {most} turns: {self._where()}"
                self._turn()
            while self._deliver() or self._step():
                pass

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Whatever fails names the seed it failed under."""
        try:
            yield
        except Exception as error:  # whatever it was, the seed belongs to it
            error.add_note(f"seed {self.seed} of {self.shape}")
            raise

    def _turn(self) -> None:
        place = bisect_right(self._bounds, self.random.randrange(self._bounds[-1]))
        # What cannot happen now leaves its turn to the next thing that can.
        for happen in (*self._habits[place:], *self._habits[:place]):
            if happen():
                return
        raise AssertionError(f"WO5: nothing is left to happen: {self._where()}")

    def _generation(self) -> Generation:
        shape = self.shape
        return Generation(
            clock=FIRST_EPOCH,
            generation=1,
            horizon=FIRST_EPOCH + 1000,
            first_epoch=FIRST_EPOCH,
            bins=shape.bins,
            workers=shape.workers,
            gateways=shape.gateways,
            slots=[
                SlotBinding(slot=str(self.slots.slot(peer)), incarnation="i", address="a")
                for peer in range(self.slots.peers)
            ],
            bin_owners=list(self.owners),
            sink_owners=list(range(shape.workers)),
            partition_owners={"events": list(range(shape.gateways))},
            positions={"events": [0] * shape.gateways},
            manifest=None,
            until_end=False,
        )

    def _member(self, peer: int) -> Member:
        def producer(vertex: SinkVertex, _: pa.Schema) -> SinkWriter:
            return SinkWriter(self.brokers[peer], vertex.name)

        def schema(_: SourceVertex) -> pa.Schema:
            return COLUMNS

        member = Member(
            self.shape.flow.build(),
            self.generation,
            self.slots.slot(peer),
            self.network.transport(peer),
            producer,
            schema,
            limits=self.shape.limits,
            held_budget=self.shape.held_budget,
        )
        for host in member.hosts.values():
            host.portion_bytes = self.random.choice((1, 2_000, 1 << 19))
            # Each on its own, a few or all at once.
            host.group_bytes = host.portion_bytes - 1
            host.drain_rows = self.random.choice((1, 20, 1 << 16))
            # Then `drain_rows` decides how much is gathered; one row: nothing.
            host.merge_from = 1
            if self.shape.copies:
                host.copy_bytes = self.random.choice((1, 400, 1 << 19))
                host.copies.least_bytes = 0
                host.copies.few_keys = self.random.choice((0, 0, 3))
                # 0: rounds go on as long as anything changes.
                host.copies.keys_of_a_bin = self.random.choice((0, 2))
        if self.shape.databases is not None and member.stores:
            database = SlotDatabase(self.shape.databases / str(member.slot), budget=0)
            back_stores(member.stores, database)
            self.databases.append(database)
        self.handovers.watch(member)
        return member

    def _emit(self, sink: str, rows: pa.RecordBatch) -> None:
        self.outputs.setdefault(sink, []).extend(rows.to_pylist())

    # What can happen: each returns whether it did ----------------------------------------------

    def _control(self) -> bool:
        """The controller's turn: some moves, a promise, in the end the stop."""
        # Nobody is later than the lookahead lets a real process be: a few promises.
        if self.stop is not None or len(self.log) - min(self.read) > BEHIND_MAX:
            return False
        self.clock += self.random.randrange(300)
        if self.shape.copies and len(self.waves) < self.shape.waves:
            self._copy()
        if self.random.random() < 0.5:
            for _ in range(self.random.randrange(1, 4)):
                if len(self.waves) < self.shape.waves:
                    self._move()
        self.horizon = max(self.horizon, self.clock + 1000, self.cut + 1)
        self.log.append(Promise(horizon=self.horizon, clock=self.clock))
        if sum(self.rows_stamped) >= self.shape.rows and len(self.waves) >= self.shape.waves:
            self.stop = Stop(
                at=self.horizon + self.random.randrange(1, 50), drain=self.drain, clock=self.clock
            )
            self.log.append(self.stop)
        return True

    def _copy(self) -> None:
        """Announce a copy, or call all of them off, or neither."""
        draw = self.random.random()
        if draw < 0.5:
            self.copies_announced += 1
            self.copies[self.copies_announced] = moves = self._some_moves()
            self.log.append(
                PreCopy(number=self.copies_announced, request="r", moves=moves, clock=self.clock)
            )
        elif draw < 0.6:
            self.copies.clear()
            self.log.append(PreCopyEnd(clock=self.clock))

    def _some_moves(self) -> list[tuple[int, int]]:
        bins = self.random.sample(range(self.shape.bins), self.random.randrange(1, 5))
        workers = range(self.shape.workers)
        return [(b, self.random.choice([w for w in workers if w != self.owners[b]])) for b in bins]

    def _move(self) -> None:
        self.cut = max(self.cut, self.horizon) + self.random.randrange(1, 100)
        if self.copies and self.random.random() < 0.7:
            number = self.random.choice(list(self.copies))
            moves = [(b, to) for b, to in self.copies.pop(number) if self.owners[b] != to]
            if moves:
                self._issue(moves, number)
                return
        moves = []
        most = self.random.randrange(1, max(2, self.shape.bins // 2))
        for moved in self.random.sample(range(self.shape.bins), most):
            others = [w for w in range(self.shape.workers) if w != self.owners[moved]]
            moves.append((moved, self.random.choice(others)))
        self._issue(moves, 0)

    def _issue(self, moves: list[tuple[int, int]], precopy: int) -> None:
        for moved, target in moves:
            self.owners[moved] = target
        wave = Move(
            at=self.cut,
            request="r",
            wave=1,
            waves=1,
            moves=moves,
            precopy=precopy,
            clock=self.clock,
        )
        self.log.append(wave)
        self.waves.append(wave)

    def _read_log(self) -> bool:
        behind = [peer for peer, read in enumerate(self.read) if read < len(self.log)]
        prompt = [peer for peer in behind if peer not in self._late]
        if not behind:
            return False
        if prompt and self.random.random() < 0.9:
            behind = prompt
        peer = self.random.choice(behind)
        for _ in range(self.random.randrange(1, 4)):
            if self.read[peer] < len(self.log):
                self.members[peer].apply_log(self.log[self.read[peer]], self._now_us())
                self.read[peer] += 1
        self.awake.add(peer)
        return True

    def _gateway(self) -> bool:
        gateway = self.random.randrange(self.shape.gateways)
        peer = self.shape.workers + gateway
        member = self.members[peer]
        source = member.sources["bids"]
        if source.stop is not None:
            return False
        # After the stop, too: what is read then and not stamped must not be in the positions.
        more = sum(self.rows_read) < self.shape.rows or self.stop is not None
        if more and self.random.random() < 0.7 and member.may_read("bids"):
            source.offer(self._rows(gateway))
        if member.tick(self._now_us()):
            for key, price in self.unstamped[gateway]:
                self.stamped.setdefault(key, []).append(price)
                self.timed.append((member.ticks.last, key, price))
            self.unstamped[gateway].clear()
            self.rows_stamped[gateway] = self.rows_read[gateway]
            self.awake.add(peer)
        return True

    def _rows(self, gateway: int) -> ReadRows:
        rows = []
        for _ in range(self.random.randrange(1, 20)):
            key = self.random.randrange(self.shape.keys) * self.shape.gateways + gateway
            rows.append((key, self.random.randrange(1000)))
        self.unstamped[gateway] += rows
        self.rows_read[gateway] += len(rows)
        columns = [
            pa.array([key for key, _ in rows]),
            pa.array([price for _, price in rows]),
            pa.array([self.turns] * len(rows)),
        ]
        position = {("events", gateway): self.rows_read[gateway]}
        return ReadRows(pa.RecordBatch.from_arrays(columns, schema=COLUMNS), position)

    def _deliver(self) -> bool:
        links = self.network.pending_links()
        if not links:
            return False
        fast = [link for link in links if link.source not in self._slow]
        if fast and self.random.random() < 0.9:
            links = fast
        link = self.random.choice(links)
        most = self.network.pending_frames(link)
        for _ in range(min(most, self.random.choice((1, 1, 2, 4, 16)))):
            self.network.deliver(link)
        self.awake.add(link.target)
        return True

    def _acknowledge(self) -> bool:
        waiting = [peer for peer, broker in enumerate(self.brokers) if broker.size]
        if not waiting:
            return False
        peer = self.random.choice(waiting)
        self.brokers[peer].acknowledge(self.random)
        self.awake.add(peer)
        return True

    def _step(self) -> bool:
        if not self.awake:
            return False
        peer = self.random.choice(sorted(self.awake))
        member = self.members[peer]
        member.step()
        self.steps[peer] += 1
        if not member.has_work:
            self.awake.discard(peer)
        reports = member.take_reports()
        copies = member.take_copy_reports()
        self.reports += reports
        self.copy_reports += [(peer, report) for report in copies]
        self._told(peer, reports, copies)
        if reports:
            self.check_one_owner()
        return True

    def _told(self, peer: int, reports: list[CutReport], copies: list[CopyReport]) -> None:
        """A member has told the controller something; here nobody listens."""

    def _now_us(self) -> int:
        return self.turns * self._pace

    def _where(self) -> str:
        return "; ".join(
            f"{member.slot} complete={member.complete} held={member.held_bytes} "
            f"pointstamps={member.worker.tracker.changes()[:12]}"
            for member in self.members
        )

    # Checks -------------------------------------------------------------------------------------

    def check(self) -> int:
        """WO1 to WO9 and HO2 after `run`; returns the number of outputs compared."""
        with self._named():
            self.shape.flow.check(self.outputs, self.stamped)
            self.shape.flow.check_times(self.outputs, self.timed)
            self.check_ownership()
            self.check_sources()
            self.check_rest()
            self.check_reports()
            self.check_copies()
            self.handovers.check(self.waves, len(self.members[0].hosts))
        return sum(map(len, self.outputs.values()))

    def check_one_owner(self) -> None:
        """WO4, at any time: a bin is at one worker, or on its way and at none."""
        for vertex in self.members[0].hosts:
            at = sum(
                member.hosts[vertex].installed.astype(int)
                for member in self.members[: self.shape.workers]
            )
            assert max(at) <= 1, f"WO4: a bin of {vertex} is in two places"

    def check_ownership(self) -> None:
        """WO4."""
        for worker in range(self.shape.workers):
            member = self.members[worker]
            owned = [b for b in range(self.shape.bins) if self.owners[b] == worker]
            for host in member.hosts.values():
                assert host.installed.nonzero()[0].tolist() == owned, "WO4"
                for number in range(self.shape.bins):
                    assert number in owned or host.store.rows(number) == 0, "WO4: a copy is left"
        for vertex, rows in self.shape.flow.state_rows(self.stamped).items():
            found = sum(member.hosts[vertex].store.row_count for member in self.members)
            assert found == rows, f"WO4: {found} rows of {vertex}, not {rows}"

    def check_sources(self) -> None:
        """WO6."""
        assert self.stop is not None
        for gateway in range(self.shape.gateways):
            source = self.members[self.shape.workers + gateway].sources["bids"]
            assert source.last_tick < self.stop.at, "WO6: a tick beyond the stop"
            stamped = self.rows_stamped[gateway]
            expected = {("events", gateway): stamped} if stamped else {}
            assert source.positions == expected, "WO6: positions"

    def check_rest(self) -> None:
        """WO7, white-box: what a sender still counts as under way its receiver still owes."""
        for member in self.members:
            worker = member.worker
            assert member.held_bytes == 0, "WO7: held"
            assert worker.queued_bytes() == 0, "WO7: queued"
            assert not worker.pressed, "WO7: pressure"
            for (other, kind), window in worker._credits.windows.items():
                owed = self.members[other].worker._credits.returns[worker.peer, kind].owed
                assert window.outstanding == owed, f"WO7: credit of {kind.name}"

    def check_copies(self) -> None:
        """WO9."""
        for member in self.members:
            for host in member.hosts.values():
                assert host.copies.is_idle, "WO9: a copy is left"
                for number in range(self.shape.bins):
                    assert not host.store.copier.is_copied(number), "WO9: a copy goes on"
        ready = [(peer, report.vertex, report.number) for peer, report in self.copy_reports]
        assert len(ready) == len(set(ready)), "WO9: ready twice"

    @property
    def bins_completed(self) -> int:
        """Bins that moved as what was left of their copy."""
        hosts = [host for member in self.members for host in member.hosts.values()]
        return sum(host.copies.bins_completed for host in hosts)

    def check_reports(self) -> None:
        """WO8."""
        found = sorted((report.vertex, report.cut, report.bins) for report in self.reports)
        expected = []
        for vertex in self.members[0].hosts:
            for wave in self.waves:
                targets = [target for _, target in wave.moves]
                expected += [(vertex, wave.at, targets.count(t)) for t in set(targets)]
        assert found == sorted(expected), "WO8"
