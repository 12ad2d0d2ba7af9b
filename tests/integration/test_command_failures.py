"""What a user gets wrong, or finds missing, is said in one line and ends the command at once.

One process per case and a real Kafka. Statuses: 1 failed, 2 usage or environment.
"""

from __future__ import annotations

import socket

import pytest

from tests.integration.bids import topics
from tests.integration.command import Command, query

#: No broker is waited for longer than this; the default is 10 s.
IMPATIENT = {"MEGAPHONE_LIMITS__BROKER_TIMEOUT_S": "2"}


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input and output topic of this test."""
    return topics(bootstrap_servers, unique_name("t"))


@pytest.fixture
def silent_port():
    """A port at which connections are taken and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def said_once(command, status):
    """The one thing that a command says before it ends with a status."""
    command.finish(status)
    assert command.noise == []
    (line,) = command.lines()
    assert line["level"] == "error"
    return str(line["message"])


@pytest.mark.parametrize(
    ("role", "how"),
    [
        ("run", "refuses"),
        ("run", "is silent"),
        ("controller", "refuses"),
        ("worker", "is silent"),
        ("status", "refuses"),
    ],
)
def test_no_broker_is_an_error_within_its_time(role, how, silent_port, tmp_path):
    servers = f"127.0.0.1:{silent_port if how == 'is silent' else 1}"
    arguments = [] if role == "status" else ["nexmark:auction_bids"]
    arguments += ["--bootstrap-servers", servers, "--app", "a"]
    if role in ("worker", "gateway"):
        arguments += ["--slot", "0", "--state-dir", str(tmp_path)]
    with Command(role, *arguments, environment=IMPATIENT) as command:
        message = said_once(command, 2)
    assert f"no Kafka broker answered at {servers} within 2 s" in message


@pytest.mark.parametrize("missing", ["events", "auction-bids"])
def test_a_missing_topic_is_named(
    bootstrap_servers, app_name, names, tmp_path, unique_name, missing
):
    prefix = names[0].removesuffix("-events")
    absent = unique_name("absent")
    if missing == "events":
        arguments = ["--topic-prefix", absent, "--output-topic", names[1]]
    else:
        arguments = ["--topic-prefix", prefix, "--output-topic", absent]
    arguments += ["--bootstrap-servers", bootstrap_servers, "--app", app_name]
    arguments += ["--state-dir", str(tmp_path)]
    with Command("run", "nexmark:auction_bids", *arguments) as command:
        assert absent in said_once(command, 2)


@pytest.mark.parametrize("role", ["controller", "worker"])
def test_a_role_that_is_started_alone_names_a_missing_topic(
    bootstrap_servers, app_name, tmp_path, unique_name, role
):
    absent = unique_name("absent")
    arguments = ["--bootstrap-servers", bootstrap_servers, "--app", app_name]
    arguments += ["--topic-prefix", absent]
    if role == "worker":
        arguments += ["--slot", "0", "--state-dir", str(tmp_path)]
    with Command(role, "nexmark:auction_bids", *arguments) as command:
        assert absent in said_once(command, 2)


def test_a_registry_that_does_not_answer_ends_the_start(
    bootstrap_servers, app_name, names, tmp_path
):
    arguments = ["--bootstrap-servers", bootstrap_servers, "--app", app_name, *query(names)]
    arguments += ["--state-dir", str(tmp_path), "--registry", "http://127.0.0.1:1"]
    with Command("run", "nexmark:auction_bids", *arguments) as command:
        command.finish(1, timeout_s=30)
        assert command.noise == []
        assert any("127.0.0.1:1" in message for message in command.errors())


@pytest.mark.parametrize("local", [[], ["--local"]], ids=["processes", "local"])
def test_a_state_folder_that_cannot_be_written_is_named(
    bootstrap_servers, app_name, names, tmp_path, local
):
    occupied = tmp_path / "occupied"
    occupied.write_text("no folder")
    arguments = ["--bootstrap-servers", bootstrap_servers, "--app", app_name, *query(names)]
    arguments += ["--state-dir", str(occupied), *local]
    with Command("run", "nexmark:auction_bids", *arguments) as command:
        command.finish(2, timeout_s=30)
        assert command.noise == []
        assert any("--state-dir" in message for message in command.errors())


def test_the_status_of_a_job_that_never_was_is_an_error(bootstrap_servers, app_name):
    with Command("status", "--bootstrap-servers", bootstrap_servers, "--app", app_name) as command:
        assert app_name in said_once(command, 2)
