"""A process's dataflow, driven as its shell does: log, ticks, reading, receipts, the end.

Cannot catch: orders of delivery; see tests/simulation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pyarrow as pa
import pytest

from service.dataflow.flow import Flow, count, total
from service.dataflow.probe import Probe
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.vertices import KafkaSink, KafkaSource, SinkVertex
from service.dataflow.worker import WorkerLimits
from service.errors import ProtocolViolation
from service.ids import Membership
from service.ingest.source import ReadRows
from service.member import Member
from service.migration.records import Generation, LogRecord, Move, PreCopy
from service.readings import behind_of
from tests.fakes.control import FIRST, HORIZON, generation, move, promise, stop

SCHEMA = pa.schema([("key", pa.int64()), ("v", pa.int64())])


class Broker:
    """What one process writes to: all its sinks share the room."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.waiting: deque[tuple[str, pa.RecordBatch, Callable[[], None]]] = deque()
        self.stored: list[tuple[str, dict[str, int]]] = []

    def acknowledge(self, batches: int = 1_000) -> None:
        for _ in range(min(batches, len(self.waiting))):
            sink, rows, acknowledged = self.waiting.popleft()
            self.stored += [(sink, row) for row in rows.to_pylist()]
            acknowledged()


class Writer:
    """The producer of one sink over a shared broker."""

    def __init__(self, broker: Broker, sink: str) -> None:
        self._broker = broker
        self._sink = sink

    def has_room(self) -> bool:
        return len(self._broker.waiting) < self._broker.room

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        self._broker.waiting.append((self._sink, rows, acknowledged))


def flow(sinks: int = 1) -> Flow:
    job = Flow("job")
    source = job.source("in", KafkaSource(["events"], "bid", SCHEMA.names))
    stats = source.key_by("key").aggregate("stats", n=count(), total=total("v"))
    for sink in range(sinks):
        stats.sink(f"out{sink}", KafkaSink("out", key="key", schema=4))
    return job


