"""The few requests of Kafka's protocol that load and measurement need, as bytes.

Flow: [requests] -> a connection of `direct`; its frames -> [answers]. Pure.

Only versions without tagged fields are used, which brokers from 2.1 on and all of 4.x understand.

Invariants
  PR1  An answer is read to its end or the error names it; nothing is guessed.

Source: Kafka's protocol guide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

PRODUCE = (0, 7)
FETCH = (1, 4)
INIT_PRODUCER_ID = (22, 0)
READ_COMMITTED = 1
#: Offsets of a batch's fields, and the least of it that can be read.
BATCH_BYTES = 61
_CLIENT = b"nexmark-loadgen"
_HEADER = struct.Struct(">hhih")
_PARTITION_READ = struct.Struct(">iqi")
_BATCH = struct.Struct(">qiibIhiqqqhii")
_COMPRESSION = 0x07
_TRANSACTIONAL = 0x10
_CONTROL = 0x20

#: Names of the errors that a set-up by hand runs into.
ERRORS = {
    1: "offset out of range",
    3: "unknown topic or partition",
    5: "no leader",
    6: "the leader moved",
    7: "timed out",
    10: "a message is too large",
    29: "not authorised for the topic",
    45: "a sequence number out of order",
    47: "another producer took the id",
}


def text_of(error: int) -> str:
    """What an error number means."""
    return ERRORS.get(error, f"error {error} of Kafka's protocol")


def framed(kind: tuple[int, int], correlation: int, body_bytes: int) -> bytes:
    """Everything of a request before its body."""
    head = _HEADER.pack(*kind, correlation, len(_CLIENT)) + _CLIENT
    return struct.pack(">i", len(head) + body_bytes) + head


def string(text: str) -> bytes:
    """A text as the protocol writes it."""
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def init_producer_id() -> bytes:
    """The body that asks for an id without transactions."""
    return struct.pack(">hi", -1, 60_000)


def producer_id(answer: bytes) -> tuple[int, int, int]:
    """(error, id, epoch)."""
    error, number, epoch = struct.unpack_from(">hqh", answer, 4)
    return error, number, epoch


def produce_head(timeout_ms: int, topics: int) -> bytes:
    """The body up to its topics; all replicas are to have the batches."""
    return struct.pack(">hhii", -1, -1, timeout_ms, topics)


def topic_head(topic: str, partitions: int) -> bytes:
    """The part of a topic before its partitions."""
    return string(topic) + struct.pack(">i", partitions)


def produce_errors(answer: bytes) -> list[tuple[str, int, int]]:
    """(topic, partition, error) of all partitions that were not stored."""
    at = 4
    out = []
    (topics,) = struct.unpack_from(">i", answer)
    for _ in range(topics):
        topic, at = _string(answer, at)
        (partitions,) = struct.unpack_from(">i", answer, at)
        at += 4
        for _ in range(partitions):
            partition, error = struct.unpack_from(">ih", answer, at)
            at += 4 + 2 + 8 + 8 + 8
            if error:
                out.append((topic, partition, error))
    assert at + 4 == len(answer), "PR1"
    return out


def fetch(topic: str, positions: dict[int, int], *, wait_ms: int, bytes_max: int) -> bytes:
    """The body that asks for records from some positions on, {partition: offset}."""
    head = struct.pack(">iiiibi", -1, wait_ms, 1, bytes_max, READ_COMMITTED, 1)
    each = (
        _PARTITION_READ.pack(partition, offset, bytes_max)
        for partition, offset in positions.items()
    )
    return head + topic_head(topic, len(positions)) + b"".join(each)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one partition: an error or the place of its batches in the answer."""

    partition: int
    error: int
    high_watermark: int
    #: {producer: offsets from which on it was aborted}
    aborted: dict[int, list[int]]
    start: int
    end: int


def fetched(answer: bytes | memoryview) -> list[Fetched]:
    """The partitions of a fetch's answer."""
    at = 4
    out = []
    (topics,) = struct.unpack_from(">i", answer, at)
    at += 4
    for _ in range(topics):
        _, at = _string(answer, at)
        (partitions,) = struct.unpack_from(">i", answer, at)
        at += 4
        for _ in range(partitions):
            partition, error, high, _, count = struct.unpack_from(">ihqqi", answer, at)
            at += 4 + 2 + 8 + 8 + 4
            aborted: dict[int, list[int]] = {}
            for _ in range(count):  # -1: none
                producer, first = struct.unpack_from(">qq", answer, at)
                aborted.setdefault(producer, []).append(first)
                at += 16
            (size,) = struct.unpack_from(">i", answer, at)
            at += 4
            end = at + max(size, 0)
            out.append(Fetched(partition, error, high, aborted, at, end))
            at = end
    assert at == len(answer), "PR1"
    return out


class Unreadable(Exception):
    """A batch that only a full client can read."""


def sections(
    answer: bytes | memoryview, part: Fetched, position: int
) -> tuple[list[tuple[int, int, int, int, int]], int]:
    """Where the committed records of a partition lie, as `records.values_in` wants it.

    Args:
        answer: what `part` is of.
        part: one partition.
        position: offset from which on records are wanted.

    Returns:
        The sections, and the position behind everything read.

    Raises:
        Unreadable: a batch is compressed or of an old format.
    """
    out = []
    at = part.start
    ongoing: set[int] = set()
    while part.end - at >= BATCH_BYTES:
        base, length, _, magic, _, attributes, last, _, _, producer, _, _, count = (
            _BATCH.unpack_from(answer, at)
        )
        end = at + 12 + length
        if end > part.end:
            break  # The broker may cut the last one short.
        if magic != 2 or attributes & _COMPRESSION:
            raise Unreadable("compressed" if magic == 2 else "of an old format")
        if producer in part.aborted:
            ongoing |= {p for p in (producer,) if min(part.aborted[p], default=base + 1) <= base}
        if attributes & _CONTROL:
            # Whatever the marker says, what an aborted producer began ends here.
            if producer in ongoing:
                ongoing.discard(producer)
                part.aborted[producer].remove(min(part.aborted[producer]))
        elif not (attributes & _TRANSACTIONAL and producer in ongoing):
            out.append((at + BATCH_BYTES, end, count, base, position))
        position = max(position, base + last + 1)
        at = end
    return out, position


def produce_body(head: bytes, topics: Iterable[tuple[bytes, list[memoryview]]]) -> list[memoryview]:
    """The pieces of a produce request's body, to be sent one behind the other."""
    pieces = [memoryview(head)]
    for before, batches in topics:
        pieces.append(memoryview(before))
        pieces += batches
    return pieces


def _string(answer: bytes | memoryview, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", answer, at)
    return bytes(answer[at + 2 : at + 2 + length]).decode(), at + 2 + length
