"""`megaphone dlq`: dead letters that a gateway's own code wrote, replayed byte for byte, once.

The letters are written by service.ingest.dead_letter from records that Kafka delivered. Cannot
catch: a replay that ends between two chunks; that both or neither are stored is Kafka's promise.
"""

from __future__ import annotations

import base64
import json

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from loadgen.broker import ensure_topic
from service.cli import app
from service.errors import UsageError
from service.ingest.consumer import KafkaPartitions
from service.ingest.dead_letter import DeadLetters
from service.ingest.decode import Rejected
from tests.integration.job import contract, read_topic

LARGE = 950_000
#: Key, value, headers of the records of partition 1; what the letters keep of the third is a part.
RECORDS = [
    (b"k0", b"bad one", [("trace", b"\x00\xff"), ("trace", None), ("topic", b"not ours")]),
    (None, None, []),
    (b"k2", b"x" * LARGE, [("trace", b"large")]),
    (b"", b"", [("replayed", b"an older replay")]),
]
REASONS = ["bad_json", "null_value", "too_large", "bad_json"]
FIRST_MS = 1_700_000_000_000


def run(bootstrap_servers, *arguments, status=0):
    """What a command printed."""
    words = ["dlq", *arguments, "--bootstrap-servers", bootstrap_servers]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == status, result.output
    return result.stdout


def replay(bootstrap_servers, *arguments, status=0):
    """The sums of a replay, held against the contract."""
    said = run(bootstrap_servers, "replay", *arguments, "--output", "json", status=status)
    sums = json.loads(said)
    contract("replay").validate(sums)
    return sums


@pytest.fixture
def topic(bootstrap_servers, unique_name):
    """A topic whose partition 1 holds the records, each with its letter."""
    name = unique_name("bids")
    ensure_topic(bootstrap_servers, name, 2)
    ensure_topic(bootstrap_servers, f"{name}.dlq", 2)
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for number, (key, value, headers) in enumerate(RECORDS):
        producer.produce(
            name, value, key, partition=1, headers=headers, timestamp=FIRST_MS + number
        )
    assert producer.flush(10) == 0
    source = KafkaPartitions(bootstrap_servers, group=f"{name}.test", client_id="test")
    letters = DeadLetters(producer)
    source.assign({(name, 1): 0})
    seen = 0
    while seen < len(RECORDS):
        raw = source.poll(100, 0.1)
        rows = len(raw.offsets)
        letters.send(
            raw, [Rejected(row, REASONS[seen + row], "as the test says") for row in range(rows)]
        )
        seen += rows
    source.close()
    assert producer.flush(10) == 0
    letters.check()
    return name


def of_partition(bootstrap_servers, topic, partition):
    return sorted(
        (each for each in read_topic(bootstrap_servers, topic) if each.partition() == partition),
        key=lambda each: each.offset(),
    )


def test_letters_are_listed_with_their_reasons_and_their_bytes(bootstrap_servers, topic):
    said = run(bootstrap_servers, "list", topic)
    assert "4 letters: 2 bad_json" in said
    assert f"{topic}/1/2  too_large: as the test says (900,000 B, cut)" in said
    one = run(bootstrap_servers, "list", topic, "--reason", "null_value", "--output", "json")
    letter = json.loads(one)
    contract("letter").validate(letter)
    assert (letter["origin"], letter["key"], letter["value"]) == (f"{topic}/1/1", None, None)
    lines = run(
        bootstrap_servers, "list", f"{topic}.dlq", "--reason", "bad_json", "--output", "json"
    ).splitlines()
    # The letters lie in two partitions, and which of them answers first is Kafka's business.
    values = {each["origin"]: each["value"] for each in map(json.loads, lines)}
    assert {origin: base64.b64decode(value) for origin, value in values.items()} == {
        f"{topic}/1/0": b"bad one",
        f"{topic}/1/3": b"",
    }
    assert len(lines) == 2


