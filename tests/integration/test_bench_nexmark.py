"""The NEXMark bench through a real Kafka at a small size: one document, exact, no topic left.

Cannot catch: a measurement that is wrong. That is for people, who compare docs/benchmarks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from confluent_kafka.admin import AdminClient
from jsonschema import Draft202012Validator

from tests.tidy.source import ROOT

_CONTRACT = ROOT / "docs" / "contracts" / "bench.schema.json"
#: Eight jobs, one after the other.
TIMEOUT_S = 600
#: One whose results say a time, one whose results do not and whose state moves.
_QUERIES = ["--query", "q1", "--query", "q6"]
#: How a load is called where the cap was sustained: it depends on the machine.
_CAPPED = re.compile(r"at (\d+ %) of --rate-max")
_SIZES = ["--backlog-events", "3000", "--check-events", "6000", "--rate-max", "4000"]


@pytest.mark.timeout(TIMEOUT_S)
def test_two_queries_through_kafka_are_exact_and_timed(bootstrap_servers, tmp_path):
    command = [sys.executable, "-m", "service", "bench", "nexmark", "--through", "kafka"]
    page = tmp_path / "report.html"
    options = ["--quick", "--migration", "all-at-once", "--report", str(page), "--output", "json"]
    done = subprocess.run(
        [*command, *_QUERIES, *_SIZES, *options],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr
    document = json.loads(done.stdout)
    Draft202012Validator(json.loads(_CONTRACT.read_text(encoding="utf-8"))).validate(document)
    figures = {
        _CAPPED.sub(r"at \1", figure["name"]): figure["median"] for figure in document["figures"]
    }
    wrong = {name: value for name, value in figures.items() if "differences" in name}
    assert wrong == dict.fromkeys(wrong, 0), done.stderr
    assert "q6: differences from the oracle, through Kafka, out of order, all-at-once" in wrong
    assert figures["q6: moved through Kafka, out of order, all-at-once"] > 0
    for name in (
        "q1: through Kafka, backlog, 1 gateway + 1 worker",
        "q6: through Kafka, backlog, 1 gateway + 1 worker",
        "q1: through Kafka, none, at 50 %: steady p99",
        "q1: through Kafka, none, at 50 %: rate",
        "q6: through Kafka, all-at-once, at 50 %: steady p99",
        "q6: through Kafka, all-at-once, at 50 %: moving p99",
        "q6: through Kafka, all-at-once, at 50 %: moved",
        "q6: through Kafka, all-at-once: largest worker",
    ):
        assert figures[name] > 0, name
    assert figures["q1: through Kafka, maximum sustained, 1 gateway + 2 workers"] <= 4_000
    assert "q6: results of unknown events" not in figures
    assert "Through Kafka" in page.read_text(encoding="utf-8")
    topics = AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=10).topics
    assert [name for name in topics if name.startswith("megaphone-bench-")] == []
