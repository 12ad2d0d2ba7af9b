"""The Kafka producer behind a process's sinks.

Flow: SinkOperator -> [KafkaSinkWriter] -> encode kernel -> lanes -> confluent_kafka.Producer.

Rows are encoded by a kernel and handed over with `map`, so that nothing is interpreted per row. The
client's `produce_batch` carries no headers (2.16), so rows that need them go through `produce`.

Invariants
  P1  A receipt is given for a batch when the last row of each partition in it was stored; the
      idempotent producer stores a partition's rows in order, so all rows before them are, too.
  P2  No failed row goes unnoticed: the client guarantees gapless sequences, so the first row that
      cannot be stored is a fatal error of the whole client. Without that a row the broker refuses
      vanishes and the rows behind it succeed (tests/integration/test_producer.py).
  P3  The client's queue has room for a whole batch beyond the mark at which sinks stop.
  P4  Receipts cost one callback a partition and batch; none is given per row.
  P5  Rows that the client should not have yet wait in their partition's lane (lanes.py); `poll`
      lets them go as receipts come.
Source: librdkafka INTRODUCTION.md (gapless guarantee); measured: 2.1-2.5 us a row with headers, and
another 0.5 us if each row had a callback, however cheap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, repeat

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Client
from numba import njit, types
from numpy.typing import NDArray

from service.dataflow.operators import columns_of
from service.egress.encoders import RowEncoder
from service.egress.lanes import Lane
from service.errors import BrokerError, BrokerUnavailable, DataError, GraphError, UsageError
from service.hashing import KEYS, bins_of
from service.ids import Slot
from service.kafka_access import client_settings

#: Rows in the client's queue at which sinks stop, and what the queue can take (P3).
_ROOM_ROWS = 100_000
_QUEUE_ROWS = 2_000_000
_QUEUE_KB = 1 << 20


@njit(
    types.void(KEYS, types.Array(types.int32, 1, "C"), types.uint32),
    cache=True,
    nogil=True,
)
def _murmur2_partitions(
    keys: NDArray[np.int64], out: NDArray[np.int32], partitions: np.uint32
) -> None:
    """Partition of 8-byte big-endian keys, as Kafka's default partitioner computes it."""
    multiplier = np.uint32(0x5BD1E995)
    for row in range(keys.shape[0]):
        value = np.uint64(keys[row])
        hashed = np.uint32(0x9747B28C) ^ np.uint32(8)
        for half in range(2):
            word = np.uint32((value >> np.uint64(32 - 32 * half)) & np.uint64(0xFFFFFFFF))
            # The key's bytes are big-endian; the hash reads them as little-endian words.
            mixed = (
                (word >> np.uint32(24))
                | ((word >> np.uint32(8)) & np.uint32(0xFF00))
                | ((word << np.uint32(8)) & np.uint32(0xFF0000))
                | (word << np.uint32(24))
            )
            mixed = np.uint32(mixed * multiplier)
            mixed ^= mixed >> np.uint32(24)
            mixed = np.uint32(mixed * multiplier)
            hashed = np.uint32(hashed * multiplier) ^ mixed
        hashed ^= hashed >> np.uint32(13)
        hashed = np.uint32(hashed * multiplier)
        hashed ^= hashed >> np.uint32(15)
        out[row] = np.int32((hashed & np.uint32(0x7FFFFFFF)) % partitions)


_OnDelivery = Callable[[KafkaError | None, Message], None]


def partitions_of(keys: NDArray[np.int64], partitions: int) -> NDArray[np.int32]:
    """The partition of each key, equal to Kafka's default for its 8 big-endian bytes."""
    out = np.empty(keys.shape[0], dtype=np.int32)
    _murmur2_partitions(keys, out, np.uint32(partitions))
    return out


