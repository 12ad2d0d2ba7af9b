"""`megaphone status --watch` and `megaphone control` at one running job, as a person types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.errors import MegaphoneError
from tests.integration.bids import topics
from tests.integration.command import query
from tests.integration.job import ROOT, STATUS_CONTRACT, Job, contract


class Person:
    """Somebody at a terminal."""

    def __init__(self, bootstrap_servers, app):
        self._common = ["--bootstrap-servers", bootstrap_servers, "--app", app]

    def begins(self, *arguments):
        """A command that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "service", *arguments, *self._common],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def types(self, *arguments, status=0, text=""):
        """A command run to its end, in this process; what it printed, or its error."""
        done = CliRunner().invoke(app, [*arguments, *self._common], input=text)
        error = done.exception if isinstance(done.exception, MegaphoneError) else None
        found = done.exit_code if error is None else error.exit_status
        assert found == status, (arguments, done.output, done.exception)
        return done.stdout if error is None else str(error)


@pytest.mark.timeout(240)
def test_a_job_is_asked_and_watched(bootstrap_servers, app_name, unique_name, tmp_path):
    names = topics(bootstrap_servers, unique_name("t"))
    person = Person(bootstrap_servers, app_name)
    with Job(
        bootstrap_servers, app_name, tmp_path, workers=2, bins=16, arguments=query(names)
    ) as job:
        job.await_running()
        status_is_told_again_and_again_until_a_signal(person)
        requests_are_sent_and_followed(person)
        what_was_said_can_be_read_later(person, app_name)
        job.stop()
    stopped = json.loads(person.types("control", "log", "--output", "json").splitlines()[-1])
    assert stopped["type"] == "stop"


def status_is_told_again_and_again_until_a_signal(person):
    with person.begins("status", "--watch", "--every", "0.2", "--output", "json") as watching:
        documents = [json.loads(watching.stdout.readline()) for _ in range(3)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
        assert watching.stderr.read() == ""
    for document in documents:
        contract("status").validate(document)
    beats = [max(each["heartbeat"] for each in found["members"]) for found in documents]
    assert beats == sorted(beats)
    with person.begins("status", "-w", "--every", "0.2") as watching:
        assert "generation 1" in watching.stdout.readline()
        watching.send_signal(signal.SIGTERM)
        assert "worker-1" in watching.stdout.read()
        assert watching.wait(30) == 0


def requests_are_sent_and_followed(person):
    record = json.dumps({"id": "by-hand", "kind": "rescale", "workers": 1})
    done = json.loads(person.types("control", "send", record, "--output", "json"))
    STATUS_CONTRACT.validate(done)
    assert (done["id"], done["state"], done["bins"]) == ("by-hand", "completed", 8)
    piped = person.types("control", "send", text='{"kind": "rescale", "workers": 2}')
    assert "completed, 8 bins" in piped
    dry = '{"kind": "rescale", "workers": 1, "dry_run": true}'
    assert "would move 8 bins" in person.types("control", "send", dry)
    refused = person.types(
        "control", "send", '{"id": "no", "kind": "rescale", "workers": 9}', status=1
    )
    assert "no was rejected" in refused
    assert "no JSON object" in person.types("control", "send", "[1]", status=2)
    assert "not JSON" in person.types("control", "send", "{", status=2)


def what_was_said_can_be_read_later(person, app_name):
    listed = json.loads(person.types("control", "list", "--output", "json"))
    contract("requests").validate(listed)
    assert listed["app"] == app_name
    states = {each["id"]: each["state"] for each in listed["requests"]}
    assert (states["by-hand"], states["no"]) == ("completed", "rejected")
    only = json.loads(person.types("control", "list", "--state", "rejected", "--output", "json"))
    assert [each["id"] for each in only["requests"]] == ["no"]
    assert "by-hand" in person.types("control", "list")
    said = person.types("control", "show", "by-hand", "--output", "json").splitlines()
    assert json.loads(said[-1])["state"] == "completed"
    assert "has said nothing of 'nobody'" in person.types("control", "show", "nobody", status=2)
    log = [
        json.loads(line) for line in person.types("control", "log", "--output", "json").splitlines()
    ]
    assert log[0]["type"] == "generation"
    assert sum(len(each["moves"]) for each in log if each["type"] == "move") == 16
    short = person.types("control", "log", "--promises", "--last", "3").splitlines()
    assert len(short) == 3
    assert '"promise"' in short[-1]
