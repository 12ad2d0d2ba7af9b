"""What a MessageSource promises, over the fake and over a real broker alike.

It cannot catch what depends on brokers failing or moving; there is one broker, and it stays up.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, NewTopic

from service.errors import BrokerError, BrokerUnavailable, UsageError
from service.ingest.consumer import KafkaPartitions
from service.ingest.dead_letter import DeadLetters
from service.ingest.decode import Rejected
from service.ingest.message_source import MessageSource
from service.ingest.records import TopicPartition
from tests.fakes.kafka import FakeBroker, FakePartitions

_PATIENCE_S = 20.0


class Cluster(Protocol):
    """What the suite does to a broker."""

    def create(self, partitions: int) -> str: ...
    def publish(
        self, topic: str, partition: int, value: bytes | None, key: bytes | None
    ) -> None: ...
    def publish_unreadable(self, topic: str, partition: int, records: int) -> None: ...
    def delete_before(self, topic: str, partition: int, offset: int) -> None: ...
    def source(self) -> MessageSource: ...
    def committed(self, which: TopicPartition) -> int | None: ...
    def close(self) -> None: ...


class FakeCluster:
    """The fake."""

    def __init__(self) -> None:
        self._broker = FakeBroker({"one": 1, "two": 2, "two-b": 2})
        self._names = {1: iter(["one"]), 2: iter(["two", "two-b"])}

    def create(self, partitions: int) -> str:
        return next(self._names[partitions])

    def publish(self, topic, partition, value, key) -> None:
        self._broker.publish(topic, partition, value, key)

    def publish_unreadable(self, topic, partition, records) -> None:
        self._broker.publish_unreadable(topic, partition, [b"bomb"] * records)

    def delete_before(self, topic, partition, offset) -> None:
        self._broker.delete_before(topic, partition, offset)

    def source(self) -> MessageSource:
        return FakePartitions(self._broker)

    def committed(self, which: TopicPartition) -> int | None:
        return self._broker.committed["fake"][which]

    def close(self) -> None:
        pass


@dataclass
class RealCluster:
    """The broker of the test session; every suite has topics and a group of its own."""

    servers: str
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:10])
    _sources: list[MessageSource] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._admin = AdminClient({"bootstrap.servers": self.servers})
        self._producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 0})
        self._numbers = itertools.count()

    def create(self, partitions: int) -> str:
        topic = f"contract-{self.run}-{next(self._numbers)}"
        self.create_named(topic, partitions)
        return topic

    def create_named(self, topic: str, partitions: int) -> None:
        for created in self._admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            created.result(timeout=_PATIENCE_S)

    def publish(self, topic, partition, value, key) -> None:
        self._producer.produce(topic, partition=partition, value=value, key=key)
        assert self._producer.flush(_PATIENCE_S) == 0

    def publish_unreadable(self, topic, partition, records) -> None:
        """One zstd batch of more bytes than a client unpacks."""
        bomb = bytes((101 << 20) // records)
        packing = {"compression.type": "zstd", "message.max.bytes": 256 << 20, "linger.ms": 60_000}
        packing |= {"batch.size": 256 << 20, "batch.num.messages": records}
        producer = Producer({"bootstrap.servers": self.servers, **packing})
        for _ in range(records):
            producer.produce(topic, bomb, partition=partition)
        assert producer.flush(_PATIENCE_S) == 0

    def delete_before(self, topic, partition, offset) -> None:
        deleted = self._admin.delete_records([ClientPartition(topic, partition, offset)])
        for each in deleted.values():
            each.result(timeout=_PATIENCE_S)

    def source(self) -> MessageSource:
        made = KafkaPartitions(self.servers, group=f"contract-{self.run}", client_id="contract")
        self._sources.append(made)
        return made

    def committed(self, which: TopicPartition) -> int | None:
        asking = Consumer({"bootstrap.servers": self.servers, "group.id": f"contract-{self.run}"})
        (answer,) = asking.committed([ClientPartition(*which)], timeout=_PATIENCE_S)
        asking.close()
        return answer.offset

    def close(self) -> None:
        for source in self._sources:
            source.close()


@pytest.fixture(params=["fake", "real"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made: Cluster = FakeCluster()
    if request.param == "real":
        made = RealCluster(request.getfixturevalue("broker").bootstrap_servers)
    yield made
    made.close()


@dataclass(frozen=True)
class Row:
    topic: str
    partition: int
    offset: int
    value: bytes | None
    key: bytes | None


def _rows(raw) -> list[Row]:
    """The records with their values taken from the columns, not from the messages."""
    data = raw.values.tobytes()
    return [
        Row(
            raw.topic(row),
            int(raw.partitions[row]),
            int(raw.offsets[row]),
            None if raw.null[row] else data[raw.starts[row] : raw.ends[row]],
            raw.key(row),
        )
        for row in range(len(raw))
    ]


def _read(source: MessageSource, count: int, max_records: int = 100) -> list[Row]:
    """Poll until `count` records are there."""
    rows: list[Row] = []
    deadline = time.monotonic() + _PATIENCE_S
    while len(rows) < count and time.monotonic() < deadline:
        raw = source.poll(max_records, 0.05)
        assert len(raw) <= max_records
        rows += _rows(raw)
    assert len(rows) == count
    return rows


def _wait(source: MessageSource) -> None:
    """Wait until the next poll has a record."""
    deadline = time.monotonic() + _PATIENCE_S
    while not source.wait(0.05):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("records", [1, 5])
def test_a_batch_that_cannot_be_unpacked_is_left_out_whole(cluster, records):
    topic = cluster.create(1)
    cluster.publish(topic, 0, b"before", None)
    cluster.publish_unreadable(topic, 0, records)
    cluster.publish(topic, 0, b"between", None)
    cluster.publish_unreadable(topic, 0, records)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    assert [row.value for row in _read(source, 2)] == [b"before", b"between"]
    end = 2 + 2 * records
    _until(lambda: source.positions[topic, 0] == end, source)
    first, second = source.left_out()
    assert (first.which, first.first, first.end) == ((topic, 0), 1, 1 + records)
    assert (second.which, second.first, second.end) == ((topic, 0), 2 + records, end)
    assert source.left_out() == []
    cluster.publish(topic, 0, b"behind", None)
    assert [row.value for row in _read(source, 1)] == [b"behind"]


def test_of_a_batch_that_retention_cut_into_the_rest_is_left_out(cluster):
    topic = cluster.create(1)
    cluster.publish_unreadable(topic, 0, 5)
    cluster.publish(topic, 0, b"behind", None)
    cluster.delete_before(topic, 0, 2)
    source = cluster.source()
    source.assign({(topic, 0): 2})
    assert [row.value for row in _read(source, 1)] == [b"behind"]
    (batch,) = source.left_out()
    assert (batch.first, batch.end) == (2, 5)
    assert source.positions == {(topic, 0): 6}
    _until(lambda: source.at_end((topic, 0)), source)


def _until(condition: Callable[[], bool], source: MessageSource) -> None:
    """Poll, which must deliver nothing, until `condition` holds."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        assert len(source.poll(10, 0.02)) == 0
    assert condition()


