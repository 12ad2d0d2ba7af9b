"""The job's own topics, and the clients that read and write them.

Flow: users -> <app>.control -> controller -> <app>.accepted -> every process;
      every process -> <app>.members -> controller and `megaphone status`;
      controller -> <app>.status and <app>.checkpoints.

Invariants
  J1  All of them have one partition: the log's order is the topic's.
  J2  `accepted` is written in transactions, fenced by <app>.controller: a second controller of the
      same app takes the identity over and the first one stops at its next write.
  J3  Foreign exceptions of the Kafka client are translated here and do not leave this file.
Source: DESIGN §8; KIP-98 fencing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_STORED,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from service.errors import BrokerError, BrokerUnavailable, Fenced, UsageError

START_AT_END: int = OFFSET_END
START_AT_BEGINNING: int = OFFSET_BEGINNING
#: Where the last reader of the topic said it was; the beginning if there was none.
START_AT_COMMITTED: int = OFFSET_STORED

#: One poll of `read_to_end`.
_READ_WAIT_S = 0.1

_COMPACTED = {"cleanup.policy": "compact"}
#: The log and the requests must outlive a job's longest run between two checkpoints.
_KEPT = {"cleanup.policy": "delete", "retention.ms": "-1"}


@dataclass(frozen=True, slots=True)
class AppTopics:
    """Names of an app's topics."""

    app: str

    @property
    def control(self) -> str:
        """Requests of users."""
        return f"{self.app}.control"

    @property
    def accepted(self) -> str:
        """The log: commands, promises, generations."""
        return f"{self.app}.accepted"

    @property
    def status(self) -> str:
        """State of each request, keyed by id."""
        return f"{self.app}.status"

    @property
    def members(self) -> str:
        """How each process is, keyed by slot."""
        return f"{self.app}.members"

    @property
    def checkpoints(self) -> str:
        """Manifests, keyed by app."""
        return f"{self.app}.checkpoints"

    def layout(self) -> dict[str, dict[str, str]]:
        """Topic -> configuration."""
        return {
            self.control: _KEPT,
            self.accepted: _KEPT,
            self.status: _COMPACTED,
            self.members: _COMPACTED,
            self.checkpoints: _COMPACTED,
        }


class Admin:
    """Creates and describes topics."""

    def __init__(self, bootstrap_servers: str, timeout_s: float) -> None:
        """Connect; every call waits at most `timeout_s`."""
        self._bootstrap = bootstrap_servers
        self._timeout_s = timeout_s
        self._client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})

    def partitions(self, topics: Iterable[str] | None = None) -> dict[str, int]:
        """Number of partitions of each existing topic, or of those named.

        Raises:
            BrokerUnavailable: no broker answered in time.
            UsageError: a named topic does not exist.
        """
        try:
            found = self._client.list_topics(timeout=self._timeout_s).topics
        except KafkaException as error:
            raise BrokerUnavailable(self._bootstrap, self._timeout_s) from error
        counts = {name: len(topic.partitions) for name, topic in found.items()}
        if topics is None:
            return counts
        for name in topics:
            if name not in counts:
                raise UsageError(f"topic {name!r} does not exist; create it first")
        return {name: counts[name] for name in topics}

    def create(self, topic: str, partitions: int, config: dict[str, str] | None = None) -> None:
        """Create a topic; one that exists already is left as it is.

        Raises:
            BrokerError: the broker refused.
        """
        new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=config or {})
        future = self._client.create_topics([new], operation_timeout=self._timeout_s)[topic]
        try:
            future.result(self._timeout_s)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BrokerError(
                    f"topic {topic!r} was not created: {error.args[0].str()}"
                ) from error

    def ensure_app(self, topics: AppTopics) -> None:
        """Create the app's topics and refuse ones that cannot serve (J1).

        Raises:
            UsageError: a topic exists with more than one partition.
        """
        existing = self.partitions()
        for name, config in topics.layout().items():
            if name not in existing:
                self.create(name, 1, config)
            elif existing[name] != 1:
                raise UsageError(
                    f"topic {name!r} has {existing[name]} partitions, it must have 1; "
                    "choose another --app or delete the topic"
                )

    def config_of(self, topic: str) -> dict[str, str]:
        """Configuration of a topic as the broker has it."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        entries = self._client.describe_configs([resource])[resource].result(self._timeout_s)
        return {name: entry.value for name, entry in entries.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a control topic; `value` is None for a tombstone."""

    offset: int
    key: str
    value: bytes | None


