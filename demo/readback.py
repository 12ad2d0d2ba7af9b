"""Reads topics back, whole, and decodes them with fastavro: the evidence of the proof.

Flow: input and output topic -> spans of offsets -> [read_span, in processes of their own] ->
Parquet files of bids and of outputs -> proof.

Nothing here uses the service's decoders, hash or consumers: a fault in those must not hide itself.

Invariants
  R1  Every record of a topic, from its first offset to its committed end as of the call, is a row,
      counted as another kind of event, or counted as unreadable.
  R2  A body is read on its own and must end exactly where its message ends.
  R3  Memory is bounded by `_FLUSH_ROWS` rows and the client's queue per process, whatever the topic
      holds.
"""

from __future__ import annotations

import ctypes
import io
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, cast

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from fastavro.types import Schema
from numpy.typing import NDArray

from service.errors import BrokerError
from service.hashing import bin_bits_of

Kind = Literal["bids", "outputs"]

#: Records per task: large against the cost of a consumer, small enough to show progress.
_SPAN_RECORDS = 500_000
_FLUSH_ROWS = 200_000
_CONSUME_RECORDS = 10_000
#: The client waits this long for a list to fill, also at the end of a span.
_CONSUME_S = 0.05
_ANSWER_S = 10.0
#: A span of `_SPAN_RECORDS` takes some seconds; a broker silent for this long is gone.
_SILENCE_S = 30.0
_HEADER_BYTES = 5
_PR_SET_PDEATHSIG = 1
_SCHEMA_IDS = {"person": 1, "auction": 2, "bid": 3, "auction_bids": 4}
#: What fastavro raises on bytes that are no such record.
_AVRO_ERRORS = (EOFError, IndexError, KeyError, OverflowError, TypeError, ValueError, StopIteration)

BID_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("auction", pa.int64()),
        ("price", pa.int64()),
        ("date_time", pa.int64()),
        ("hash_bin", pa.int32()),
    ]
)
OUTPUT_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        #: When the producer wrote it, epoch ms.
        ("written_ms", pa.int64()),
        #: The message's key; null when it is not 8 bytes.
        ("key", pa.int64()),
        ("auction", pa.int64()),
        ("bids", pa.int64()),
        ("total", pa.int64()),
        ("highest", pa.int64()),
        ("oldest", pa.int64()),
        #: Headers; -1 when missing or no number.
        ("worker", pa.int32()),
        ("bin", pa.int32()),
        #: Bin that the auction hashes to, by the formula in this file.
        ("hash_bin", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets [start, end) of one partition."""

    topic: str
    partition: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Task:
    """One span to read: from where, as what, into which file, with how many bins."""

    bootstrap_servers: str
    kind: Kind
    span: Span
    file: Path
    bins: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What was found (R1): records, of which rows written, and of which unreadable."""

    records: int = 0
    rows: int = 0
    unreadable: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.records + other.records,
            self.rows + other.rows,
            self.unreadable + other.unreadable,
        )


def hash_bins(keys: NDArray[np.int64], bins: int) -> NDArray[np.int32]:
    """Bin of each key, written down a second time on purpose.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014); bin = top bits.
    """
    bits = bin_bits_of(bins)
    if bits == 0:
        return np.zeros(len(keys), dtype=np.int32)
    x = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(64 - bits)).astype(np.int32)


def spans_of(bootstrap_servers: str, topic: str) -> list[Span]:
    """What a topic holds now, cut into tasks.

    Raises:
        BrokerError: the broker does not answer, or there is no such topic.
    """
    client = _consumer(bootstrap_servers)
    try:
        found = client.list_topics(topic, timeout=_ANSWER_S).topics[topic]
        if found.error is not None:
            raise BrokerError(f"topic {topic!r} cannot be read back: {found.error.str()}")
        spans: list[Span] = []
        for partition in sorted(found.partitions):
            ends = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_S)
            first, last = ends
            spans += [
                Span(topic, partition, start, min(last, start + _SPAN_RECORDS))
                for start in range(first, last, _SPAN_RECORDS)
            ]
    except KafkaException as error:
        raise BrokerError(f"topic {topic!r} cannot be read back: {error.args[0].str()}") from error
    finally:
        client.close()
    return spans


def read_back(
    tasks: Sequence[Task],
    progress: Callable[[int], None],
    *,
    processes: int = 2,
    timeout_s: float = 600.0,
) -> dict[Kind, Tally]:
    """Read every task's span into its file, in processes of their own.

    Args:
        tasks: what to read; each writes its own file.
        progress: called with the number of records of each task that is done.
        processes: how many to use.
        timeout_s: for everything together.

    Raises:
        BrokerError: a topic could not be read, or not in time.
    """
    tallies: dict[Kind, Tally] = {"bids": Tally(), "outputs": Tally()}
    deadline = time.monotonic() + timeout_s
    # Spawned, not forked: this process has threads.
    with multiprocessing.get_context("spawn").Pool(processes, _start_reader) as pool:
        results = pool.imap_unordered(read_span, tasks)
        for _ in tasks:
            try:
                kind, tally = results.next(timeout=max(0.0, deadline - time.monotonic()))
            except multiprocessing.TimeoutError as error:
                raise BrokerError(
                    f"the topics were not read back within {timeout_s:g} s"
                ) from error
            tallies[kind] = tallies[kind].plus(tally)
            progress(tally.records)
    return tallies


def read_span(task: Task) -> tuple[Kind, Tally]:
    """Read one span and write its Parquet file."""
    shape = _BidRows(task.bins) if task.kind == "bids" else _OutputRows(task.bins)
    with pq.ParquetWriter(task.file, shape.schema, use_dictionary=False) as writer:
        records = 0
        for messages in _messages(task.bootstrap_servers, task.span):
            records += len(messages)
            shape.take(messages)
            if shape.pending >= _FLUSH_ROWS:
                writer.write_table(shape.flush())
        writer.write_table(shape.flush())
    return task.kind, Tally(records, shape.rows, shape.unreadable)


