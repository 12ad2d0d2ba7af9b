"""The lookup brings a real Kafka that answers, keeps records, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from service.broker.java import START_SECONDS, start_java
from service.broker.lookup import VARIABLE, find_broker
from service.broker.probe import answers

HOLD = """
import sys
from service.broker.java import start_java
broker = start_java()
print(broker.bootstrap_servers, broker.folder, flush=True)
sys.stdin.read()
"""


def test_a_record_goes_in_and_comes_out(bootstrap_servers, topic_name):
    _create(bootstrap_servers, topic_name)
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    producer.produce(topic_name, key=b"key", value=b"value", headers={"worker": b"0"})
    assert producer.flush(30) == 0
    message = _first(bootstrap_servers, topic_name)
    assert (message.key(), message.value()) == (b"key", b"value")
    assert message.headers() == [("worker", b"0")]


def test_a_transaction_commits(bootstrap_servers, topic_name):
    _create(bootstrap_servers, topic_name)
    producer = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": topic_name})
    producer.init_transactions(30)
    for value, end in [
        (b"never", producer.abort_transaction),
        (b"once", producer.commit_transaction),
    ]:
        producer.begin_transaction()
        producer.produce(topic_name, value=value)
        producer.flush(30)
        end(30)
    assert _first(bootstrap_servers, topic_name).value() == b"once"


def test_a_record_of_years_ago_is_kept(bootstrap_servers, topic_name):
    """Kafka would delete it by its own time, some minutes later: too late for a test to see."""
    _create(bootstrap_servers, topic_name)
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic_name)
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    kept = admin.describe_configs([asked])[asked].result()
    assert [kept["retention.ms"].value, kept["retention.bytes"].value] == ["-1", "-1"]


def _create(bootstrap_servers: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()


def _first(bootstrap_servers: str, topic: str) -> Message:
    """The first committed record of a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": topic})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(30)
    finally:
        consumer.close()
    assert message is not None
    assert message.error() is None
    return message


def test_a_topic_that_nobody_created_stays_unknown(bootstrap_servers, topic_name):
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": topic_name})
    try:
        with pytest.raises(KafkaException, match="_UNKNOWN_PARTITION"):
            consumer.get_watermark_offsets(TopicPartition(topic_name, 0), timeout=30)
    finally:
        consumer.close()


def test_the_named_broker_is_taken_and_outlives_its_use(bootstrap_servers):
    found = find_broker({VARIABLE: bootstrap_servers}, kinds=())
    assert found.bootstrap_servers == bootstrap_servers
    found.close()
    assert answers(bootstrap_servers, 10)


def test_a_closed_broker_is_gone_with_its_data():
    broker = start_java()
    assert broker.alive
    assert (broker.folder / "data").is_dir()
    broker.close()
    broker.close()
    assert not broker.alive
    assert not broker.folder.exists()
    assert not answers(broker.bootstrap_servers, 0.5)


def test_a_broker_dies_with_an_owner_that_is_killed():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD], text=True, **pipes) as owner:
        bootstrap_servers, folder = owner.stdout.readline().split()
        assert answers(bootstrap_servers, 10)
        owner.kill()
        assert owner.stderr.read() == ""  # ends once the guard, which holds it too, has ended
    assert not Path(folder).exists()
    assert not answers(bootstrap_servers, 0.5)


@pytest.mark.parametrize(
    ("arguments", "read", "number"),
    [
        ([], str.strip, signal.SIGINT),
        (["--output", "json"], lambda line: json.loads(line)["bootstrap_servers"], signal.SIGTERM),
    ],
)
def test_a_user_at_the_terminal_gets_an_address_and_ends_it_with_a_signal(arguments, read, number):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    served = subprocess.Popen(
        [sys.executable, "-m", "service", "broker", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with served:
        bootstrap_servers = read(served.stdout.readline())
        assert answers(bootstrap_servers, 10)
        served.send_signal(number)
        assert served.wait(START_SECONDS) == 0
        assert served.stdout.read() == ""
    assert not answers(bootstrap_servers, 0.5)
