"""A job whose processes are forked is, to an outsider, a job whose processes were started.

The oracle is `megaphone run` started as a user starts it. Cannot catch: what `nursery` says differs
(NU3), which the tests that ask for `forked=False` are about.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import psutil
import pytest

from tests.integration.bids import topics
from tests.integration.command import query
from tests.integration.job import Job

#: Which signals a process ignores, handles and holds back.
SIGNALS = re.compile(r"^(Sig(?:Ign|Cgt|Blk)):\t(\w+)$", re.MULTILINE)
VARIABLES = {"MEGAPHONE_LIMITS__PEER_TIMEOUT_S": "17"}
SHAPE = {"controller", "worker-0", "worker-1", "gateway-0"}


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input and output topic of this test."""
    return topics(bootstrap_servers, unique_name("t"))


@pytest.fixture
def start(bootstrap_servers, unique_name, names, tmp_path):
    """Starts a job of two workers that runs, in either way."""

    def started(*, forked):
        name = unique_name("forked" if forked else "started")
        return Job(
            bootstrap_servers,
            name,
            tmp_path / name,
            workers=2,
            arguments=query(names),
            environment=VARIABLES,
            forked=forked,
        )

    return started


def seen(job):
    """What the system says of each process: its standard streams, signals, group and folder."""
    found = {}
    for slot, process in job.processes().items():
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        streams = [str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in range(3)]
        found[slot] = {
            "signals": dict(SIGNALS.findall(status)),
            "streams": [stream.partition(":")[0] for stream in streams],
            "leads": os.getpgid(process.pid) == process.pid,
            "folder": process.cwd(),
            "unix": len(process.net_connections("unix")),
        }
    return found


def test_forked_processes_are_as_started_ones(start):
    with start(forked=False) as started, start(forked=True) as forked:
        for job in (started, forked):
            job.await_running()
            job.await_(lambda job=job: set(job.processes()) == SHAPE, "all processes")
        assert seen(forked) == seen(started)
        for job in (started, forked):
            assert len({process.ppid() for process in job.processes().values()}) == 1
            job.stop()


def test_nothing_forked_outlives_a_launcher_that_is_killed(start):
    with start(forked=True) as job:
        job.await_running()
        processes = job.processes()
        assert set(processes) == SHAPE
        launcher = processes["controller"].parent()
        family = launcher.children(recursive=True)
        assert len(family) == len(SHAPE) + 1, "the roles and who forks them"
        launcher.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []


def test_a_forked_process_that_is_lost_is_named_with_its_signal(start):
    with start(forked=True) as job:
        job.await_running()
        processes = job.processes()
        processes["worker-1"].kill()
        job.finish(1)
        (lost,) = job.lines("process.lost")
        assert (lost["lost"], lost["status"]) == ("worker-1", -9)
        assert not [each for each in processes.values() if each.is_running()]
