"""Reads dead letters, looks for the records they are about, and writes those again.

Flow: `<topic>.dlq` -> [read_letters] -> letters -> [Originals.of] -> records where they were ->
[Replayer.write] -> the topics they came from, or another one.

Invariants
  RE1  What is written and the position behind the letters read are one transaction: a letter is
       replayed once, whatever ends the replay, and by one replay at a time.
  RE2  Letters are read up to the ends as of the start: what fails again is not replayed again.
  RE3  Records of one partition are written to the same partition, in the order of their offsets
       among the letters of one chunk.
  RE4  Foreign exceptions of the Kafka client are translated here and do not leave this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from service.dead_letters import Headers, Letter, Original, Place, Remade, letter_of
from service.errors import BrokerError, Fenced, UsageError
from service.ingest.client_errors import UNREADABLE, UNREADABLE_REASON

#: Letters that are looked for, written and committed together.
CHUNK = 1_000
#: A record that lies so few offsets behind the last one is read up to, not sought.
_NEAR = 2_000
_POLL_S = 0.2
#: Larger records than brokers take by default; the broker's own limit decides.
_RECORD_BYTES_MAX = 64 << 20


class Letters:
    """The letters of one dead-letter topic from a position on; close it."""

    def __init__(
        self, settings: Mapping[str, Any], topic: str, timeout_s: float, *, again: bool
    ) -> None:
        """Stand where the last replay ended, or with `again` at the oldest letter.

        Raises:
            UsageError: there is no such topic.
            BrokerError: Kafka did not say in time.
        """
        self.topic = topic
        self._timeout_s = timeout_s
        self._client = Consumer(_reading(settings, f"{topic}.replay"))
        #: Records that no gateway wrote.
        self.strange: list[str] = []
        try:
            known = self._client.list_topics(topic, timeout=timeout_s).topics[topic]
            if known.error is not None or not known.partitions:
                self._client.close()
                raise UsageError(
                    f"topic {topic!r} does not exist; gateways make it with the first dead letter"
                )
            places = [TopicPartition(topic, number) for number in sorted(known.partitions)]
            begun = {} if again else self._committed(places)
            #: Partition -> first letter not read.
            self.next: dict[int, int] = {}
            self._ends: dict[int, int] = {}
            for place in places:
                low, high = self._client.get_watermark_offsets(place, timeout_s, cached=False)
                at = begun.get(place.partition, low)
                # A topic that was made anew ends before where its namesake was read to.
                self.next[place.partition] = max(low, at) if at <= high else low
                self._ends[place.partition] = high
            self._client.assign(
                [TopicPartition(topic, number, at) for number, at in self.next.items()]
            )
        except KafkaException as error:
            raise _translated(f"topic {topic!r}", error) from error

    def _committed(self, places: list[TopicPartition]) -> dict[int, int]:
        found = self._client.committed(places, timeout=self._timeout_s)
        return {each.partition: each.offset for each in found if each.offset >= 0}

    def chunks(self, size: int = CHUNK) -> Iterator[list[Letter]]:
        """Letters up to the ends as of the start (RE2), at most `size` at a time.

        Raises:
            BrokerError: nothing came for as long as our patience lasts.
        """
        patience = math.ceil(self._timeout_s / _POLL_S)
        left = patience
        while any(at < self._ends[number] for number, at in self.next.items()):
            messages = self._take(size)
            left = patience if messages else left - 1
            if left < 0:
                raise BrokerError(
                    f"topic {self.topic!r}: nothing came for {self._timeout_s:g} s; a broker away?"
                )
            if messages:
                letters = map(self._letter, messages)
                yield [letter for letter in letters if letter is not None]

    def _take(self, size: int) -> list[Message]:
        """What has come, ends of partitions taken note of."""
        try:
            messages = self._client.consume(size, _POLL_S)
        except KafkaException as error:
            raise _translated(f"topic {self.topic!r}", error) from error
        records = []
        for message in messages:
            wrong = message.error()
            number, offset = message.partition() or 0, message.offset() or 0
            if wrong is None:
                # Letters behind the end as of the start are left for the next time.
                if offset < self._ends[number]:
                    records.append(message)
                    self.next[number] = offset + 1
                else:
                    self.next[number] = max(self.next[number], self._ends[number])
            elif wrong.code() == KafkaError._PARTITION_EOF:
                # Markers of transactions have offsets and are never delivered.
                self.next[number] = max(self.next[number], min(offset, self._ends[number]))
            elif not wrong.retriable():
                raise BrokerError(f"topic {self.topic!r} cannot be read: {wrong.str()}")
        return records

    def _letter(self, message: Message) -> Letter | None:
        place = Place(self.topic, message.partition() or 0, message.offset() or 0)
        letter = letter_of(place, _headers(message), message.key(), message.value())
        if letter is None:
            self.strange.append(str(place))
        return letter

    def positions(self) -> list[TopicPartition]:
        """What is committed once all letters read were dealt with."""
        return [TopicPartition(self.topic, number, at) for number, at in self.next.items()]

    def group(self) -> object:
        """How a transaction names the group that the position belongs to."""
        return self._client.consumer_group_metadata()

    def close(self) -> None:
        """Release the client."""
        self._client.close()


class Originals:
    """Finds records where letters say they were; close it."""

    def __init__(self, settings: Mapping[str, Any], timeout_s: float) -> None:
        """Connect when first asked."""
        self._timeout_s = timeout_s
        self._client = Consumer(_reading(settings, "megaphone.originals"))

    def of(self, letters: Sequence[Letter]) -> dict[Place, Original]:
        """The records that are still there.

        Cost: one fetch for records that lie close together, else one each, of some milliseconds.

        Raises:
            BrokerError: a partition cannot be read.
        """
        found: dict[Place, Original] = {}
        wanted: dict[tuple[str, int], list[int]] = {}
        readable = [letter for letter in letters if letter.reason != UNREADABLE_REASON]
        for place in sorted({letter.origin for letter in readable}):
            wanted.setdefault((place.topic, place.partition), []).append(place.offset)
        for (topic, partition), offsets in wanted.items():
            try:
                low, high = self._client.get_watermark_offsets(
                    TopicPartition(topic, partition), self._timeout_s, cached=False
                )
            except KafkaException:
                continue  # a topic that is gone has no records
            kept = [offset for offset in offsets if low <= offset < high]
            for run in _runs(kept):
                self._read(topic, partition, run, found)
        self._client.unassign()
        return found

    def _read(
        self, topic: str, partition: int, run: list[int], found: dict[Place, Original]
    ) -> None:
        """Read from the first to the last offset of a run and keep those that are in it."""
        wanted, asked = set(run), run[0]
        self._client.assign([TopicPartition(topic, partition, asked)])
        left = math.ceil(self._timeout_s / _POLL_S)
        while True:
            message = self._client.poll(_POLL_S)
            if message is None:
                left -= 1
                if left < 0:
                    raise BrokerError(f"topic {topic!r}: nothing came for {self._timeout_s:g} s")
                continue
            error, offset = message.error(), message.offset() or 0
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return
                if error.code() in UNREADABLE:
                    # A batch in between; which offsets it has, nobody says.
                    behind = [each for each in run if each > asked]
                    if not behind:
                        return
                    asked = behind[0]
                    self._client.assign([TopicPartition(topic, partition, asked)])
                    continue
                if not error.retriable():
                    raise BrokerError(f"topic {topic!r} cannot be read: {error.str()}")
                continue
            asked = max(asked, offset)
            if offset in wanted:
                kind, stamp = message.timestamp()
                found[Place(topic, partition, offset)] = Original(
                    message.key(),
                    message.value(),
                    _headers(message),
                    stamp if kind == TIMESTAMP_CREATE_TIME else None,
                )
            if offset >= run[-1]:
                return

    def close(self) -> None:
        """Release the client."""
        self._client.close()


class Replayer:
    """Writes records again, each chunk in a transaction with the position behind it (RE1)."""

    def __init__(self, settings: Mapping[str, Any], topic: str, timeout_s: float) -> None:
        """Take the replay of this dead-letter topic over.

        Raises:
            BrokerError: Kafka does not let us write in transactions.
        """
        self._timeout_s = timeout_s
        self._failed: KafkaError | None = None
        self._partitions: dict[str, int] = {}
        self._client = Producer(
            {
                **settings,
                "transactional.id": f"{topic}.replay",
                "message.max.bytes": _RECORD_BYTES_MAX,
                "log_level": 0,
            }
        )
        try:
            self._client.init_transactions(timeout_s)
        except KafkaException as error:
            raise _translated(f"the replay of {topic!r}", error) from error

    def write(self, records: Sequence[Remade], to: str | None, letters: Letters) -> None:
        """Write records and commit the position of `letters`, both or neither.

        Raises:
            Fenced: another replay of this topic took over.
            BrokerError: Kafka did not take a record; nothing of this chunk was written.
        """
        try:
            self._client.begin_transaction()
            for record in sorted(records, key=lambda each: each.letter.origin):
                self._write(record, to)
            self._client.send_offsets_to_transaction(
                letters.positions(), letters.group(), self._timeout_s
            )
            self._client.commit_transaction(self._timeout_s)
        except (KafkaException, BufferError) as error:
            with suppress(KafkaException):
                self._client.abort_transaction(self._timeout_s)
            raise _translated(f"the replay of {letters.topic!r}", error, self._failed) from error

    def _write(self, record: Remade, to: str | None) -> None:
        origin = record.letter.origin
        more: dict[str, Any] = {}
        if to is None and origin.partition < self._count(origin.topic):
            more["partition"] = origin.partition
        if record.timestamp_ms is not None:
            more["timestamp"] = record.timestamp_ms
        while True:
            try:
                self._client.produce(
                    to or origin.topic,
                    record.value,
                    record.key,
                    headers=[*record.headers],
                    on_delivery=self._delivered,
                    **more,
                )
            except BufferError:
                self._client.poll(_POLL_S)  # the queue empties, or the transaction times out
            else:
                break
        self._client.poll(0)

    def _count(self, topic: str) -> int:
        """Partitions of a topic; 0 if it is gone, and then Kafka says so when it is written to."""
        if topic not in self._partitions:
            known = self._client.list_topics(topic, timeout=self._timeout_s).topics[topic]
            self._partitions[topic] = 0 if known.error is not None else len(known.partitions)
        return self._partitions[topic]

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._failed = self._failed or error


def _runs(offsets: Sequence[int]) -> Iterator[list[int]]:
    """Ascending offsets, cut where the next is far away."""
    run: list[int] = []
    for offset in offsets:
        if run and offset - run[-1] > _NEAR:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run


def _reading(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {
        **settings,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 100,
        "log_level": 0,
    }


def _headers(message: Message) -> Headers:
    found = message.headers() or ()
    pairs = found.items() if isinstance(found, dict) else found
    return [(name, each.encode() if isinstance(each, str) else each) for name, each in pairs]


def _translated(what: str, error: Exception, failed: KafkaError | None = None) -> BrokerError:
    cause = error.args[0] if error.args else None
    if not isinstance(cause, KafkaError):
        return BrokerError(f"{what}: {error}")
    if cause.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
        return Fenced(f"{what} was taken over by another one; let one of them finish")
    first = failed if failed is not None and failed.code() != KafkaError._PURGE_QUEUE else cause
    return BrokerError(f"{what}: {first.str()}; nothing of this chunk was written")
