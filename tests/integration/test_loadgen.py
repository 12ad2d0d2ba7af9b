"""The load generator against a real broker, as the processes a user starts.

Cannot catch: lateness and cost under full load (docs/benchmarks).
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import uuid
from fractions import Fraction

import fastavro
import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from loadgen.broker import KafkaConsumer, KafkaProducer, LoadError, UsageFault, ensure_topic
from loadgen.clock import SystemClock
from loadgen.dates import EventDates
from loadgen.direct import DirectConsumer, DirectProducer
from loadgen.options import sized
from loadgen.producer import Sender
from loadgen.schedule import ConstantRate
from loadgen.shapes import Shape, Varying, steps_of
from service.nexmark.events import (
    EventSource,
    Format,
    NexmarkConfig,
    Topics,
    Wire,
    schema_text,
)

PARTITIONS = 4
SCHEMA = fastavro.parse_schema(json.loads(schema_text("auction_bids")))


@pytest.fixture
def topic(broker):
    name = f"loadgen-{uuid.uuid4().hex[:12]}"
    ensure_topic(broker.bootstrap_servers, name, PARTITIONS)
    return name


def messages_of(broker, topic, count):
    """{partition: [(key, value)]} of a topic that holds `count` messages."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "test"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found = {partition: [] for partition in range(PARTITIONS)}
    deadline = time.monotonic() + 30
    while sum(map(len, found.values())) < count and time.monotonic() < deadline:
        for message in consumer.consume(10_000, 0.2):
            assert message.error() is None
            found[message.partition()].append((message.key(), message.value()))
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p))[1] for p in range(PARTITIONS)]
    consumer.close()
    assert ends == [len(found[partition]) for partition in range(PARTITIONS)]
    return found


def loadgen(broker, *arguments):
    command = [sys.executable, "-m", "loadgen", *arguments]
    return [*command, "--bootstrap-servers", broker.bootstrap_servers]


