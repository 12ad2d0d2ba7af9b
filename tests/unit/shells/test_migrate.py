"""What `megaphone migrate` makes of targets, plan files and statuses, without a job.

Cannot catch: what a job says to it; that is tests/integration/test_migrate.py.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.errors import UsageError
from service.migrate_bodies import body_of_file, body_of_target, target_named
from service.migrate_view import sentence_of, show_answer, show_plan
from service.migration.plan_file import PlanFile, TimedWave, read_plan
from service.migration.records import RequestState, StatusRecord
from service.migration.requests import Request, parse
from service.status import size_text

OWNERS = np.array([0, 0, 1, 1], dtype=np.int32)
BASE = ["--bootstrap-servers", "127.0.0.1:1", "--app", "a"]


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, list(arguments))


def understood(body):
    """Whether a controller would take the body."""
    return isinstance(parse(json.dumps({"id": "r"} | body).encode(), 0), Request)


def test_a_target_becomes_a_request_that_names_only_what_moves():
    body = body_of_target("worker:1", OWNERS, 2)
    assert body == {"kind": "move", "moves": [[0, 1], [1, 1]]}
    assert understood(body)


def test_a_spread_is_left_to_the_controller_which_knows_the_newest_owners():
    body = body_of_target("spread:1", OWNERS, 2)
    assert body == {"kind": "rescale", "workers": 1}
    assert understood(body)


@pytest.mark.parametrize(
    "text", ["[1, 1, 0, 1]", "[[0, 1], [1, 1], [2, 0]]", '{"0":1,"1":1,"2":0}']
)
def test_a_target_file_is_a_table_or_pairs_or_an_object(text, tmp_path):
    file = tmp_path / "target.json"
    file.write_text(text)
    target = target_named(str(file), OWNERS, 2)
    assert {b: w for b, w in target.items() if OWNERS[b] != w} == {0: 1, 1: 1, 2: 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 1]", "names workers of 2 bins; the job has 4"),
        ("[[0, 1], [0, 0]]", "bin 0 is named twice"),
        ("[[4, 1]]", "no bin 4; the job has bins 0 to 3"),
        ("[[0, 2]]", "no worker 2; the job has workers 0 to 1"),
        ('{"0": -1}', "no worker -1"),
        ('{"a": 1}', "write a list of the worker of each bin"),
        ("[0, 1", "write a list of the worker of each bin"),
        ("7", "write a list of the worker of each bin"),
    ],
)
def test_a_target_file_that_cannot_be_is_refused_by_name(text, said, tmp_path):
    file = tmp_path / "target.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        target_named(str(file), OWNERS, 2)
    assert str(file) in str(refused.value)


def test_a_plan_file_becomes_waves_with_their_times_if_it_has_any():
    body = body_of_file(read_plan("D 0 0 1\nD 5000000 1 1 2 0", "plan"))
    assert body == {"kind": "move", "waves": [((0, 1),), ((1, 1), (2, 0))], "after_us": [0, 5000]}
    assert understood(body)
    assert "after_us" not in body_of_file(read_plan("D 0 0 1", "plan"))


def test_a_status_is_one_sentence():
    done = StatusRecord(
        id="r", state=RequestState.COMPLETED, at=1, bins=3, bytes=4_500, waves=2, duration_ms=70,
        longest_wait_ms=41,
    )  # fmt: skip
    said = "r: completed, 3 bins, 4.5 kB, 2 waves in 70 ms, longest wait 41 ms"
    assert sentence_of(done) == said
    accepted = StatusRecord(id="r", state=RequestState.ACCEPTED, at=1, bins=3, waves=2)
    assert sentence_of(accepted) == "r: accepted, 3 bins in 2 waves"
    aborted = StatusRecord(id="r", state=RequestState.ABORTED, at=1, reason="enough")
    assert sentence_of(aborted) == "r: aborted; enough"
    dry = StatusRecord(
        id="r", state=RequestState.COMPLETED, at=1, bins=3, bytes=999, waves=2, duration_ms=70,
        longest_wait_ms=41, dry_run=True,
    )  # fmt: skip
    said = "r: would move 3 bins, 999 B, in 2 waves: about 70 ms, rows wait 41 ms at most"
    assert sentence_of(dry) == said


def test_answers_are_printed_for_people_and_as_the_contract_has_them(capsys):
    status = StatusRecord(id="[r]", state=RequestState.PAUSED, at=1)
    show_answer(status, as_json=False)
    show_answer(status, as_json=True)
    text, document = capsys.readouterr().out.splitlines()
    assert text == "[r]: paused"
    assert json.loads(document)["state"] == "paused"
    assert "longest_wait_ms" not in document


def test_a_plan_is_shown_as_what_goes_from_where_to_where(capsys):
    show_plan(PlanFile((TimedWave(0, ((0, 1), (1, 1))), TimedWave(0, ((0, 0),)))), OWNERS)
    shown = capsys.readouterr().out
    assert "2 waves" in shown
    rows = [line.split("│")[1:4] for line in shown.splitlines() if "worker-" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["worker-0", "worker-1", "2"],
        ["worker-1", "worker-0", "1"],
    ]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (5 * 10**15, "5,000.0 TB")]
)
def test_sizes_are_short(size, text):
    assert size_text(size) == text


def test_the_commands_explain_themselves():
    listed = invoke("--help").stdout
    for command in ("migrate", "rescale", "rebalance"):
        assert command in listed
    assert "--threshold" in invoke("rebalance", "--help").stdout
    steps = invoke("migrate", "--help").stdout
    for command in ("plan", "apply", "watch", "pause", "resume", "abort"):
        assert command in steps
        result = invoke("migrate", command, "--help")
        assert result.exit_code == 0
        assert "--output" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name either a plan file or a --target"),
        (["plan.json", "--target", "half"], "name either a plan file or a --target"),
        (["plan.json", "--batch", "2"], "has its waves already; leave --strategy and --batch out"),
        (["no-such-plan.json"], "no-such-plan.json cannot be read: No such file"),
    ],
)
def test_what_apply_cannot_do_is_said_before_anybody_is_asked(arguments, said):
    result = invoke("migrate", "apply", *arguments, *BASE)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)


def test_a_wrong_strategy_is_explained_with_status_2():
    result = invoke("rescale", "--workers", "1", "--strategy", "luck", *BASE)
    assert result.exit_code == 2
    assert "optimized" in result.stderr