class TopicTail:
    """Reads one single-partition topic from a given place, without a group."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        start: int = START_AT_BEGINNING,
        timeout_s: float = 10.0,
    ) -> None:
        """Start at offset `start`.

        Raises:
            BrokerError: where that is was not to be learned within `timeout_s`.
        """
        self.topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{topic}.reader",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                # Markers of transactions and holes of compaction have offsets that are never
                # delivered; only the client knows when it stands at the end.
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                "fetch.error.backoff.ms": 20,
                "log_level": 0,
            }
        )
        #: Whether the last poll ended at the end of the topic.
        self.at_end = False
        if start == START_AT_COMMITTED:
            start = self._committed()
        elif start == START_AT_END:
            # The client would find the end only when it fetches, and a record appended until then
            # would be missed.
            start = self.end(timeout_s)
        self._consumer.assign([TopicPartition(topic, 0, start)])

    def poll(self, timeout_s: float = 0.0, limit: int = 500) -> list[Entry]:
        """Records that are there, at most `limit`; waits up to `timeout_s` for the first.

        Raises:
            BrokerError: the topic cannot be read any more.
        """
        messages: Sequence[Message] = self._consumer.consume(limit, timeout_s)
        entries = []
        for message in messages:
            error = message.error()
            if error is None:
                self.at_end = False
                entries.append(
                    Entry(int(message.offset() or 0), _text(message.key()), message.value())
                )
            elif error.code() == KafkaError._PARTITION_EOF:
                self.at_end = True
            elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
                raise BrokerError(f"topic {self.topic!r} cannot be read: {error.str()}")
        return entries

    def read_to_end(self, timeout_s: float) -> Iterator[Entry]:
        """All records up to the end, as they come.

        Raises:
            BrokerError: the end was not reached within `timeout_s` without a record.
        """
        patience = math.ceil(timeout_s / _READ_WAIT_S)
        left = patience
        while not self.at_end:
            entries = self.poll(_READ_WAIT_S, limit=10_000)
            yield from entries
            left = patience if entries else left - 1
            if left < 0 and not self.at_end:
                raise BrokerError(
                    f"the end of {self.topic!r} was not reached: nothing came for {timeout_s:g} s"
                )

    def end(self, timeout_s: float) -> int:
        """Offset behind the last record.

        Raises:
            BrokerError: the broker did not say in time.
        """
        try:
            return int(
                self._consumer.get_watermark_offsets(
                    TopicPartition(self.topic, 0), timeout=timeout_s, cached=False
                )[1]
            )
        except KafkaException as error:
            raise BrokerError(f"end of {self.topic!r} is unknown: {error.args[0].str()}") from error

    def commit(self, offset: int) -> None:
        """Let a later tail with START_AT_COMMITTED begin at `offset`; returns at once."""
        self._consumer.commit(offsets=[TopicPartition(self.topic, 0, offset)], asynchronous=True)

    def _committed(self) -> int:
        try:
            (found,) = self._consumer.committed([TopicPartition(self.topic, 0)], timeout=10.0)
        except KafkaException as error:
            raise BrokerError(
                f"the place reached in {self.topic!r} is unknown: {error.args[0].str()}"
            ) from error
        return int(found.offset) if found.offset >= 0 else START_AT_BEGINNING

    def close(self) -> None:
        """Release the client."""
        self._consumer.close()


def read_compacted(bootstrap_servers: str, topic: str, timeout_s: float) -> dict[str, Entry]:
    """Last record of each key of a compacted topic; tombstones remove their key.

    Raises:
        BrokerError: the end was not reached in `timeout_s`.
    """
    tail = TopicTail(bootstrap_servers, topic)
    try:
        last = {entry.key: entry for entry in tail.read_to_end(timeout_s)}
    finally:
        tail.close()
    return {key: entry for key, entry in last.items() if entry.value is not None}


def _text(key: bytes | str | None) -> str:
    return key if isinstance(key, str) else (key or b"").decode(errors="replace")


class RecordWriter:
    """Writes small records to control topics, idempotently, in order per topic."""

    def __init__(self, bootstrap_servers: str, client_id: str) -> None:
        """Connect lazily."""
        self._failed: KafkaError | None = None
        self._client = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": client_id,
                "enable.idempotence": True,
                "linger.ms": 0,
                "message.timeout.ms": 10_000,
                "log_level": 0,
            }
        )

    def write(self, topic: str, key: str, value: bytes | None) -> None:
        """Queue a record; `poll` and `flush` send it and report failure."""
        self._client.produce(topic, value, key.encode(), partition=0, on_delivery=self._delivered)

    def poll(self) -> None:
        """Serve delivery reports.

        Raises:
            BrokerError: a record was not stored.
        """
        self._client.poll(0)
        if self._failed is not None:
            raise BrokerError(f"a control record was not stored: {self._failed.str()}")

    def flush(self, timeout_s: float) -> None:
        """Wait until everything written is stored.

        Raises:
            BrokerError: it was not, within `timeout_s`.
        """
        if self._client.flush(timeout_s):
            raise BrokerError(f"control records were not stored within {timeout_s:g} s")
        self.poll()

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed = error


class LogWriter:
    """The only writer of the accepted log (J2)."""

    def __init__(self, bootstrap_servers: str, topics: AppTopics, timeout_s: float) -> None:
        """Take the identity over; any earlier controller of the app is fenced from here on.

        Raises:
            BrokerUnavailable: the broker did not answer in `timeout_s`.
        """
        self._topic = topics.accepted
        self._timeout_s = timeout_s
        #: Offsets of the transaction under way, in order.
        self._offsets: list[int] = []
        self._client = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "transactional.id": f"{topics.app}.controller",
                "transaction.timeout.ms": 30_000,
                "linger.ms": 0,
                "log_level": 0,
            }
        )
        try:
            self._client.init_transactions(timeout_s)
        except KafkaException as error:
            raise BrokerUnavailable(bootstrap_servers, timeout_s) from error

    def append(self, values: Sequence[bytes]) -> list[int]:
        """Append records in one transaction; returns their offsets once they are committed.

        Raises:
            Fenced: another controller of this app has started.
            BrokerError: the log cannot be written.
        """
        try:
            self._offsets.clear()
            self._client.begin_transaction()
            for value in values:
                self._client.produce(self._topic, value, partition=0, on_delivery=self._delivered)
            self._client.commit_transaction(self._timeout_s)
        except KafkaException as error:
            cause = error.args[0]
            if cause.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
                raise Fenced(
                    f"another controller took over {self._topic!r}; this one stops"
                ) from error
            raise BrokerError(
                f"the log {self._topic!r} cannot be written: {cause.str()}"
            ) from error
        if len(self._offsets) != len(values):
            raise BrokerError(f"the log {self._topic!r} did not say where records were stored")
        return list(self._offsets)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._offsets.append(int(message.offset() or 0))
