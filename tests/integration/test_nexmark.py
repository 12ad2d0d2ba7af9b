"""NEXMark queries by real processes over a real Kafka: what comes out is what the oracle says.

Every form of input and output is read once; a query's meaning is proved without Kafka, in
tests/property/test_nexmark_queries.py. Cannot catch: faults while bins move (test_job_exactness).
"""

from __future__ import annotations

import io
import json

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Producer

from loadgen.broker import ensure_topic
from service.bench.nexmark.oracle import Recorded, differences, expected
from service.nexmark.events import EventSource, NexmarkConfig
from service.nexmark.forms import Format, Times, Topics
from service.nexmark.queries import SCHEMAS
from service.nexmark.rules import RULES
from service.nexmark.wire import Wire
from tests.integration.job import ROOT, Job, read_topic

FIRST_MS = 1_790_000_000_000
EVENTS = 5_000
PARTITIONS = 3


def publish(bootstrap_servers, prefix, wire):
    """Send the events in some form; returns them as tables."""
    source = EventSource(NexmarkConfig(), wire=wire)
    numbers = np.arange(EVENTS, dtype=np.int64)
    times = FIRST_MS + numbers
    client = Producer({"bootstrap.servers": bootstrap_servers})
    run = source.encode(numbers, times, PARTITIONS)
    topics = wire.topic_names(prefix)
    for topic in topics:
        ensure_topic(bootstrap_servers, topic, PARTITIONS)
    kinds = source.kinds(numbers)[run.order]
    for kind, key, value in zip(kinds.tolist(), run.key_bytes(), run.values(), strict=True):
        client.produce(topics[wire.topic_of_kind[kind]], value, key)
    client.flush(30)
    batches = (source.persons(numbers, times), source.auctions(numbers, times))
    return Recorded(*(pa.table(batch) for batch in (*batches, source.bids(numbers, times))))


def results(bootstrap_servers, topic, query, form):
    """Rows of the output topic."""
    values = [message.value() for message in read_topic(bootstrap_servers, topic)]
    if form is Format.JSON:
        return [json.loads(value) for value in values]
    path = ROOT / "service" / "nexmark" / "schemas" / f"{SCHEMAS[query]}.avsc"
    schema = fastavro.parse_schema(json.loads(path.read_text(encoding="utf-8")))
    return [fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None) for value in values]


@pytest.mark.parametrize(
    ("query", "wire"),
    [
        ("q0", Wire(format=Format.JSON, topics=Topics.SEPARATE)),
        ("q1", Wire(format=Format.JSON, topics=Topics.TAGGED, times=Times.ISO)),
        ("q2", Wire(format=Format.AVRO, topics=Topics.TAGGED)),
        ("q1", Wire(format=Format.AVRO, topics=Topics.COMBINED)),
        ("q3", Wire(format=Format.AVRO, topics=Topics.SEPARATE)),
        ("q3", Wire(format=Format.JSON, topics=Topics.TAGGED, times=Times.ISO)),
        ("q4", Wire(format=Format.AVRO, topics=Topics.COMBINED)),
        ("q8", Wire(format=Format.JSON, topics=Topics.TAGGED)),
        ("q5", Wire(format=Format.JSON, topics=Topics.SEPARATE)),
    ],
)
def test_a_query_until_the_end_gives_what_the_oracle_says(
    bootstrap_servers, app_name, unique_name, tmp_path, query, wire
):
    prefix = unique_name("t")
    recorded = publish(bootstrap_servers, prefix, wire)
    output = f"{prefix}-out"
    ensure_topic(bootstrap_servers, output, PARTITIONS)
    options = ["--topic-prefix", prefix, "--output-topic", output, "--until-end"]
    options += ["--format", wire.format, "--event-topics", wire.topics]
    with Job(
        bootstrap_servers, app_name, tmp_path, f"nexmark:{query}", bins=16, arguments=options
    ) as job:
        job.finish()
    wanted = expected(query, recorded)
    rows = results(bootstrap_servers, output, query, wire.format)
    assert wanted.num_rows > 0
    assert differences(query, pa.Table.from_pylist(rows, wanted.schema), wanted) == []
    assert list(rows[0]) == list(RULES[query].columns)


def test_malformed_json_goes_to_dead_letters_and_nothing_else_is_lost(
    bootstrap_servers, app_name, unique_name, tmp_path
):
    prefix = unique_name("t")
    for name in ("bid", "out"):
        ensure_topic(bootstrap_servers, f"{prefix}-{name}", 1)
    good = b'{"auction": %d, "price": 7, "extra": "\\u00e9"}'
    bad = {
        b"{": b"value is no JSON: Input data was truncated",
        b'{"auction": 123}': b"field 'price' is missing",
        b'{"auction": "123", "price": 7}': b"field 'auction' is a text, not int64",
        b'{"auction": 123, "price": 1e3}': b"field 'price' is the number 1000.0, not int64",
        b"[]": b"value is an array, not an object",
    }
    client = Producer({"bootstrap.servers": bootstrap_servers})
    for number, value in enumerate(bad):
        client.produce(f"{prefix}-bid", good % (123 * number))
        client.produce(f"{prefix}-bid", value)
    client.flush(30)
    options = ["--topic-prefix", prefix, "--output-topic", f"{prefix}-out", "--until-end"]
    with Job(
        bootstrap_servers,
        app_name,
        tmp_path,
        "nexmark:q2",
        arguments=[*options, "--format", "json"],
    ) as job:
        job.finish()
    rows = results(bootstrap_servers, f"{prefix}-out", "q2", Format.JSON)
    assert sorted(row["auction"] for row in rows) == [123 * number for number in range(len(bad))]
    letters = read_topic(bootstrap_servers, f"{prefix}-bid.dlq")
    found = {letter.value(): dict(letter.headers())["error"] for letter in letters}
    assert found.keys() == bad.keys()
    for value, words in bad.items():
        assert words in found[value]