class _BidRows:
    """Bids among the events of the input topic, as columns."""

    schema = BID_SCHEMA

    def __init__(self, bins: int) -> None:
        self.rows = 0
        self.unreadable = 0
        self._bins = bins
        self._avro = fastavro.parse_schema(_schema("bid"))
        self._bid = _wire_header("bid")
        self._others = {_wire_header("person"), _wire_header("auction")}
        self._pending: list[tuple[int | None, ...]] = []

    @property
    def pending(self) -> int:
        """Rows not flushed yet."""
        return len(self._pending)

    def take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            value = message.value() or b""
            if value[:_HEADER_BYTES] in self._others:
                continue
            bid = _body(value, self._bid, self._avro)
            if bid is None:
                self.unreadable += 1
                continue
            self._pending.append(
                (
                    message.partition(),
                    message.offset(),
                    bid["auction"],
                    bid["price"],
                    bid["date_time"],
                )
            )

    def flush(self) -> pa.Table:
        columns = np.array(self._pending, dtype=np.int64).reshape(-1, 5).T
        self.rows += len(self._pending)
        self._pending = []
        return _table(self.schema, [*columns, hash_bins(columns[2], self._bins)])


class _OutputRows:
    """Records of the output topic, as columns."""

    schema = OUTPUT_SCHEMA

    def __init__(self, bins: int) -> None:
        self.rows = 0
        self.unreadable = 0
        self._bins = bins
        self._avro = fastavro.parse_schema(_schema("auction_bids"))
        self._header = _wire_header("auction_bids")
        self._pending: list[tuple[int | None, ...]] = []
        self._keys: list[int | None] = []

    @property
    def pending(self) -> int:
        """Rows not flushed yet."""
        return len(self._pending)

    def take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            row = _body(message.value() or b"", self._header, self._avro)
            if row is None:
                self.unreadable += 1
                continue
            headers = dict(message.headers() or ())
            key = message.key()
            self._keys.append(
                int.from_bytes(key, "big", signed=True) if key and len(key) == 8 else None
            )
            self._pending.append(
                (
                    message.partition(),
                    message.offset(),
                    message.timestamp()[1],
                    row["auction"],
                    row["bids"],
                    row["total"],
                    row["highest"],
                    row["oldest"],
                    _number(headers.get("worker")),
                    _number(headers.get("bin")),
                )
            )

    def flush(self) -> pa.Table:
        columns = np.array(self._pending, dtype=np.int64).reshape(-1, 10).T
        keys = pa.array(self._keys, type=pa.int64())
        self.rows += len(self._pending)
        self._pending, self._keys = [], []
        return _table(
            self.schema, [*columns[:3], keys, *columns[3:], hash_bins(columns[3], self._bins)]
        )


def _table(schema: pa.Schema, columns: Sequence[object]) -> pa.Table:
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, schema)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _body(value: bytes, header: bytes, avro: Schema) -> dict[str, int] | None:
    """The record behind the wire header, or None if the bytes are not exactly one (R2)."""
    if value[:_HEADER_BYTES] != header:
        return None
    stream = io.BytesIO(value)
    stream.seek(_HEADER_BYTES)
    try:
        record = fastavro.schemaless_reader(stream, avro, None)
    except _AVRO_ERRORS:
        return None
    return cast("dict[str, int]", record) if stream.tell() == len(value) else None


def _messages(bootstrap_servers: str, span: Span) -> Iterator[list[Message]]:
    """The records of a span, in order, in lists of up to `_CONSUME_RECORDS`.

    Raises:
        BrokerError: the partition cannot be read, or the broker falls silent.
    """
    client = _consumer(bootstrap_servers)
    try:
        client.assign([TopicPartition(span.topic, span.partition, span.start)])
        heard = time.monotonic()
        done = span.start >= span.end
        while not done:
            records = []
            for message in client.consume(_CONSUME_RECORDS, _CONSUME_S):
                error = message.error()
                if error is None:
                    offset = cast("int", message.offset())
                    # The last offsets may belong to control records, which never come.
                    done = done or offset >= span.end - 1
                    if offset < span.end:
                        records.append(message)
                elif error.name() == "_PARTITION_EOF":
                    done = True
                elif not error.retriable():
                    raise BrokerError(f"{span.topic}/{span.partition}: {error.str()}")
            if records:
                heard = time.monotonic()
                yield records
            elif time.monotonic() - heard > _SILENCE_S:
                raise BrokerError(
                    f"{span.topic}/{span.partition} gave nothing for {_SILENCE_S:g} s while it "
                    "was read back; is the broker still up?"
                )
    finally:
        client.close()


def _consumer(bootstrap_servers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "megaphone-demo-proof",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            # A span is read once; more in the queue would be fetched to be thrown away.
            "queued.max.messages.kbytes": 16_384,
            "fetch.queue.backoff.ms": 5,
            "log_level": 0,
        }
    )


def _schema(record: str) -> dict[str, object]:
    file = resources.files("service.nexmark") / "schemas" / f"{_SCHEMA_IDS[record]}.avsc"
    return cast("dict[str, object]", json.loads(file.read_text(encoding="utf-8")))


def _wire_header(record: str) -> bytes:
    return b"\x00" + _SCHEMA_IDS[record].to_bytes(4, "big")


def _number(text: bytes | str | None) -> int:
    """A header that should hold a number; -1 if it does not."""
    if isinstance(text, bytes) and text.isdigit() and len(text) < 10:
        return int(text)
    return -1


def _start_reader() -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