def test_records_come_in_order_with_their_bytes_keys_and_places(cluster):
    topic = cluster.create(1)
    written = [(b"a", b"k"), (b"", b""), (None, b"k"), (b"\x00" * 1000, None), (b"e", None)]
    for value, key in written:
        cluster.publish(topic, 0, value, key)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    rows = _read(source, 5)
    assert rows == [Row(topic, 0, at, *pair) for at, pair in enumerate(written)]
    assert source.positions == {(topic, 0): 5}


def test_a_record_that_was_waited_for_comes_once_with_those_behind_it(cluster):
    topic = cluster.create(1)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    assert not source.wait(0.02)
    for number in range(3):
        cluster.publish(topic, 0, b"%d" % number, None)
    _wait(source)
    assert source.wait(0), "it is still there"
    assert source.positions == {(topic, 0): 0}, "nothing was delivered yet"
    assert [row.value for row in _read(source, 3, 2)] == [b"0", b"1", b"2"]
    assert not source.wait(0.02)


def test_what_was_waited_for_is_kept_through_a_pause_and_forgotten_by_an_assignment(cluster):
    topic = cluster.create(1)
    for number in range(3):
        cluster.publish(topic, 0, b"%d" % number, None)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    _wait(source)
    source.pause()
    assert len(source.poll(10, 0)) == 0
    source.resume()
    assert [row.value for row in _read(source, 1, 1)] == [b"0"]
    _wait(source)
    source.assign({(topic, 0): 2})
    assert [row.value for row in _read(source, 1)] == [b"2"]


