"""Every verb of the command: an example that parses in its help, JSON on request, completion.

Cannot catch: an example that parses and is not what one would want to do.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.fakes.command_lines import VARIABLES, leaves, parsed

VERBS = dict(leaves())
#: Verbs a person would guess.
GUESSED = (
    "run", "broker", "control send", "control list", "migrate apply", "rescale", "status",
    "state ls", "bench nexmark", "graph", "doctor", "check-config", "checkpoint", "dlq replay",
)  # fmt: skip
#: Verbs without --output, and why.
NO_DOCUMENT = {
    ("run",): "logs JSON lines",
    ("controller",): "logs JSON lines",
    ("worker",): "logs JSON lines",
    ("gateway",): "logs JSON lines",
    ("completion",): "prints a script",
}


def options_of(command):
    return {name for parameter in command.params for name in parameter.opts}


@pytest.fixture(autouse=True)
def documented_environment(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


def test_there_are_the_verbs_that_one_would_guess():
    assert {tuple(each.split()) for each in GUESSED} <= set(VERBS)


@pytest.mark.parametrize("verbs", VERBS, ids=" ".join)
def test_the_help_of_a_verb_shows_an_example_that_parses(verbs):
    (line,) = re.findall(r"Example: (megaphone .*)", VERBS[verbs].epilog or "")
    assert parsed(shlex.split(line)) == verbs
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [*verbs, "--help"])
    assert result.exit_code == 0
    assert line in " ".join(result.stdout.split())


@pytest.mark.parametrize("verbs", VERBS, ids=" ".join)
def test_every_option_and_argument_says_what_it_is(verbs):
    silent = [
        parameter.name
        for parameter in VERBS[verbs].params
        if not getattr(parameter, "help", None) and parameter.name != "help"
    ]
    assert silent == []


def test_every_verb_answers_in_json_or_has_a_reason_not_to():
    without = {verbs for verbs, command in VERBS.items() if "--output" not in options_of(command)}
    assert without == set(NO_DOCUMENT)
    for verbs in set(VERBS) - without:
        (output,) = (each for each in VERBS[verbs].params if "--output" in each.opts)
        assert "json" in [*output.type_descriptor.annotation], verbs


def test_verbs_that_read_knobs_take_a_file_and_single_ones():
    needed = {("run",), ("controller",), ("worker",), ("gateway",), ("status",), ("doctor",)}
    needed |= {("check-config",), ("checkpoint",), ("rescale",), ("state", "import")}
    needed |= {verbs for verbs in VERBS if verbs[0] in ("migrate", "control", "dlq")}
    assert [
        verbs for verbs in needed if not {"--config", "--set"} <= options_of(VERBS[verbs])
    ] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_that_asks_the_command(shell):
    result = CliRunner().invoke(app, ["completion", shell])
    assert result.exit_code == 0
    assert "_MEGAPHONE_COMPLETE=complete_" + shell in result.stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("megaphone che", ["check-config", "checkpoint"]),
        ("megaphone migrate pa", ["pause"]),
        ("megaphone status --wa", ["--watch"]),
        ("megaphone run nexmark:q5", ["nexmark:q5"]),
    ],
)
def test_a_shell_completes_verbs_options_and_targets(typed, completed):
    """As bash asks: by the environment, the word under way last."""
    asked = {
        **os.environ,
        "_MEGAPHONE_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    answer = subprocess.run(
        [sys.executable, "-m", "service"], env=asked, capture_output=True, text=True, check=True
    )
    assert sorted(answer.stdout.split()) == completed
