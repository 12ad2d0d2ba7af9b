"""Bad records go to `<topic>.dlq` with their original bytes and what was wrong with them.

Flow: Rejected rows of a poll -> [DeadLetters] -> Kafka.

Invariants
  Z1  Every rejected record becomes one letter with its original key and value, and headers `topic`,
      `partition`, `offset` and `error` in UTF-8.
  Z2  A letter is bounded: a value or key over its limit is cut, and header `cut` says how long it
      was. The original is found by topic, partition and offset.
  Z3  A batch that the client cannot unpack becomes one letter without key and value, as of its
      first offset, whose `error` says which offsets it has.
  Z4  A letter that Kafka does not take is an error that names the topic, never silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message

from service.errors import BrokerError
from service.ingest.client_errors import UNREADABLE_REASON
from service.ingest.decode import Rejected
from service.ingest.records import RawRecords
from service.ingest.unreadable import UnreadableBatch

#: Below the 1,000,000 bytes that brokers and clients take by default, with room for headers.
VALUE_BYTES_MAX = 900_000
KEY_BYTES_MAX = 10_000
#: Patience with a full producer queue: so many times, so long.
_QUEUE_TRIES = 100
_QUEUE_WAIT_S = 0.1

OnDelivery: TypeAlias = Callable[[KafkaError | None, Message], None]


class LetterProducer(Protocol):
    """What dead letters need of a Kafka producer; whoever owns it also polls and flushes it."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        headers: list[tuple[str, bytes]],
        on_delivery: OnDelivery,
    ) -> None:
        """Queue a record; BufferError if the queue is full."""
        ...

    def poll(self, timeout: float) -> int:
        """Serve callbacks for up to `timeout` seconds."""
        ...


class DeadLetters:
    """Writes the dead letters of one process. Owned by one thread."""

    def __init__(
        self,
        producer: LetterProducer,
        *,
        value_bytes_max: int = VALUE_BYTES_MAX,
        key_bytes_max: int = KEY_BYTES_MAX,
    ) -> None:
        self._producer = producer
        self._value_bytes_max = value_bytes_max
        self._key_bytes_max = key_bytes_max
        #: Letters written, by reason.
        self.counts: Counter[str] = Counter()
        #: Letters that Kafka has not acknowledged yet; zero before positions may be made final.
        self.pending = 0
        self._failure: str | None = None
        #: Letters under way by the marks they were sent before (`mark`).
        self._under_way: Counter[int] = Counter()
        self._mark = 0

    def mark(self) -> int:
        """Number the letters sent so far: `stored` tells when Kafka has all of them."""
        self._mark += 1
        return self._mark

    def stored(self, mark: int) -> bool:
        """Whether Kafka has acknowledged every letter sent before `mark` was given."""
        return not any(count for sent, count in self._under_way.items() if sent < mark)

    def send(self, raw: RawRecords, rejected: Sequence[Rejected]) -> None:
        """Queue a letter for each of the `rejected` records of `raw`.

        Raises:
            BrokerError: Kafka did not take this or an earlier letter (Z4).

        Cost: about 5 us a letter.
        """
        self.check()
        for each in rejected:
            self._send(raw, each)
            self.counts[each.reason] += 1

    def send_batch(self, batch: UnreadableBatch) -> None:
        """Queue the letter of a batch that cannot be unpacked (Z3).

        Raises:
            BrokerError: Kafka did not take this or an earlier letter (Z4).
        """
        self.check()
        offsets = f"offsets {batch.first} to {batch.end - 1} are a batch that cannot be unpacked"
        headers = [
            ("topic", batch.topic.encode()),
            ("partition", b"%d" % batch.partition),
            ("offset", b"%d" % batch.first),
            ("error", f"{UNREADABLE_REASON}: {offsets}: {batch.detail}".encode()),
            ("cut", b"nothing of it could be read"),
        ]
        self._produce(f"{batch.topic}.dlq", None, None, headers)
        self.counts[UNREADABLE_REASON] += 1

    def check(self) -> None:
        """Notice a letter that was lost.

        Raises:
            BrokerError: there is one (Z4).
        """
        if self._failure is not None:
            raise BrokerError(self._failure)

    def _send(self, raw: RawRecords, rejected: Rejected) -> None:
        row = rejected.row
        key, value = raw.key(row), raw.value(row)
        headers = [
            ("topic", raw.topic(row).encode()),
            ("partition", b"%d" % raw.partitions[row]),
            ("offset", b"%d" % raw.offsets[row]),
            ("error", f"{rejected.reason}: {rejected.detail}".encode()),
        ]
        if len(value or b"") > self._value_bytes_max or len(key or b"") > self._key_bytes_max:
            sizes = f"value had {len(value or b'')} bytes, key {len(key or b'')}"
            headers.append(("cut", sizes.encode()))
        self._produce(
            f"{raw.topic(row)}.dlq",
            value and value[: self._value_bytes_max],
            key and key[: self._key_bytes_max],
            headers,
        )

    def _produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: list[tuple[str, bytes]],
    ) -> None:
        for _ in range(_QUEUE_TRIES):
            try:
                self._producer.produce(
                    topic,
                    value,
                    key,
                    headers=headers,
                    on_delivery=partial(self._on_delivery, self._mark),
                )
            except BufferError:
                self._producer.poll(_QUEUE_WAIT_S)
            except KafkaException as error:
                raise BrokerError(_lost(topic, error.args[0])) from error
            else:
                self.pending += 1
                self._under_way[self._mark] += 1
                return
        raise BrokerError(f"topic {topic!r} takes no dead letters: the producer's queue stays full")

    def _on_delivery(self, sent: int, error: KafkaError | None, message: Message) -> None:
        self.pending -= 1
        self._under_way[sent] -= 1
        if not self._under_way[sent]:
            del self._under_way[sent]
        if error is not None and self._failure is None:
            self._failure = _lost(str(message.topic()), error)


def _lost(topic: str, error: KafkaError) -> str:
    return (
        f"a dead letter to topic {topic!r} was lost: {error.str()}; "
        "create the topic, or check its limits"
    )
