"""Properties of headers: any frame survives, and no bytes crash the reader (FR1, FR2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.transport.frame import (
    BODY_BYTES_MAX,
    BODY_PARTS_MAX,
    TIME_LENGTH_MAX,
    Frame,
    FrameKind,
    decode_header,
    encode_header,
)
from service.dataflow.transport.link import parse_identity
from service.errors import ProtocolViolation

uint64 = st.integers(0, 2**64 - 1)
uint32 = st.integers(0, 2**32 - 1)
frames = st.builds(
    Frame,
    kind=st.sampled_from(FrameKind),
    generation=uint32,
    incarnation=uint64,
    sequence=uint64,
    channel=uint32,
    time=st.lists(uint64, max_size=TIME_LENGTH_MAX).map(tuple),
    flags=st.integers(0, 255),
    body_length=st.integers(0, BODY_BYTES_MAX),
    body_parts=st.integers(0, BODY_PARTS_MAX),
)


@given(frames)
def test_a_frame_survives_its_bytes(frame):
    assert decode_header(encode_header(frame)) == frame


def decode_or_refuse(data):
    """What is accepted must be exactly what its frame encodes to."""
    try:
        frame = decode_header(data)
    except ProtocolViolation:
        return
    assert encode_header(frame) == data


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_violation(data):
    decode_or_refuse(data)


@given(frames, st.data())
def test_damaged_headers_are_a_frame_or_a_violation(frame, data):
    damaged = bytearray(encode_header(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    decode_or_refuse(bytes(damaged))
    decode_or_refuse(bytes(damaged[:cut]))


@given(st.binary(max_size=64) | st.from_regex(rb"[a-z]{1,8}-\d{1,6}\.\d{1,12}\.\d{1,22}"))
def test_any_bytes_are_an_identity_or_none(data):
    identity = parse_identity(data)
    assert identity is None or identity.encode() == data
