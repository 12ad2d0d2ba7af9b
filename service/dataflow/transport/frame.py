"""The frame: the unit that travels between processes of one generation.

Flow: the engine hands kind, channel, time and body to a transport; the transport puts the header of
this module before the body; the receiving transport reads the header back and checks it.

Layout of a header, little-endian, 40 bytes and 8 more per part of the timestamp:
    magic 4s | version u8 | kind u8 | flags u8 | shape u8 | generation u32 |
    channel u32 | incarnation of the sender u64 | sequence u64 | body length u64 |
    epoch u64, counters u64 each (absent if the timestamp has no parts)
The shape is the number of parts of the timestamp, plus 17 times the number of parts of the body.
The body is not part of it: its parts travel behind the header, uncopied.

Invariants
  FR1  Decoding bytes either gives a frame or raises ProtocolViolation; no other exception.
  FR2  decode_header(encode_header(frame)) == frame.
  FR3  A body is at most BODY_BYTES_MAX long, a timestamp at most TIME_LENGTH_MAX parts.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from service.errors import ProtocolViolation

MAGIC: Final = b"MgpF"
VERSION: Final = 2

#: Longest body of one frame. Batches are cut far below it; it only bounds what garbage can cost.
BODY_BYTES_MAX: Final = 64 << 20
#: Most body parts of one frame: schema, rows and origin are three.
BODY_PARTS_MAX: Final = 8
#: Bytes of the reason in a BYE: an error's message, which its sender cuts off here.
REASON_BYTES_MAX: Final = 4096
#: Longest timestamp: the epoch and the counters of fifteen nested loops.
TIME_LENGTH_MAX: Final = 16
_SHAPES = TIME_LENGTH_MAX + 1


class FrameKind(IntEnum):
    """What a frame is for."""

    #: First on a link: names the generation and whom the sender believes to talk to.
    HELLO = 1
    #: Rows at a timestamp on a channel; costs credit.
    DATA = 2
    #: Counts of pointstamps; never waits for credit.
    PROGRESS = 3
    #: Bytes of a window given back; the channel says of which class.
    CREDIT = 4
    #: One chunk on a state channel; its window is its own.
    STATE = 5
    #: The sender's held store is over its budget, or no longer (FLAG_ON).
    PRESSURE = 6
    #: JSON for the observer.
    REPORT = 7
    #: The sender lives; nothing else was to be sent.
    PULSE = 8
    #: Last on a link: the sender leaves on purpose; a body says why the generation cannot go on.
    BYE = 9
    #: Bytes from an operator to itself in another process, outside of time; its window is its own.
    ASIDE = 10


#: DATA: the first part of the body is the schema of the channel.
FLAG_SCHEMA: Final = 1
#: DATA: the last part of the body is the origin of each row.
FLAG_ORIGIN: Final = 2
#: PRESSURE: begins (set) or ends (clear).
FLAG_ON: Final = 4
#: DATA: the last of its kind from this sender, as the engine defines it for the channel.
FLAG_FINAL: Final = 8

_FIXED = struct.Struct("<4sBBBBIIQQQ")
HEADER_BYTES_MIN: Final = _FIXED.size
_WITH_TIME = tuple(struct.Struct(f"<4sBBBBIIQQQ{n}Q") for n in range(TIME_LENGTH_MAX + 1))
_KINDS: dict[int, FrameKind] = {int(kind): kind for kind in FrameKind}


class Frame(NamedTuple):
    """A header, decoded.

    A named tuple because one is made per frame: building it costs a third of a frozen dataclass.

    Attributes:
        kind: what the frame is for.
        generation: the dataflow it belongs to.
        incarnation: which boot of the sending process sent it.
        sequence: position on the link from this sender to this receiver, from 0 without gaps.
        channel: channel of the graph, state channel or credit class, by kind.
        time: (epoch, counters...), or () where a time means nothing.
        flags: FLAG_* bits, by kind.
        body_length: bytes of all body parts together.
        body_parts: how many body parts there are.
    """

    kind: FrameKind
    generation: int
    incarnation: int
    sequence: int
    channel: int = 0
    time: tuple[int, ...] = ()
    flags: int = 0
    body_length: int = 0
    body_parts: int = 0


def pack_header(
    kind: int,
    generation: int,
    incarnation: int,
    sequence: int,
    channel: int,
    time: tuple[int, ...],
    flags: int,
    body_length: int,
    body_parts: int,
) -> bytes:
    """The header's bytes, without a Frame in between: what a transport calls per frame (0.5 us).

    Raises:
        ProtocolViolation: a field is out of its range (FR3).
    """
    length = len(time)
    if body_length > BODY_BYTES_MAX or length > TIME_LENGTH_MAX or body_parts > BODY_PARTS_MAX:
        raise ProtocolViolation(
            f"a frame of {body_length} bytes in {body_parts} parts and a timestamp of {length} "
            f"parts cannot be sent; the limits are {BODY_BYTES_MAX} bytes, {BODY_PARTS_MAX} and "
            f"{TIME_LENGTH_MAX} parts"
        )
    try:
        return _WITH_TIME[length].pack(
            MAGIC, VERSION, kind, flags, length + _SHAPES * body_parts, generation, channel,
            incarnation, sequence, body_length, *time,
        )  # fmt: skip
    except struct.error as error:
        raise ProtocolViolation(
            f"a header field is out of range ({error}): generation {generation}, "
            f"channel {channel}, sequence {sequence}, time {time}"
        ) from error


def encode_header(frame: Frame) -> bytes:
    """The bytes of `frame` (FR2); the body follows beside them.

    Raises:
        ProtocolViolation: a field is out of its range (FR3).
    """
    return pack_header(
        frame.kind,
        frame.generation,
        frame.incarnation,
        frame.sequence,
        frame.channel,
        frame.time,
        frame.flags,
        frame.body_length,
        frame.body_parts,
    )


def decode_header(data: bytes) -> Frame:
    """Read a header back (FR1); about 0.5 us.

    Raises:
        ProtocolViolation: not a header, another version, an unknown kind, or out of bounds (FR3).
    """
    size = len(data)
    if size < HEADER_BYTES_MIN:
        raise ProtocolViolation(f"a header of {size} bytes is shorter than {HEADER_BYTES_MIN}")
    magic, version, kind, flags, shape, generation, channel, incarnation, sequence, body_length = (
        _FIXED.unpack_from(data)
    )
    if magic != MAGIC:
        raise ProtocolViolation(f"a header begins with {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise ProtocolViolation(f"a header has version {version}, this build speaks {VERSION}")
    known = _KINDS.get(kind)
    if known is None:
        raise ProtocolViolation(f"a frame has the unknown kind {kind}")
    parts, length = divmod(shape, _SHAPES)
    if size != HEADER_BYTES_MIN + 8 * length:
        raise ProtocolViolation(
            f"a header of {size} bytes claims a timestamp of {length} parts "
            f"(at most {TIME_LENGTH_MAX})"
        )
    if body_length > BODY_BYTES_MAX or parts > BODY_PARTS_MAX:
        raise ProtocolViolation(
            f"a frame announces {body_length} bytes in {parts} parts; at most {BODY_BYTES_MAX} in "
            f"{BODY_PARTS_MAX} are allowed"
        )
    time = _WITH_TIME[length].unpack_from(data)[10:] if length else ()
    return Frame(known, generation, incarnation, sequence, channel, time, flags, body_length, parts)
