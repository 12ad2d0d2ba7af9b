"""Links with keys on real processes: a job is exact with them, and strangers only raise a count.

Cannot catch: an error in libzmq's own cryptography.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import zmq

from service.dataflow.transport.curve import CurveLinks
from service.dataflow.transport.keys import Allowed, new_pair, read_secret, write_secret
from tests.integration.bids import bids_of, faults, judge, publish, topics
from tests.integration.command import Command, query
from tests.integration.job import Job

EVENTS = 20_000
UNMOVED = {"moved"}
REFUSED = "megaphone_transport_failed_handshakes_total"
APPLIED = "megaphone_state_applied_rows_total"


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input and output topic of this test."""
    return topics(bootstrap_servers, unique_name("t"))


def knobs(folder, name, allowed):
    """Variables of a process with a key of its own, and an allow-list for all."""
    path = folder / f"{name}.key"
    write_secret(path, new_pair())
    listed = folder / "allowed"
    with listed.open("a") as file:
        for slots in allowed:
            file.write(f"{read_secret(path).public} {slots}\n")
    return {"MEGAPHONE_LINKS__KEY_FILE": str(path), "MEGAPHONE_LINKS__ALLOWED_FILE": str(listed)}


def knock(context, endpoint, pair):
    """Connect to where a process listens, with a key or none, and say something."""
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.identity = b"worker-0.1.1"
    if pair is not None:
        CurveLinks(pair, Allowed("", {})).prepare_link(dealer, endpoint)
    dealer.connect(endpoint.partition("#")[0])
    dealer.send(b"let me in")
    return dealer


def test_a_job_with_keys_is_exact_and_lets_nobody_else_in(
    bootstrap_servers, app_name, names, tmp_path
):
    """Two workers and a gateway under one key; strangers knock at each while records flow."""
    environment = knobs(tmp_path, "job", ["*"])
    with (
        Job(
            bootstrap_servers,
            app_name,
            tmp_path / "state",
            workers=2,
            arguments=query(names),
            environment=environment,
        ) as job,
        zmq.Context() as context,
    ):
        job.await_running()
        assert job.total(REFUSED) == 0
        endpoints = [str(line["endpoint"]) for line in job.lines("member.started")]
        stranger = new_pair()
        dealers = [knock(context, each, pair) for each in endpoints for pair in (None, stranger)]
        assert publish(bootstrap_servers, names[0], EVENTS) == bids_of(EVENTS)
        slots = ("worker-0", "worker-1", "gateway-0")
        job.await_(
            lambda: all(job.metrics()[slot][REFUSED] >= 2 for slot in slots), "refused at each"
        )
        for dealer in dealers:
            dealer.close()
        job.await_total(APPLIED, bids_of(EVENTS))
        for slot in slots:
            # Told anew as the count doubles, so that both kinds are told in the end.
            job.await_(
                lambda slot=slot: any(
                    line["last_key"] == f"key {stranger.public} from 127.0.0.1"
                    for line in job.lines("links.refused", slot=slot)
                ),
                f"a line of {slot}",
            )
        job.stop()
        verdict = judge(bootstrap_servers, job, names, tmp_path / "proof", published=EVENTS)
        secret = read_secret(tmp_path / "job.key").secret.hex()
        assert secret not in job.transcript()
    assert set(faults(verdict)) <= UNMOVED, faults(verdict)


def test_a_member_whose_key_is_not_listed_for_it_is_named_and_nobody_waits(
    bootstrap_servers, app_name, names, tmp_path
):
    """Each process has a key of its own; worker-0's is listed for another slot."""
    common = ["nexmark:auction_bids", "--bootstrap-servers", bootstrap_servers, "--app", app_name]
    common += query(names)
    member = ["--state-dir", str(tmp_path / "state")]
    roles = {
        "controller": ["--workers", "1", "--gateways", "1", "--bins", "16"],
        "worker-0": ["--slot", "0", *member],
        "gateway-0": ["--slot", "0", *member],
    }
    environments = {
        slot: knobs(tmp_path, slot, ["worker-1" if slot == "worker-0" else slot]) for slot in roles
    }
    with ExitStack() as stack:
        commands = {
            slot: stack.enter_context(
                Command(slot.partition("-")[0], *common, *more, environment=environments[slot])
            )
            for slot, more in roles.items()
        }
        for slot in ("controller", "gateway-0"):
            commands[slot].await_(
                lambda slot=slot: commands[slot].process.poll() is not None, f"end of {slot}"
            )
        commands["worker-0"].await_(
            lambda: commands["worker-0"].process.poll() is not None, "end of worker-0"
        )
        controller = " ".join(commands["controller"].errors())
    key = read_secret(tmp_path / "worker-0.key").public
    assert f"has the key {key}, which {tmp_path / 'allowed'} does not list for it" in controller
    assert "worker-0 at tcp://127.0.0.1:" in controller
    assert commands["controller"].process.returncode == 2
    assert all(command.process.returncode != 0 for command in commands.values())
