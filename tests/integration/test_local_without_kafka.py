"""`megaphone run --local` as a real process, of flows that have nothing to do with Kafka."""

from __future__ import annotations

import json
import signal

import pyarrow.parquet
import pytest

from tests.integration.command import Command

FLOWS = "tests.integration.local_flows"
#: No broker could be asked: the address is nobody's.
NOWHERE = {"KAFKA_BOOTSTRAP_SERVERS": "", "MEGAPHONE_APP": ""}


@pytest.fixture
def bids(tmp_path):
    """A file of bids in the folder where the command runs."""
    lines = [json.dumps({"auction": each % 100, "price": each}) for each in range(50_000)]
    (tmp_path / "bids.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "bids.jsonl"


def run(folder, flow, *arguments):
    """A command in a folder."""
    return Command("run", f"{FLOWS}:{flow}", *arguments, environment=NOWHERE, cwd=folder)


def test_a_file_becomes_a_file_and_the_status_is_0(bids, tmp_path):
    with run(tmp_path, "counting", "--local", "--workers", "3", "--bins", "64") as command:
        command.finish(0)
        (line,) = command.lines("run.finished")
    assert (line["rows_read"], line["complete"]) == (50_000, True)
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == line["rows_written"]
    last = {row["auction"]: (row["bids"], row["top"]) for row in rows}
    assert last == {auction: (500, 49_900 + auction) for auction in range(100)}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bids.jsonl", "out.parquet"]


def test_a_function_that_raises_ends_it_with_status_1_by_name(bids, tmp_path):
    with run(tmp_path, "failing", "--local") as command:
        command.finish(1)
        (told,) = command.errors()
    assert "the function of 'check' raised ValueError: 13 is no price; the batch at (" in told
    assert [each.name for each in tmp_path.iterdir()] == ["bids.jsonl"]


def test_a_bad_line_ends_it_with_status_1_by_file_and_line(bids, tmp_path):
    lines = bids.read_text().splitlines()
    lines[40_000] = '{"auction": "x", "price": 1}'
    bids.write_text("\n".join(lines) + "\n")
    with run(tmp_path, "counting", "--local") as command:
        command.finish(1)
        (told,) = command.errors()
    assert told.startswith("bids.jsonl:40001: ")
    assert [each.name for each in tmp_path.iterdir()] == ["bids.jsonl"]


def test_a_file_that_is_not_there_ends_it_with_status_2(tmp_path):
    with run(tmp_path, "counting", "--local") as command:
        command.finish(2)
        (told,) = command.errors()
    assert told.startswith("bids.jsonl cannot be opened: No such file or directory")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_plainly_with_what_was_read(tmp_path, number):
    with run(tmp_path, "endless", "--local", "--bins", "16") as command:
        partial = tmp_path / ".out.jsonl.partial"
        command.await_(lambda: partial.exists() and partial.stat().st_size > 0, "results")
        command.signal(number)
        command.finish(0)
        (line,) = command.lines("run.finished")
    assert line["complete"] is False
    rows = [json.loads(each) for each in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == line["rows_written"]
    assert [row["n"] for row in rows] == sorted(row["n"] for row in rows)
    assert line["rows_read"] - 1 <= rows[-1]["n"] <= line["rows_read"]


@pytest.mark.parametrize(
    ("flow", "arguments", "told"),
    [
        ("counting", [], "has no topics but 'bids' (file bids.jsonl), 'out' (file out.parquet)"),
        ("counting", ["--bootstrap-servers", "nowhere:1", "--app", "a"], "with --local"),
        ("counting", ["--local", "--bins", "3"], "power of two"),
    ],
)
def test_what_it_cannot_do_is_refused_with_status_2(bids, tmp_path, flow, arguments, told):
    with run(tmp_path, flow, *arguments) as command:
        command.finish(2)
        (error,) = command.errors()
    assert told in error


@pytest.mark.parametrize("role", ["controller", "worker", "gateway"])
def test_a_role_alone_refuses_a_flow_without_topics(tmp_path, role):
    arguments = ["--bootstrap-servers", "nowhere:1", "--app", "a"]
    arguments += [] if role == "controller" else ["--slot", "0"]
    with Command(role, f"{FLOWS}:counting", *arguments, cwd=tmp_path) as command:
        command.finish(2)
        (error,) = command.errors()
    assert "has no topics but" in error


def test_a_flow_of_topics_still_needs_to_know_where_they_are(tmp_path):
    arguments = ["run", "examples.two_stages:flow", "--local"]
    with Command(*arguments, environment=NOWHERE, cwd=tmp_path) as command:
        command.finish(2)
        said = " ".join(command.noise)
    assert "Usage:" in said
    assert all(word in said for word in ("'busiest'", "Kafka", "--bootstrap-servers", "--app"))
