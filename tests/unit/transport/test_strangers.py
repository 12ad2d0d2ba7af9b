"""Frames kept for peers not named yet."""

from __future__ import annotations

import pytest

from service.dataflow.transport.frame import Frame, FrameKind
from service.dataflow.transport.link import Identity, parse_identity
from service.dataflow.transport.strangers import Strangers, Verdict
from service.ids import Slot

WORKER = Slot.parse("worker-4")
IDENTITY = Identity(WORKER, 3, 9).encode()


def frame(kind=FrameKind.HELLO, generation=3, incarnation=9, sequence=0, body_length=8):
    return Frame(kind, generation, incarnation, sequence, body_length=body_length)


def test_what_was_kept_is_taken_once_and_in_order():
    strangers = Strangers()
    frames = [frame(), frame(FrameKind.DATA, sequence=1), frame(FrameKind.BYE, sequence=2)]
    for one in frames:
        assert strangers.keep(IDENTITY, one, (b"x",), 2) is Verdict.KEPT
    assert strangers.newest_generation == 3
    assert [kept for kept, _ in strangers.take(IDENTITY)] == frames
    assert strangers.take(IDENTITY) == []


def test_only_what_may_still_be_wanted_is_kept():
    strangers = Strangers()
    assert strangers.keep(IDENTITY, frame(), (), 4) is Verdict.OLDER
    assert strangers.keep(IDENTITY, frame(FrameKind.DATA), (), 3) is Verdict.UNKNOWN
    assert strangers.keep(b"nobody", frame(), (), 3) is Verdict.UNKNOWN
    assert strangers.keep(IDENTITY, frame(generation=4), (), 3) is Verdict.UNKNOWN
    assert strangers.keep(IDENTITY, frame(incarnation=8), (), 3) is Verdict.UNKNOWN
    assert strangers.newest_generation == 0


def test_kept_bytes_are_bounded_and_come_free_again():
    strangers = Strangers(bytes_max=2000)
    assert strangers.keep(IDENTITY, frame(body_length=1000), (), 3) is Verdict.KEPT
    other = Identity(WORKER, 5, 9).encode()
    large = frame(generation=5, body_length=1000)
    assert strangers.keep(other, large, (), 3) is Verdict.NO_ROOM
    assert strangers.forget_before(4) == 1
    assert strangers.keep(other, large, (), 4) is Verdict.KEPT
    assert strangers.forget_before(5) == 0


@pytest.mark.parametrize(
    "identity",
    [
        Identity(Slot.parse(name), 2**32 - 1, 2**64 - 1)
        for name in ("worker-0", "gateway-12", "controller")
    ],
)
def test_an_identity_is_read_back(identity):
    assert parse_identity(identity.encode()) == identity


@pytest.mark.parametrize(
    "data",
    [b"", b"worker-1", b"worker-1.1", b"worker.1.1", b"worker-01.1.1", b"worker-1.01.1", b"a.1.1",
     b"worker-1.1.1.1", b"worker-1.1.1\n", b"worker-\xd9\xa1.1.1", b"\x00\x80\x00A\xa7"],
)  # fmt: skip
def test_what_is_no_identity_is_not_read(data):
    assert parse_identity(data) is None
