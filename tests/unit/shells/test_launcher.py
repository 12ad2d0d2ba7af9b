"""The launcher over small scripts: who is asked, who is lost, and that nobody outlives it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from service.ids import Slot
from service.launcher import ChildSpec, Launcher
from service.log import Log

ROOT = Path(__file__).parents[3]
PYTHON = (sys.executable, "-c")

#: Says that it is up, waits until it is asked to stop, and ends well.
WAITS = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.write(1, b"up\\n")
signal.sigwait({signal.SIGUSR1})
"""
#: Does not hear it. Says that it is up, by a file too, if it is given a name for one.
DEAF = """
import os, signal, threading
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
os.write(1, b"up\\n")
open("FILE", "w").close()
threading.Event().wait()
"""
#: Ends with a status once there is that file.
AFTER = """
import os, threading
while not os.path.exists("FILE"):
    threading.Event().wait(0.01)
raise SystemExit(STATUS)
"""
DONE = "pass"
FAILS = "raise SystemExit(3)"
MISUSED = "raise SystemExit(2)"


def launch(*scripts, stop_timeout_s=30.0):
    """Run scripts as controller, worker-0, …; returns the status and the lines logged."""
    stream = io.StringIO()
    slots = ["controller", *(f"worker-{number}" for number in range(len(scripts) - 1))]
    children = [ChildSpec(Slot.parse(slot), [text]) for slot, text in zip(slots, scripts)]
    launcher = Launcher(children, stop_timeout_s, Log("launcher", stream), PYTHON)
    before = signal.getsignal(signal.SIGTERM)
    status = launcher.run()
    assert signal.getsignal(signal.SIGTERM) is before
    return status, [json.loads(line) for line in stream.getvalue().splitlines()]


def test_it_ends_well_when_all_have():
    assert launch(DONE, DONE, DONE) == (0, [])


@pytest.mark.parametrize(("script", "status"), [(FAILS, 1), (MISUSED, 2)])
def test_one_that_fails_is_named_and_the_others_are_asked_to_end(script, status):
    found, lines = launch(WAITS, script, WAITS)
    assert found == status
    assert [line["event"] for line in lines] == ["process.lost", "job.failed"]
    assert lines[0]["lost"] == "worker-0"
    assert "worker-0 ended with status" in lines[1]["message"]
    assert "killed" not in lines[1]["message"]


def test_one_that_was_killed_is_said_to_be():
    suicide = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    found, lines = launch(WAITS, suicide)
    assert found == 1
    assert "worker-0 was killed by signal 9" in lines[-1]["message"]


def in_order(tmp_path, status):
    """A deaf script, and one that ends with a status once the first is deaf."""
    file = str(tmp_path / "deaf")
    return DEAF.replace("FILE", file), AFTER.replace("FILE", file).replace("STATUS", str(status))


def test_who_does_not_end_with_the_others_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr("service.launcher._GRACE_S", 0.3)
    deaf, fails = in_order(tmp_path, 3)
    found, lines = launch(deaf, fails)
    assert found == 1
    assert "killed: controller" in lines[-1]["message"]


def test_those_who_wait_for_a_job_are_asked_to_leave_when_the_controller_has_ended():
    assert launch(DONE, WAITS, WAITS) == (0, [])


def test_who_is_still_there_long_after_the_stop_is_killed_and_named(tmp_path):
    deaf, done = in_order(tmp_path, 0)
    found, lines = launch(done, deaf, stop_timeout_s=0.3)
    assert found == 1
    assert [line["event"] for line in lines] == ["job.stop_failed"]
    assert "worker-0" in lines[0]["message"]


#: A launcher as a process of its own, so that signals and its death can be tried.
LAUNCHER = f"""
import sys
from service.ids import Slot
from service.launcher import ChildSpec, Launcher
from service.log import Log
children = [ChildSpec(Slot.parse(s), [t]) for s, t in zip(["controller", "worker-0"], sys.argv[1:])]
sys.exit(Launcher(children, 30.0, Log("launcher"), {PYTHON!r}).run())
"""


@pytest.fixture
def launcher():
    """Starts a launcher of two scripts that say when they are up."""
    started = []

    def start(*scripts):
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, *map(textwrap.dedent, scripts)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        for _ in scripts:
            assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
        process.communicate()


def test_a_signal_asks_the_controller_and_then_those_who_wait(launcher):
    process = launcher(WAITS, WAITS)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


def test_a_second_signal_ends_everything_at_once(launcher):
    deaf = DEAF.replace("FILE", os.devnull)
    process = launcher(deaf, deaf)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "job.interrupted" in said
    assert [child.is_running() for child in children] == [False, False]


#: Ends as a role of the job does, when its standard input ends.
TIED = """
import os, signal
from service.parent import tie_to_parent
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
tie_to_parent(30.0)
os.write(1, b"up\\n")
signal.sigwait({signal.SIGUSR1})
"""


def test_children_are_asked_to_stop_when_the_launcher_is_killed(launcher):
    process = launcher(TIED, TIED)
    children = psutil.Process(process.pid).children()
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_a_child_that_does_not_stop_with_its_parent_is_ended_after_the_grace():
    deaf = TIED.replace("sigwait({signal.SIGUSR1})", "sigwait({signal.SIGUSR2})")
    process = subprocess.Popen(
        [sys.executable, "-c", deaf.replace("30.0", "0.2")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=20) == 1
