"""Makes Kafka clients, and tells a broker that refuses us from one that is not there.

Flow: settings -> [made] -> a client; its error callback -> [Heard]; a question that failed ->
[silence] -> a named error.

The client answers a question to a broker that refuses it with "timed out", and says why only in its
error callback, which is served by `poll`.

Invariants
  KC1  Settings that the client does not take are a UsageError, without the secrets in them.
  KC2  Whoever is refused is told so, and by whom, within the time given for an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

from service.errors import BrokerError, BrokerRefused, BrokerUnavailable, UsageError
from service.kafka_access import access

Client = TypeVar("Client")

#: Errors that say: we were heard, and not let in.
REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
#: In what the client says when a broker ends a handshake: a lost connection to its code.
_ALERT: Final = "tls alert"


def made(kind: Callable[[dict[str, Any]], Client], settings: dict[str, Any]) -> Client:
    """A client of `kind`.

    Raises:
        UsageError: it does not take its settings (KC1).
    """
    try:
        return kind(settings)
    except KafkaException as error:
        cause = access().scrubbed(error.args[0].str())
        # Not `from error`: its text is the client's own.
        raise UsageError(
            f"Kafka's client does not take its settings: {cause}; check kafka.properties and the "
            "variables KAFKA_SECURITY_*, KAFKA_SASL_* and KAFKA_SSL_*"
        ) from None


class Heard:
    """An error callback that keeps why a broker refused, and the last thing the client said."""

    def __init__(self) -> None:
        self._refusal = ""
        self._last = ""

    def __call__(self, error: KafkaError) -> None:
        """Note an error of the client."""
        text = access().scrubbed(error.str())
        if error.code() in REFUSED or _ALERT in text.lower():
            self._refusal = text
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last = text

    @property
    def refused(self) -> bool:
        """Whether a broker refused us."""
        return bool(self._refusal)

    def silence(self, bootstrap_servers: str, seconds: float) -> BrokerError:
        """Why a question had no answer (KC2)."""
        if self._refusal:
            return BrokerRefused(bootstrap_servers, self._refusal)
        return BrokerUnavailable(bootstrap_servers, seconds, self._last)
