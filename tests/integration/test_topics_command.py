"""`megaphone create-topics`: makes what is missing, leaves what is there, tells which in JSON."""

from __future__ import annotations

import json

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource
from typer.testing import CliRunner

from loadgen.broker import ensure_topic, leaders
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


def compressions(bootstrap_servers, *names):
    """`compression.type` of topics."""
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    for name in names:
        leaders(bootstrap_servers, name)  # a young topic is not known everywhere at once
    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    told = client.describe_configs(resources)
    return [told[each].result(30)["compression.type"].value for each in resources]


@pytest.mark.parametrize(
    ("said", "made"), [([], "uncompressed"), (["--compression", "lz4"], "lz4")]
)
def test_inputs_are_stored_unpacked_unless_told_otherwise(
    bootstrap_servers, unique_name, said, made
):
    prefix = unique_name("t")
    arguments = ["create-topics", "nexmark:q8", "--topic-prefix", prefix, *said]
    result = CliRunner().invoke(app, [*arguments, "--bootstrap-servers", bootstrap_servers])
    assert result.exit_code == 0, result.output
    inputs = [f"{prefix}-person", f"{prefix}-auction"]
    assert compressions(bootstrap_servers, *inputs) == [made, made]
    assert compressions(bootstrap_servers, f"{prefix}-q8") == ["producer"]
