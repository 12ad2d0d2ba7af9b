"""The records of one poll as columns, before anything of their values is understood.

Flow: messages of the Kafka client -> [raw_records] -> RawRecords -> decode, dead_letter.

The client gives one object per record, and each pass over these objects costs 20 to 35 ns a record,
as much as decoding. So values are fetched in one pass and packed in a second, which notes their
lengths: a MessagePack array of byte strings. A kernel then finds them there. Topics, partitions and
offsets are read only when somebody asks for them.

Invariants
  R1  Nothing is interpreted per record: messages go through `map`, msgspec and kernels.
  R2  Row i of every column belongs to message i.

Source: the MessagePack specification (array, bin 8/16/32, nil).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import msgspec
import numpy as np
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message
from numba import njit, types
from numpy.typing import NDArray

#: (topic, partition) of an input.
TopicPartition: TypeAlias = tuple[str, int]

#: Records of a poll whose times are looked at.
SAMPLES_MAX = 8

_PACKER = msgspec.msgpack.Encoder()


@dataclass(frozen=True)
class RawRecords:
    """The records of one poll, n of them, as columns; nothing of their values is understood yet."""

    #: Topics that `topic_index` points into.
    topics: tuple[str, ...]
    #: The client's messages; rows that turn out bad are looked up here.
    messages: Sequence[Message]
    #: The values, with a few bytes between them.
    values: NDArray[np.uint8]
    #: int64[n]: where the value of each record begins in `values`, and where it ends (exclusive).
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    #: bool[n]: records without a value (tombstones), which an empty value is not.
    null: NDArray[np.bool_]
    #: How many values do not begin with a zero byte: empty ones, tombstones, foreign formats, and
    #: whatever the client delivers in place of a record.
    unmarked: int
    #: What `positions` answers, if the client said it.
    known_positions: Mapping[TopicPartition, int] | None = None

    def __len__(self) -> int:
        return len(self.messages)

    @cached_property
    def topic_index(self) -> NDArray[np.int32]:
        """int32[n]: which of `topics` each record came from. Cost: 40 ns a record, once."""
        if len(self.topics) < 2:
            return np.zeros(len(self), dtype=np.int32)
        places: dict[str | None, int] = {topic: place for place, topic in enumerate(self.topics)}
        found = map(places.__getitem__, map(Message.topic, self.messages))
        return np.fromiter(found, np.int32, len(self))

    @cached_property
    def partitions(self) -> NDArray[np.int32]:
        """int32[n]: the partition of each record. Cost: 25 ns a record, once."""
        return np.fromiter(map(Message.partition, self.messages), np.int32, len(self))

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """int64[n]: the offset of each record. Cost: 30 ns a record, once."""
        return np.fromiter(map(Message.offset, self.messages), np.int64, len(self))

    def value(self, row: int) -> bytes | None:
        """The original bytes of a record."""
        value: bytes | None = self.messages[row].value()
        return value

    def key(self, row: int) -> bytes | None:
        """The key of a record."""
        key: bytes | None = self.messages[row].key()
        return key

    def topic(self, row: int) -> str:
        """The topic a record came from."""
        return str(self.messages[row].topic())

    def sampled_times(self) -> list[tuple[int, int]]:
        """Kafka's times of a few records, evenly apart, us, and how many each stands for.

        Records without a time are left out. Cost: 0.3 us for each of at most `SAMPLES_MAX` records.
        """
        count = len(self)
        step = max(1, -(-count // SAMPLES_MAX))
        samples = []
        for row in range(0, count, step):
            kind, time_ms = self.messages[row].timestamp()
            if kind != TIMESTAMP_NOT_AVAILABLE:
                samples.append((time_ms * 1_000, min(step, count - row)))
        return samples

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to read of each partition that these records moved on.

        Cost: a copy if the client said it; otherwise reads every message's place.
        """
        if self.known_positions is not None:
            return dict(self.known_positions)
        if not len(self):
            return {}
        width = int(self.partitions.max()) + 1
        ends = np.zeros(len(self.topics) * width, dtype=np.int64)
        np.maximum.at(ends, self.topic_index * np.int64(width) + self.partitions, self.offsets + 1)
        return {
            (self.topics[slot // width], slot % width): int(ends[slot])
            for slot in map(int, np.flatnonzero(ends))
        }


def raw_records(
    messages: Sequence[Message],
    topics: tuple[str, ...],
    positions: Mapping[TopicPartition, int] | None = None,
) -> RawRecords:
    """The columns of `messages` (R1).

    Args:
        messages: what the client delivered, all from `topics`.
        topics: names that `topic_index` will point into.
        positions: next offset to read of each partition that `messages` moved on, if known.

    Cost: 35 ns a record and one copy of the values.
    """
    count = len(messages)
    packed = _PACKER.encode(list(map(Message.value, messages)))
    values = np.frombuffer(packed, dtype=np.uint8)
    starts, ends = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    null = np.empty(count, dtype=np.bool_)
    unmarked = _unpack(values, starts, ends, null)
    return RawRecords(topics, messages, values, starts, ends, null, unmarked, positions)


@njit(
    types.int64(
        types.Array(types.uint8, 1, "C", readonly=True),
        types.Array(types.int64, 1, "C"),
        types.Array(types.int64, 1, "C"),
        types.Array(types.boolean, 1, "C"),
    ),
    cache=True,
    nogil=True,
)
def _unpack(
    packed: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    null: NDArray[np.bool_],
) -> int:
    """Find each entry of a MessagePack array of byte strings and nils; count the unmarked ones.

    `packed` is what msgspec has just written, so it is trusted to hold an entry for every row.
    """
    rows = starts.shape[0]
    unmarked = 0
    # The head of the array: one byte, or one and a 16- or 32-bit length. Places are unsigned, so
    # that the compiler need not consider counting from the end.
    at = np.uint64(1 if rows < 16 else 3 if rows < 65536 else 5)
    for row in range(rows):
        kind = packed[at]
        at += np.uint64(1)
        size = np.uint64(0)
        if kind == 0xC4:  # bin 8
            size = np.uint64(packed[at])
            at += np.uint64(1)
        elif kind != 0xC0:  # bin 16, bin 32
            for _ in range(2 if kind == 0xC5 else 4):
                size = size << np.uint64(8) | np.uint64(packed[at])
                at += np.uint64(1)
        starts[row] = at
        null[row] = kind == 0xC0
        if size == 0 or packed[at] != 0:
            unmarked += 1
        at += size
        ends[row] = at
    return unmarked
