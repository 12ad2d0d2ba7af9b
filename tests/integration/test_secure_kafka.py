"""Kafka behind SASL and behind TLS: served with the right credentials, refused with all others.

A broker of its own with four listeners: a plain one for the test, one with SASL/SCRAM, one with TLS
that asks for a client's certificate, and one with SASL over TLS, for the variables of the overlay
`production`. Certificates are made by Java's own tool.
Cannot catch: Kerberos and OAuth, which need servers of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from service.broker.jars import find_java
from service.broker.java import JavaBroker, start_java
from service.broker.properties import Guarded
from service.control_topics import Admin
from service.errors import BrokerError, BrokerRefused, BrokerUnavailable
from service.kafka_access import use
from tests.integration.bids import bids_of, faults, judge, publish, topics
from tests.integration.command import Command, query
from tests.integration.job import ROOT, Job, read_topic

EVENTS = 5_000
UNMOVED = {"moved"}
PASSWORD = "alice's own secret"
STORE_PASSWORD = "of the key stores"
MECHANISM = "SCRAM-SHA-512"


@dataclass(frozen=True)
class Secured:
    """The broker, and what a client needs that is let in."""

    broker: JavaBroker
    folder: Path

    @property
    def plain(self) -> str:
        """For the test itself."""
        return self.broker.bootstrap_servers

    def sasl(self, password: str = PASSWORD) -> dict[str, str]:
        """Properties for the listener with SASL."""
        return {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": MECHANISM,
            "sasl.username": "alice",
            "sasl.password": password,
        }

    def tls(self) -> dict[str, str]:
        """Properties for the listener with TLS."""
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.folder / "server.pem"),
            "ssl.keystore.location": str(self.folder / "client.p12"),
            "ssl.keystore.password": STORE_PASSWORD,
        }


def keytool(*arguments: object) -> None:
    tool = Path(find_java(os.environ)).resolve().with_name("keytool")
    command = [str(tool), *map(str, arguments), "-storepass", STORE_PASSWORD]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def certificate(folder: Path, name: str) -> None:
    """A key pair in <name>.p12 and its certificate, signed by itself, in <name>.pem."""
    store = ("-alias", name, "-keystore", folder / f"{name}.p12", "-storetype", "PKCS12")
    keytool(
        "-genkeypair", *store, "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "2",
        "-dname", f"CN={name}", "-ext", "san=ip:127.0.0.1",
    )  # fmt: skip
    keytool("-exportcert", "-rfc", *store, "-file", folder / f"{name}.pem")


@pytest.fixture(scope="module")
def secured(tmp_path_factory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("stores")
    for name in ("server", "client"):
        certificate(folder, name)
    trusted = ("-keystore", folder / "trusted.p12", "-storetype", "PKCS12", "-noprompt")
    keytool("-importcert", *trusted, "-alias", "client", "-file", folder / "client.pem")
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    guarded = Guarded(
        {"SASL": "SASL_PLAINTEXT", "TLS": "SSL", "BOTH": "SASL_SSL"},
        {
            "sasl.enabled.mechanisms": MECHANISM,
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.both.scram-sha-512.sasl.jaas.config": scram,
            **{
                f"listener.name.{name}.ssl.keystore.{key}": value
                for name in ("tls", "both")
                for key, value in {
                    "type": "PKCS12",
                    "location": str(folder / "server.p12"),
                    "password": STORE_PASSWORD,
                }.items()
            },
            "listener.name.tls.ssl.truststore.type": "PKCS12",
            "listener.name.tls.ssl.truststore.location": str(folder / "trusted.p12"),
            "listener.name.tls.ssl.truststore.password": STORE_PASSWORD,
            "listener.name.tls.ssl.client.auth": "required",
        },
    )
    broker = start_java(guarded=guarded)
    try:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        alice = UserScramCredentialUpsertion(
            "alice", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode()
        )
        admin.alter_user_scram_credentials([alice])["alice"].result(30)
        yield Secured(broker, folder)
    finally:
        broker.close()


@pytest.fixture
def names(secured, unique_name):
    """Input and output topic of this test."""
    return topics(secured.plain, unique_name("t"))


@pytest.fixture
def settings() -> Iterator[None]:
    """Forgets what a test said of this process's own clients."""
    yield
    use({})


def variables(secured: Secured, kind: str, tmp_path: Path) -> dict[str, str]:
    """The same properties as an operator would give them."""
    if kind == "TLS":
        said = ", ".join(f'"{name}" = "{value}"' for name, value in secured.tls().items())
        return {"MEGAPHONE_KAFKA__PROPERTIES": f"{{{said}}}"}
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    said = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": MECHANISM,
        "KAFKA_SASL_USERNAME": "alice",
        "KAFKA_SASL_PASSWORD_FILE": str(secret),
    }
    if kind == "BOTH":
        own = {"KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD_FILE", "KAFKA_SSL_CA_LOCATION"}
        said |= {name: value for name, value in of_production().items() if name not in own}
        said["KAFKA_SSL_CA_LOCATION"] = str(secured.folder / "server.pem")
    return said


