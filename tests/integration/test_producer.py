"""The producer on a real broker: what is refused ends it, and receipts mean stored.

What this kind cannot catch: brokers that lie about what they stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import psutil
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from service.avro.encoder import compile_encoder
from service.avro.schema import parse_schema
from service.control_topics import Admin
from service.egress.encoders import AvroRows
from service.egress.producer import KafkaProducer, KafkaSinkWriter, partitions_of
from service.errors import BrokerError, GraphError
from service.hashing import bins_of
from service.ids import Role, Slot

SCHEMA = parse_schema(
    '{"type":"record","name":"pair","fields":[{"name":"key","type":"long"},'
    '{"name":"text","type":"string"}]}'
)
BIN_BITS = 4
COLUMNS = pa.schema([("key", pa.int64()), ("text", pa.string())])


def _writer(
    bootstrap_servers: str, topic: str, config: dict[str, str] | None = None
) -> tuple[KafkaProducer, KafkaSinkWriter]:
    Admin(bootstrap_servers, 10).create(topic, 3, config)
    return _writer_at(bootstrap_servers, topic)


def _writer_at(servers: str, topic: str) -> tuple[KafkaProducer, KafkaSinkWriter]:
    producer = KafkaProducer(servers, "test", 2.0)
    encoder = AvroRows(7, compile_encoder(SCHEMA))
    return producer, KafkaSinkWriter(
        producer, topic, "key", encoder, COLUMNS, writer=Slot(Role.WORKER, 5), bin_bits=BIN_BITS
    )


def _rows(keys: list[int], text: str = "x") -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array(keys), pa.array([text] * len(keys))], names=["key", "text"]
    )


def _until(producer: KafkaProducer, holds: Callable[[], bool]) -> None:
    for _ in range(2_000):
        producer.poll(0.01)
        if holds():
            return
    raise AssertionError("no receipt came")


def test_a_receipt_comes_once_all_rows_are_stored_with_their_headers(
    bootstrap_servers: str, topic_name: str
) -> None:
    producer, writer = _writer(bootstrap_servers, topic_name)
    receipts: list[int] = []
    keys = list(range(-50, 200))
    writer.submit(_rows(keys), lambda: receipts.append(1))
    assert receipts == []
    _until(producer, lambda: bool(receipts))
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "t", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic_name, partition, 0) for partition in range(3)])
    found = {}
    expected_bins = bins_of(np.array(keys), BIN_BITS).tolist()
    expected_partitions = partitions_of(np.array(keys), 3).tolist()
    while len(found) < len(keys):
        messages = consumer.consume(500, 10)
        assert messages
        for message in messages:
            key = int.from_bytes(message.key() or b"", "big", signed=True)
            found[key] = (message.partition(), dict(message.headers() or []))
    consumer.close()
    assert found == {
        key: (partition, {"worker": b"5", "bin": str(number).encode()})
        for key, number, partition in zip(keys, expected_bins, expected_partitions, strict=True)
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (pa.schema([("key", pa.int64())]), "no column for text; the stream has .*rename or cast"),
        (pa.schema([("key", pa.int64()), ("text", pa.list_(pa.int8()))]), "column text does not"),
        (pa.schema([("key", pa.int32()), ("text", pa.string())]), "int64 column 'key'; .*int32"),
        (pa.schema([("text", pa.string())]), "int64 column 'key'; the stream has {'text'"),
    ],
)
def test_columns_that_do_not_fit_the_schema_are_refused_before_any_row(
    bootstrap_servers: str, columns: pa.Schema, message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        KafkaSinkWriter(
            KafkaProducer(bootstrap_servers, "test", 1.0),
            "never-asked-for",
            "key",
            AvroRows(7, compile_encoder(SCHEMA)),
            columns,
            writer=Slot(Role.GATEWAY, 0),
            bin_bits=BIN_BITS,
        )


def test_a_row_the_broker_refuses_stops_the_producer_though_later_rows_would_fit(
    bootstrap_servers: str, topic_name: str
) -> None:
    producer, writer = _writer(bootstrap_servers, topic_name, {"max.message.bytes": "2000"})
    receipts: list[int] = []
    writer.submit(_rows([1], "y" * 5_000), lambda: receipts.append(1))
    with pytest.raises(BrokerError, match="could not be stored"):
        _until(producer, lambda: len(receipts) == 99)
    assert receipts == []


def _client_seconds(but: set[int]) -> float:
    """Processor time of this process's threads that are not among `but`."""
    return sum(
        thread.user_time + thread.system_time
        for thread in psutil.Process().threads()
        if thread.id not in but
    )


def test_the_client_rests_while_a_slow_broker_owes_it_an_answer() -> None:
    """The broker is librdkafka's own mock, which can be told to be slow."""
    slow = Producer({"test.mock.num.brokers": 1, "test.mock.broker.rtt": 400, "log_level": 0})
    (address,) = slow.list_topics(timeout=10).brokers.values()
    before = {thread.id for thread in psutil.Process().threads()}
    producer, writer = _writer_at(f"{address.host}:{address.port}", "results")
    receipts: list[int] = []
    keys = [key for key in range(4_000) if partitions_of(np.array([key]), 4)[0] == 0][:600]
    for number in range(0, 600, 100):
        batch = number // 100
        writer.submit(
            _rows(keys[number : number + 100]), lambda batch=batch: receipts.append(batch)
        )
    assert producer.waiting == 500, "behind the first batch the others wait"
    assert producer.unstored == 600
    _until(producer, lambda: 0 in receipts)
    assert producer.waiting == 0, "they go together once it is stored"
    began, worked = time.monotonic(), _client_seconds(before)
    _until(producer, lambda: len(receipts) == 6)
    passed, worked = time.monotonic() - began, _client_seconds(before) - worked
    assert receipts == list(range(6))
    # Without lanes this is 1, whatever the machine: a thread that polls without waiting.
    assert worked < passed / 3


def test_partitions_are_those_of_kafkas_default_partitioner(
    bootstrap_servers: str, topic_name: str
) -> None:
    """Librdkafka's murmur2 stands for the Java client's."""
    Admin(bootstrap_servers, 10).create(topic_name, 7)
    seen: dict[bytes, int] = {}
    client = Producer(
        {"bootstrap.servers": bootstrap_servers, "partitioner": "murmur2", "log_level": 0}
    )
    keys = np.array([0, 1, -1, 2**40, -(2**63), 2**63 - 1, 12345678901], dtype=np.int64)
    for key in keys.astype(">i8").view("V8").tolist():
        client.produce(
            topic_name,
            b"",
            key,
            on_delivery=lambda _, message: seen.__setitem__(
                message.key() or b"", message.partition() or 0
            ),
        )
    assert client.flush(10) == 0
    expected = partitions_of(keys, 7).tolist()
    assert [seen[key] for key in keys.astype(">i8").view("V8").tolist()] == expected
