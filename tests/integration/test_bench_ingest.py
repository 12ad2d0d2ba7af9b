"""The ingest benchmark as its users call it: one document, whatever the figures are.

Cannot catch: a measurement that is wrong. That is for people, who compare docs/benchmarks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from confluent_kafka.admin import AdminClient
from jsonschema import Draft202012Validator

from tests.tidy.source import ROOT

_CONTRACT = ROOT / "docs" / "contracts" / "bench.schema.json"


def test_bench_ingest_prints_one_document_and_leaves_no_topic(bootstrap_servers):
    command = [sys.executable, "-m", "service", "bench", "ingest"]
    options = ["--records", "4000", "--runs", "2", "--output", "json"]
    done = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr
    document = json.loads(done.stdout)
    Draft202012Validator(json.loads(_CONTRACT.read_text(encoding="utf-8"))).validate(document)
    assert document["bench"] == "ingest"
    assert document["parameters"]["records"] == 4000
    figures = {figure["name"]: figure for figure in document["figures"]}
    held = figures["poll-decode-route over bare poll"]
    assert (held["runs"], held["bound"]) == (2, 0.6)
    assert (done.returncode == 0) is held["met"]
    assert all(figure["median"] > 0 for figure in figures.values())
    topics = AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=10).topics
    assert [name for name in topics if name.startswith("megaphone-bench-")] == []


def test_a_topic_too_small_to_measure_is_a_usage_error():
    command = [sys.executable, "-m", "service", "bench", "ingest", "--records", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
