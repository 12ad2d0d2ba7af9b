"""The command line: what it refuses with status 2 before anything is started, and its help."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.errors import UsageError
from service.nexmark.query_topics import QueryTopics
from service.preflight import topics_of
from service.process_options import told_slot
from service.targets import load_flow

TOPICS = QueryTopics("p", None)
BASE = ["--bootstrap-servers", "127.0.0.1:1", "--app", "a"]


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "nexmark:auction_bids"],
        ["run", "nexmark:auction_bids", *BASE, "--workers", "0"],
        ["run", "nexmark:auction_bids", *BASE, "--no-such-option"],
        ["worker", "nexmark:auction_bids", *BASE],
        ["fly"],
        ["status", *BASE, "--output", "xml"],
    ],
)
def test_a_wrong_command_line_is_explained_with_status_2(arguments, monkeypatch):
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert "--help" in result.stderr


def test_a_flow_of_topics_says_which_options_it_needs(monkeypatch):
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    result = invoke("run", "nexmark:auction_bids", "--bootstrap-servers", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "reads or writes Kafka and needs --app" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("auction_bids", "module:flow"),
        ("nexmark:", "no NEXMark query ''"),
        ("nexmark:q99", "there are: auction_bids"),
        ("no_such_module:flow", "module 'no_such_module'"),
        ("service.ids:no_such_name", "has no 'no_such_name'"),
        ("service.ids:Role", "not a megaphone.Flow"),
        (":flow", "module:flow"),
        ("service.nexmark.queries:auction_bids", "takes arguments"),
    ],
)
def test_a_target_that_is_no_flow_is_a_usage_error(target, said):
    with pytest.raises(UsageError, match=said):
        load_flow(target, TOPICS)


def test_a_flow_or_a_function_that_makes_one_is_a_target(tmp_path, monkeypatch):
    (tmp_path / "my_flows.py").write_text(
        "from service.nexmark.queries import auction_bids\n"
        "from service.nexmark.query_topics import QueryTopics\n"
        "flow = auction_bids(QueryTopics('mine'))\n"
        "def make():\n    return flow\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("flow", "make"):
        assert topics_of(load_flow(f"my_flows:{name}", TOPICS)) == [
            "mine-events",
            "mine-auction-bids",
        ]


@pytest.mark.parametrize("bins", ["0", "3", "-4", str(1 << 17)])
def test_a_number_of_bins_that_cannot_be_is_refused(bins):
    result = invoke("run", "nexmark:auction_bids", *BASE, "--bins", bins)
    assert isinstance(result.exception, UsageError)


def test_every_command_explains_itself_and_each_of_its_options():
    listed = invoke("--help")
    assert listed.exit_code == 0
    for command in ("run", "controller", "worker", "gateway", "broker", "status"):
        assert command in listed.stdout
        result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert "--tied" not in result.stdout, "the launcher's own option is nobody else's business"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker", "a:b", "--slot", "3"], "worker-3"),
        (["gateway", "a:b", "--slot=any", "--app", "x"], "gateway-any"),
        (["worker", "--slot=third"], "worker"),
        (["worker", "a:b", "--slot"], "worker"),
        (["status", "--slot", "3"], "status"),
        ([], "megaphone"),
    ],
)
def test_a_failure_is_told_by_who_the_command_line_says_failed(arguments, said):
    assert told_slot(["megaphone", *arguments], "host") == said
