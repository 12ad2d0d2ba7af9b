"""The records of one poll as columns, before anything of their values is understood.

Flow: messages of the Kafka client -> [raw_records] -> RawRecords -> decode, dead_letter.

Invariants
  R1  Nothing is interpreted per record: messages go through `map`, `join` and `fromiter`.
  R2  Row i of every column belongs to message i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import TypeAlias

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

#: (topic, partition) of an input.
TopicPartition: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RawRecords:
    """The records of one poll, n of them, as columns; nothing of their values is understood yet."""

    #: Topics that `topic_index` points into.
    topics: tuple[str, ...]
    #: The client's messages; rows that turn out bad are looked up here.
    messages: Sequence[Message]
    #: All values, one after another.
    values: NDArray[np.uint8]
    #: int64[n]: where the value of each record begins in `values`, and where it ends (exclusive).
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    topic_index: NDArray[np.int32]
    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    #: bool[n]: records without a value (tombstones), which an empty value is not.
    null: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.messages)

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
        return self.topics[int(self.topic_index[row])]

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset behind these records, for each partition that has some here."""
        if not len(self):
            return {}
        width = int(self.partitions.max()) + 1
        ends = np.zeros(len(self.topics) * width, dtype=np.int64)
        np.maximum.at(ends, self.topic_index * np.int64(width) + self.partitions, self.offsets + 1)
        return {
            (self.topics[slot // width], slot % width): int(ends[slot])
            for slot in map(int, np.flatnonzero(ends))
        }


def raw_records(messages: Sequence[Message], topics: tuple[str, ...]) -> RawRecords:
    """The columns of `messages`, none of which is an error (R1).

    Args:
        messages: what the client delivered, all from `topics`.
        topics: names that `topic_index` will point into.

    Cost: 0.15 us a record and one copy of the values.
    """
    count = len(messages)
    ends = np.cumsum(np.fromiter(map(len, messages), np.int64, count))
    values = list(map(Message.value, messages))
    null = np.fromiter(map(is_, values, repeat(None)), np.bool_, count)
    topic_index = np.zeros(count, dtype=np.int32)
    if len(topics) > 1:
        places: dict[str | None, int] = {topic: place for place, topic in enumerate(topics)}
        found = map(places.__getitem__, map(Message.topic, messages))
        topic_index = np.fromiter(found, np.int32, count)
    starts = np.zeros(count, dtype=np.int64)
    starts[1:] = ends[:-1]
    return RawRecords(
        topics=topics,
        messages=messages,
        values=np.frombuffer(b"".join(filter(None, values)), dtype=np.uint8),
        starts=starts,
        ends=ends,
        topic_index=topic_index,
        partitions=np.fromiter(map(Message.partition, messages), np.int32, count),
        offsets=np.fromiter(map(Message.offset, messages), np.int64, count),
        null=null,
    )