class Job:
    """One gateway and some workers in one thread."""

    def __init__(
        self,
        workers: int = 1,
        sinks: int = 1,
        room: int = 100,
        held_budget: int = 1 << 20,
        limits: WorkerLimits | None = None,
        make: Callable[[], Flow] | None = None,
    ) -> None:
        self.generation: Generation = generation([0] * 4, workers=workers)
        self.members: list[Member] = []
        self.brokers = [Broker(room) for _ in range(workers)]
        network = MemoryNetwork(workers + 1)
        slots = Membership(workers, 1)
        for peer in range(workers + 1):

            def writer(vertex: SinkVertex, _: pa.Schema, peer: int = peer) -> Writer:
                return Writer(self.brokers[peer], vertex.name)

            self.members.append(
                Member(
                    make() if make is not None else flow(sinks),
                    self.generation,
                    slots.slot(peer),
                    network.transport(peer),
                    writer,
                    lambda _: SCHEMA,
                    limits=limits,
                    held_budget=held_budget,
                )
            )
        self.gateway = self.members[-1]
        self.read(promise(HORIZON))
        self.step()

    def read(self, record: LogRecord, members: list[Member] | None = None) -> None:
        for member in members if members is not None else self.members:
            member.apply_log(record, 0)

    def step(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            for member in self.members:
                member.step()

    def offer(self, *keys: int, offset: int = 0) -> None:
        columns = [pa.array(keys, pa.int64()), pa.array([1] * len(keys), pa.int64())]
        rows = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        self.gateway.sources["in"].offer(ReadRows(rows, {("events", 0): offset}))

    def tick(self, clock: int) -> bool:
        """Tick with the gateway's clock at `clock`."""
        return self.gateway.tick(clock - FIRST)


def test_rows_come_out_aggregated_and_stop_ends_the_job() -> None:
    job = Job()
    job.offer(7, 7, 8, offset=3)
    assert job.tick(20)
    job.step()
    job.brokers[0].acknowledge()
    assert sorted(row["n"] for _, row in job.brokers[0].stored) == [1, 2]
    job.read(stop(200))
    job.step()
    assert all(member.complete for member in job.members)
    assert job.gateway.sources["in"].positions == {("events", 0): 3}


def test_nothing_is_complete_before_kafka_has_stored_it() -> None:
    job = Job()
    job.offer(7)
    job.tick(20)
    job.read(stop(200))
    job.step()
    assert job.members[0].sinks["out0"].unacknowledged
    assert not any(member.complete for member in job.members)
    job.brokers[0].acknowledge()
    job.step()
    assert all(member.complete for member in job.members)


def delayed() -> Flow:
    job = Flow("job")
    source = job.source("in", KafkaSource(["events"], "bid", SCHEMA.names))
    late = source.delay("late", step=1_000)
    return late.exchange("x", by="key").sink("out0", KafkaSink("out", key="key", schema=4))


def test_rows_at_a_delay_count_as_held_and_a_probe_sees_them_go() -> None:
    job = Job(held_budget=100, make=delayed)
    worker = job.members[0]
    job.offer(*range(20), offset=1)
    job.tick(20)
    job.step()
    assert job.gateway.held_bytes >= 320
    assert not job.gateway.may_read("in"), "M2: reading stops, the gateway goes on ticking"
    probe = Probe("late")
    assert probe.epoch(worker) == 21
    assert not probe.passed(worker, 1_000)
    job.read(promise(3_000))
    job.tick(1_500)
    job.step()
    assert job.gateway.held_bytes == 0
    assert job.gateway.may_read("in")
    assert probe.passed(worker, 1_000)
    assert not Probe("out0").passed(worker, 1_000), "not acknowledged"
    job.brokers[0].acknowledge()
    job.step()
    assert sorted(row["key"] for _, row in job.brokers[0].stored) == list(range(20))
    assert Probe("out0").passed(worker, 1_000)
    job.read(stop(3_500))
    job.step()
    assert probe.epoch(worker) is None
    assert all(member.complete for member in job.members)


def test_a_cut_is_awaited_until_kafka_has_stored_everything_below_it() -> None:
    job = Job(workers=2)
    assert not any(member.awaits_cut for member in job.members)
    job.offer(*range(10))
    job.tick(20)
    job.step()
    job.read(move(120, (0, 1)))
    job.read(promise(300))
    assert job.tick(200)
    job.step()
    assert all(member.awaits_cut for member in job.members), "rows of epoch 20 are not stored"
    for broker in job.brokers:
        broker.acknowledge()
    job.step()
    assert not any(member.awaits_cut for member in job.members)


def test_no_tick_follows_a_stop_that_was_read_even_before_the_next_step() -> None:
    """Behind the stop there is no horizon: the clock alone would put the tick beyond the cut."""
    job = Job()
    job.offer(7, offset=1)
    job.tick(20)
    job.offer(8, offset=2)
    job.read(stop(150))
    assert not job.tick(500)
    job.step()
    job.brokers[0].acknowledge()
    job.step()
    assert all(member.complete for member in job.members)
    assert job.gateway.sources["in"].last_tick == 20
    assert job.gateway.sources["in"].positions == {("events", 0): 1}


def test_ticks_stay_below_the_horizon_and_stop_at_it() -> None:
    job = Job()
    assert job.tick(5_000)
    assert job.gateway.ticks.last == HORIZON - 1
    assert not job.tick(5_001)
    assert not job.gateway.may_read("in")
    job.read(promise(HORIZON + 50))
    assert job.gateway.may_read("in")
    assert job.tick(5_002)


def test_a_held_store_over_its_budget_stops_reading_everywhere_but_not_the_ticks() -> None:
    job = Job(workers=2, held_budget=100)
    job.read(move(120, (0, 1), (1, 1), (2, 1), (3, 1)))
    job.read(promise(300), [job.gateway, job.members[1]])
    for clock in (130, 131, 132):
        job.offer(*range(10))
        assert job.tick(clock)
        job.step()
    assert job.members[1].held_bytes > 100
    assert all(member.worker.pressed == {1} for member in job.members)
    assert not job.gateway.may_read("in")
    assert job.tick(140)
    job.read(promise(300), [job.members[0]])
    job.step()
    job.brokers[0].acknowledge()
    job.step()
    assert job.members[1].held_bytes == 0
    assert all(member.worker.pressed == set() for member in job.members)
    assert job.gateway.may_read("in")
    assert [row["n"] for _, row in job.brokers[1].stored] == []
    job.brokers[1].acknowledge()
    assert sum(row["n"] == 3 for _, row in job.brokers[1].stored) == 10


def test_pressure_does_not_flicker_around_the_budget() -> None:
    job = Job(workers=1, held_budget=1_000)
    worker = job.members[0]
    host = worker.hosts["stats"]
    announced: list[bool] = []
    original = worker.worker.announce_pressure

    def note(on: bool) -> None:
        announced.append(on)
        original(on)

    worker.worker.announce_pressure = note  # type: ignore[method-assign]  # counts the calls
    for held in (900, 1_001, 990, 1_010, 600, 501, 500, 900, 1_000):
        host.waiting.nbytes = held
        worker.step()
    assert announced == [True, False]


def test_two_sinks_that_share_a_producer_do_not_starve_one_another() -> None:
    """Room comes back with the other sink's receipts, of which this one is not told."""
    job = Job(sinks=2, room=1)
    job.offer(7)
    job.tick(20)
    job.step()
    assert len(job.brokers[0].waiting) == 1
    job.brokers[0].acknowledge(1)
    job.step()
    assert len(job.brokers[0].waiting) == 1
    job.brokers[0].acknowledge(1)
    assert sorted(sink for sink, _ in job.brokers[0].stored) == ["out0", "out1"]


def test_a_move_carries_state_to_the_next_worker_and_is_reported() -> None:
    job = Job(workers=2)
    job.offer(*range(8))
    job.tick(20)
    job.step()
    job.brokers[0].acknowledge()
    job.read(move(120, (0, 1), (1, 1), (2, 1), (3, 1)))
    assert job.gateway.busy
    job.read(promise(300))
    job.offer(*range(8))
    job.tick(130)
    job.step(20)
    assert job.members[0].owned_bins() == []
    assert job.members[1].owned_bins() == [0, 1, 2, 3]
    (report,) = job.members[1].take_reports()
    assert (report.vertex, report.cut, report.bins, report.rows) == ("stats", 120, 4, 8)
    assert job.members[1].take_reports() == []
    job.brokers[1].acknowledge()
    assert {row["n"] for _, row in job.brokers[1].stored} == {2}


def test_a_gateway_is_crowded_until_workers_have_taken_the_oldest_of_its_last_epochs() -> None:
    job = Job()
    worker, gateway = job.members
    for clock in (20, 30):
        job.offer(7, offset=clock)
        job.tick(clock)
        gateway.step()
        assert not gateway.crowded(), "two may be on their way"
    job.offer(7, offset=40)
    job.tick(40)
    gateway.step()
    assert gateway.crowded()
    worker.step()
    assert gateway.crowded(), "what was taken has not been told here"
    gateway.step()
    assert not gateway.crowded()


def test_epochs_without_rows_crowd_nobody() -> None:
    job = Job()
    for clock in (20, 30, 40, 50):
        job.tick(clock)
        job.gateway.step()
    assert not job.gateway.crowded()


def test_rows_that_wait_for_a_bin_crowd_nobody() -> None:
    """They were taken: a move costs the stream beside it nothing."""
    job = Job(workers=2)
    job.offer(*range(8))
    job.tick(20)
    job.step()
    # The old owner's outputs are not acknowledged, so rows of the bins wait at the new one.
    job.read(move(120, (0, 1), (1, 1), (2, 1), (3, 1)))
    job.read(promise(300))
    for clock in (130, 140, 150):
        job.offer(*range(8), offset=clock)
        job.tick(clock)
        job.step()
    assert job.members[1].held_bytes > 0
    assert not job.gateway.crowded()


def test_frontiers_are_named_by_vertex_and_sink_and_agree_everywhere() -> None:
    job = Job()
    job.offer(7)
    job.tick(20)
    job.read(promise(300))
    job.step()
    expected = {"stats": 21, "out0": 20}
    assert [member.frontiers() for member in job.members] == [expected, expected]


def test_work_that_is_left_is_known_so_that_nobody_sleeps_on_it() -> None:
    job = Job()
    assert not job.members[0].has_work
    job.read(promise(300))
    assert job.members[0].has_work
    job.step()
    assert not job.members[0].has_work


def test_a_gateway_without_partitions_reads_nothing_and_holds_nothing() -> None:
    began = generation([0] * 4, workers=1, gateways=2)
    slots = Membership(1, 2)
    lone = Generation(
        **{
            **{name: getattr(began, name) for name in began.__struct_fields__},
            "partition_owners": {"events": [0]},
            "positions": {"events": [0]},
        }
    )
    network = MemoryNetwork(3)
    member = Member(
        flow(),
        lone,
        slots.slot(2),
        network.transport(2),
        lambda *_: Writer(Broker(), ""),
        lambda _: SCHEMA,
    )
    assert member.sources == {}
    member.step()


def test_a_topic_the_generation_does_not_know_is_an_error_that_names_it() -> None:
    job = Flow("job")
    source = job.source("in", KafkaSource(["other"], "bid", SCHEMA.names))
    stats = source.key_by("key").aggregate("stats", n=count())
    stats.sink("out", KafkaSink("out", key="key", schema=4))
    slots = Membership(1, 1)
    with pytest.raises(ProtocolViolation, match="no partitions of 'other', which 'in' reads"):
        Member(
            job,
            generation([0], workers=1),
            slots.slot(0),
            MemoryNetwork(2).transport(0),
            lambda *_: Writer(Broker(), ""),
            lambda _: SCHEMA,
        )


def test_a_log_that_breaks_its_rules_ends_the_process() -> None:
    job = Job()
    with pytest.raises(ProtocolViolation, match="HZ2"):
        job.read(stop(HORIZON - 1))


def test_a_member_has_yet_to_catch_up_while_an_epoch_is_open_for_too_long() -> None:
    job = Job()
    job.tick(20)
    job.step()
    for member in job.members:
        assert behind_of(member, 9_000_000, 10.0) == ""
        assert behind_of(member, 12_000_000, 10.0) == "its oldest open epoch is 12.0 s behind"
    job.read(stop(200))
    job.step()
    assert all(member.complete for member in job.members)
    assert [behind_of(member, 12_000_000, 10.0) for member in job.members] == ["", ""]


def test_a_worker_expects_bins_of_a_wave_and_of_as_many_more_as_the_plan_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Job(workers=2)
    expected: dict[int, list[int]] = {0: [], 1: []}
    for worker, told in expected.items():
        monkeypatch.setattr(job.members[worker].stores["stats"], "expect", told.append)
    wave = Move(at=200, request="r", wave=2, waves=4, moves=[(0, 1), (2, 1)], clock=FIRST)
    job.read(wave)
    assert expected == {0: [0], 1: [2 * 3]}


def test_a_worker_expects_no_bins_that_were_copied_here_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Job(workers=2)
    job.offer(*range(16))
    assert job.tick(50)
    job.step()
    for member in job.members[:2]:
        member.hosts["stats"].copies.least_bytes = 0
    store = job.members[1].stores["stats"]
    expected: list[int] = []
    monkeypatch.setattr(store, "expect", expected.append)
    for number, bin_id in ((1, 0), (2, 2)):
        job.read(PreCopy(number=number, request="r", moves=[(bin_id, 1)], clock=FIRST))
    job.step()
    assert [bin_id for bin_id in range(4) if store.copier.staged(bin_id)] == [0, 2]
    moves = [(0, 1), (1, 1)]
    job.read(Move(at=200, request="r", wave=1, waves=2, moves=moves, precopy=1, clock=FIRST))
    # All to be copied so far, then the one that was not, and as many of the second wave.
    assert expected == [1, 2, 1 * 2]