class _Receipt:
    """Counts the partitions of one batch that are stored."""

    __slots__ = ("_acknowledged", "_left")

    def __init__(self, partitions: int, acknowledged: Callable[[], None]) -> None:
        self._left = partitions
        self._acknowledged = acknowledged

    def __call__(self, error: KafkaError | None, _message: Message) -> None:
        """Note one delivery report; a failed one is fatal to the client, which `poll` raises."""
        if error is None:
            self._left -= 1
            if self._left == 0:
                self._acknowledged()


def _both(
    receipt: _Receipt, stored: Callable[[], None], error: KafkaError | None, message: Message
) -> None:
    """The delivery report of a hand-over's last row."""
    if error is None:
        stored()
    receipt(error, message)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of one batch for one partition, as the client takes them."""

    values: list[bytes]
    keys: list[bytes]
    headers: list[list[tuple[str, bytes]]]
    receipt: _Receipt

    @property
    def rows(self) -> int:
        return len(self.values)


class KafkaProducer:
    """One client for all sinks of a process."""

    def __init__(self, bootstrap_servers: str, client_id: str, linger_ms: float) -> None:
        """Connect lazily; `linger_ms` trades latency for fewer requests."""
        self._bootstrap = bootstrap_servers
        self._failure: KafkaError | None = None
        self._lanes: dict[tuple[str, int], Lane[_Part]] = {}
        #: Rows that wait in lanes for a receipt of others.
        self.waiting = 0
        self.client = Client(
            {
                **client_settings(bootstrap_servers),
                "client.id": client_id,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": linger_ms,
                "queue.buffering.max.messages": _QUEUE_ROWS,
                "queue.buffering.max.kbytes": _QUEUE_KB,
                "enable.gapless.guarantee": True,
                "message.timeout.ms": 30_000,
                "log_level": 0,
                "error_cb": self._on_error,
            }
        )

    def partitions(self, topic: str, timeout_s: float = 10.0) -> int:
        """Number of partitions of `topic`.

        Raises:
            BrokerUnavailable: no broker answered in `timeout_s`.
            UsageError: the topic does not exist.
        """
        try:
            metadata = self.client.list_topics(topic, timeout=timeout_s).topics[topic]
        except KafkaException as error:
            raise BrokerUnavailable(self._bootstrap, timeout_s) from error
        if metadata.error is not None or not metadata.partitions:
            raise UsageError(f"output topic {topic!r} does not exist; create it first")
        return len(metadata.partitions)

    @property
    def unstored(self) -> int:
        """Records given to this producer that Kafka has not acknowledged."""
        return len(self.client) + self.waiting

    def has_room(self) -> bool:
        """Whether sinks may submit another batch."""
        return self.unstored < _ROOM_ROWS

    def send(self, topic: str, partition: int, part: _Part) -> None:
        """Send rows behind those of the same partition that went or wait before them (P5)."""
        lane = self._lanes.get((topic, partition))
        if lane is None:
            hand_over = partial(self._hand_over, topic, partition)
            lane = self._lanes[topic, partition] = Lane(hand_over)
        self.waiting += part.rows
        lane.put(part)

    def _hand_over(
        self, topic: str, partition: int, parts: Sequence[_Part], stored: Callable[[], None]
    ) -> None:
        for part in parts:
            self.waiting -= part.rows
            callbacks: list[_OnDelivery | None] = [None] * part.rows
            callbacks[-1] = part.receipt
            if part is parts[-1]:
                callbacks[-1] = partial(_both, part.receipt, stored)
            deque(
                map(
                    self.client.produce,
                    repeat(topic),
                    part.values,
                    part.keys,
                    repeat(partition),
                    # By position the fifth argument is the callback; `on_delivery` is its alias.
                    callbacks,
                    repeat(None),
                    repeat(0),
                    part.headers,
                ),
                maxlen=0,
            )

    def poll(self, timeout_s: float = 0.0) -> None:
        """Give receipts that arrived; waits up to `timeout_s` for the first.

        Raises:
            BrokerError: a row could not be stored, or the client failed for good.
        """
        try:
            self.client.poll(timeout_s)
        except KafkaException as error:
            self._failure = error.args[0]
        if self._failure is not None:
            raise BrokerError(
                f"rows could not be stored: {self._failure.str()}; the job stops so that no result "
                "is lost. Check the output topic's limits and the broker's log"
            )
        if self.waiting:
            for lane in self._lanes.values():
                lane.serve()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = error


class KafkaSinkWriter:
    """The `Producer` of one sink vertex: encodes rows and gives receipts (P1)."""

    def __init__(
        self,
        producer: KafkaProducer,
        topic: str,
        key: str,
        encoder: RowEncoder,
        columns: pa.Schema,
        *,
        writer: Slot,
        bin_bits: int,
    ) -> None:
        """Write rows of `columns` to `topic`; who we are and each row's bin go into its headers.

        Raises:
            GraphError: the schema has a field that no column, or none of a fitting type, is for; or
                the key is no integer.
        """
        self._producer = producer
        self._topic = topic
        self._key = key
        self._encoder = encoder
        require_fit(topic, key, encoder, columns)
        self._partitions = producer.partitions(topic)
        self._bin_bits = bin_bits
        own = (writer.role.value, str(writer.ordinal).encode())
        self._headers = [[own, ("bin", str(number).encode())] for number in range(1 << bin_bits)]
        self.rows = 0
        self.bytes = 0

    def has_room(self) -> bool:
        """Whether another batch may be submitted."""
        return self._producer.has_room()

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        """Hand every row to the client; `acknowledged` follows from `KafkaProducer.poll`."""
        count = rows.num_rows
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        data, offsets = self._encoder.encode(columns)
        keys = columns[self._key].to_numpy(zero_copy_only=False)
        blob = data.tobytes()
        partitions = partitions_of(keys, self._partitions)
        # Stable, so that a partition's rows stay in their order.
        order = np.argsort(partitions, kind="stable")
        starts, ends = offsets[:-1][order].tolist(), offsets[1:][order].tolist()
        values = [blob[start:end] for start, end in zip(starts, ends, strict=True)]
        key_bytes = keys[order].astype(">i8").view("V8").tolist()
        bins = bins_of(keys, self._bin_bits)[order].tolist()
        headers = list(map(self._headers.__getitem__, bins))
        bounds = [0, *np.cumsum(np.bincount(partitions, minlength=self._partitions)).tolist()]
        slices = [
            (number, span) for number, span in enumerate(pairwise(bounds)) if len(set(span)) > 1
        ]
        receipt = _Receipt(len(slices), acknowledged)
        for partition, (first, end) in slices:
            part = _Part(values[first:end], key_bytes[first:end], headers[first:end], receipt)
            self._producer.send(self._topic, partition, part)
        self.rows += count
        self.bytes += len(blob)


def require_fit(topic: str, key: str, encoder: RowEncoder, columns: pa.Schema) -> None:
    """Encode no rows: finds what cannot work at start, and loads what the first rows need.

    Raises:
        GraphError: the schema has a field that no column, or none of a fitting type, is for; or the
            key is no integer.
    """
    require_key(topic, key, columns)
    try:
        encoder.encode({field.name: pa.nulls(0, field.type) for field in columns})
    except DataError as error:
        raise GraphError(
            f"rows for topic {topic!r} do not fit {encoder.label}: {error}; the "
            f"stream has {columns_of(columns)}: rename or cast its columns, or name another schema"
        ) from error


def require_key(topic: str, key: str, columns: pa.Schema) -> None:
    """See that a sink's key is an integer column.

    Raises:
        GraphError: it is not.
    """
    given = columns_of(columns)
    if given.get(key) != "int64":
        raise GraphError(
            f"the key of sink topic {topic!r} must be an int64 column {key!r}; the "
            f"stream has {given}: name another key, or cast it before the sink"
        )
