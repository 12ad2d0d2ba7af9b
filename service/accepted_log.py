"""The writer of the accepted log: one per app, in transactions, fenced.

Flow: controller -> [LogWriter] -> <app>.accepted -> every process.

Invariants
  AL1  What `append` returned from is durable and visible; what it raised for may be either, and the
       writer must then stop.
  AL2  The transactional id is <app>.controller: a second controller of the same app takes it over
       and the first one stops at its next write, before anybody can have read what it wrote.
  AL3  Foreign exceptions of the Kafka client do not leave this file.
Source: DESIGN §8; KIP-98 fencing.
"""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from service.control_topics import AppTopics
from service.errors import BrokerError, BrokerLost, BrokerUnavailable, Fenced
from service.kafka_access import client_settings

#: The broker aborts what a controller left open after this time.
_TRANSACTION_TIMEOUT_MS = 30_000


class LogWriter:
    """The only writer of the accepted log."""

    def __init__(self, bootstrap_servers: str, topics: AppTopics, timeout_s: float) -> None:
        """Take the identity over; any earlier controller of the app is fenced from here on.

        Raises:
            BrokerUnavailable: the broker did not answer in `timeout_s`.
        """
        self._bootstrap = bootstrap_servers
        self._topic = topics.accepted
        self._timeout_s = timeout_s
        #: Offsets of the transaction under way, in order.
        self._offsets: list[int] = []
        self._client = Producer(
            {
                **client_settings(bootstrap_servers),
                "transactional.id": f"{topics.app}.controller",
                "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
                "linger.ms": 0,
                "log_level": 0,
            }
        )
        try:
            self._client.init_transactions(timeout_s)
        except KafkaException as error:
            raise BrokerUnavailable(bootstrap_servers, timeout_s) from error

    def append(self, values: Sequence[bytes]) -> list[int]:
        """Append records in one transaction; returns their offsets once they are committed (AL1).

        Raises:
            Fenced: another controller of this app has started.
            BrokerLost: the broker did not answer in time.
            BrokerError: the log cannot be written.

        Cost: two round trips to the broker and a write of its transaction log, 3 to 10 ms.
        """
        try:
            self._offsets.clear()
            self._client.begin_transaction()
            for value in values:
                self._client.produce(self._topic, value, partition=0, on_delivery=self._delivered)
            self._client.commit_transaction(self._timeout_s)
        except KafkaException as error:
            raise self._translated(error.args[0]) from error
        if len(self._offsets) != len(values):
            raise BrokerError(f"the log {self._topic!r} did not say where records were stored")
        return list(self._offsets)

    def _translated(self, cause: KafkaError) -> BrokerError:
        if cause.code() in _FENCED:
            return Fenced(
                f"another controller took over {self._topic!r}, so this job stops; is the job "
                "running twice? Give each its own --app"
            )
        if cause.code() in _UNREACHABLE:
            return BrokerLost(self._bootstrap, self._timeout_s)
        return BrokerError(f"the log {self._topic!r} cannot be written: {cause.str()}")

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._offsets.append(int(message.offset() or 0))


_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
_UNREACHABLE = frozenset(
    {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}
)
