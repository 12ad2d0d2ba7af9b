"""Topics of the NEXMark bench: events in, results and events back as tables.

Flow: StreamOptions -> EventSource.encode -> [publish] -> Kafka -> [read_back] -> ReadBack, whose
values [rows_of] decodes.

Invariants
  NT1  Events in Kafka are those that `drawn` gives the oracle, of every type, in the order sent
       within each partition.
  NT2  Results are stamped by the broker when it stores them (LogAppendTime), so the last stamp is
       when the last result was stored, whatever waited in a client's queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

import service.nexmark
from service.avro.decoder import compile_decoder
from service.avro.wire import HEADER_BYTES, header
from service.bench.nexmark.oracle import Recorded
from service.bench.nexmark.stream import FIRST_MS, StreamOptions
from service.clock import SystemClock
from service.control_topics import Admin
from service.errors import BrokerError, MegaphoneError
from service.ingest.records import raw_records
from service.ingest.registry import FolderRegistry
from service.nexmark.events import EventSource, NexmarkConfig
from service.nexmark.forms import Format, Topics
from service.nexmark.queries import SCHEMAS
from service.nexmark.rules import RULES
from service.nexmark.wire import SCHEMA_IDS, Wire

PARTITIONS = 4
KINDS = ("person", "auction", "bid")
SCHEMA_FOLDER = Path(service.nexmark.__file__).parent / "schemas"
_QUEUE_MAX = 300_000
_TIMEOUT_S = 60.0
_CHUNK = 20_000
_SILENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Place:
    """A broker, and the form of everything on it."""

    bootstrap_servers: str
    format: Format

    def create(self, topics: Sequence[str], **config: str) -> None:
        """Create topics.

        Raises:
            BrokerError: the broker refused, or did not answer.
        """
        admin = Admin(self.bootstrap_servers, _TIMEOUT_S)
        for topic in topics:
            admin.create(topic, PARTITIONS, config)

    def remove(self, prefixes: Sequence[str]) -> None:
        """Remove all topics whose names begin so; what the broker keeps, it keeps."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        there = admin.list_topics(timeout=_TIMEOUT_S).topics
        mine = [name for name in there if name.startswith(tuple(prefixes))]
        for future in admin.delete_topics(mine).values() if mine else ():
            try:
                future.result(_TIMEOUT_S)
            except KafkaException:
                continue  # A broker that forbids it keeps them; the figures are there already.


def event_topics(prefix: str) -> list[str]:
    """Where events go: a topic a type."""
    return [f"{prefix}-{kind}" for kind in KINDS]


