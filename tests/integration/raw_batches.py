"""Record batches as a stranger writes them: packed by hand, sent without a client that objects.

Flow: size of a record of zeros -> [bomb_batch] -> [send] -> the broker's answer. A batch never lies
unpacked in this process, so that one of a GiB costs the test no memory.

Source: Kafka's protocol guide, "Record Batch".
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from loadgen import protocol
from loadgen.connection import Connection
from loadgen.records import crc32c, tables

_GZIP = 1
_GZIP_HEAD = bytes.fromhex("1f8b08000000000002ff")
_FORMAT = 2
_CHUNK = bytes(16 << 20)
_TIMEOUT_MS = 30_000
_ANSWER_S = 30.0
_NOW_MS = 1_790_000_000_000


def bomb_batch(chunks: int) -> bytes:
    """A gzip batch of one record, whose value is `chunks` times 16 MiB of zeros.

    Cost: a second for a GiB; the chunks are packed once, behind a flush that forgets all before.
    """
    size = chunks * len(_CHUNK)
    head = bytes(3) + _varint(-1) + _varint(size)  # attributes, time, offset; no key
    head = _varint(len(head) + size + 1) + head
    end = b"\x00"  # no headers
    checksum = zlib.crc32(head)
    for _ in range(chunks):
        checksum = zlib.crc32(_CHUNK, checksum)
    packed = (
        _GZIP_HEAD
        + _deflated(head, zlib.Z_FULL_FLUSH)
        + chunks * _deflated(_CHUNK, zlib.Z_FULL_FLUSH)
        + _deflated(end, zlib.Z_FINISH)
        + struct.pack("<II", zlib.crc32(end, checksum), len(head) + size + 1)
    )
    fields = struct.pack(">hiqqqhii", _GZIP, 0, _NOW_MS, _NOW_MS, -1, -1, -1, 1)
    checked = np.frombuffer(fields + packed, np.uint8)
    check = int(crc32c(checked, 0, len(checked), tables()))
    return struct.pack(">qiibI", 0, 9 + len(checked), -1, _FORMAT, check) + fields + packed


def _deflated(text: bytes, flush: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(text) + packer.flush(flush)


def _varint(number: int) -> bytes:
    rest = number << 1 if number >= 0 else (-number << 1) - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def send(bootstrap_servers: str, topic: str, batch: bytes) -> int:
    """Have the only broker append a batch to partition 0; returns its error, 0 for none."""
    host, _, port = bootstrap_servers.rpartition(":")
    connection = Connection(host, int(port))
    try:
        head = protocol.produce_head(_TIMEOUT_MS, 1) + protocol.topic_head(topic, 1)
        place = struct.pack(">ii", 0, len(batch))
        connection.ask(protocol.PRODUCE, [memoryview(head + place), memoryview(batch)])
        while (answer := connection.answer()) is None:
            assert connection.wait(_ANSWER_S), f"no answer within {_ANSWER_S:g} s"
        errors = protocol.produce_errors(bytes(answer))
    finally:
        connection.close()
    return errors[0][2] if errors else 0
