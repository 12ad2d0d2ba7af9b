"""Who is held up for a while: ready no more, alive all the time, and everything exact behind it.

A process, or Kafka itself, is stopped by a signal until the others say what that does to them, and
goes on. Cannot catch: what a network does that loses some messages and keeps others.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from service.broker.java import JavaBroker, start_java
from tests.integration.bids import bids_of, faults, judge, publish, topics
from tests.integration.command import query
from tests.integration.job import Job

EVENTS = 5_000
#: Behind by so much is not ready; and nobody is given up while he is held up.
PATIENT = {"MEGAPHONE_LIMITS__READY_LAG_S": "1", "MEGAPHONE_LIMITS__PEER_TIMEOUT_S": "120"}

MEMBERS = ("gateway-0", "worker-0", "worker-1")


def patient(servers: str, app: str, folder: Path, names: tuple[str, str]) -> Job:
    """A job of `MEMBERS` that gives nobody up."""
    state, arguments = folder / "state", query(names)
    return Job(servers, app, state, workers=2, arguments=arguments, environment=PATIENT)


@contextmanager
def held_up(process: psutil.Process) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def asked(address: str, path: str) -> tuple[int, str]:
    """Status and text of an answer."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def ready(job: Job, *slots: str) -> set[int]:
    """The statuses of /readyz of these members."""
    addresses = job.addresses()
    return {asked(addresses[slot], "/readyz")[0] for slot in slots}


@pytest.fixture
def broker() -> Iterator[JavaBroker]:
    """A Kafka of this test alone: it is stopped."""
    started = start_java()
    try:
        yield started
    finally:
        started.close()


def java_of(broker: JavaBroker) -> psutil.Process:
    """The process that is the broker: who has its folder on the command line and is Java."""
    (found,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if child.name() == "java" and any(str(broker.folder) in word for word in child.cmdline())
    )
    return found


def test_who_waits_for_another_is_not_ready_until_that_goes_on(
    bootstrap_servers, app_name, unique_name, tmp_path
):
    names = topics(bootstrap_servers, unique_name("t"))
    with patient(bootstrap_servers, app_name, tmp_path, names) as job:
        job.await_running()
        job.await_(lambda: ready(job, *MEMBERS) == {200}, "all ready")
        with held_up(job.processes()["worker-1"]):
            assert publish(bootstrap_servers, names[0], EVENTS) == bids_of(EVENTS)
            job.await_(lambda: ready(job, "worker-0") == {503}, "a worker that is behind")
            _, text = asked(job.addresses()["worker-0"], "/readyz")
            assert "behind" in text
            assert asked(job.addresses()["worker-0"], "/healthz")[0] == 200
        job.await_(lambda: ready(job, *MEMBERS) == {200}, "all ready")
        job.stop()
        verdict = judge(bootstrap_servers, job, names, tmp_path / "proof", published=EVENTS)
    assert set(faults(verdict)) <= {"moved"}, faults(verdict)


def test_an_outage_of_kafka_that_ends_in_time_restarts_nothing(
    broker, app_name, unique_name, tmp_path
):
    servers = broker.bootstrap_servers
    names = topics(servers, unique_name("t"))
    with patient(servers, app_name, tmp_path, names) as job:
        job.await_running()
        assert publish(servers, names[0], EVENTS) == bids_of(EVENTS)
        before = job.processes()
        job.await_(lambda: ready(job, *MEMBERS) == {200}, "all ready")
        with held_up(java_of(broker)):
            job.await_(lambda: ready(job, *MEMBERS) == {503}, "members without promises")
            alive = {asked(address, "/healthz")[0] for address in job.addresses().values()}
            assert alive == {200}
        job.await_(lambda: ready(job, *MEMBERS) == {200}, "all ready")
        assert publish(servers, names[0], EVENTS, first=EVENTS) == bids_of(2 * EVENTS) - bids_of(
            EVENTS
        )
        assert job.processes() == before
        job.stop()
        verdict = judge(servers, job, names, tmp_path / "proof", published=2 * EVENTS)
    assert set(faults(verdict)) <= {"moved"}, faults(verdict)