class Publisher:
    """Sends the events of a stream, some at a time (NT1)."""

    def __init__(self, place: Place, prefix: str, options: StreamOptions) -> None:
        """Create the topics.

        Raises:
            BrokerError: the broker refused, or did not answer.
        """
        self._topics = event_topics(prefix)
        place.create(self._topics)
        wire = Wire(format=place.format, topics=Topics.SEPARATE)
        config = NexmarkConfig(seed=options.seed, out_of_order_group_size=options.group)
        self._source = EventSource(config, wire=wire)
        self._options = options
        self._lost: list[KafkaError] = []
        self._client = Producer(
            {
                "bootstrap.servers": place.bootstrap_servers,
                "linger.ms": 20,
                "batch.size": 1 << 20,
                "queue.buffering.max.messages": 2 * _QUEUE_MAX,
                "queue.buffering.max.kbytes": 1 << 20,
                "log_level": 0,
            }
        )
        #: Events sent so far.
        self.sent = 0

    def send(self, events: int) -> None:
        """Send so many more events, or all that are left. Cost: 3 us an event."""
        end = min(self._options.events, self.sent + events)
        for first in range(self.sent, end, self._options.batch):
            numbers = np.arange(first, min(end, first + self._options.batch), dtype=np.int64)
            times = FIRST_MS + self._source.events(numbers) * 1_000 // self._options.per_second
            run = self._source.encode(numbers, times, PARTITIONS)
            messages = [
                {"value": value, "key": key}
                for value, key in zip(run.values(), run.key_bytes(), strict=True)
            ]
            for place, (start, stop) in enumerate(pairwise(run.partition_starts.tolist())):
                self._client.produce_batch(
                    self._topics[place // PARTITIONS],
                    messages[start:stop],
                    partition=place % PARTITIONS,
                    on_delivery=self._delivered,
                )
            while len(self._client) > _QUEUE_MAX:
                self._client.poll(0.05)
        self.sent = end

    def flush(self) -> None:
        """Wait until all is stored.

        Raises:
            BrokerError: something was not.
        """
        left = self._client.flush(_TIMEOUT_S)
        if self._lost or left:
            reason = self._lost[0].str() if self._lost else f"{left} not taken in {_TIMEOUT_S:g} s"
            raise BrokerError(f"events were not stored: {reason}")

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._lost.append(error)


def publish(place: Place, prefix: str, options: StreamOptions) -> None:
    """Send a whole stream.

    Raises:
        BrokerError: the broker refused, or did not take everything.
    """
    publisher = Publisher(place, prefix, options)
    publisher.send(options.events)
    publisher.flush()


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The records of a topic, of each partition in order."""

    chunks: list[list[Message]]
    #: When the broker stored the first and the last of them, epoch ms (NT2); 0 without records.
    first_ms: int
    last_ms: int

    def __len__(self) -> int:
        return sum(map(len, self.chunks))


def read_back(place: Place, topic: str) -> ReadBack:
    """All records of a topic up to its end as of now. Cost: 2 us a record, and its object.

    Raises:
        BrokerError: it cannot be read.
    """
    chunks = list(_read(place, topic))
    stamps = [message.timestamp()[1] for chunk in chunks for message in chunk]
    return ReadBack(chunks, min(stamps, default=0), max(stamps, default=0))


def _read(place: Place, topic: str) -> Iterator[list[Message]]:
    """The records of a topic up to its end as of now, some at a time, of each partition in order.

    Raises:
        BrokerError: it cannot be read.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": place.bootstrap_servers,
            "group.id": "megaphone-bench",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 5,
            "log_level": 0,
        }
    )
    try:
        yield from _chunks(consumer, topic)
    except KafkaException as error:
        raise BrokerError(f"topic {topic!r} cannot be read: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _chunks(consumer: Consumer, topic: str) -> Iterator[list[Message]]:
    ends = ends_of(consumer, topic)
    left = {partition for partition, (low, high) in ends.items() if high > low}
    consumer.assign([TopicPartition(topic, partition, ends[partition][0]) for partition in left])
    clock = SystemClock()
    heard = clock.monotonic_ns()
    while left:
        records = []
        for message in consumer.consume(_CHUNK, 0.05):
            error = message.error()
            if error is None:
                records.append(message)
                partition = int(message.partition() or 0)
                if int(message.offset() or 0) >= ends[partition][1] - 1:
                    left.discard(partition)
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            elif not error.retriable():
                raise BrokerError(f"topic {topic!r} cannot be read: {error.str()}")
        if records:
            heard = clock.monotonic_ns()
            yield records
        elif clock.monotonic_ns() - heard > _SILENCE_S * 1e9:
            raise BrokerError(f"topic {topic!r} gave nothing for {_SILENCE_S:g} s")


def ends_of(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    """Offsets of the first record and behind the last, by partition."""
    found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions
    return {
        partition: consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=_TIMEOUT_S
        )
        for partition in found
    }


def records_in(place: Place, topics: Sequence[str]) -> int:
    """How many records topics hold now."""
    consumer = Consumer(
        {
            "bootstrap.servers": place.bootstrap_servers,
            "group.id": "megaphone-bench",
            "log_level": 0,
        }
    )
    try:
        return sum(
            high - low for topic in topics for low, high in ends_of(consumer, topic).values()
        )
    finally:
        consumer.close()


class RowReader:
    """Decodes records of one shipped schema, in one format."""

    def __init__(self, schema_id: int, columns: Sequence[str], form: Format) -> None:
        """Compile what reads these columns."""
        schema = FolderRegistry(SCHEMA_FOLDER).schema(schema_id)
        self._decoder = compile_decoder(schema, list(columns))
        self._header = np.frombuffer(header(schema_id), dtype=np.uint8)
        self._form = form

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._decoder.arrow_schema

    def table(self, chunks: Iterable[Sequence[Message]]) -> pa.Table:
        """All rows, in order; of the records it keeps none, so that a load's may be many.

        Raises:
            MegaphoneError: a record is none of the schema.
        """
        read = self._avro if self._form is Format.AVRO else self._json
        return pa.Table.from_batches(
            [batch for chunk in chunks for batch in read(chunk)], schema=self.schema
        )

    def _avro(self, chunk: Sequence[Message]) -> list[pa.RecordBatch]:
        raw = raw_records(chunk, ())
        whole = not (raw.ends - raw.starts < HEADER_BYTES).any()
        if whole:
            heads = raw.values[raw.starts[:, np.newaxis] + np.arange(HEADER_BYTES)]
            whole = bool((heads == self._header).all())
        columns, codes = self._decoder.decode(raw.values, raw.starts + HEADER_BYTES, raw.ends)
        if not whole or codes.any():
            raise MegaphoneError("a record read back is none of its schema")
        return [pa.RecordBatch.from_pydict(columns, schema=self.schema)]

    def _json(self, chunk: Sequence[Message]) -> list[pa.RecordBatch]:
        lines = pa.BufferReader(b"\n".join(message.value() or b"null" for message in chunk))
        options = pa_json.ParseOptions(
            explicit_schema=self.schema, unexpected_field_behavior="ignore"
        )
        try:
            batches: list[pa.RecordBatch] = pa_json.read_json(
                lines, parse_options=options
            ).to_batches()
        except pa.ArrowInvalid as error:
            raise MegaphoneError(f"a record read back is none of its schema: {error}") from error
        return batches


def rows_of(query: str, place: Place, found: ReadBack) -> pa.Table:
    """Results of a query, in the order stored."""
    return RowReader(SCHEMAS[query], RULES[query].columns, place.format).table(found.chunks)


@dataclass(frozen=True)
class Published:
    """The events that lie in topics under a prefix, read back when they are asked for."""

    place: Place
    prefix: str

    @cached_property
    def person(self) -> pa.Table:
        """All persons."""
        return self._table("person", ("id", "name", "city", "state", "date_time"))

    @cached_property
    def auction(self) -> pa.Table:
        """All auctions."""
        fields = ("id", "reserve", "date_time", "expires", "seller", "category")
        return self._table("auction", fields)

    @cached_property
    def bid(self) -> pa.Table:
        """All bids."""
        return self._table("bid", ("auction", "price", "date_time"))

    def recorded(self) -> Recorded:
        """All of them, as the oracle takes them."""
        return Recorded(self.person, self.auction, self.bid)

    def _table(self, kind: str, columns: Sequence[str]) -> pa.Table:
        reader = RowReader(SCHEMA_IDS[kind], columns, self.place.format)
        return reader.table(_read(self.place, f"{self.prefix}-{kind}"))
