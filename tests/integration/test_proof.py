"""The proof on topics of a real Kafka: what is read back is all there is, and is judged.

A stand-in for the job writes outputs from a loop over dictionaries. Cannot catch: faults of the
real job, which `make demo` judges with the same code.
"""

from __future__ import annotations

import io
import json

import fastavro
import numpy as np
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from demo import readback
from demo.ownership import Migration
from demo.proof import Evidence, prove
from demo.readback import Task, read_back, read_span, spans_of
from demo.rows import hash_bins
from loadgen.broker import ensure_topic
from service.errors import BrokerError
from service.nexmark.events import EventSource, NexmarkConfig, schema_text

BINS = 16
PARTITIONS = 4
EVENTS = 6_000
FIRST_MS = 1_790_000_000_000
OUT = Migration("out", FIRST_MS * 1000 + 2_000_000, FIRST_MS * 1000 + 2_400_000, {0: 1, 1: 1})
BACK = Migration("back", FIRST_MS * 1000 + 4_000_000, FIRST_MS * 1000 + 4_400_000, {0: 0, 1: 0})
OUTPUT = fastavro.parse_schema(json.loads(schema_text("auction_bids")))


@pytest.fixture
def topics(broker, unique_name):
    names = unique_name("in"), unique_name("out")
    for name in names:
        ensure_topic(broker.bootstrap_servers, name, PARTITIONS)
    return names


@pytest.fixture
def producer(broker):
    return Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 5})


def send_inputs(producer, topic):
    """Send the stream and return its bids in order, as (auction, price, date_time)."""
    source = EventSource(NexmarkConfig().with_state(60))
    numbers = np.arange(EVENTS, dtype=np.int64)
    times_ms = FIRST_MS + numbers
    run = source.encode(numbers, times_ms, PARTITIONS)
    starts = run.partition_starts.tolist()
    for number, (key, value) in enumerate(zip(run.key_bytes(), run.values())):
        partition = next(p for p in range(PARTITIONS) if number < starts[p + 1])
        producer.produce(topic, value, key, partition=partition)
    bids = source.bids(numbers, times_ms).select(["auction", "price", "date_time"]).to_pydict()
    return list(zip(*bids.values()))


def output_of(auction, bids, total, highest, oldest):
    stream = io.BytesIO()
    fields = ("auction", "bids", "total", "highest", "oldest")
    row = dict(zip(fields, (auction, bids, total, highest, oldest)))
    fastavro.schemaless_writer(stream, OUTPUT, row)
    return b"\x00\x00\x00\x00\x04" + stream.getvalue()


def send_outputs(producer, topic, bids):
    """Send an output for every second bid of an auction, and for its last."""
    counts = {}
    for auction, _, _ in bids:
        counts[auction] = counts.get(auction, 0) + 1
    state = {}
    sent = 0
    for auction, price, date_time in bids:
        count, total, highest, oldest = state.get(auction, (0, 0, 0, None))
        count, total, highest = count + 1, total + price, max(highest, price)
        oldest = date_time if oldest is None else min(oldest, date_time)
        if count % 2 == 0 or count == counts[auction]:
            bin_ = int(hash_bins(np.array([auction]), BINS)[0])
            away = bin_ in OUT.targets and 2_200 <= date_time - FIRST_MS < 4_200
            producer.produce(
                topic,
                output_of(auction, count, total, highest, oldest),
                auction.to_bytes(8, "big"),
                partition=auction % PARTITIONS,
                timestamp=date_time,
                headers={"worker": str(int(away or bin_ >= 8)), "bin": str(bin_)},
            )
            sent += 1
            oldest = None
        state[auction] = (count, total, highest, oldest)
    return sent


def judged(broker, topics, folder, processes=2):
    folder.mkdir()
    tasks = [
        Task(broker.bootstrap_servers, kind, span, folder / f"{kind}-{number}.parquet", BINS)
        for kind, topic in zip(("bids", "outputs"), topics)
        for number, span in enumerate(spans_of(broker.bootstrap_servers, topic))
    ]
    seen = []
    tallies = read_back(tasks, seen.append, processes=processes, timeout_s=60)
    assert sum(seen) == tallies["bids"].records + tallies["outputs"].records
    return prove(
        Evidence(
            folder=folder,
            bins=BINS,
            owners=[0] * 8 + [1] * 8,
            migrations=[OUT, BACK],
            events=tallies["bids"].records,
            published=EVENTS,
            unreadable=tallies["bids"].unreadable + tallies["outputs"].unreadable,
        )
    )


def test_a_correct_job_is_exact_and_one_wrong_record_is_found(
    broker, topics, producer, tmp_path, monkeypatch
):
    monkeypatch.setattr(readback, "_SPAN_RECORDS", 500)
    bids = send_inputs(producer, topics[0])
    sent = send_outputs(producer, topics[1], bids)
    assert producer.flush(30) == 0
    verdict = judged(broker, topics, tmp_path / "good")
    assert verdict.exact, verdict.violated
    assert verdict.outputs_compared == sent
    assert verdict.bids == verdict.bids_counted == len(bids)
    assert verdict.changes_witnessed == verdict.changes == 4

    auction = bids[0][0]
    producer.produce(
        topics[1],
        output_of(auction, 1, 1, 1, FIRST_MS),
        auction.to_bytes(8, "big"),
        partition=auction % PARTITIONS,
    )
    # Cut short by a byte: it must not be read into whatever comes behind it.
    producer.produce(topics[0], b"\x00\x00\x00\x00\x03\x02", b"12345678", partition=0)
    assert producer.flush(30) == 0
    verdict = judged(broker, topics, tmp_path / "bad")
    failed = {finding.name for finding in verdict.violated}
    assert {"total", "order", "last", "bin", "owner", "readable", "published"} <= failed


def test_a_span_is_read_from_its_start_to_its_end(broker, topics, producer, tmp_path):
    send_inputs(producer, topics[0])
    assert producer.flush(30) == 0
    whole = spans_of(broker.bootstrap_servers, topics[0])
    assert [span.partition for span in whole] == list(range(PARTITIONS))
    assert sum(span.end - span.start for span in whole) == EVENTS
    part = readback.Span(topics[0], 1, 100, 250)
    kind, tally = read_span(
        Task(broker.bootstrap_servers, "bids", part, tmp_path / "part.parquet", BINS)
    )
    table = pq.read_table(tmp_path / "part.parquet")
    assert kind == "bids"
    assert tally.records == 150
    assert table.num_rows == tally.rows
    assert all(100 <= offset < 250 for offset in table["offset"].to_pylist())


def test_a_topic_that_is_not_there_is_a_named_error(broker, unique_name):
    with pytest.raises(BrokerError, match="cannot be read back"):
        spans_of(broker.bootstrap_servers, unique_name("nothing"))
