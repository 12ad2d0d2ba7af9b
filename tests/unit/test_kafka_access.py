"""Properties of Kafka clients: where they come from, what is refused, that no secret is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient

from loadgen.broker import UsageFault, leaders
from service import kafka_access
from service.config import knobs_of, load_config
from service.control_topics import Admin
from service.errors import BrokerRefused, BrokerUnavailable, UsageError
from service.ingest.consumer import client_config
from service.kafka_access import (
    PROPERTIES,
    KafkaAccess,
    access_of,
    client_settings,
    is_secret,
    use,
    variable_of,
)
from service.kafka_client import Heard, made

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def of_this_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in list(os.environ):
        if variable.startswith(("KAFKA_", "MEGAPHONE_")):
            monkeypatch.delenv(variable)
    yield
    use({}, {})


def test_nothing_said_is_nothing_set() -> None:
    assert dict(access_of({}, {}).properties) == {}
    assert client_settings("kafka:9092") == {"bootstrap.servers": "kafka:9092"}


def test_the_environment_wins_over_the_knob() -> None:
    found = access_of(
        {"security.protocol": "SSL", "ssl.ca.location": "/etc/ca.pem"},
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "alice"},
    )
    assert found.properties == {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "/etc/ca.pem",
        "sasl.username": "alice",
    }


def test_a_value_may_stand_in_a_file(tmp_path) -> None:
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_text(f"{PASSWORD}\n")
    other.write_text("ot her\r\n")
    found = access_of(
        {"sasl.password.file": str(other), "ssl.key.password.file": str(other)},
        {"KAFKA_SASL_PASSWORD_FILE": str(secret)},
    )
    assert found.properties == {"sasl.password": PASSWORD, "ssl.key.password": "ot her"}


def test_no_two_properties_share_a_variable() -> None:
    variables = {variable_of(name) for name in PROPERTIES}
    variables |= {f"{variable_of(name)}_FILE" for name in PROPERTIES}
    assert len(variables) == 2 * len(PROPERTIES)


@pytest.mark.parametrize(
    ("properties", "environment", "told"),
    [
        ({"sasl.pasword": "x"}, {}, "'sasl.pasword' .* did you mean sasl.password"),
        ({"sasl.pasword.file": "x"}, {}, "did you mean sasl.password"),
        ({"group.id": "mine"}, {}, "'group.id' is no property that is passed on"),
        ({"debug": "all"}, {}, "'debug' is no property that is passed on"),
        ({}, {"KAFKA_SASL_PASSWROD": "x"}, "KAFKA_SASL_PASSWROD .* sasl.password"),
        ({}, {"KAFKA_SECURITY_PROTOCOLL": "x"}, "did you mean security.protocol"),
        ({}, {"KAFKA_SASL_JAAS_CONFIG": "x"}, "did you mean sasl.username and sasl.password"),
        ({}, {"KAFKA_SSL_TRUSTSTORE_LOCATION": "x"}, "did you mean ssl.ca.location, a PEM file"),
        ({"sasl.password": "x", "sasl.password.file": "y"}, {}, "said twice"),
        ({}, {"KAFKA_SASL_PASSWORD": "x", "KAFKA_SASL_PASSWORD_FILE": "y"}, "said twice|cannot be"),
        ({}, {"KAFKA_SASL_PASSWORD_FILE": "/nowhere/x"}, "/nowhere/x cannot be read: No such"),
        ({"sasl.password.file": "/"}, {}, "kafka.properties: 'sasl.password.file': / cannot be"),
    ],
)
def test_what_is_not_passed_on_is_named(properties, environment, told) -> None:
    with pytest.raises(UsageError, match=told):
        access_of(properties, environment)


def test_a_file_that_cannot_be_a_value_is_refused_without_its_bytes(tmp_path) -> None:
    path = tmp_path / "secret"
    for data, told in ((b"secret\xff", "not UTF-8 at byte 6"), (bytes(1 << 21), "more than")):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=told) as caught:
            access_of({}, {"KAFKA_SASL_PASSWORD_FILE": str(path)})
        assert "secret\xff" not in repr(caught.value)
        assert caught.value.__cause__ is None


def test_variables_of_a_broker_beside_us_are_none_of_our_business() -> None:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
        "KAFKA_HEAP_OPTS": "-Xmx1g",
        "KAFKA_PORT": "tcp://10.0.0.1:9092",
        "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://kafka:9092",
    }
    assert dict(access_of({}, environment).properties) == {}


def test_no_secret_is_in_a_text() -> None:
    secrets = {name: f"{PASSWORD} {name}" for name in PROPERTIES if is_secret(name)}
    assert len(secrets) >= 6
    access = KafkaAccess({**secrets, "sasl.username": "alice"})
    for text in (repr(access), str(access), access.scrubbed(" ".join(secrets.values()))):
        assert PASSWORD not in text
    assert "alice" in repr(access)


def test_every_client_of_the_service_has_the_settings() -> None:
    use({"security.protocol": "ssl", "client.rack": "a"}, {})
    assert client_settings("b") == {
        "security.protocol": "ssl", "client.rack": "a", "bootstrap.servers": "b"
    }  # fmt: skip
    assert client_config("b", "g", "c", 1)["security.protocol"] == "ssl"


def test_the_knob_reaches_the_clients(monkeypatch) -> None:
    monkeypatch.setenv("MEGAPHONE_KAFKA__PROPERTIES", '{"client.rack" = "a"}')
    load_config()
    assert client_settings("b") == {"client.rack": "a", "bootstrap.servers": "b"}
    monkeypatch.setenv("KAFKA_CLIENT_RACK", "z")
    load_config()
    assert client_settings("b")["client.rack"] == "z"


@pytest.mark.parametrize("kind", [AdminClient, Producer, Consumer])
def test_the_client_takes_every_property_there_is(kind) -> None:
    """One by one: a name that librdkafka does not know is an error."""
    unknown = []
    for name in sorted(PROPERTIES):
        try:
            made(
                kind,
                {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", name: "?", "log_level": 0},
            )
        except UsageError as error:
            if "No such configuration property" in str(error):
                unknown.append(name)
    assert unknown == []


def test_settings_that_cannot_work_are_told_without_the_secret(tmp_path) -> None:
    use(
        {
            "security.protocol": "ssl",
            "ssl.keystore.location": str(tmp_path / "missing.p12"),
            "ssl.keystore.password": PASSWORD,
        },
        {},
    )
    with pytest.raises(UsageError, match=r"does not take its settings: .*missing.p12") as caught:
        Admin("127.0.0.1:1", 0.1)
    assert PASSWORD not in str(caught.value)
    assert caught.value.exit_status == 2
    assert caught.value.__suppress_context__


def test_check_config_shows_properties_without_their_secrets(monkeypatch) -> None:
    said = f'{{"sasl.username" = "alice", "sasl.password" = "{PASSWORD}"}}'
    monkeypatch.setenv("MEGAPHONE_KAFKA__PROPERTIES", said)
    (knob,) = [each for each in knobs_of() if each.name == "kafka.properties"]
    assert knob.value == {"sasl.username": "alice", "sasl.password": "***"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MEGAPHONE_KAFKA__PROPERTIES", '{"sasl.usrname" = "a"}', "did you mean sasl.username"),
        ("KAFKA_SASL_USRNAME", "a", "KAFKA_SASL_USRNAME is no property .*sasl.username"),
    ],
)
def test_check_config_refuses_what_no_client_would_take(name, value, message, monkeypatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        knobs_of()


def test_check_config_opens_no_secret(monkeypatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD_FILE", "/nowhere")
    said = '{"ssl.key.password.file" = "/nowhere"}'
    monkeypatch.setenv("MEGAPHONE_KAFKA__PROPERTIES", said)
    (knob,) = [each for each in knobs_of() if each.name == "kafka.properties"]
    assert knob.value == {"ssl.key.password.file": "/nowhere"}


def test_a_refusal_is_told_from_silence() -> None:
    heard = Heard()
    assert isinstance(heard.silence("kafka:9092", 3), BrokerUnavailable)
    heard(KafkaError(KafkaError._TRANSPORT, "connection refused"))
    heard(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert "last words: connection refused" in str(heard.silence("kafka:9092", 3))
    use({"sasl.password": PASSWORD}, {})
    heard(KafkaError(KafkaError._AUTHENTICATION, f"not with {PASSWORD}"))
    refused = heard.silence("kafka:9092", 3)
    assert isinstance(refused, BrokerRefused)
    assert "Kafka at kafka:9092 refuses this process: not with ***" in str(refused)
    assert refused.exit_status == 2


@pytest.mark.parametrize("protocol", ["ssl", "SASL_PLAINTEXT", "SASL_SSL"])
def test_the_direct_client_refuses_what_it_cannot_speak(protocol) -> None:
    use({"security.protocol": protocol}, {})
    with pytest.raises(UsageFault, match="--client librdkafka"):
        leaders("127.0.0.1:1", "topic")


def test_the_settings_are_those_of_the_environment_if_nobody_said_more(monkeypatch) -> None:
    monkeypatch.setenv("KAFKA_CLIENT_RACK", "a")
    monkeypatch.setattr(kafka_access, "_current", [])
    assert client_settings("b")["client.rack"] == "a"
