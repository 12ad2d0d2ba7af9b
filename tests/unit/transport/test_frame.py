"""The header of a frame: its bytes are a promise between builds."""

from __future__ import annotations

import pytest

from service.dataflow.transport.frame import (
    BODY_BYTES_MAX,
    BODY_PARTS_MAX,
    HEADER_BYTES_MIN,
    TIME_LENGTH_MAX,
    Frame,
    FrameKind,
    decode_header,
    encode_header,
)
from service.errors import ProtocolViolation

DATA = Frame(
    FrameKind.DATA,
    generation=3,
    incarnation=0x1122334455667788,
    sequence=9,
    channel=7,
    time=(1000, 2),
    flags=1,
    body_length=24,
    body_parts=3,
)
GOLDEN = bytes.fromhex(
    "4d67704602020135" "03000000" "07000000" "8877665544332211" "0900000000000000"
    "1800000000000000" "e803000000000000" "0200000000000000"
)  # fmt: skip


def test_a_header_has_the_documented_bytes():
    assert encode_header(DATA) == GOLDEN
    assert decode_header(GOLDEN) == DATA


def test_the_smallest_header_has_forty_bytes():
    assert HEADER_BYTES_MIN == 40
    assert len(encode_header(Frame(FrameKind.PULSE, 1, 1, 1))) == HEADER_BYTES_MIN


@pytest.mark.parametrize(
    ("offset", "value", "pattern"),
    [
        (0, b"X", "begins with"),
        (4, b"\x01", "version 1, this build speaks 2"),
        (5, b"\x00", "unknown kind 0"),
        (5, b"\xff", "unknown kind 255"),
        (7, b"\x01", "claims a timestamp of 1 parts"),
        (7, b"\xff", "claims a timestamp of 0 parts"),
        (38, b"\x01", "at most"),
    ],
)
def test_a_damaged_header_is_refused_with_its_reason(offset, value, pattern):
    damaged = GOLDEN[:offset] + value + GOLDEN[offset + 1 :]
    with pytest.raises(ProtocolViolation, match=pattern):
        decode_header(damaged)


@pytest.mark.parametrize("length", [0, 1, 39, 40, 48, 55])
def test_a_truncated_header_is_refused(length):
    with pytest.raises(ProtocolViolation):
        decode_header(GOLDEN[:length])


@pytest.mark.parametrize(
    "frame",
    [
        Frame(FrameKind.DATA, 2**32, 1, 1),
        Frame(FrameKind.DATA, 1, 1, 1, channel=-1),
        Frame(FrameKind.DATA, 1, 2**64, 1),
        Frame(FrameKind.DATA, 1, 1, 1, time=(-1,)),
        Frame(FrameKind.DATA, 1, 1, 1, time=(1,) * (TIME_LENGTH_MAX + 1)),
        Frame(FrameKind.DATA, 1, 1, 1, flags=256),
        Frame(FrameKind.DATA, 1, 1, 1, body_length=BODY_BYTES_MAX + 1),
        Frame(FrameKind.DATA, 1, 1, 1, body_parts=BODY_PARTS_MAX + 1),
    ],
)
def test_a_frame_out_of_range_cannot_be_encoded(frame):
    with pytest.raises(ProtocolViolation):
        encode_header(frame)
