"""How this process's Kafka clients find the brokers safely: TLS, SASL, and what goes with them.

Flow: knob kafka.properties < KAFKA_* in the environment -> [access_of], once -> [client_settings]
-> every Kafka client of the service and the load generator.

Properties have librdkafka's names; a variable is KAFKA_ and the name in capitals, dots as
underscores. With `.file` behind the name, or `_FILE` behind the variable, the value is what that
file holds. What the service itself decides (groups, acknowledgements, offsets) cannot be set.

Invariants
  KA1  A property that is not passed on is an error that names the nearest one, never silence: what
       is misspelt here would leave a connection open that was meant to be safe.
  KA2  The value of a secret is in no text: not in an error, not in a repr; `scrubbed` takes it out
       of the client's own words.
  KA3  All clients of a process have the same settings, read once.

Source: librdkafka 2.16 CONFIGURATION.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, TypeAlias

from service.errors import UsageError

#: As the client's own types say it.
Settings: TypeAlias = dict[str, str | int | float | bool]
#: What is passed on to the client.
PROPERTIES: Final = frozenset(
    {
        "security.protocol",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.username",
        "sasl.password",
        "sasl.kerberos.service.name",
        "sasl.kerberos.principal",
        "sasl.kerberos.keytab",
        "sasl.kerberos.min.time.before.relogin",
        "sasl.oauthbearer.method",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.scope",
        "sasl.oauthbearer.extensions",
        "sasl.oauthbearer.token.endpoint.url",
        "ssl.ca.location",
        "ssl.ca.pem",
        "ssl.certificate.location",
        "ssl.certificate.pem",
        "ssl.key.location",
        "ssl.key.pem",
        "ssl.key.password",
        "ssl.keystore.location",
        "ssl.keystore.password",
        "ssl.crl.location",
        "ssl.cipher.suites",
        "ssl.curves.list",
        "ssl.sigalgs.list",
        "ssl.providers",
        "ssl.endpoint.identification.algorithm",
        "enable.ssl.certificate.verification",
        "https.ca.location",
        "client.dns.lookup",
        "client.rack",
        "broker.address.family",
        "broker.address.ttl",
        "socket.keepalive.enable",
        "socket.connection.setup.timeout.ms",
        "connections.max.idle.ms",
    }
)
_SECRET: Final = frozenset(
    {
        "sasl.password",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.secret",
        "ssl.key.pem",
        "ssl.key.password",
        "ssl.keystore.password",
    }
)
#: What those who know Kafka's Java clients would write, and what it is called here.
_OF_JAVA: Final = {
    "sasl.jaas.config": "sasl.username and sasl.password",
    "ssl.truststore.location": "ssl.ca.location, a PEM file",
    "ssl.truststore.password": "ssl.ca.location, a PEM file, which needs none",
    "ssl.truststore.type": "ssl.ca.location, a PEM file",
    "ssl.keystore.type": "ssl.keystore.location, PKCS#12, or ssl.certificate.location, PEM",
}
#: Variables that begin so are meant for a client; others are left alone, as a broker beside us, or
#: a cluster's service of the name `kafka`, has many of its own.
_MEANT: Final = ("KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_")
_FILE: Final = ".file"
_FILE_BYTES_MAX: Final = 1 << 20
#: A shorter secret is not searched for in texts: it would be found in words.
_SCRUBBED_MIN: Final = 4
_HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True, repr=False)
class KafkaAccess:
    """Properties of a process's clients."""

    properties: Mapping[str, str]

    def __repr__(self) -> str:
        return f"KafkaAccess({ {name: shown(name, v) for name, v in self.properties.items()} })"

    def scrubbed(self, text: str) -> str:
        """`text` without the secrets in it (KA2)."""
        for name, value in self.properties.items():
            if is_secret(name) and len(value) >= _SCRUBBED_MIN:
                text = text.replace(value, _HIDDEN)
        return text


def is_secret(name: str) -> bool:
    """Whether nobody may read the value of property `name`."""
    return name in _SECRET