def test_records_are_written_again_as_they_were_and_once(bootstrap_servers, topic):
    foreseen = replay(bootstrap_servers, topic, "--dry-run")
    assert (foreseen["replayed"], foreseen["from_letters"]) == (4, 0)
    assert len(read_topic(bootstrap_servers, topic)) == len(RECORDS)

    sums = replay(bootstrap_servers, topic)
    assert (sums["read"], sums["replayed"], sums["from_letters"]) == (4, 4, 0)
    assert sums["stamped_anew"] == 0  # the local broker keeps records of any age
    found = of_partition(bootstrap_servers, topic, 1)[len(RECORDS) :]
    places = {dict(each.headers())["replayed"].decode() for each in found}
    assert places == {f"{topic}.dlq/{place}" for place in letter_places(bootstrap_servers, topic)}
    assert [(each.key(), each.value(), each.headers()[:-1]) for each in found] == [
        (key, value, [each for each in headers if each[0] != "replayed"])
        for key, value, headers in RECORDS
    ]
    assert [each.timestamp()[1] for each in found] == [FIRST_MS + n for n in range(len(RECORDS))]

    assert replay(bootstrap_servers, topic)["read"] == 0
    assert len(of_partition(bootstrap_servers, topic, 1)) == 2 * len(RECORDS)


def test_records_too_old_for_their_topic_are_stamped_anew(bootstrap_servers, topic):
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    other = f"{topic}-mended"
    week = {"retention.ms": "604800000"}
    admin.create_topics([NewTopic(other, 1, 1, config=week)])[other].result(10)
    before = [each.timestamp()[1] for each in of_partition(bootstrap_servers, topic, 1)]
    assert max(before) < FIRST_MS + len(RECORDS)  # years ago
    foreseen = replay(bootstrap_servers, topic, "--to", other, "--dry-run")
    assert (foreseen["replayed"], foreseen["stamped_anew"]) == (4, 4)
    said = run(bootstrap_servers, "replay", topic, "--to", other)
    assert "4 of them with the time of now" in said
    times = [each.timestamp()[1] for each in read_topic(bootstrap_servers, other)]
    assert len(times) == len(RECORDS)
    assert min(times) > FIRST_MS + 604_800_000


def test_what_was_not_asked_for_is_passed_over_until_asked_for_again(bootstrap_servers, topic):
    ensure_topic(bootstrap_servers, f"{topic}-mended", 1)
    sums = replay(bootstrap_servers, topic, "--reason", "bad_json", "--to", f"{topic}-mended")
    assert (sums["replayed"], sums["passed_over"]) == (2, {"null_value": 1, "too_large": 1})
    assert {each.value() for each in read_topic(bootstrap_servers, f"{topic}-mended")} == {
        b"bad one",
        b"",
    }
    assert replay(bootstrap_servers, topic)["read"] == 0
    again = replay(bootstrap_servers, topic, "--again", "--reason", "null_value")
    assert again["replayed"] == 1
    assert of_partition(bootstrap_servers, topic, 1)[-1].value() is None


def test_a_record_that_is_gone_is_made_from_its_letter_unless_that_was_cut(
    bootstrap_servers, topic
):
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for done in admin.delete_records([TopicPartition(topic, 1, len(RECORDS))]).values():
        done.result(10)
    sums = replay(bootstrap_servers, topic, status=1)
    assert (sums["replayed"], sums["from_letters"]) == (3, 3)
    (lost,) = sums["not_whole"]
    found = of_partition(bootstrap_servers, topic, 1)
    assert [(each.key(), each.value()) for each in found] == [
        (key, value) for key, value, _ in RECORDS if value is None or len(value) < LARGE
    ]
    assert all([name for name, _ in each.headers()] == ["replayed"] for each in found)
    assert lost in {f"{topic}.dlq/{place}" for place in letter_places(bootstrap_servers, topic)}


def test_a_record_that_no_gateway_wrote_is_told_and_left(bootstrap_servers, unique_name):
    name = unique_name("strange")
    ensure_topic(bootstrap_servers, f"{name}.dlq", 1)
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    producer.produce(f"{name}.dlq", b"by hand")
    assert producer.flush(10) == 0
    sums = replay(bootstrap_servers, name)
    assert (sums["strange"], sums["replayed"]) == ([f"{name}.dlq/0/0"], 0)


def test_a_topic_without_letters_is_a_usage_error(bootstrap_servers, unique_name):
    result = CliRunner().invoke(
        app, ["dlq", "replay", unique_name("none"), "--bootstrap-servers", bootstrap_servers]
    )
    assert isinstance(result.exception, UsageError)
    assert "gateways make it with the first dead letter" in str(result.exception)


def letter_places(bootstrap_servers, topic):
    return {
        f"{each.partition()}/{each.offset()}"
        for each in read_topic(bootstrap_servers, f"{topic}.dlq")
    }
