"""docker-compose.yml as a user runs it: every service of ours by its own command and environment.

`WORKERS=4 docker compose up --scale worker=4`, and what the service `topics` makes before.

Real processes, a real Kafka; see `compose` for what stands in for containers. The oracle is
`demo.proof` over all that was read and written. That the file is a composition, and what Kafka's
service says, is tested in tests/unit/deploy.
"""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from loadgen.broker import offsets_at
from service.config import load_config
from service.status import read_status
from tests.integration.bids import faults, judge
from tests.integration.compose import Composition
from tests.integration.test_checkpoint import AGAIN, manifests

ROLES = ("controller", "gateway", "worker")
BINS = 1024


def widths(bootstrap_servers, names):
    """Partitions of each topic."""
    found = AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=30).topics
    return [len(found[name].partitions) for name in names]


@pytest.mark.timeout(600)
def test_the_composition_runs_rescales_and_goes_on_after_a_loss(
    bootstrap_servers, app_name, unique_name, tmp_path
):
    prefix, config = unique_name("t"), load_config()
    variables = {"APP": app_name, "TOPICS": prefix, "WORKERS": "4", "RATE": "2000"}
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 0})

    def written():
        return sum(offsets_at(bootstrap_servers, output, end=True).values())

    def request(**body):
        producer.produce(f"{app_name}.control", json.dumps(body).encode(), partition=0)
        assert producer.flush(10) == 0

    def at_rest(*workers):
        status = read_status(bootstrap_servers, app_name, config)
        return status.plan is None and set(status.owners) == set(workers)

    with Composition(bootstrap_servers, tmp_path / "volumes", variables) as composed:
        events, output = composed.topics
        assert widths(bootstrap_servers, composed.topics) == [4, 4]
        composed.run("topics")  # as every later `up` does
        composed.run("keys")
        allowed = tmp_path / "volumes" / "megaphone-keys" / "allowed"
        key = allowed.read_text()
        composed.run("keys")
        assert allowed.read_text() == key, "a key is made once"
        composed.start(*ROLES)
        composed.await_healthy(*ROLES)
        controller, *members = composed.containers(*ROLES)
        assert {member.slot for member in members} == {
            "gateway-0", *(f"worker-{number}" for number in range(4)),
        }  # fmt: skip
        for member in members:
            told = member.command.await_line("member.started")["endpoint"]
            assert str(told).endswith(f"#{key.split()[0]}"), "links have keys"
            assert member.command.lines("links.unprotected") == []

        composed.start("loadgen")
        wait = controller.command.await_
        wait(lambda: written() > 1_000, "results")
        request(id="in", kind="rescale", workers=1)
        wait(lambda: at_rest(0), "all bins at one worker")
        request(id="out", kind="rescale", workers=4)
        wait(lambda: at_rest(*range(4)), "bins at all workers")
        request(id="kept", kind="checkpoint")
        wait(lambda: manifests(bootstrap_servers, app_name), "a checkpoint")

        # A lost container ends the others, and all of them are started again (`restart:`).
        lost = composed.up["worker"][0]
        name = lost.slot
        lost.command.signal(signal.SIGKILL)
        for container in (controller, *members):
            if container is not lost:
                container.command.finish(1)
                assert any(name in message for message in container.command.errors())
        before = written()
        composed.start(*ROLES)
        composed.await_healthy(*ROLES)
        controller, *members = composed.containers(*ROLES)
        restored = {
            worker.command.await_line("state.restored")["cut"] for worker in composed.up["worker"]
        }
        assert len(restored) == 1
        assert restored <= {each.cut for each in manifests(bootstrap_servers, app_name)}
        controller.command.await_(lambda: written() > before + 1_000, "results after the loss")

        (load,) = composed.up["loadgen"]
        load.command.signal(signal.SIGTERM)
        load.command.finish(0)
        # As `docker compose stop`: everybody is asked at once.
        for container in (controller, *members):
            container.command.signal(signal.SIGTERM)
        for container in (controller, *members):
            container.command.finish(0)
            assert container.command.noise == []
    published = sum(offsets_at(bootstrap_servers, events, end=True).values())
    shape = SimpleNamespace(bins=BINS, workers=4)
    found = judge(
        bootstrap_servers, shape, (events, output), tmp_path / "proof", published=published
    )
    assert set(faults(found)) <= AGAIN, faults(found)
