"""`megaphone doctor` at a real Kafka: what is there is found, what is wrong named, nothing stays.

Refused permissions want a broker with an authorizer: test_permissions.py.
"""

from __future__ import annotations

import json

from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from loadgen.broker import ensure_topic, leaders
from service.cli import app
from service.control_topics import Admin, AppTopics
from tests.integration.bids import topics
from tests.integration.command import query
from tests.integration.job import contract


def examine(bootstrap_servers, *arguments, status=0):
    """Findings by name, held against the contract."""
    result = CliRunner().invoke(
        app,
        ["doctor", *arguments, "--bootstrap-servers", bootstrap_servers, "--output", "json"],
    )
    assert result.exit_code == status, result.output
    report = json.loads(result.stdout)
    contract("doctor").validate(report)
    return {each["name"]: each for each in report["checks"]}


def left_of(bootstrap_servers, app):
    """Topics of an app; a broker learns of a deletion a moment after it was done."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    left = {"not asked yet"}
    for _ in range(500):
        left = {name for name in client.list_topics(timeout=10).topics if name.startswith(app)}
        if not left:
            break
    return left


def known(bootstrap_servers, prefix):
    """Wait until the broker has learned of both topics that were just made."""
    for name in ("events", "auction-bids"):
        leaders(bootstrap_servers, f"{prefix}-{name}")


def test_a_job_that_can_start_is_found_well_and_nothing_is_left_behind(
    bootstrap_servers, app_name, unique_name, tmp_path
):
    names = topics(bootstrap_servers, unique_name("t"))
    arguments = ["nexmark:auction_bids", *query(names), "--app", app_name]
    arguments += ["--state-dir", str(tmp_path), "--gateways", "4"]
    found = examine(bootstrap_servers, *arguments)
    bad = {name: each for name, each in found.items() if each["verdict"] in ("bad", "unknown")}
    assert bad == {}
    assert set(found) >= {
        "versions.python", "versions.librdkafka", "disk.state", "disk.room", "limits.open-files",
        "ports.http", "registry.schemas", "broker.reachable", "broker.advertised",
        "broker.version", "topics.exist", "topics.partitions", "permissions.read",
        "permissions.write", "permissions.create", "permissions.group", "broker.trial",
        "clock.broker", "limits.unpacked",
    }  # fmt: skip
    assert found["broker.version"]["says"].startswith("Kafka 4.")
    assert "fenced, created, written, read, deleted" in found["broker.trial"]["says"]
    assert f"{app_name}.control" in found["permissions.create"]["says"]
    assert left_of(bootstrap_servers, app_name) == set()


def test_topics_as_we_make_them_let_nothing_grow_beyond_memory(
    bootstrap_servers, unique_name, tmp_path
):
    prefix = unique_name("t")
    arguments = ["nexmark:auction_bids", "--topic-prefix", prefix]
    made = ["create-topics", *arguments, "--bootstrap-servers", bootstrap_servers]
    assert CliRunner().invoke(app, made).exit_code == 0
    known(bootstrap_servers, prefix)
    found = examine(bootstrap_servers, *arguments, "--no-trial", "--state-dir", str(tmp_path))
    assert found["limits.unpacked"]["verdict"] == "good"


def test_a_topic_that_lets_more_through_than_any_machine_has_is_named(
    bootstrap_servers, unique_name, tmp_path
):
    prefix = unique_name("t")
    config = {"compression.type": "producer", "max.message.bytes": str(1 << 30)}
    admin = Admin(bootstrap_servers, 10)
    admin.create(f"{prefix}-events", 1, config)
    admin.create(f"{prefix}-auction-bids", 1)
    known(bootstrap_servers, prefix)
    arguments = ["nexmark:auction_bids", "--topic-prefix", prefix, "--no-trial"]
    found = examine(bootstrap_servers, *arguments, "--state-dir", str(tmp_path))
    assert found["limits.unpacked"]["verdict"] == "warning"
    assert f"{prefix}-events (compression.type=producer)" in found["limits.unpacked"]["says"]


def test_what_is_absent_or_wrong_is_named_with_status_1(
    bootstrap_servers, app_name, unique_name, tmp_path
):
    prefix = unique_name("t")
    ensure_topic(bootstrap_servers, f"{prefix}-events", 1)
    own = AppTopics(app_name)
    admin = Admin(bootstrap_servers, 10)
    admin.create(own.control, 3, own.layout()[own.control])
    admin.create(own.accepted, 1, {"cleanup.policy": "delete", "retention.ms": "1000"})
    arguments = ["nexmark:auction_bids", "--topic-prefix", prefix, "--app", app_name]
    arguments += ["--gateways", "2", "--state-dir", str(tmp_path), "--no-trial"]
    found = examine(bootstrap_servers, *arguments, status=1)
    bad = {name: each["says"] for name, each in found.items() if each["verdict"] == "bad"}
    assert set(bad) == {"topics.exist", "topics.own", "topics.kept"}
    assert f"{prefix}-auction-bids" in bad["topics.exist"]
    assert f"{own.control} has 3 partitions" in bad["topics.own"]
    assert "retention.ms=1000, it needs -1" in bad["topics.kept"]
    assert found["topics.partitions"]["verdict"] == "warning"
    assert found["clock.broker"]["verdict"] == "unknown"


def test_schemas_that_the_registry_lacks_are_named(bootstrap_servers, tmp_path):
    (tmp_path / "schemas").mkdir()
    arguments = ["nexmark:auction_bids", "--registry", str(tmp_path / "schemas"), "--no-trial"]
    found = examine(bootstrap_servers, *arguments, "--state-dir", str(tmp_path), status=1)
    assert found["registry.schemas"]["verdict"] == "bad"
    assert "bid" in found["registry.schemas"]["says"]
