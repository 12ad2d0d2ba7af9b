"""`megaphone create-topics`: makes what is missing, leaves what is there, tells which in JSON."""

from __future__ import annotations

import json

from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from loadgen.broker import ensure_topic
from service.cli import app


def test_what_is_missing_is_made_and_what_is_there_stays(bootstrap_servers, unique_name):
    prefix = unique_name("t")
    output, events = f"{prefix}-auction-bids", f"{prefix}-events"
    ensure_topic(bootstrap_servers, output, 3)
    arguments = ["create-topics", "nexmark:auction_bids", "--topic-prefix", prefix]
    arguments += ["--bootstrap-servers", bootstrap_servers, "--partitions", "2"]
    answers = []
    for _ in range(2):
        result = CliRunner().invoke(app, [*arguments, "--output", "json"])
        assert result.exit_code == 0, result.output
        answers.append(json.loads(result.stdout))
    assert answers == [
        {"created": {events: 2}, "existing": {output: 3}},
        {"created": {}, "existing": {events: 2, output: 3}},
    ]
    there = AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=30).topics
    assert [len(there[name].partitions) for name in (events, output)] == [2, 3]
