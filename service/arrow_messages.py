"""Arrow messages from other processes and files, kept from asking for more memory than they bring.

Flow: body of a frame, chunk of state -> [require_plain] -> Arrow's own reader.

Arrow decompresses a message as it reads it, and allocates what the message says its buffers will
hold: a megabyte can ask for all memory there is. Nothing of ours compresses its messages, so one
that says it is compressed is refused before Arrow sees it.

Invariants
  AM1  After `require_plain` Arrow's reader allocates little more than the message has bytes.
  AM2  Bytes that are no message give ValueError, whatever they are; a message that passes here is
       still Arrow's to check.

Source: Apache Arrow columnar format 1.5, "Encapsulated message format"; Message.fbs (`header` is
the third field of a message, `compression` the fourth of a record batch).
"""

from __future__ import annotations

import struct
from typing import Final

import pyarrow as pa

#: Continuation marker, bytes of metadata, where its root table begins.
_HEAD = struct.Struct("<IiI").unpack_from
_TABLE = struct.Struct("<i").unpack_from
_OFFSET = struct.Struct("<I").unpack_from
_FIELD = struct.Struct("<H").unpack_from
_CONTINUED: Final = 0xFFFFFFFF
#: Where the metadata begins.
_METADATA: Final = 8
#: Where a table of fields says where its third and fourth field lie.
_THIRD, _FOURTH = 8, 10


def require_plain(message: bytes | memoryview | pa.Buffer, begin: int = 0) -> None:
    """See that a record batch message is not compressed. Cost: under 1 us.

    Args:
        message: what Arrow is to read.
        begin: where the message begins in it.

    Raises:
        ValueError: it is compressed, or no message (AM2).
    """
    try:
        marker, _, root = _HEAD(message, begin)
        table = begin + _METADATA + root
        fields = table - _TABLE(message, table)[0]
        at = table + _FIELD(message, fields + _THIRD)[0]
        batch = at + _OFFSET(message, at)[0]
        fields = batch - _TABLE(message, batch)[0]
        last = _FIELD(message, fields)[0]
        compressed = last > _FOURTH and _FIELD(message, fields + _FOURTH)[0]
    except struct.error as error:
        raise ValueError(f"{error}; the message is cut off") from error
    if marker != _CONTINUED:
        raise ValueError("it does not begin as an Arrow message does")
    if compressed:
        raise ValueError("its body is compressed, which no message of this version is")


def second_message(stream: bytes | memoryview | pa.Buffer) -> int:
    """Where the message behind the schema begins in a stream.

    Raises:
        ValueError: it does not begin with a schema message.
    """
    try:
        marker, length, _ = _HEAD(stream)
    except struct.error as error:
        raise ValueError(f"{error}; the message is cut off") from error
    if marker != _CONTINUED or length < 0:
        raise ValueError("it does not begin as an Arrow message does")
    return int(_METADATA + length)