def test_an_empty_value_and_no_value_are_told_apart(cluster):
    topic = cluster.create(1)
    for value in (b"", None, b""):
        cluster.publish(topic, 0, value, None)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    assert [row.value for row in _read(source, 3)] == [b"", None, b""]


def test_reading_begins_at_the_assigned_offset_and_only_there(cluster):
    topic = cluster.create(2)
    for number in range(4):
        cluster.publish(topic, 0, b"%d" % number, None)
        cluster.publish(topic, 1, b"other", None)
    source = cluster.source()
    source.assign({(topic, 0): 2})
    assert [row.value for row in _read(source, 2)] == [b"2", b"3"]
    assert len(source.poll(10, 0.05)) == 0


def test_several_topics_and_partitions_are_told_apart(cluster):
    first, second = cluster.create(2), cluster.create(2)
    wanted = {}
    for topic, partition in itertools.product((first, second), (0, 1)):
        for number in range(3):
            value = f"{topic}/{partition}/{number}".encode()
            cluster.publish(topic, partition, value, None)
            wanted[topic, partition, number] = value
    source = cluster.source()
    source.assign(dict.fromkeys(source.partitions_of([second, first]), 0))
    rows = _read(source, 12, max_records=5)
    assert {(row.topic, row.partition, row.offset): row.value for row in rows} == wanted
    for topic, partition in itertools.product((first, second), (0, 1)):
        offsets = [row.offset for row in rows if (row.topic, row.partition) == (topic, partition)]
        assert offsets == [0, 1, 2]
    assert set(source.positions.values()) == {3}


def test_positions_of_a_poll_are_behind_its_records(cluster):
    topic = cluster.create(2)
    for number in range(4):
        cluster.publish(topic, 1, b"%d" % number, None)
    source = cluster.source()
    source.assign({(topic, 0): 0, (topic, 1): 1})
    _read(source, 3)
    assert source.positions == {(topic, 0): 0, (topic, 1): 4}


def test_both_ends_of_a_partition_are_known(cluster):
    topic = cluster.create(2)
    for _ in range(5):
        cluster.publish(topic, 0, b"x", None)
    cluster.delete_before(topic, 0, 2)
    source = cluster.source()
    partitions = source.partitions_of([topic])
    assert partitions == [(topic, 0), (topic, 1)]
    assert source.beginning_offsets(partitions) == {(topic, 0): 2, (topic, 1): 0}
    assert source.end_offsets(partitions) == {(topic, 0): 5, (topic, 1): 0}


def test_a_topic_that_is_not_there_is_named(cluster):
    with pytest.raises(UsageError, match="no-such-topic"):
        cluster.source().partitions_of(["no-such-topic"])


def test_an_offset_that_was_deleted_is_an_error_that_names_it(cluster):
    topic = cluster.create(1)
    for _ in range(5):
        cluster.publish(topic, 0, b"x", None)
    cluster.delete_before(topic, 0, 4)
    source = cluster.source()
    source.assign({(topic, 0): 1})
    with pytest.raises(BrokerError, match=rf"partition 0 of '{topic}' has no offset 1:.*retention"):
        _read(source, 5)


def test_an_offset_beyond_the_end_is_an_error_that_names_it(cluster):
    topic = cluster.create(1)
    cluster.publish(topic, 0, b"x", None)
    source = cluster.source()
    source.assign({(topic, 0): 7})
    with pytest.raises(BrokerError, match="no offset 7"):
        _read(source, 1)


