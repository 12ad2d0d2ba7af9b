"""Kernels that write and read Kafka's record batches (format 2), a run of messages at a time.

Flow: messages grouped by partition -> [write_batches] -> a produce request; a fetch response ->
[values_in] -> where each value lies. Pure.

The theory. A client library makes an object for each record, on both sides; here a record is never
more than a place in a buffer.

Invariants
  R1  A batch holds the messages of its partition in the order given, uncompressed, with its
      checksum; another reader of the format finds the same keys and values.
  R2  Values are given from the offset asked for on, each once, in order; of the records in a
      section that is cut short none is given wrongly: the section counts as malformed.

Source: Kafka's protocol guide, "Record Batch"; CRC-32C by eight tables (Intel's "slicing by 8").
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from service.nexmark.events import BLOCK, copy_block

Bytes = NDArray[np.uint8]
Longs = NDArray[np.int64]
Int = int | np.int64

#: In a produce request, before each batch: partition and length.
PREFIX_BYTES = 8
BATCH_BYTES = 61
#: Longest of everything in a record but its value: three varints of lengths and offsets, the key.
RECORD_BYTES_MAX = 32
_CRC_AT = 17
_ATTRIBUTES_AT = 21
_POLYNOMIAL = 0x82F63B78
_KEY_BYTES = 8


def _crc_tables() -> NDArray[np.uint32]:
    tables = np.zeros((8, 256), dtype=np.uint32)
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = (rest >> 1) ^ (_POLYNOMIAL if rest & 1 else 0)
        tables[0, byte] = rest
    for k in range(1, 8):
        before = tables[k - 1]
        tables[k] = (before >> 8) ^ tables[0][before & 0xFF]
    return tables


_TABLES = _crc_tables()


@njit(cache=True)
def crc32c(data: Bytes, start: Int, end: Int, tables: NDArray[np.uint32]) -> np.uint32:
    """Checksum of `data[start:end]`. Cost: 0.5 to 1 ns a byte."""
    crc = np.uint32(0xFFFFFFFF)
    low_byte = np.uint32(0xFF)
    at = start
    while end - at >= 8:
        a = np.uint32(data[at]) | np.uint32(data[at + 1]) << np.uint32(8)
        a |= np.uint32(data[at + 2]) << np.uint32(16) | np.uint32(data[at + 3]) << np.uint32(24)
        b = np.uint32(data[at + 4]) | np.uint32(data[at + 5]) << np.uint32(8)
        b |= np.uint32(data[at + 6]) << np.uint32(16) | np.uint32(data[at + 7]) << np.uint32(24)
        a ^= crc
        crc = tables[7, a & low_byte] ^ tables[6, a >> np.uint32(8) & low_byte]
        crc ^= tables[5, a >> np.uint32(16) & low_byte] ^ tables[4, a >> np.uint32(24)]
        crc ^= tables[3, b & low_byte] ^ tables[2, b >> np.uint32(8) & low_byte]
        crc ^= tables[1, b >> np.uint32(16) & low_byte] ^ tables[0, b >> np.uint32(24)]
        at += 8
    while at < end:
        crc = tables[0, (crc ^ np.uint32(data[at])) & low_byte] ^ crc >> np.uint32(8)
        at += 1
    return np.uint32(crc ^ np.uint32(0xFFFFFFFF))


@njit(inline="always")
def _put(out: Bytes, at: Int, value: Int, width: int) -> Int:
    """Write a number big-endian."""
    for i in range(width):
        out[at + i] = np.uint8((value >> (8 * (width - 1 - i))) & 0xFF)
    return at + width


@njit(inline="always")
def _put_length(out: Bytes, at: Int, value: Int) -> Int:
    """Write a number >= 0 as a varint."""
    rest = value << 1
    while rest >= 0x80:
        out[at] = np.uint8(rest & 0x7F | 0x80)
        rest >>= 7
        at += 1
    out[at] = np.uint8(rest)
    return at + 1


@njit(inline="always")
def _length_bytes(value: Int) -> Int:
    width = 1
    rest = value >> 6
    while rest > 0:
        rest >>= 7
        width += 1
    return width


@njit(cache=True)
def write_batches(
    data: Bytes,
    offsets: NDArray[np.int32],
    keys: Longs,
    starts: Longs,
    partitions: Longs,
    writer: Longs,
    sequences: Longs,
    tables: NDArray[np.uint32],
    out: Bytes,
    ends: Longs,
) -> None:
    """Write a prefix and a batch for each group that has messages (R1).

    Args:
        data: the messages one behind the other, and BLOCK bytes more.
        offsets: n + 1; where each starts.
        keys: n.
        starts: groups + 1; the messages of each group.
        partitions: groups; the partition of each.
        writer: time of the records in ms, id and epoch of the producer.
        sequences: groups; number of each group's first message.
        tables: of `crc32c`.
        out: receives the bytes.
        ends: groups; receives where each group's bytes end; an empty group has none.
    """
    at: Int = 0
    for group in range(starts.shape[0] - 1):
        count = starts[group + 1] - starts[group]
        if count == 0:
            ends[group] = at
            continue
        prefix = at
        batch = at + PREFIX_BYTES
        at = batch + BATCH_BYTES
        for k in range(count):
            j = starts[group] + k
            start = np.int64(offsets[j])
            length = np.int64(offsets[j + 1]) - start
            body = 4 + _KEY_BYTES + _length_bytes(k) + _length_bytes(length) + length
            at = _put_length(out, at, body)
            out[at] = 0  # attributes
            out[at + 1] = 0  # time, from the batch's on
            at = _put_length(out, at + 2, k)
            out[at] = _KEY_BYTES << 1
            at = _put(out, at + 1, keys[j], _KEY_BYTES)
            at = _put_length(out, at, length)
            for block in range(0, length, BLOCK):
                copy_block(out, at + block, data, start + block)
            at += length
            out[at] = 0  # headers
            at += 1
        _put(out, prefix, partitions[group], 4)
        _put(out, prefix + 4, at - batch, 4)
        _put(out, batch, 0, 8)  # the broker gives the offset
        _put(out, batch + 8, at - batch - 12, 4)
        _put(out, batch + 12, -1, 4)
        out[batch + 16] = 2  # format
        place = _put(out, batch + _ATTRIBUTES_AT, 0, 2)
        place = _put(out, place, count - 1, 4)
        place = _put(out, place, writer[0], 8)
        place = _put(out, place, writer[0], 8)
        place = _put(out, place, writer[1], 8)
        place = _put(out, place, writer[2], 2)
        place = _put(out, place, sequences[group], 4)
        _put(out, place, count, 4)
        crc = crc32c(out, batch + _ATTRIBUTES_AT, at, tables)
        _put(out, batch + _CRC_AT, np.int64(crc), 4)
        ends[group] = at


@njit(inline="always")
def _varint(data: Bytes, at: Int, end: Int) -> tuple[Int, Int]:
    """(value, place behind it); a place beyond `end` if it is cut short."""
    bits = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(data[at])
        at += 1
        bits |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), end + 1


@njit(cache=True)
def values_in(data: Bytes, sections: Longs, starts: Longs, ends: Longs) -> int:
    """Find the values in the records of some batches (R2).

    Args:
        data: what the batches lie in.
        sections: m x 5: where the records of a batch start and end, how many they are, the offset
            of the first, and the offset from which on they are wanted.
        starts: receives where each value starts; room for all records.
        ends: receives where each ends.

    Returns:
        How many values there are; -1 if a section is malformed.
    """
    found = 0
    for m in range(sections.shape[0]):
        at: Int = sections[m, 0]
        section_end = sections[m, 1]
        for _ in range(sections[m, 2]):
            length, at = _varint(data, at, section_end)
            end = at + length
            if length < 0 or end > section_end:
                return -1
            _, at = _varint(data, at + 1, end)
            delta, at = _varint(data, at, end)
            key, at = _varint(data, at, end)
            value, at = _varint(data, at + max(key, 0), end)
            if at > end or at + max(value, 0) > end:
                return -1
            if sections[m, 3] + delta >= sections[m, 4]:
                starts[found] = at
                ends[found] = at + max(value, 0)
                found += 1
            at = end
    return found


def tables() -> NDArray[np.uint32]:
    """The tables that `crc32c` wants."""
    return _TABLES