def shown(name: str, value: str) -> str:
    """The value of property `name` as others may see it (KA2)."""
    return _HIDDEN if is_secret(name) else value


def variable_of(name: str) -> str:
    """The variable that says property `name`.

    >>> variable_of("sasl.password")
    'KAFKA_SASL_PASSWORD'
    """
    return f"KAFKA_{name.upper().replace('.', '_')}"


def access_of(properties: Mapping[str, str], environment: Mapping[str, str]) -> KafkaAccess:
    """What is said of the clients, by the knob and by the environment, which wins.

    Args:
        properties: by librdkafka's name, with `.file` behind it: a path.
        environment: of the process.

    Raises:
        UsageError: a name is not passed on, is said twice, or its file cannot be read (KA1).
    """
    refuse_unknown(properties, environment)
    by_variable = _by_variable()
    said: dict[str, str] = {}
    for variable, value in environment.items():
        if variable in by_variable:
            _say(said, by_variable[variable], value, variable)
    of_knob: dict[str, str] = {}
    for name, value in properties.items():
        _say(of_knob, name, value, _place(name))
    return KafkaAccess({**of_knob, **said})


def refuse_unknown(properties: Iterable[str], environment: Iterable[str]) -> None:
    """Look at names alone: files that hold a secret need not be here.

    Args:
        properties: names of the knob.
        environment: names of variables.

    Raises:
        UsageError: one is not passed on (KA1).
    """
    by_variable = _by_variable()
    for variable in environment:
        if variable.startswith(_MEANT) and variable not in by_variable:
            raise _unknown(variable.removeprefix("KAFKA_").lower().replace("_", "."), variable)
    for name in properties:
        if name.removesuffix(_FILE) not in PROPERTIES:
            raise _unknown(name, _place(name))


def _by_variable() -> dict[str, str]:
    """Properties by the variables that say them."""
    return {variable_of(name): name for name in (*PROPERTIES, *map(_in_file, PROPERTIES))}


def _place(name: str) -> str:
    return f"kafka.properties: {name!r}"


def use(properties: Mapping[str, str], environment: Mapping[str, str] | None = None) -> KafkaAccess:
    """Have this process's clients made with what is said (KA3); raises as `access_of` does."""
    _current[:] = [access_of(properties, os.environ if environment is None else environment)]
    return _current[0]


def access() -> KafkaAccess:
    """What this process's clients are made with; the environment's, if nobody said more."""
    return _current[0] if _current else use({})


def client_settings(bootstrap_servers: str) -> Settings:
    """What every client's settings begin with.

    Raises:
        UsageError: see `access_of`.
    """
    return {**access().properties, "bootstrap.servers": bootstrap_servers}


#: At most one.
_current: list[KafkaAccess] = []


def _say(said: dict[str, str], name: str, value: str, where: str) -> None:
    plain = name.removesuffix(_FILE)
    if plain in said:
        raise UsageError(f"{where}: said twice, as a value and as a file; keep one")
    said[plain] = _content(Path(value), where) if name.endswith(_FILE) else value


def _content(path: Path, where: str) -> str:
    """What a file says, without the end of its last line."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:
        raise UsageError(f"{where}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        # Not the error itself: it holds the bytes.
        raise UsageError(f"{where}: {path} is not UTF-8 at byte {error.start}") from None
    if len(data) > _FILE_BYTES_MAX:
        raise UsageError(f"{where}: {path} has more than {_FILE_BYTES_MAX} bytes")
    return text.rstrip("\r\n")


def _in_file(name: str) -> str:
    return name + _FILE


def _unknown(name: str, where: str) -> UsageError:
    near = get_close_matches(name.removesuffix(_FILE), PROPERTIES, n=1)
    instead = _OF_JAVA.get(name.removesuffix(_FILE)) or (near[0] if near else "")
    advice = f"did you mean {instead}?" if instead else "docs/SECURITY.md lists those that are"
    return UsageError(f"{where} is no property that is passed on to Kafka's clients; {advice}")
