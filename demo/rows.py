"""Turns messages read back into columns, with fastavro and nothing of the service's.

Flow: messages of a topic -> [BidRows | OutputRows] -> Arrow tables -> Parquet.

The service's decoders, encoders and hash are not used here: a fault in those must not hide itself.

Invariants
  D1  Every message is a row, passed over as another kind of event, or counted as unreadable.
  D2  A body is read on its own and must end exactly where its message ends.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from importlib import resources
from typing import cast

import fastavro
import numpy as np
import pyarrow as pa
from confluent_kafka import Message
from fastavro.types import Schema
from numpy.typing import NDArray

from service.hashing import bin_bits_of

_HEADER_BYTES = 5
_KEY_BYTES = 8
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


class BidRows:
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
        """Add messages (D1)."""
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
        """The rows since the last flush."""
        columns = np.array(self._pending, dtype=np.int64).reshape(-1, 5).T
        self.rows += len(self._pending)
        self._pending = []
        return _table(self.schema, [*columns, hash_bins(columns[2], self._bins)])


class OutputRows:
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
        """Add messages (D1)."""
        for message in messages:
            row = _body(message.value() or b"", self._header, self._avro)
            if row is None:
                self.unreadable += 1
                continue
            headers = dict(message.headers() or ())
            key = message.key()
            self._keys.append(
                int.from_bytes(key, "big", signed=True) if key and len(key) == _KEY_BYTES else None
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
        """The rows since the last flush."""
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
    """The record behind the wire header, or None if the bytes is not exactly one (D2)."""
    if value[:_HEADER_BYTES] != header:
        return None
    stream = io.BytesIO(value)
    stream.seek(_HEADER_BYTES)
    try:
        record = fastavro.schemaless_reader(stream, avro, None)
    except _AVRO_ERRORS:
        return None
    return cast("dict[str, int]", record) if stream.tell() == len(value) else None


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
