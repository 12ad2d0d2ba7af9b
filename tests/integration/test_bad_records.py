"""Bad records between good ones: each costs only itself and goes to `<topic>.dlq`, whole.

The oracle reads what is good with fastavro. Cannot catch: what the decoder does with every possible
damage (tests/unit/avro and tests/property damage records at every byte).
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections import Counter
from pathlib import Path

import fastavro
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from typer.testing import CliRunner

from loadgen.broker import ensure_topic
from service.cli import app
from service.nexmark.events import schema_text
from tests.integration.bids import faults, judge
from tests.integration.command import Command
from tests.integration.job import Job, read_topic, registry
from tests.integration.raw_batches import bomb_batch, send

BID = fastavro.parse_schema(json.loads(schema_text("bid")))
PERSON = fastavro.parse_schema(json.loads(schema_text("person")))
HEADER = b"\x00\x00\x00\x00\x03"
LARGE = 4_000
#: Bytes of a record that is nearly nothing when it is packed.
BOMB = 128 << 20
#: That pack so much into so little, and that the client unpacks whatever comes out.
CODECS = ("gzip", "lz4")
#: A gateway's that has read a few records, and room for what an allocator keeps.
BASE_MEMORY = 400 << 20
#: `max.message.bytes` of Kafka's default, which is about packed sizes.
BROKERS_LIMIT = 1_048_588
#: Packed, a chunk of 16 MiB more is beyond that.
CHUNKS_MAX = 64
#: What a broker answers: the batch is too large; it could not even look.
TOO_LARGE, NO_ROOM = 10, -1


def encoded(schema, record):
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, record)
    return stream.getvalue()


def bid(number, **fields):
    """The body of bid `number`: auctions 0 to 6, prices all different."""
    record = {"auction": number % 7, "bidder": number, "price": number**2, "channel": "c" * 9}
    record |= {"url": "https://example.org/item", "date_time": 1_790_000_000_000 + number}
    return encoded(BID, {**record, "extra": "x" * 30, **fields})


def person():
    texts = ("name", "email_address", "credit_card", "city", "state", "extra")
    return encoded(PERSON, {"id": 5, "date_time": 6, **dict.fromkeys(texts, "word")})


def bad_values():
    """Reason -> values that are bad for it."""
    whole = HEADER + bid(1)
    return {
        "truncated": [whole[:6]],
        "bad_length": [whole[:-1], whole[:-20]],
        "trailing_bytes": [whole + b"\x00", whole + bid(2)],
        "unknown_schema": [b"\x00\x00\x00\x00\x63" + bid(1), b"\x00\x7f\xff\xff\xff" + bid(1)],
        "wrong_type": [b"\x00\x00\x00\x00\x1e" + bid(1)],
        "missing_field": [b"\x00\x00\x00\x00\x1f" + bid(1)],
        "bad_schema": [b"\x00\x00\x00\x00\x21" + bid(1), b"\x00\x00\x00\x00\x22" + bid(1)],
        "varint_overflow": [HEADER + b"\xff" * 99],
        "empty_value": [b""],
        "null_value": [None],
        "bad_magic": [b"\x01" + whole[1:], b'{"auction": 1}'],
        "truncated_header": [b"\x00", HEADER[:4]],
        "bad_schema_id": [b"\x00\xff\xff\xff\xff" + bid(1)],
        "too_large": [HEADER + b"\x00" * LARGE],
    }


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input with two partitions and output."""
    prefix = unique_name("t")
    found = f"{prefix}-events", f"{prefix}-auction-bids"
    for name in found:
        ensure_topic(bootstrap_servers, name, 2)
    return found


@pytest.fixture
def schemas(tmp_path):
    """The shipped schemas, two of a bid that cannot give the columns of the newest, two hostile."""
    newest, wrong, fewer, endless, bomb = (json.loads(schema_text("bid")) for _ in range(5))
    name = f"{newest['namespace']}.{newest['name']}" if "namespace" in newest else newest["name"]
    endless["fields"].append({"name": "next", "type": ["null", name]})
    bomb["fields"].append({"name": "all", "type": {"type": "array", "items": "null"}})
    wrong["fields"] = [
        {**each, "type": "string"} if each["name"] == "price" else each for each in wrong["fields"]
    ]
    fewer["fields"] = [each for each in fewer["fields"] if each["name"] != "price"]
    return registry(tmp_path / "schemas", {30: wrong, 31: fewer, 32: newest, 33: endless, 34: bomb})


def limit_messages(bootstrap_servers, topic, size):
    """Let the broker refuse larger messages for that topic."""
    resource = ConfigResource(
        ConfigResource.Type.TOPIC,
        topic,
        incremental_configs=[
            ConfigEntry(
                "max.message.bytes",
                str(size),
                incremental_operation=AlterConfigOpType.SET,
            )
        ],
    )
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(10)


