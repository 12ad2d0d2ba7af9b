"""The job's own topics, and the clients that read and write them.

Flow: users -> <app>.control -> controller -> <app>.accepted -> every process;
      every process -> <app>.members -> controller and `megaphone status`;
      controller -> <app>.status and <app>.checkpoints.

Invariants
  J1  All of them have one partition: the log's order is the topic's.
  J2  `accepted` has one writer, `service.accepted_log`; nothing here writes it.
  J3  Foreign exceptions of the Kafka client are translated here and do not leave this file.
Source: DESIGN §8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import TimeoutError as NoAnswer
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
from confluent_kafka.admin import AdminClient, NewTopic, TopicMetadata

from service.errors import BrokerError, BrokerUnavailable, UsageError
from service.kafka_access import client_settings
from service.kafka_client import Heard, made

START_AT_END: int = OFFSET_END
START_AT_BEGINNING: int = OFFSET_BEGINNING
#: Where the last reader of the topic said it was; the beginning if there was none.
START_AT_COMMITTED: int = OFFSET_STORED

#: Of the time that a first answer may take; the last is long enough for a slow one.
_PARTS = (0.1, 0.2, 0.7)
#: One poll of `read_to_end`.
_READ_WAIT_S = 0.1
_NOT_KNOWN_YET = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    }
)

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
        """Manifests, keyed by name; those no longer needed have a tombstone."""
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
        self._heard = Heard()
        settings = client_settings(bootstrap_servers)
        self._client = made(AdminClient, {**settings, "log_level": 0, "error_cb": self._heard})

    def partitions(self, topics: Iterable[str] | None = None) -> dict[str, int]:
        """Number of partitions of each existing topic, or of those named.

        Raises:
            BrokerUnavailable: no broker answered in time.
            BrokerRefused: one did, and did not let us in.
            UsageError: a named topic does not exist.
        """
        counts = {name: len(topic.partitions) for name, topic in self._listed().items()}
        if topics is None:
            return counts
        for name in topics:
            if name not in counts:
                raise UsageError(f"topic {name!r} does not exist; create it first")
        return {name: counts[name] for name in topics}

    def _listed(self) -> dict[str, TopicMetadata]:
        """What the broker says there is; asked in parts, so that a refusal is told at once."""
        for part in _PARTS:
            try:
                return self._client.list_topics(timeout=self._timeout_s * part).topics
            except KafkaException:
                self._client.poll(0)  # lets the client say why
            if self._heard.refused:
                break
        raise self._heard.silence(self._bootstrap, self._timeout_s)

    def create(self, topic: str, partitions: int, config: dict[str, str] | None = None) -> None:
        """Create a topic; one that exists already is left as it is.

        Raises:
            BrokerUnavailable: no broker answered in time.
            BrokerError: the broker refused.
        """
        new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=config or {})
        future = self._client.create_topics([new], operation_timeout=self._timeout_s)[topic]
        try:
            future.result(self._timeout_s)
        except NoAnswer as error:
            raise BrokerUnavailable(self._bootstrap, self._timeout_s) from error
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
                **client_settings(bootstrap_servers),
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
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,
            }
        )
        #: Whether the last poll ended at the end of the topic.
        self.at_end = False
        #: Where the client last said that the topic ends; it says so once for each end.
        self._ended = 0
        self._closed = False
        if start == START_AT_COMMITTED:
            start = self._committed(timeout_s)
        # The client would find these places only when it fetches: a record appended until then
        # would be missed, and it takes half a second over it.
        if start == START_AT_END:
            start = self.end(timeout_s)
        elif start == START_AT_BEGINNING:
            start = self._bounds(timeout_s)[0]
        self._next = start
        self._consumer.assign([TopicPartition(topic, 0, start)])

    def poll(self, timeout_s: float = 0.0, limit: int = 500) -> list[Entry]:
        """Records that are there, at most `limit`; waits up to `timeout_s` for the first.

        Raises:
            BrokerError: the topic cannot be read any more.
        """
        messages = self._take(limit, 0.0)
        if not messages and timeout_s > 0:
            # The client would wait for a full batch.
            messages = self._take(1, timeout_s)
        entries = []
        for message in messages:
            error = message.error()
            if error is None:
                self.at_end = False
                offset = int(message.offset() or 0)
                self._next = offset + 1
                entries.append(Entry(offset, _text(message.key()), message.value()))
            elif error.code() == KafkaError._PARTITION_EOF:
                self.at_end = True
                self._ended = int(message.offset() or 0)
            elif not error.retriable() and error.code() not in _HEALS:
                raise BrokerError(f"topic {self.topic!r} cannot be read: {error.str()}")
        return entries

    def read_to_end(self, timeout_s: float) -> Iterator[Entry]:
        """All records up to the end as it is now, as they come; may be called again.

        Raises:
            BrokerError: the end was not reached within `timeout_s` without a record.
        """
        end = self.end(timeout_s)
        patience = math.ceil(timeout_s / _READ_WAIT_S)
        left = patience
        while self._next < end and self._ended < end:
            entries = self.poll(_READ_WAIT_S, limit=10_000)
            yield from entries
            left = patience if entries else left - 1
            if left < 0 and self._ended < end:
                raise BrokerError(
                    f"the end of {self.topic!r} was not reached: nothing came for {timeout_s:g} s"
                )

    def _take(self, limit: int, timeout_s: float) -> list[Message]:
        try:
            return self._consumer.consume(limit, timeout_s)
        except KafkaException as error:
            raise BrokerError(f"topic {self.topic!r}: {error.args[0].str()}") from error

    def end(self, timeout_s: float) -> int:
        """Offset behind the last record.

        Raises:
            BrokerError: the broker did not say in time.
        """
        return self._bounds(timeout_s)[1]

    def _bounds(self, timeout_s: float) -> tuple[int, int]:
        """Offset of the oldest record and offset behind the last."""
        found: tuple[int, int] | None = None
        for left in reversed(range(math.ceil(timeout_s / _READ_WAIT_S))):
            try:
                found = self._consumer.get_watermark_offsets(
                    TopicPartition(self.topic, 0), timeout=timeout_s, cached=False
                )
                break
            except KafkaException as error:
                cause = error.args[0]
                # A topic just created is not known to this client at once: it asks and waits.
                if cause.code() not in _NOT_KNOWN_YET or not left:
                    raise BrokerError(f"end of {self.topic!r} is unknown: {cause.str()}") from error
                self._consumer.list_topics(self.topic, timeout=timeout_s)
                self._consumer.poll(_READ_WAIT_S)
        if found is None:
            raise BrokerError(f"end of {self.topic!r} is unknown: no answer in {timeout_s:g} s")
        return found

    def commit(self, offset: int) -> None:
        """Let a later tail with START_AT_COMMITTED begin at `offset`; returns at once."""
        self._consumer.commit(offsets=[TopicPartition(self.topic, 0, offset)], asynchronous=True)

    def _committed(self, timeout_s: float) -> int:
        try:
            (found,) = self._consumer.committed([TopicPartition(self.topic, 0)], timeout=timeout_s)
        except KafkaException as error:
            raise BrokerError(
                f"the place reached in {self.topic!r} is unknown: {error.args[0].str()}"
            ) from error
        return found.offset if found.offset >= 0 else START_AT_BEGINNING

    def close(self) -> None:
        """Release the client; may be called twice."""
        if not self._closed:
            self._closed = True
            self._consumer.close()


def read_compacted(bootstrap_servers: str, topic: str, timeout_s: float) -> dict[str, Entry]:
    """Last record of each key of a compacted topic; tombstones remove their key.

    Raises:
        BrokerError: the end was not reached in `timeout_s`.
    """
    tail = TopicTail(bootstrap_servers, topic, timeout_s=timeout_s)
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
                **client_settings(bootstrap_servers),
                "client.id": client_id,
                "enable.idempotence": True,
                "linger.ms": 0,
                "message.timeout.ms": 10_000,
                "log_level": 0,
            }
        )

    def write(self, topic: str, key: str, value: bytes | None) -> None:
        """Queue a record; `poll` and `flush` send it and report failure.

        Raises:
            BrokerError: the client takes no more.
        """
        try:
            self._client.produce(
                topic, value, key.encode(), partition=0, on_delivery=self._delivered
            )
        except (KafkaException, BufferError) as error:
            raise BrokerError(f"a record for {topic!r} was refused: {error}") from error

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


#: Errors the client gets over by itself, beyond those it calls retriable.
_HEALS = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
    }
)
