"""Windows of event time on real processes: rows out of order, moves, a stop and a start between.

The oracle counts the input as fastavro reads it. Two sources read the one topic.
Cannot catch: a partition that is silent for long; the test kit's clock shows that.
"""

from __future__ import annotations

import io
from collections import Counter

import fastavro
import numpy as np
import pytest

from loadgen.broker import KafkaProducer
from loadgen.producer import Sender
from service.nexmark.events import EventSource, NexmarkConfig
from tests.integration.bids import FIRST_MS, PARTITIONS
from tests.integration.flows import SCHEMAS, WINDOW_MS
from tests.integration.job import ROOT, read_topic, registry
from tests.integration.user_flow import start, table_of, topics

EVENTS = 6_000
#: Event n happened about 10 ms after event n - 1, and at most this much out of order.
STEP_MS, JITTER_MS = 10, 250


@pytest.fixture
def prefix(bootstrap_servers, unique_name):
    """The test's prefix of topics."""
    return topics(bootstrap_servers, unique_name("t"), "bid-windows", "auction-windows", "late")


def publish(bootstrap_servers, topic, first, last):
    """Send events whose times are out of order."""
    numbers = np.arange(first, last, dtype=np.int64)
    jitter = np.random.default_rng(first).integers(0, JITTER_MS, len(numbers))
    client = KafkaProducer(bootstrap_servers, 5)
    client.connect(topic)
    times = FIRST_MS + numbers * STEP_MS - jitter
    Sender(client, [topic], PARTITIONS).send(
        EventSource(NexmarkConfig()).encode(numbers, times, PARTITIONS)
    )
    client.flush(60)
    assert client.queued() == 0


def expected(bootstrap_servers, topic):
    """Counts of (key, end) by record type, from the input."""
    kinds = {3: ("bid", "auction"), 2: ("auction", "seller")}
    folder = ROOT / "service" / "nexmark" / "schemas"
    schemas = {number: fastavro.schema.load_schema(folder / f"{number}.avsc") for number in kinds}
    counts = {"bid": Counter(), "auction": Counter()}
    for message in read_topic(bootstrap_servers, topic):
        value = message.value()
        number = int.from_bytes(value[1:5], "big")
        if number in kinds:
            kind, key = kinds[number]
            row = fastavro.schemaless_reader(io.BytesIO(value[5:]), schemas[number], None)
            counts[kind][row[key], (row["date_time"] // WINDOW_MS + 1) * WINDOW_MS] += 1
    return counts


#: With a budget the second start has every entry on disk.
@pytest.mark.parametrize("memory", [(), ("--state-memory", "16MiB")], ids=["memory", "disk"])
def test_every_window_closes_once_and_whole(bootstrap_servers, app_name, prefix, tmp_path, memory):
    events = f"{prefix}-events"
    # Times as numbers: no schemas but those the flow is about.
    for file in registry(tmp_path / "schemas", SCHEMAS).glob("*.avsc"):
        if int(file.stem) not in {1, 2, 3, *SCHEMAS}:
            file.unlink()
    publish(bootstrap_servers, events, 0, EVENTS // 2)
    with start(bootstrap_servers, app_name, prefix, tmp_path, "windows", *memory) as job:
        job.await_running()
        job.await_(lambda: job.total("megaphone_state_applied_rows_total") > 1_000, "rows")
        job.request({"id": "one", "kind": "rescale", "workers": 1, "batch": 8})
        job.await_status("one", "completed")
        publish(bootstrap_servers, events, EVENTS // 2, EVENTS - 1_000)
        job.request({"id": "two", "kind": "rescale", "workers": 2, "batch": 8})
        job.await_status("two", "completed")
        job.stop()
    publish(bootstrap_servers, events, EVENTS - 1_000, EVENTS)
    options = ("--until-end", *memory)
    with start(bootstrap_servers, app_name, prefix, tmp_path, "windows", *options) as job:
        job.finish()
        assert len(job.lines("state.restored")) == 2
    for kind, counts in expected(bootstrap_servers, events).items():
        rows = table_of(bootstrap_servers, f"{prefix}-{kind}-windows", 16).to_pylist()
        found = Counter({(row["key"], row["end"]): row["events"] for row in rows})
        assert len(found) == len(rows), "a window closed twice"
        assert found == counts
        assert {row["worker"] for row in rows} == {0, 1}
    assert read_topic(bootstrap_servers, f"{prefix}-late") == []