def query(names, schemas):
    return ["--topic-prefix", names[0].removesuffix("-events"), "--registry", str(schemas)]


def test_bad_records_cost_only_themselves_and_are_kept(
    bootstrap_servers, app_name, names, schemas, tmp_path
):
    bad = [(reason, value) for reason, values in bad_values().items() for value in values]
    short, long = HEADER + bid(3)[:-7], HEADER + bid(3) + bid(3)[-7:]
    records, letters = [], []
    for number in range(1_000):
        partition = number % 7 % 2
        records.append((partition, HEADER + bid(number), None))
        if number % 50 == 25:
            # Lengths that cancel: read as one block they would shift what lies between them.
            for reason, value in (("bad_length", short), ("trailing_bytes", long)):
                records += [(partition, value, reason), (partition, HEADER + bid(number), None)]
        if number % 30 == 11:
            reason, value = bad[number // 30 % len(bad)]
            records.append((partition, value, reason))
        if number % 100 == 7:
            records.append((partition, b"\x00\x00\x00\x00\x01" + person(), None))
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    offsets = Counter()
    for partition, value, reason in records:
        key = b"key-%d" % len(letters)
        producer.produce(names[0], value, key, partition=partition)
        if reason is not None:
            letters.append((reason, value, key, partition, offsets[partition]))
        offsets[partition] += 1
    assert producer.flush(10) == 0
    assert {reason for reason, *_ in letters} == set(bad_values())

    with Job(
        bootstrap_servers,
        app_name,
        tmp_path / "state",
        gateways=2,
        arguments=query(names, schemas),
        environment={"MEGAPHONE_LIMITS__RECORD_BYTES_MAX": str(LARGE)},
    ) as job:
        job.await_running()
        job.await_total("megaphone_ingest_records_total", len(records))
        assert job.total("megaphone_ingest_skipped_records_total") == 10
        assert rejected(job) == Counter(reason for reason, *_ in letters)
        job.await_(
            lambda: len(read_topic(bootstrap_servers, f"{names[0]}.dlq")) >= len(letters),
            "a letter for each bad record",
        )
        job.stop()
        verdict = judge(bootstrap_servers, job, names, tmp_path / "proof", published=len(records))
    found = {
        (dict(m.headers())["error"].decode().partition(":")[0], m.value(), m.key(), place_of(m))
        for m in read_topic(bootstrap_servers, f"{names[0]}.dlq")
    }
    assert found == {
        (reason, value, key, (names[0], partition, offset))
        for reason, value, key, partition, offset in letters
    }
    assert len(read_topic(bootstrap_servers, f"{names[0]}.dlq")) == len(letters)
    assert set(faults(verdict)) == {"moved", "readable"}, faults(verdict)
    (unreadable,) = (each for each in verdict.findings if each.name == "readable")
    assert unreadable.violations == len(letters)
    assert verdict.bids == verdict.bids_counted == len(records) - len(letters) - 10


def test_compressed_bombs_cost_only_themselves(
    bootstrap_servers, app_name, names, schemas, tmp_path
):
    """Batches the broker takes for their packed size, whose records have a thousand times that."""
    bomb = HEADER + bytes(BOMB)
    assert len(gzip.compress(bomb)) < BROKERS_LIMIT < len(bomb)
    for number, codec in enumerate(CODECS):
        packing = {"compression.type": codec, "message.max.bytes": 2 * BOMB}
        producer = Producer({"bootstrap.servers": bootstrap_servers, **packing})
        for value in (HEADER + bid(2 * number), bomb, HEADER + bid(2 * number + 1)):
            producer.produce(names[0], value, partition=0)
            assert producer.flush(30) == 0  # each is a batch of its own
    arguments = query(names, schemas)
    # What a fork has is not what a gateway needs.
    with Job(
        bootstrap_servers, app_name, tmp_path / "state", arguments=arguments, forked=False
    ) as job:
        job.await_total("megaphone_ingest_rejected_records_total", len(CODECS))
        most = greatest_memory(job.processes()["gateway-0"].pid)
        job.stop()
    # Both, if they came in one answer, or one as it is unpacked and as it is looked at.
    assert most < BASE_MEMORY + 3 * BOMB
    letters = read_topic(bootstrap_servers, f"{names[0]}.dlq")
    bombs = [3 * number + 1 for number in range(len(CODECS))]
    assert sorted(map(place_of, letters)) == [(names[0], 0, offset) for offset in bombs]
    for letter in letters:
        headers = dict(letter.headers())
        assert headers["error"].decode().startswith("too_large: ")
        assert bomb.startswith(letter.value())
        assert "cut" in headers
    # The good ones are bids on as many auctions.
    assert len(read_topic(bootstrap_servers, names[1])) == 2 * len(CODECS)


def test_a_topic_made_for_strangers_takes_no_bomb_and_the_job_goes_on(
    bootstrap_servers, app_name, unique_name, schemas, tmp_path
):
    """`create-topics` has the broker unpack: it refuses what no gateway could hold."""
    prefix = unique_name("t")
    names = f"{prefix}-events", f"{prefix}-auction-bids"
    arguments = ["create-topics", "nexmark:auction_bids", *query(names, schemas)[:2]]
    made = CliRunner().invoke(app, [*arguments, "--bootstrap-servers", bootstrap_servers])
    assert made.exit_code == 0, made.output
    largest = bomb_batch(CHUNKS_MAX)
    assert BROKERS_LIMIT - len(bomb_batch(1)) < len(largest) <= BROKERS_LIMIT
    producer = Producer({"bootstrap.servers": bootstrap_servers, "compression.type": "gzip"})

    def publish(number):
        producer.produce(names[0], HEADER + bid(number), partition=0)
        assert producer.flush(30) == 0

    arguments = query(names, schemas)
    # What a fork has is not what a gateway needs.
    with Job(
        bootstrap_servers, app_name, tmp_path / "state", arguments=arguments, forked=False
    ) as job:
        job.await_running()
        publish(1)
        assert send(bootstrap_servers, names[0], bomb_batch(1)) == TOO_LARGE
        assert send(bootstrap_servers, names[0], largest) in (TOO_LARGE, NO_ROOM)
        publish(2)
        job.await_total("megaphone_ingest_records_total", 2)
        assert job.total("megaphone_ingest_rejected_records_total") == 0
        most = greatest_memory(job.processes()["gateway-0"].pid)
        job.stop()
    assert most < BASE_MEMORY
    assert len(read_topic(bootstrap_servers, names[1])) == 2


def test_a_batch_that_the_client_does_not_unpack_is_one_letter_without_a_value(
    bootstrap_servers, app_name, names, schemas, tmp_path
):
    """That is zstd's beyond `receive.message.max.bytes`; what it holds nobody can know."""
    packing = {"compression.type": "zstd", "message.max.bytes": 2 * BOMB}
    producer = Producer({"bootstrap.servers": bootstrap_servers, **packing})
    for value in (HEADER + bid(1), HEADER + bytes(BOMB), HEADER + bid(2)):
        producer.produce(names[0], value, partition=0)
        assert producer.flush(30) == 0
    arguments = [*query(names, schemas), "--until-end"]
    with Job(bootstrap_servers, app_name, tmp_path / "state", arguments=arguments) as job:
        job.finish()
    (letter,) = read_topic(bootstrap_servers, f"{names[0]}.dlq")
    assert place_of(letter) == (names[0], 0, 1)
    assert (letter.key(), letter.value()) == (None, None)
    headers = dict(letter.headers())
    assert headers["error"].startswith(b"unreadable: offsets 1 to 1 are a batch ")
    assert len(read_topic(bootstrap_servers, names[1])) == 2
    # There is nothing that a replay could write, and it says so.
    arguments = ["dlq", "replay", names[0], "--bootstrap-servers", bootstrap_servers]
    with Command(*arguments) as command:
        command.finish(1)
        assert "was cut and its record is gone: not written" in "\n".join(command.noise)


def greatest_memory(pid):
    """The most memory that a process ever had, bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kib) << 10


def place_of(letter):
    """Topic, partition and offset that the headers of a dead letter say."""
    headers = dict(letter.headers())
    return headers["topic"].decode(), int(headers["partition"]), int(headers["offset"])


def rejected(job):
    """Bad records by reason, over all gateways."""
    counts = Counter()
    for reading in job.metrics().values():
        for name, value in reading.items():
            if name.startswith("megaphone_ingest_rejected_records_total{"):
                counts[name.partition("{")[2].rstrip("}")] += value
    return counts


def test_a_bad_record_that_cannot_be_kept_stops_the_job(
    bootstrap_servers, app_name, names, schemas, tmp_path
):
    """A letter that Kafka refuses must not vanish, even if it is the last thing the job does."""
    ensure_topic(bootstrap_servers, f"{names[0]}.dlq", 1)
    limit_messages(bootstrap_servers, f"{names[0]}.dlq", 200)
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    producer.produce(names[0], HEADER + bid(1), partition=0)
    producer.produce(names[0], HEADER + bid(1) + b"\x00" * 300, partition=0)
    assert producer.flush(10) == 0
    arguments = [*query(names, schemas), "--until-end"]
    with Job(bootstrap_servers, app_name, tmp_path / "state", arguments=arguments) as job:
        job.finish(1)
        failure = job.lines("process.failed", slot="gateway-0")
    assert len(failure) == 1
    assert f"{names[0]}.dlq" in str(failure[0]["message"])