def encoded(config, numbers, times_us, *, opening=False):
    run = EventSource(config, opening=opening).encode(numbers, times_us // 1000, PARTITIONS)
    pairs = list(zip(run.key_bytes(), run.values()))
    starts = run.partition_starts
    return {p: pairs[starts[p] : starts[p + 1]] for p in range(PARTITIONS)}


@pytest.mark.parametrize("client", ["librdkafka", "direct"])
def test_a_stream_arrives_as_the_function_of_its_seed_and_start(broker, topic, client):
    start_us = time.time_ns() // 1000 + 2_000_000
    output = subprocess.run(
        [
            *loadgen(broker, "run", "--topic", topic, "--live-only", "--state-keys", "1000"),
            *("--rate", "5000", "--seconds", "1", "--seed", "3", "--start-at", str(start_us)),
            *("--client", client),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    documents = [json.loads(line) for line in output.splitlines()]
    summary = documents[-1]
    assert (summary["kind"], summary["phase"], summary["events"]) == ("summary", "live", 5_000)
    plan, schedule = documents[:2]
    assert (plan["kind"], schedule["kind"]) == ("plan", "schedule")
    assert plan["origin_us"] == schedule["start_us"] == start_us
    numbers = np.arange(5_000)
    # The lifetime of auctions follows from rate and auctions in flight: 2 * 1000 / 300 per s.
    config = NexmarkConfig(seed=3, auction_life_ms_max=6_667).with_state(1_000)
    assert messages_of(broker, topic, 5_000) == encoded(config, numbers, start_us + numbers * 200)


def test_three_json_topics_hold_the_stream_that_the_knobs_and_the_start_say(broker):
    prefix = f"loadgen-{uuid.uuid4().hex[:12]}"
    options = ("--topic-prefix", prefix, "--format", "json", "--topics", "separate")
    subprocess.run(
        [
            *loadgen(broker, "run", *options, "--live-only", "--seconds", "1", "--seed", "3"),
            *("--rate-shape", "square", "--rate", "4000", "--next-rate", "1000"),
            *("--rate-period", "0.5", "--event-start", "1000000", "--time-dilation", "10"),
            *("--out-of-order-group-size", "40", "--client", "direct"),
        ],
        check=True,
    )
    wire = Wire(format=Format.JSON, topics=Topics.SEPARATE)
    config = sized(
        NexmarkConfig(seed=3, out_of_order_group_size=40), 0, None, Fraction(2_500), Fraction(10)
    )
    steps = steps_of(Shape.SQUARE, 4_000, 1_000, 500_000)
    schedule = Varying.lasting(0, steps, 1_000_000)
    dates = EventDates.grouped(schedule, 1_000_000_000, Fraction(10), 40)
    source = EventSource(config, wire=wire)
    numbers = np.arange(schedule.total)
    run = source.encode(numbers, dates.dates_ms(source.events(numbers)), PARTITIONS)
    pairs = list(zip(run.key_bytes(), run.values()))
    starts = run.partition_starts.tolist()
    assert schedule.total == 2_500
    for number, topic in enumerate(wire.topic_names(prefix)):
        expected = {
            p: pairs[starts[number * PARTITIONS + p] : starts[number * PARTITIONS + p + 1]]
            for p in range(PARTITIONS)
        }
        assert messages_of(broker, topic, sum(map(len, expected.values()))) == expected


def test_the_load_phase_opens_every_auction_once(broker, topic):
    output = subprocess.run(
        loadgen(broker, "run", "--topic", topic, "--load-only", "--state-keys", "20000"),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert json.loads(output.splitlines()[-1])["events"] == 20_000
    found = messages_of(broker, topic, 20_000)
    keys = [int.from_bytes(key, "big") for pairs in found.values() for key, _ in pairs]
    assert sorted(keys) == list(range(1_000, 21_000))


def test_a_queue_that_overflows_loses_and_reorders_nothing(broker, topic):
    config = NexmarkConfig(seed=1)
    producer = KafkaProducer(broker.bootstrap_servers, 1, queue_messages_max=100)
    producer.connect(topic)
    sender = Sender(producer, [topic], PARTITIONS)
    numbers = np.arange(5_000)
    sender.send(EventSource(config).encode(numbers, numbers, PARTITIONS))
    producer.flush(10)
    assert sender.waits > 0
    assert messages_of(broker, topic, 5_000) == encoded(config, numbers, numbers * 1000)


def test_a_message_the_client_refuses_is_an_error(broker, topic):
    producer = KafkaProducer(broker.bootstrap_servers, 1)
    with pytest.raises(LoadError, match="too large"):
        producer.send(topic, [{"key": b"k", "value": bytes(2_000_000)}], 0)


def test_both_clients_read_committed_values_only(broker, topic):
    writer = Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "transactional.id": topic, "linger.ms": 0}
    )
    writer.init_transactions(10)
    for name, keep in ((b"a", True), (b"b", False), (b"c", True), (b"d", False), (b"e", True)):
        writer.begin_transaction()
        for number in range(300):
            writer.produce(topic, name + b"%d" % number, partition=number % 2)
        writer.flush(10)
        if keep:
            writer.commit_transaction(10)
        else:
            writer.abort_transaction(10)
    offsets = dict.fromkeys(range(PARTITIONS), 0)
    expected = sorted(name + b"%d" % number for name in (b"a", b"c", b"e") for number in range(300))
    for client in (
        KafkaConsumer(broker.bootstrap_servers, topic, offsets),
        DirectConsumer(broker.bootstrap_servers, topic, offsets, SystemClock()),
    ):
        found = []
        deadline = time.monotonic() + 30
        while len(found) < len(expected) and time.monotonic() < deadline:
            values = client.fetch(0.5)
            places = zip(values.starts.tolist(), values.ends.tolist())
            found += [values.data[a:b].tobytes() for a, b in places]
        client.close()
        assert sorted(found) == expected


def test_both_clients_read_what_was_stored_before_they_were_told_to_end(broker, topic):
    offsets = dict.fromkeys(range(PARTITIONS), 0)
    for count, client in enumerate(
        (
            KafkaConsumer(broker.bootstrap_servers, topic, offsets),
            DirectConsumer(broker.bootstrap_servers, topic, offsets, SystemClock()),
        ),
        start=1,
    ):
        # The answer to this one may know nothing of what follows, and may already be here.
        found = len(client.fetch(0))
        send_result(broker, topic, 17)
        while client.behind():
            found += len(client.fetch(0))
        client.close()
        assert found == count


def test_a_long_stream_keeps_its_order_over_many_unanswered_requests(broker, topic):
    config = NexmarkConfig(seed=1)
    producer = DirectProducer(broker.bootstrap_servers, (topic,), PARTITIONS, SystemClock())
    source = EventSource(config)
    numbers = np.arange(60_000)
    for first in range(0, 60_000, 1_000):
        run = numbers[first : first + 1_000]
        producer.send(source.encode(run, run, PARTITIONS))
    while producer.queued():
        producer.flush(10)
    producer.close()
    assert messages_of(broker, topic, 60_000) == encoded(config, numbers, numbers * 1000)


def test_a_broker_that_refuses_is_an_error(broker, topic):
    producer = DirectProducer(broker.bootstrap_servers, (topic,), PARTITIONS, SystemClock())
    numbers = np.full(60_000, 10)  # all of one auction, 4 MB in one partition
    producer.send(EventSource(NexmarkConfig()).encode(numbers, numbers, PARTITIONS))
    with pytest.raises(LoadError, match="too large"):
        producer.flush(10)
    producer.close()


def test_another_number_of_partitions_is_refused(broker, topic):
    with pytest.raises(UsageFault, match="4 partitions"):
        ensure_topic(broker.bootstrap_servers, topic, 3)


@pytest.mark.parametrize("client", ["librdkafka", "direct"])
def test_measuring_starts_at_the_end_and_finishes_when_stdin_closes(broker, topic, client):
    send_result(broker, topic, 17)  # Before the measurement: not its business.
    process = subprocess.Popen(
        [
            *loadgen(broker, "measure", "--topic", topic, "--client", client),
            "--stop-on-stdin-close",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    ready = json.loads(process.stdout.readline())
    assert ready["kind"] == "ready"
    assert sum(ready["offsets"].values()) == 1
    before_ms = time.time_ns() // 1_000_000
    send_result(broker, topic, before_ms - 1_000)
    send_result(broker, topic, before_ms - 3_000)
    output, _ = process.communicate()
    documents = [json.loads(line) for line in output.splitlines()]
    final = documents[-1]
    assert process.returncode == 0
    assert (final["kind"], final["count"], final["unreadable"]) == ("final", 2, 0)
    slowest = max(window["max_ms"] for window in final["intended"])
    assert 3_000 <= slowest < 3_000 + (time.time_ns() // 1_000_000 - before_ms) + 1
    assert all(document["kind"] == "window" for document in documents[:-1])


def test_measuring_can_start_at_given_offsets(broker, topic):
    for oldest in (1, 2, 3):
        send_result(broker, topic, oldest)
    process = subprocess.Popen(
        [*loadgen(broker, "measure", "--topic", topic), "--from", '{"0": 1}'],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert json.loads(process.stdout.readline())["offsets"] == {"0": 1}
    process.terminate()
    output, _ = process.communicate()
    assert json.loads(output.splitlines()[-1])["count"] == 2


def test_windowed_results_count_from_the_plan_that_the_generator_printed(broker, topic, tmp_path):
    # A second of 1,000 events, long ago; with 20 ms of out-of-orderness the window [0, 100) closes
    # with the event of 120 ms, and [900, 1000) with none.
    start_us = time.time_ns() // 1000 - 60_000_000
    dates = EventDates.grouped(ConstantRate(start_us, 1_000, 1_000), 0, Fraction(1), 1)
    plan = tmp_path / "run.jsonl"
    plan.write_text(json.dumps(dates.document()) + "\n")
    process = subprocess.Popen(
        [
            *loadgen(broker, "measure", "--topic", topic, "--format", "json"),
            *("--field", "window_start", "--field-is", "window-start", "--size-ms", "100"),
            *("--out-of-orderness-ms", "20", "--plan", str(plan), "--stop-on-stdin-close"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    before_us = time.time_ns() // 1000
    producer = KafkaProducer(broker.bootstrap_servers, 0)
    values = [b'{"auction":1,"num":3,"window_start":%d}' % number for number in (0, 900)]
    assert producer.send(topic, [{"key": b"k", "value": value} for value in values], 0) == 2
    producer.flush(10)
    output, _ = process.communicate()
    after_us = time.time_ns() // 1000
    final = json.loads(output.splitlines()[-1])
    assert (final["count"], final["closed_by_end"], final["unreadable"]) == (1, 1, 0)
    (window,) = final["intended"]
    closed_us = start_us + 120_000
    assert window["t_us"] <= closed_us < window["t_us"] + 250_000
    assert before_us - closed_us <= window["max_ms"] * 1000 <= after_us - closed_us


def send_result(broker, topic, oldest_ms):
    body = io.BytesIO()
    record = {"auction": 1, "bids": 1, "total": 1, "highest": 1, "oldest": oldest_ms}
    fastavro.schemaless_writer(body, SCHEMA, record)
    producer = KafkaProducer(broker.bootstrap_servers, 0)
    message = {"key": bytes(8), "value": b"\0\0\0\0\x04" + body.getvalue()}
    assert producer.send(topic, [message], 0) == 1
    producer.flush(10)