def test_a_paused_source_delivers_nothing_and_then_goes_on_where_it_was(cluster):
    topic = cluster.create(1)
    for number in range(10):
        cluster.publish(topic, 0, b"%d" % number, None)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    before = _read(source, 3, max_records=3)
    source.pause()
    source.pause()
    cluster.publish(topic, 0, b"10", None)
    for _ in range(5):
        assert len(source.poll(100, 0.02)) == 0
    source.resume()
    rows = before + _read(source, 8)
    assert [row.value for row in rows] == [b"%d" % number for number in range(11)]


def test_lag_counts_what_is_not_read_yet_paused_or_not(cluster):
    topic = cluster.create(1)
    for _ in range(6):
        cluster.publish(topic, 0, b"x", None)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    _read(source, 4, max_records=4)
    assert source.lag() == {(topic, 0): 2}
    source.pause()
    cluster.publish(topic, 0, b"x", None)
    _until(lambda: source.lag() == {(topic, 0): 3}, source)


def test_assigning_again_reads_again(cluster):
    topic = cluster.create(1)
    for number in range(3):
        cluster.publish(topic, 0, b"%d" % number, None)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    _read(source, 3)
    source.assign({(topic, 0): 1})
    assert [row.value for row in _read(source, 2)] == [b"1", b"2"]


def test_commits_are_advice_that_lag_tools_can_read(cluster):
    topic = cluster.create(1)
    cluster.publish(topic, 0, b"x", None)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    _read(source, 1)
    source.commit_advisory({})
    source.commit_advisory({(topic, 0): 1})
    _until(lambda: cluster.committed((topic, 0)) == 1, source)


def test_closing_twice_is_fine(cluster):
    source = cluster.source()
    source.close()
    source.close()


def test_positions_pass_what_transactions_leave_at_the_end(broker):
    """Real broker only: the fake knows no transactions."""
    cluster = RealCluster(broker.bootstrap_servers)
    topic = cluster.create(1)
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "transactional.id": f"x-{cluster.run}"}
    )
    producer.init_transactions(_PATIENCE_S)
    for value in (b"kept", b"aborted"):
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush(_PATIENCE_S)
        end = producer.commit_transaction if value == b"kept" else producer.abort_transaction
        end(_PATIENCE_S)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    assert [row.value for row in _read(source, 1)] == [b"kept"]
    ends = source.end_offsets([(topic, 0)])
    assert ends == {(topic, 0): 4}
    _until(lambda: source.positions == ends, source)
    assert source.lag() == {(topic, 0): 0}
    cluster.close()


def test_a_dead_letter_reaches_its_topic_with_the_original_bytes_and_headers(broker):
    cluster = RealCluster(broker.bootstrap_servers)
    topic = cluster.create(1)
    letters = f"{topic}.dlq"
    cluster.create_named(letters, 1)
    cluster.publish(topic, 0, b"bad\xff", b"key")
    cluster.publish(topic, 0, None, None)
    source = cluster.source()
    source.assign({(topic, 0): 0})
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    dead_letters = DeadLetters(producer)
    polls = iter(lambda: source.poll(1, 0.05), None)
    for raw in itertools.islice(filter(len, polls), 2):
        dead_letters.send(raw, [Rejected(0, "bad_magic", "value begins with 0x62")])
    assert producer.flush(_PATIENCE_S) == 0
    assert dead_letters.pending == 0
    source.assign({(letters, 0): 0})
    first, second = itertools.islice(filter(len, polls), 2)
    assert (first.value(0), first.key(0)) == (b"bad\xff", b"key")
    assert (second.value(0), second.key(0)) == (None, None)
    assert dict(second.messages[0].headers()) == {
        "topic": topic.encode(),
        "partition": b"0",
        "offset": b"1",
        "error": b"bad_magic: value begins with 0x62",
    }
    cluster.close()


def test_a_broker_that_does_not_answer_is_named():
    source = KafkaPartitions("127.0.0.1:1", group="g", client_id="contract", timeout_s=0.3)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1 within 0\.3 s"):
        source.partitions_of(["events"])
    with pytest.raises(BrokerUnavailable):
        source.end_offsets([("events", 0)])
    source.close()
