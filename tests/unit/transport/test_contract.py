"""What every transport promises, run over memory and over ZeroMQ."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest

from service.dataflow.transport.frame import (
    BODY_BYTES_MAX,
    FLAG_ON,
    FLAG_SCHEMA,
    REASON_BYTES_MAX,
    FrameKind,
)
from service.dataflow.transport.rows import SchemaCache
from service.errors import PeerLost, ProtocolViolation


def test_frames_of_each_sender_arrive_in_the_order_sent(make_cluster):
    cluster = make_cluster(3)
    for number in range(300):
        for sender in (1, 2):
            cluster[sender].send(0, FrameKind.DATA, sender, (number,), [b"%d" % number])
    frames = cluster.collect(0, 600)
    for sender in (1, 2):
        own = [frame for frame in frames if frame.sender == sender]
        assert [frame.time for frame in own] == [(number,) for number in range(300)]
        assert [bytes(frame.body) for frame in own] == [b"%d" % number for number in range(300)]
        assert {frame.channel for frame in own} == {sender}


def test_header_fields_arrive_as_sent(make_cluster):
    cluster = make_cluster(2)
    time_sent = (1_700_000_000_000_000, 0, 7, 2**63)
    cluster[0].send(1, FrameKind.PRESSURE, 2**32 - 1, time_sent, flags=FLAG_ON)
    (frame,) = cluster.collect(1, 1)
    assert frame.sender == 0
    assert frame.kind is FrameKind.PRESSURE
    assert frame.channel == 2**32 - 1
    assert frame.time == time_sent
    assert frame.flags == FLAG_ON
    assert frame.parts == ()
    assert frame.body == b""


def test_body_parts_stay_apart_and_join_on_request(make_cluster):
    cluster = make_cluster(2)
    cluster[0].send(
        1, FrameKind.STATE, 0, (), [b"", b"one", memoryview(b"two"), pa.py_buffer(b"3")]
    )
    (frame,) = cluster.collect(1, 1)
    assert [bytes(part) for part in frame.parts] == [b"", b"one", b"two", b"3"]
    assert frame.body == b"onetwo3"
    assert frame.body_length == 7


def test_frames_that_are_kept_back_arrive_in_order_with_the_others(make_cluster):
    cluster = make_cluster(2)
    bodies = [[b"a"], [], [b"b", b""], [b""], [bytes(range(256)) * 300], [b"c"], [], [b"d"]]
    cluster[0].gather()
    for number, parts in enumerate(bodies):
        cluster[0].send(1, FrameKind.PROGRESS, 0, (number,), parts)
    cluster[0].flush()
    cluster[0].send(1, FrameKind.PROGRESS, 0, (len(bodies),))
    frames = cluster.collect(1, len(bodies) + 1)
    assert [frame.time for frame in frames] == [(number,) for number in range(len(bodies) + 1)]
    for frame, parts in zip(frames, [*bodies, []], strict=True):
        assert [bytes(part) for part in frame.parts] == parts


@pytest.mark.parametrize("how", ["wait", "tick", "leave"])
def test_what_is_kept_back_goes_out_before_anything_else_happens(make_cluster, how):
    cluster = make_cluster(2)
    cluster[0].gather()
    for number in range(100):
        cluster[0].send(1, FrameKind.PROGRESS, 0, (number,))
    {
        "wait": lambda: cluster[0].wait(0),
        "tick": lambda: cluster[0].tick(1),
        "leave": cluster[0].leave,
    }[how]()
    frames = cluster.collect(1, 100 + (how == "leave"))
    assert [frame.time for frame in frames][:100] == [(number,) for number in range(100)]


def test_large_bodies_arrive_byte_for_byte(make_cluster):
    cluster = make_cluster(2)
    large = np.random.default_rng(7).integers(0, 256, 8 << 20, dtype=np.uint8).tobytes()
    sizes = [0, 1, 8191, 8192, 65535, 65536, 65537, 1 << 20, 8 << 20]
    for size in sizes:
        cluster[0].send(1, FrameKind.STATE, 0, (size,), [large[:size], b"tail"])
    frames = cluster.collect(1, len(sizes))
    for size, frame in zip(sizes, frames, strict=True):
        assert frame.time == (size,)
        assert bytes(frame.parts[0]) == large[:size]
        assert bytes(frame.parts[1]) == b"tail"


def test_a_body_over_the_limit_is_refused_at_the_sender(make_cluster):
    cluster = make_cluster(2)
    half = memoryview(bytes(BODY_BYTES_MAX // 2 + 1))
    with pytest.raises(ProtocolViolation, match="limit"):
        cluster[0].send(1, FrameKind.DATA, 0, (1,), [half, half])


def test_receive_gives_no_more_than_asked_and_loses_nothing(make_cluster):
    cluster = make_cluster(2)
    for number in range(10):
        cluster[0].send(1, FrameKind.PROGRESS, 0, (number,))
    last = cluster.collect(1, 10)
    assert [frame.time[0] for frame in last] == list(range(10))
    for number in range(7):
        cluster[0].send(1, FrameKind.PROGRESS, 0, (number,))
    taken = []
    deadline = time.monotonic() + 10
    while len(taken) < 7 and time.monotonic() < deadline:
        cluster[1].wait(0.05)
        some = cluster[1].receive(3)
        assert len(some) <= 3
        taken.extend(some)
    assert [frame.time[0] for frame in taken] == list(range(7))


def test_a_schema_travels_once_per_peer_and_channel(make_cluster):
    cluster = make_cluster(3)
    sender, receivers = SchemaCache(), {1: SchemaCache(), 2: SchemaCache()}
    rows = pa.record_batch({"auction": pa.array([1, 2]), "price": pa.array([0.5, 1.5])})
    flags_sent = []
    for peer in (1, 2, 1, 2):
        for channel in (4, 5):
            flags, parts = sender.encode(peer, channel, rows, np.array([8, 9]))
            flags_sent.append(flags & FLAG_SCHEMA)
            cluster[0].send(peer, FrameKind.DATA, channel, (1,), parts, flags)
    assert flags_sent == [FLAG_SCHEMA] * 4 + [0] * 4
    for peer, cache in receivers.items():
        for frame in cluster.collect(peer, 4):
            decoded, origin = cache.decode(frame)
            assert decoded.equals(rows)
            assert origin is not None
            assert origin.tolist() == [8, 9]


def test_the_observer_sends_and_receives_like_a_member(make_cluster):
    cluster = make_cluster(2)
    assert cluster[0].observer == 2
    assert cluster[2].index == 2
    assert cluster[2].peers == (0, 1)
    assert cluster[0].peers == (1,)
    cluster[0].send(2, FrameKind.REPORT, 0, (), [b"{}"])
    (report,) = cluster.collect(2, 1)
    assert (report.sender, report.kind, report.body) == (0, FrameKind.REPORT, b"{}")
    cluster[2].send(1, FrameKind.REPORT, 0, ())
    assert cluster.collect(1, 1)[0].sender == 2


def test_a_peer_that_leaves_is_shown_and_is_no_loss(make_cluster):
    cluster = make_cluster(3)
    cluster[2].send(0, FrameKind.PROGRESS, 0, (1,))
    cluster[2].leave()
    cluster.close(2)
    frames = cluster.collect(0, 2)
    assert [frame.kind for frame in frames] == [FrameKind.PROGRESS, FrameKind.BYE]
    assert cluster[0].peers == (1,)
    assert cluster.collect(1, 1)[0].kind is FrameKind.BYE
    cluster.live(0, 1, seconds=15)
    cluster[0].send(2, FrameKind.PROGRESS, 0, (1,))


def test_what_a_lost_peer_said_is_received_before_the_loss(make_cluster):
    cluster = make_cluster(2)
    for number in range(20):
        cluster[1].send(0, FrameKind.PROGRESS, 0, (number,))
    assert len(cluster.collect(0, 20)) == 20
    cluster.close(1)
    error = cluster.error_of(0)
    assert isinstance(error, PeerLost)
    assert "1" in str(error)
    with pytest.raises(PeerLost):
        cluster[0].receive(1)


def test_why_a_peer_gave_up_is_heard_after_what_it_said_and_passed_on_as_it_was(make_cluster):
    cluster = make_cluster(3)
    cluster[2].send(0, FrameKind.PROGRESS, 0, (1,))
    assert cluster.collect(0, 1)[0].time == (1,)
    cluster[2].leave(because="vertex 'x' raised")
    first = cluster.error_of(0)
    assert isinstance(first, PeerLost)
    assert str(first).count("gave up") == 1
    assert "vertex 'x' raised" in str(first)
    cluster[0].leave(because=str(first))
    # Peer 1 heard of it from peer 2 or from peer 0; the reason is the first one's.
    second = cluster.error_of(1)
    assert isinstance(second, PeerLost)
    assert str(second).count("gave up") == 1
    assert "vertex 'x' raised" in str(second)


def test_a_reason_of_any_length_is_cut_off(make_cluster):
    cluster = make_cluster(2)
    cluster[1].leave(because="ä" * REASON_BYTES_MAX)
    said = str(cluster.error_of(0))
    assert REASON_BYTES_MAX // 2 <= said.count("ä") <= REASON_BYTES_MAX


def test_the_loss_of_the_observer_ends_nothing(make_cluster):
    cluster = make_cluster(2)
    cluster.close(2)
    cluster.live(0, 1, seconds=15)
    cluster[0].send(2, FrameKind.REPORT, 0, (), [b"nobody hears"])
    cluster.live(0, 1, seconds=1)


def test_wait_ends_at_once_when_a_frame_is_there_and_after_the_timeout_otherwise(make_cluster):
    cluster = make_cluster(2)
    cluster.pump()
    began = time.monotonic()
    cluster[1].wait(0.05)
    assert time.monotonic() - began >= 0.045
    cluster[0].send(1, FrameKind.PROGRESS, 0, (1,))
    cluster[1].wait(30)
    assert time.monotonic() - began < 20
    assert cluster.collect(1, 1)[0].time == (1,)


def test_nothing_is_sent_to_oneself_or_after_leaving(make_cluster):
    cluster = make_cluster(2)
    with pytest.raises(AssertionError):
        cluster[0].send(0, FrameKind.PROGRESS, 0, ())
    cluster[0].leave()
    with pytest.raises(AssertionError):
        cluster[0].send(1, FrameKind.PROGRESS, 0, ())


def test_closing_twice_is_allowed(make_cluster):
    cluster = make_cluster(1)
    cluster[0].close()
    cluster[0].close()
