"""The rights that docs/SECURITY.md lists are enough, each is needed, and the doctor names each.

A broker of its own with an authorizer. Its plain listener is the test's, who may do everything; the
job and the doctor come by the other and may do what is granted to them, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from typer.testing import CliRunner

from service.broker.java import JavaBroker, start_java
from service.broker.properties import Guarded
from service.cli import app
from service.kafka_access import use
from tests.integration.bids import bids_of, faults, judge, publish, topics
from tests.integration.command import Command
from tests.integration.job import ROOT, Job

#: Those of the document.
APP, PREFIX, USER = "bids", "nexmark", "bidders"
EVENTS = 2_000
PASSWORD = "of the bidders"
LINES = re.findall(
    r"^    kafka-acls\.sh (.*)$", (ROOT / "docs" / "SECURITY.md").read_text("utf-8"), re.MULTILINE
)
OWN, INPUT, GROUP, OUTPUT, LETTERS = range(5)
OF_KAFKA = ("broker.", "clock.broker", "permissions.", "topics.")


def granted(line: str) -> list[AclBinding]:
    """What Kafka's own command makes of such a line."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--bootstrap-server", required=True)
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--resource-pattern-type", default="literal")
    parser.add_argument("--operation", action="append", required=True)
    for kind in ("topic", "group", "transactional-id"):
        parser.add_argument(f"--{kind}")
    said = parser.parse_args(shlex.split(line))
    kinds = {
        ResourceType.TOPIC: said.topic,
        ResourceType.GROUP: said.group,
        ResourceType.TRANSACTIONAL_ID: said.transactional_id,
    }
    return [
        AclBinding(
            kind,
            name,
            ResourcePatternType[said.resource_pattern_type.upper()],
            said.allow_principal,
            "*",
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for kind, name in kinds.items()
        if name is not None
        for operation in said.operation
    ]


@dataclass(frozen=True)
class Kept:
    """A broker that lets nobody do what is not granted."""

    broker: JavaBroker
    admin: AdminClient

    def grant(self, lines: Sequence[str]) -> None:
        """Let the user do what these lines say, and nothing else."""
        wanted = [binding for line in lines for binding in granted(line)]
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None,
            AclOperation.ANY, AclPermissionType.ANY,
        )  # fmt: skip
        for future in self.admin.delete_acls([everything]).values():
            future.result(30)
        for future in self.admin.create_acls(wanted).values() if wanted else ():
            future.result(30)
        # They hold as soon as the broker, asked for them, tells them.
        for _ in range(1_000):
            if set(self.admin.describe_acls(everything).result(30)) == set(wanted):
                return
        raise AssertionError("the broker does not know what was granted")


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    guarded = Guarded(
        {"SASL": "SASL_PLAINTEXT"},
        {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Of the plain listener, and the broker to itself.
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": f'{login} user_{USER}="{PASSWORD}";',
        },
    )
    broker = start_java(guarded=guarded)
    try:
        yield Kept(broker, AdminClient({"bootstrap.servers": broker.bootstrap_servers}))
    finally:
        broker.close()


@pytest.fixture(scope="module")
def names(kept):
    """Input and output topic of the document, made by somebody who may."""
    return topics(kept.broker.bootstrap_servers, PREFIX)


CREDENTIALS = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "PLAIN",
    "KAFKA_SASL_USERNAME": USER,
    "KAFKA_SASL_PASSWORD": PASSWORD,
}


@pytest.fixture
def examined(kept, names, tmp_path) -> Callable[[], dict[str, dict[str, str]]]:
    """What the doctor, with the user's credentials, finds of Kafka that is not good, by name."""

    def examine() -> dict[str, dict[str, str]]:
        arguments = ["doctor", "nexmark:auction_bids", "--topic-prefix", PREFIX, "--app", APP]
        arguments += ["--bootstrap-servers", kept.broker.guarded["SASL"]]
        arguments += ["--state-dir", str(tmp_path), "--output", "json"]
        result = CliRunner().invoke(app, arguments, env={**os.environ, **CREDENTIALS})
        use({})  # this process's own clients are those of the test again
        report = json.loads(result.stdout)
        assert result.exit_code == (1 if report["bad"] else 0)
        found = (each for each in report["checks"] if each["verdict"] != "good")
        return {each["name"]: each for each in found if each["name"].startswith(OF_KAFKA)}

    return examine


def test_one_without_any_right_is_told_of_each(kept, examined):
    kept.grant([])
    found = examined()
    assert {name: each["verdict"] for name, each in found.items()} == {
        "permissions.describe": "bad",
        "permissions.create": "bad",
        "permissions.group": "warning",
        "permissions.fencing": "warning",
        "broker.trial": "warning",
        "clock.broker": "unknown",
    }


@pytest.mark.parametrize(
    ("left_out", "name", "of"),
    [
        (OWN, "permissions.create", "bids.accepted"),
        (OWN, "permissions.fencing", "bids.controller"),
        (INPUT, "permissions.describe", "nexmark-events"),
        (GROUP, "permissions.group", "bids"),
        (OUTPUT, "permissions.describe", "nexmark-auction-bids"),
        (LETTERS, "permissions.create", "nexmark-events.dlq"),
    ],
)
def test_the_doctor_names_the_right_that_is_left_out(kept, examined, left_out, name, of):
    kept.grant([line for number, line in enumerate(LINES) if number != left_out])
    found = examined()
    assert of in found[name]["says"]
    assert found[name]["mend"].startswith("grant ")
    others = {"broker.trial", "clock.broker", "permissions.create", "permissions.fencing"}
    assert set(found) <= {name} | (others if left_out == OWN else set())


def test_seeing_a_topic_is_not_reading_it(kept, examined):
    kept.grant([line.replace("Read", "Describe") for line in LINES])
    found = examined()
    assert set(found) == {"permissions.read", "permissions.group"}
    assert "read nexmark-events" in found["permissions.read"]["says"]


def test_what_is_listed_is_enough_for_a_whole_job_and_its_command_line(
    kept, examined, names, tmp_path
):
    kept.grant(LINES)
    assert examined() == {}
    plain = kept.broker.bootstrap_servers
    assert publish(plain, names[0], EVENTS) == bids_of(EVENTS)
    arguments = ["--topic-prefix", PREFIX]
    with Job(
        kept.broker.guarded["SASL"],
        APP,
        tmp_path / "state",
        arguments=arguments,
        environment=CREDENTIALS,
        forked=False,  # a user's environment from the first import on
    ) as job:
        job.await_running()
        asked = ["--bootstrap-servers", kept.broker.guarded["SASL"], "--app", APP]
        for verb in ("rescale --workers 1", "checkpoint"):
            with Command(*verb.split(), *asked, environment=CREDENTIALS) as command:
                command.finish(0)
        job.stop()
    # Its topics are there now, and are its own.
    assert examined() == {}
    with Job(
        kept.broker.guarded["SASL"],
        APP,
        tmp_path / "state",
        arguments=[*arguments, "--until-end"],
        environment=CREDENTIALS,
        forked=False,  # a user's environment from the first import on
    ) as again:
        again.finish()
        verdict = judge(plain, again, names, tmp_path / "proof", published=EVENTS)
    assert set(faults(verdict)) <= {"moved"}, faults(verdict)
