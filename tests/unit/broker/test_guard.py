"""The guard ends its command and removes the folder, however its owner ends.

Each test waits for the end of a pipe, never for time: a pipe that a process holds ends when the
process is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.broker.java import GUARD


def _start(
    folder: Path, *commands: list[str], guard: Sequence[str] = (), **options: object
) -> subprocess.Popen[bytes]:
    folder.mkdir()
    order = json.dumps({"folder": str(folder), "commands": commands})
    return subprocess.Popen(
        [sys.executable, "-I", "-S", *guard, str(GUARD), order],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )


def _command_that_stays(told: Path) -> list[str]:
    """A command that says so in a pipe that it keeps open, and then waits for what never comes."""
    return ["/bin/sh", "-c", f'exec 9>"{told}"; echo running >&9; read forever < "{told}.never"']


@pytest.fixture
def told(tmp_path):
    """A named pipe for the command to tell its life by, and one that nobody will ever write."""
    pipe = tmp_path / "told"
    subprocess.run(["mkfifo", str(pipe), f"{pipe}.never"], check=True)
    return pipe


@pytest.mark.parametrize("how", ["the owner's pipe ends", "the guard is terminated"])
def test_the_command_dies_and_the_folder_goes(tmp_path, told, how):
    folder = tmp_path / "data"
    with _start(folder, _command_that_stays(told)) as guard, told.open() as life:
        assert life.readline() == "running\n"
        assert folder.is_dir()
        if how == "the guard is terminated":
            guard.terminate()
        else:  # the kernel closes a dead owner's pipes: to the guard, closed and killed are one
            guard.stdin.close()
        guard.wait()
        assert life.read() == ""  # nobody holds the pipe any more
    assert not folder.exists()


# The guard, sent SIGTERM when its command runs and the call that starts it has not yet returned.
TOLD_WHILE_IT_STARTS = """
import os, runpy, signal, subprocess, sys

_, told, *sys.argv = sys.argv

class Popen(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        with open(told) as life:
            life.readline()
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Popen
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_signal_while_the_command_is_being_started_ends_it_too(tmp_path, told):
    folder = tmp_path / "data"
    life = os.open(told, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for the command to open it
    guard = ["-c", TOLD_WHILE_IT_STARTS, str(told)]
    with _start(folder, _command_that_stays(told), guard=guard) as started:
        assert started.wait() == 128 + signal.SIGTERM
    os.set_blocking(life, True)
    with os.fdopen(life) as rest:
        assert rest.read() == ""  # nobody holds the pipe any more
    assert not folder.exists()


def test_a_command_that_ends_by_itself_is_announced_with_its_log_still_there(tmp_path):
    folder = tmp_path / "data"
    with _start(folder, ["/bin/sh", "-c", "echo last words; exit 3"]) as guard:
        assert guard.stdout.read() == b""  # ends when no command runs
        assert (folder / "kafka.log").read_text() == "last words\n"
        guard.stdin.close()
        guard.wait()
    assert not folder.exists()


def test_commands_run_one_after_another_until_one_fails(tmp_path):
    folder = tmp_path / "data"
    steps = [
        ["/bin/sh", "-c", f"echo {step}; exit {status}"]
        for step, status in [("first", 0), ("second", 1), ("third", 0)]
    ]
    with _start(folder, *steps) as guard:
        guard.stdout.read()
        assert (folder / "kafka.log").read_text() == "first\nsecond\n"
        guard.stdin.close()
