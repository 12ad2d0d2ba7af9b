"""The only file of the load generator that calls the Kafka client.

Flow: producer -> [KafkaProducer] -> input topic; output topic -> [KafkaConsumer] -> measure.
Translates the client's errors into `LoadError`, and its shapes into typed ones. The Protocols are
the seams that tests replace.

Invariants
  B1  Messages of a partition are delivered in the order of `send`, each exactly once, or the next
      `poll` or `flush` raises.
  B2  Nothing is dropped: what the full queue does not take, `send` says.
"""

from __future__ import annotations

from typing import Protocol, cast

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from loadgen.clock import SystemClock
from loadgen.payloads import NOTHING, Payloads
from service.kafka_access import access, client_settings
from service.kafka_client import Heard, made

ANSWER_SECONDS_MAX = 10.0
DELIVERY_SECONDS_MAX = 60
#: Messages and kilobytes in the client's queue; beyond either the producer waits.
QUEUE_MESSAGES_MAX = 200_000
QUEUE_KILOBYTES_MAX = 256 * 1024
_FETCH_MESSAGES_MAX = 5_000
#: Between questions whether a new topic is known.
_TOLD_US = 10_000
_GROUP = "nexmark-loadgen"  # The client asks for a group; it is never joined.
#: Names of errors after which waiting does not help; the client retries all others by itself.
_FINAL = {
    "OFFSET_OUT_OF_RANGE",
    "_AUTO_OFFSET_RESET",
    "UNKNOWN_TOPIC_OR_PART",
    "TOPIC_AUTHORIZATION_FAILED",
}
#: Names of errors that a topic's leaders give while it is being created.
_YOUNG = {"NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART"}
#: One message to send: `key` and `value`, as the client wants it.
Outgoing = dict[str, bytes]


class LoadError(Exception):
    """The load cannot be made or measured; `exit_status` is the process's."""

    exit_status = 1


class UsageFault(LoadError):
    """What was asked for cannot work."""

    exit_status = 2


class BrokerSilent(LoadError):
    """No broker answered in time, or the one that did refused us."""

    exit_status = 2

    def __init__(self, bootstrap_servers: str, heard: Heard | None = None) -> None:
        """Name the `bootstrap_servers` asked, and what the client `heard`, if any."""
        super().__init__(str((heard or Heard()).silence(bootstrap_servers, ANSWER_SECONDS_MAX)))


class ProducerClient(Protocol):
    """What the producing side needs of Kafka."""

    def send(self, topic: str, messages: list[Outgoing], partition: int) -> int:
        """Queue messages for a partition; return how many, from the first on, were taken."""
        ...

    def poll(self, seconds: float) -> None:
        """Serve the client; wait up to `seconds` for something to do."""
        ...

    def flush(self, seconds: float) -> None:
        """Wait up to `seconds` for all deliveries."""
        ...

    def queued(self) -> int:
        """Messages queued or in flight."""
        ...