def of_production() -> dict[str, str]:
    """What the overlay `production` says of Kafka to a process, but where it is."""
    overlay = (ROOT / "k8s/overlays/production/kustomization.yaml").read_text(encoding="utf-8")
    (literals,) = (each["literals"] for each in yaml.safe_load(overlay)["configMapGenerator"])
    found = dict(each.split("=", 1) for each in literals)
    return {name: value for name, value in found.items() if re.match("KAFKA_(SASL|SSL|SEC)", name)}


@pytest.mark.parametrize("kind", ["SASL", "TLS", "BOTH"])
def test_a_job_with_the_right_credentials_is_exact_and_tells_nobody(
    secured, names, app_name, tmp_path, kind
):
    assert publish(secured.plain, names[0], EVENTS) == bids_of(EVENTS)
    address = secured.broker.guarded[kind]
    environment = variables(secured, kind, tmp_path)
    with Job(
        address,
        app_name,
        tmp_path / "state",
        arguments=[*query(names), "--until-end"],
        environment=environment,
        forked=False,  # a user's environment from the first import on
    ) as job:
        job.finish()
        assert PASSWORD not in job.transcript()
        assert STORE_PASSWORD not in job.transcript()
        verdict = judge(secured.plain, job, names, tmp_path / "proof", published=EVENTS)
    assert set(faults(verdict)) <= UNMOVED, faults(verdict)
    asked = ["--bootstrap-servers", address, "--app", app_name]
    with Command("status", *asked, environment=environment) as status:
        status.finish(0)
        assert status.noise == []


def test_the_variables_of_production_are_those_that_were_tried(secured, tmp_path):
    tried = variables(secured, "BOTH", tmp_path)
    assert set(tried) == set(of_production())
    assert tried["KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"


def test_a_job_with_a_wrong_password_ends_with_status_2_and_says_why(
    secured, names, app_name, tmp_path
):
    environment = {**variables(secured, "SASL", tmp_path)}
    del environment["KAFKA_SASL_PASSWORD_FILE"]
    environment["KAFKA_SASL_PASSWORD"] = wrong = "not alice's secret"
    address = secured.broker.guarded["SASL"]
    arguments = ["nexmark:auction_bids", "--bootstrap-servers", address, "--app", app_name]
    with Command("run", *arguments, *query(names), environment=environment) as run:
        run.finish(2)
        (error,) = run.lines("process.failed")
        assert run.noise == []
    assert error["error"] == "BrokerRefused"
    assert f"Kafka at {address} refuses this process" in str(error["message"])
    assert "Authentication failed" in str(error["message"])
    assert "KAFKA_SASL_*" in str(error["message"])
    assert wrong not in json.dumps(error)


def refusal(address: str, properties: dict[str, str], timeout_s: float = 10.0) -> BrokerError:
    """Why this process's own clients are not served."""
    use(properties, {})
    with pytest.raises(BrokerError) as caught:
        Admin(address, timeout_s).partitions()
    assert caught.value.exit_status == 2
    return caught.value


def test_tls_without_what_it_needs_is_refused_by_name(secured, settings):
    address = secured.broker.guarded["TLS"]
    right = secured.tls()
    stranger = refusal(address, {"security.protocol": "SSL"})
    assert isinstance(stranger, BrokerRefused)
    assert "certificate" in str(stranger)
    nameless = {name: right[name] for name in ("security.protocol", "ssl.ca.location")}
    assert isinstance(refusal(address, nameless), BrokerRefused)
    use(right, {})
    assert "__nothing" not in Admin(address, 10).partitions()


def test_a_client_that_speaks_another_protocol_is_told_where_to_look(secured, settings):
    for kind in ("SASL", "TLS"):
        error = refusal(secured.broker.guarded[kind], {}, timeout_s=3)
        assert isinstance(error, BrokerUnavailable)
        assert "if it expects TLS or SASL, see docs/SECURITY.md" in str(error)


def load(secured: Secured, names, kind: str, client: str, environment: dict[str, str]):
    command = [sys.executable, "-m", "loadgen", "run", "--live-only", "--client", client]
    command += ["--bootstrap-servers", secured.broker.guarded[kind], "--topic", names[0]]
    return subprocess.run(
        [*command, "--rate", "500", "--seconds", "1"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_load_generator_is_served_by_the_library_and_refused_without(secured, names, tmp_path):
    environment = variables(secured, "SASL", tmp_path)
    done = load(secured, names, "SASL", "librdkafka", environment)
    assert done.returncode == 0, done.stderr
    assert len(read_topic(secured.plain, names[0])) == 500
    direct = load(secured, names, "SASL", "direct", environment)
    assert direct.returncode == 2
    assert "--client direct speaks neither TLS nor SASL" in direct.stderr
    assert "--client librdkafka" in direct.stderr
    wrong = load(
        secured, names, "SASL", "librdkafka", {**environment, "KAFKA_SASL_USERNAME": "eve"}
    )
    assert wrong.returncode == 2
    assert "refuses this process" in wrong.stderr
    assert PASSWORD not in wrong.stderr + done.stderr + direct.stderr