class ConsumerClient(Protocol):
    """What the measuring side needs of Kafka."""

    def fetch(self, seconds: float) -> Payloads:
        """Wait up to `seconds` for a first payload; return it and all that have arrived with it."""
        ...

    def behind(self) -> bool:
        """Whether the topic holds messages that have not been fetched."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


def partition_count(bootstrap_servers: str, topic: str) -> int:
    """How many partitions a topic has; 0 when there is no such topic.

    Raises:
        BrokerSilent: nobody answered.
    """
    heard = Heard()
    settings = {**client_settings(bootstrap_servers), "log_level": 0, "error_cb": heard}
    admin = made(AdminClient, settings)
    try:
        topics = admin.list_topics(timeout=ANSWER_SECONDS_MAX).topics
    except KafkaException as error:
        # Lets the client say why.
        admin.poll(0)
        raise BrokerSilent(bootstrap_servers, heard) from error
    return len(topics[topic].partitions) if topic in topics else 0


def ensure_topic(bootstrap_servers: str, topic: str, partitions: int) -> None:
    """Create the topic unless it is there; when this returns, a broker tells of it.

    A broker may answer that a topic was created some milliseconds before its own picture of the
    cluster has it: whoever asks in between is told that there is none.

    Raises:
        BrokerSilent: nobody answered.
        LoadError: it was created, and nobody tells of it.
        UsageFault: it is there with another number of partitions, or cannot be created.
    """
    found = partition_count(bootstrap_servers, topic)
    if found not in (0, partitions):
        raise UsageFault(f"topic {topic} has {found} partitions, --partitions says {partitions}")
    if found == 0:
        admin = AdminClient(client_settings(bootstrap_servers))
        created = admin.create_topics([NewTopic(topic, num_partitions=partitions)])
        try:
            created[topic].result(timeout=ANSWER_SECONDS_MAX)
        except KafkaException as error:
            # Another process of the same load may have been faster.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise UsageFault(
                    f"topic {topic} cannot be created: {error.args[0].str()}"
                ) from error
        clock = SystemClock()
        deadline_us = clock.wall_us() + round(ANSWER_SECONDS_MAX * 1e6)
        while partition_count(bootstrap_servers, topic) == 0:
            if clock.wall_us() > deadline_us:
                raise LoadError(f"topic {topic} was created, and no broker knows it yet")
            clock.sleep_us(_TOLD_US)


def leaders(bootstrap_servers: str, topic: str) -> dict[int, tuple[str, int]]:
    """{partition: (host, port) of its leader} of a topic; waits until every leader serves.

    For those who then speak to the leaders themselves, which is without encryption.

    Raises:
        UsageFault: the brokers are to be spoken to with TLS or SASL.
        BrokerSilent: nobody answered.
        LoadError: a partition has no leader.
    """
    protocol = access().properties.get("security.protocol", "plaintext")
    if protocol.lower() != "plaintext":
        raise UsageFault(
            f"--client direct speaks neither TLS nor SASL, and security.protocol is {protocol}; "
            "use --client librdkafka"
        )
    # Answered by the leaders themselves, which a young topic's may not do at once.
    offsets_at(bootstrap_servers, topic, end=False)
    try:
        admin = AdminClient(client_settings(bootstrap_servers))
        cluster = admin.list_topics(topic, timeout=ANSWER_SECONDS_MAX)
    except KafkaException as error:
        raise BrokerSilent(bootstrap_servers) from error
    found = {}
    for partition, metadata in cluster.topics[topic].partitions.items():
        if metadata.leader not in cluster.brokers:
            raise LoadError(f"topic {topic}: partition {partition} has no leader; run it again")
        leader = cluster.brokers[metadata.leader]
        found[partition] = str(leader.host), int(leader.port)
    return found


class KafkaProducer:
    """An idempotent producer (B1, B2)."""

    def __init__(
        self,
        bootstrap_servers: str,
        linger_ms: float,
        *,
        queue_messages_max: int = QUEUE_MESSAGES_MAX,
    ) -> None:
        self._failure: str | None = None
        self._client = Producer(
            {
                **client_settings(bootstrap_servers),
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": linger_ms,
                "batch.size": 1_000_000,
                "queue.buffering.max.messages": queue_messages_max,
                "queue.buffering.max.kbytes": QUEUE_KILOBYTES_MAX,
                "message.timeout.ms": DELIVERY_SECONDS_MAX * 1000,
                "delivery.report.only.error": True,
                "on_delivery": self._delivered,
            }
        )

    def connect(self, topic: str) -> None:
        """Learn where the topic lives, so that the first message need not wait for it.

        Raises:
            LoadError: the broker does not answer.
        """
        try:
            self._client.list_topics(topic, timeout=ANSWER_SECONDS_MAX)
        except KafkaException as error:
            raise LoadError(f"topic {topic}: {error.args[0].str()}") from error

    def send(self, topic: str, messages: list[Outgoing], partition: int) -> int:
        """Queue messages; return how many, from the first on, the queue took.

        Raises:
            LoadError: the client refuses a message for another reason than a full queue.
        """
        taken: int = self._client.produce_batch(topic, messages, partition=partition)
        if taken < len(messages):
            # The client marks what it refuses. A full queue refuses all that follow, too, so that
            # the messages taken are a prefix.
            marks = [message.pop("_error") for message in messages if "_error" in message]
            refusal = cast("KafkaError", marks[0])
            if refusal.name() != "_QUEUE_FULL":
                raise LoadError(f"topic {topic}: {refusal.str()}")
        return taken

    def poll(self, seconds: float) -> None:
        """Serve the client.

        Raises:
            LoadError: a message could not be delivered.
        """
        self._client.poll(seconds)
        self._check()

    def flush(self, seconds: float) -> None:
        """Wait up to `seconds` for all deliveries.

        Raises:
            LoadError: a message could not be delivered.
        """
        self._client.flush(seconds)
        self._check()

    def queued(self) -> int:
        """Messages queued or in flight."""
        return len(self._client)

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None and self._failure is None:
            self._failure = error.str()

    def _check(self) -> None:
        if self._failure is not None:
            raise LoadError(f"a message could not be delivered: {self._failure}")


class KafkaConsumer:
    """Reads all partitions of a topic from given offsets, outside any group."""

    def __init__(self, bootstrap_servers: str, topic: str, offsets: dict[int, int]) -> None:
        """Start at `offsets`: {partition: next offset}."""
        self._client = Consumer(
            {
                **client_settings(bootstrap_servers),
                "group.id": _GROUP,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                "fetch.queue.backoff.ms": 5,  # A full client queue must not add a second.
                "queued.min.messages": 100_000,
            }
        )
        self._starts = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
        self._client.assign(self._starts)

    def fetch(self, seconds: float) -> Payloads:
        """Wait for a first payload; return it and all that have arrived with it.

        Raises:
            LoadError: the broker refuses to go on.
        """
        first = self._client.poll(seconds)
        if first is None:
            return NOTHING
        # With timeout 0 the client hands over what it has and does not wait for the number asked.
        messages = [first, *self._client.consume(_FETCH_MESSAGES_MAX, 0)]
        if any(map(Message.error, messages)):
            messages = [message for message in messages if not _is_notice(message)]
        values: list[bytes | None] = list(map(Message.value, messages))
        if None in values:
            return Payloads.of([value or b"" for value in values])
        return Payloads.of(cast("list[bytes]", values))

    def behind(self) -> bool:
        """Whether the topic holds messages that have not been fetched.

        Raises:
            LoadError: the broker does not answer.
        """
        try:
            return any(
                max(position.offset, start.offset) < _ends(self._client, position)[1]
                for position, start in zip(self._client.position(self._starts), self._starts)
            )
        except KafkaException as error:
            raise LoadError(f"the end of the topic is unknown: {error.args[0].str()}") from error

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()


def offsets_at(bootstrap_servers: str, topic: str, *, end: bool) -> dict[int, int]:
    """{partition: offset} of the beginning or the end of a topic as it is now.

    Waits while a young topic's leaders do not know yet that they lead.

    Raises:
        BrokerSilent: nobody answered.
    """
    clock = SystemClock()
    deadline_us = clock.wall_us() + round(ANSWER_SECONDS_MAX * 1e6)
    client = Consumer({**client_settings(bootstrap_servers), "group.id": _GROUP})
    try:
        while True:
            try:
                return {
                    partition: _ends(client, TopicPartition(topic, partition))[int(end)]
                    for partition in range(partition_count(bootstrap_servers, topic))
                }
            except KafkaException as error:
                young = error.args[0].name() in _YOUNG
                if not young or clock.wall_us() > deadline_us:
                    raise BrokerSilent(bootstrap_servers) from error
                clock.sleep_us(50_000)
    finally:
        client.close()


def _ends(client: Consumer, partition: TopicPartition) -> tuple[int, int]:
    ends: tuple[int, int] = client.get_watermark_offsets(partition, timeout=ANSWER_SECONDS_MAX)
    return ends


def _is_notice(message: Message) -> bool:
    """Whether the client reports a passing trouble instead of a message.

    Raises:
        LoadError: the trouble does not pass by itself.
    """
    error = message.error()
    if error is None:
        return False
    if error.fatal() or error.name() in _FINAL:
        raise LoadError(f"topic {message.topic()}: {error.str()}")
    return True
