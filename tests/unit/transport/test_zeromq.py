"""What only sockets can get wrong: generations, forged frames, silence, strangers, restarts."""

from __future__ import annotations

import re
import socket
import time

import pytest
import zmq

from service.dataflow.transport.frame import BODY_BYTES_MAX, FrameKind, decode_header
from service.dataflow.transport.link import LinkLimits, PeerAddress
from service.dataflow.transport.security import TrustedNetwork
from service.dataflow.transport.zeromq import ZmqTransport
from service.errors import PeerLost, ProtocolViolation, UsageError
from service.ids import Role, Slot

SECOND_NS = 1_000_000_000


def open_link(cluster, peer):
    """HELLOs both ways between the lone transport and its raw peer; the raw peer's dealer."""
    dealer = peer.connect(cluster.endpoint)
    peer.hello(dealer)
    cluster.until(lambda: cluster[0].connected)
    _, header, body = peer.router.recv_multipart()
    assert decode_header(header).kind is FrameKind.HELLO
    assert body == peer.slot.encode()
    return dealer


def pulse(cluster, peer, dealer, sequence):
    """Send a PULSE from the raw peer and wait until it was read."""
    before = cluster[0].counters.frames_received
    peer.say(dealer, FrameKind.PULSE, sequence)
    cluster.until(lambda: cluster[0].counters.frames_received > before)


def test_nothing_but_hello_goes_out_before_the_peers_hello(lone):
    cluster, peer = lone()
    cluster[0].send(1, FrameKind.DATA, 4, (9,), [b"early"])
    cluster[0].send(1, FrameKind.DATA, 4, (9,), [b"and in order"])
    cluster.until(lambda: peer.router.poll(0))
    identity, header, body = peer.router.recv_multipart()
    hello = decode_header(header)
    assert (hello.kind, hello.sequence, hello.generation) == (FrameKind.HELLO, 0, 1)
    assert (identity, body) == (b"worker-0.1.1000", b"worker-1")
    for _ in range(20):
        cluster.tick(0, 10)
    assert not peer.router.poll(20)
    peer.hello(peer.connect(cluster.endpoint))
    cluster.until(lambda: cluster[0].connected)
    for sequence, expected in ((1, b"early"), (2, b"and in order")):
        _, header, body = peer.router.recv_multipart()
        assert (decode_header(header).sequence, body) == (sequence, expected)


def test_who_took_any_slot_plays_the_one_that_its_own_entry_names(zmq_cluster):
    cluster = zmq_cluster(2, start=False)
    cluster[0].close()
    cluster.transports[0] = seeker = ZmqTransport(Slot.any_of(Role.WORKER), 1000)
    cluster.addresses[0] = PeerAddress(Slot.parse("worker-0"), 1000, seeker.bind())
    for index, transport in enumerate(cluster.transports):
        transport.start(1, index, 2, cluster.addresses)
    # A peer takes frames of worker-0.1.1000 and of no other name for worker-0's.
    cluster.until(lambda: all(transport.connected for transport in cluster.transports))
    seeker.send(1, FrameKind.PROGRESS, 0, (5,))
    (frame,) = cluster.collect(1, 1)
    assert (frame.sender, frame.time) == (0, (5,))


def test_a_peer_that_says_no_hello_is_lost_by_name_and_address(lone):
    cluster, peer = lone(LinkLimits(hello_timeout_ns=3 * SECOND_NS))
    with pytest.raises(PeerLost, match=rf"worker-1 at {peer.endpoint} said no hello \(3 s"):
        cluster.tick(0, 40)
    assert cluster.now_ns >= 3 * SECOND_NS


def test_frames_that_wait_for_a_hello_are_bounded_in_bytes(lone):
    cluster, _ = lone(LinkLimits(waiting_bytes_max=1000))
    cluster[0].send(1, FrameKind.DATA, 0, (1,), [bytes(900)])
    cluster[0].send(1, FrameKind.DATA, 0, (1,), [bytes(101)])
    with pytest.raises(PeerLost, match=r"worker-1 .* 1001 bytes waited"):
        cluster[0].receive(1)


def test_a_silent_peer_is_lost_by_the_injected_clock(lone):
    cluster, peer = lone()
    open_link(cluster, peer)
    cluster.tick(0, 99)
    with pytest.raises(PeerLost, match=r"worker-1 at .* was silent \(10 s allowed\)"):
        cluster.tick(0, 5)


def test_a_pulse_of_the_peer_ends_its_silence(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    for sequence in range(1, 6):
        cluster.tick(0, 80)
        pulse(cluster, peer, dealer, sequence)
    assert cluster.inboxes[0] == []


def test_a_pulse_goes_out_after_half_a_second_of_own_silence(lone):
    cluster, peer = lone()
    open_link(cluster, peer)
    cluster.tick(0, 5)
    assert not peer.router.poll(0)
    cluster.tick(0, 2)
    _, header = peer.router.recv_multipart()
    assert decode_header(header).kind is FrameKind.PULSE
    cluster[0].send(1, FrameKind.PROGRESS, 0, ())
    peer.router.recv_multipart()
    cluster.tick(0, 5)
    assert not peer.router.poll(20)


def test_a_process_that_was_stopped_does_not_take_others_for_dead(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    cluster.tick(0)
    cluster.now_ns += 3600 * SECOND_NS
    cluster.tick(0)
    pulse(cluster, peer, dealer, 1)
    cluster.tick(0, 90)


def test_a_killed_peer_is_noticed_long_before_the_timeout(zmq_cluster):
    cluster = zmq_cluster(2)
    cluster.tick(0)
    before = cluster.now_ns
    cluster.close(1)
    error = cluster.error_of(0)
    assert "worker-1" in str(error)
    assert "without a BYE" in str(error)
    assert cluster.now_ns - before < 20 * SECOND_NS
    cluster[0].send(1, FrameKind.DATA, 0, (1,), [b"for nobody"])
    assert cluster[0].counters.dropped_departed >= 1


def broken_before_hello(lone):
    """A lone transport whose connection ended before it looked; its raw peer and their port."""
    cluster, peer = lone(start=False)
    peer.router.close(linger=0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = PeerAddress(Slot.parse(peer.slot), peer.incarnation, f"tcp://127.0.0.1:{port}")
        cluster[0].start(1, 0, 2, {1: address})
        connection, _ = server.accept()
        connection.close()
    return cluster, peer, port


def test_a_peer_that_dies_before_our_hello_is_noticed_long_before_the_timeout(lone):
    cluster, _, port = broken_before_hello(lone)
    error = cluster.error_of(0)
    said = rf"worker-1 at tcp://127.0.0.1:{port} closed its connection and made no other \(2 s"
    assert re.match(said, str(error))
    assert cluster.now_ns < LinkLimits().hello_timeout_ns


def test_a_connection_that_broke_before_our_hello_may_be_made_again(lone):
    cluster, peer, port = broken_before_hello(lone)
    cluster.tick(0, 10)
    peer.router = peer.context.socket(zmq.ROUTER)
    peer.router.bind(f"tcp://127.0.0.1:{port}")
    open_link(cluster, peer)
    # Whatever was still to be told of the old connection says nothing of the new one.
    cluster.tick(0, 50)
    cluster[0].send(1, FrameKind.PROGRESS, 0, (3,))
    frames = [decode_header(peer.router.recv_multipart()[1])]
    while frames[-1].kind is FrameKind.PULSE:
        frames.append(decode_header(peer.router.recv_multipart()[1]))
    assert frames[-1].kind is FrameKind.PROGRESS


def test_a_gap_in_the_sequence_ends_the_generation_after_what_came_before(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    peer.say(dealer, FrameKind.PROGRESS, 1)
    peer.say(dealer, FrameKind.PROGRESS, 3)
    cluster.until(lambda: cluster.inboxes[0])
    assert len(cluster.inboxes[0]) == 1
    with pytest.raises(PeerLost, match="sent frame 3 where 2 was expected"):
        cluster.until(lambda: False)


def expect_violation(cluster, pattern, error=ProtocolViolation):
    with pytest.raises(error, match=pattern):
        cluster.until(lambda: False)


def test_a_repeated_sequence_ends_the_generation(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    peer.say(dealer, FrameKind.PROGRESS, 1)
    peer.say(dealer, FrameKind.PROGRESS, 1)
    expect_violation(cluster, "sent frame 1 where 2", PeerLost)


def test_a_link_that_does_not_begin_with_hello_is_a_violation(lone):
    cluster, peer = lone()
    peer.say(peer.connect(cluster.endpoint), FrameKind.PROGRESS, 0)
    expect_violation(cluster, "sent a PROGRESS frame while its link was AWAITING")


def test_a_second_hello_is_a_violation(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    peer.say(dealer, FrameKind.HELLO, 1, b"worker-0")
    expect_violation(cluster, "sent a HELLO frame while its link was OPEN")


def test_a_hello_for_another_process_is_a_violation(lone):
    cluster, peer = lone()
    peer.hello(peer.connect(cluster.endpoint), to="worker-7")
    expect_violation(cluster, "believes to talk to b'worker-7', but this is worker-0")


def test_a_header_that_contradicts_its_connection_is_a_violation(lone):
    for wrong in ({"incarnation": 5}, {"generation": 2}):
        cluster, peer = lone()
        dealer = open_link(cluster, peer)
        peer.say(dealer, FrameKind.PROGRESS, 1, **wrong)
        expect_violation(cluster, r"its connection says worker-1\.1\.1001")


def test_a_frame_after_bye_is_a_violation(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    peer.say(dealer, FrameKind.BYE, 1)
    peer.say(dealer, FrameKind.PROGRESS, 2)
    expect_violation(cluster, "after its BYE")


def test_garbage_from_a_peer_is_a_violation(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    dealer.send_multipart([b"garbage", b"and", b"more"])
    expect_violation(cluster, "worker-1 at .* sent no frame: a header of 7 bytes")


def test_a_body_that_is_not_what_the_header_announced_is_a_violation(lone):
    for bodies in ([b"12"], [b"12", b"34"], [], [b""] * 2000, [b"1"] + [b""] * 9 + [b"23"]):
        cluster, peer = lone()
        dealer = open_link(cluster, peer)
        header = peer.header(FrameKind.DATA, 1, body_length=3, body_parts=2)
        dealer.send_multipart([header, *bodies])
        expect_violation(cluster, "a frame of 3 bytes came with")


def test_several_frames_in_one_message_are_read_one_by_one(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    message = []
    for sequence in range(1, 6):
        body = [b"x" * sequence] * (sequence % 3)
        length, count = sum(map(len, body)), len(body)
        fields = {"body_length": length, "body_parts": count, "time": (sequence,)}
        message += [peer.header(FrameKind.PROGRESS, sequence, **fields), *body]
    dealer.send_multipart(message)
    cluster.until(lambda: cluster[0].counters.frames_received == 6)
    assert [frame.time[0] for frame in cluster.inboxes[0]] == [1, 2, 3, 4, 5]
    assert [len(frame.parts) for frame in cluster.inboxes[0]] == [1, 2, 0, 1, 2]


def test_garbage_behind_a_good_frame_is_a_violation_and_read_to_its_end(lone, raw_peer):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    dealer.send_multipart([peer.header(FrameKind.PROGRESS, 1), b"garbage", b"and", b"more"])
    expect_violation(cluster, "worker-1 at .* sent no frame: a header of 7 bytes")
    (frame,) = cluster.inboxes[0]
    assert frame.kind is FrameKind.PROGRESS


def test_strangers_are_counted_and_disturb_nobody(lone, raw_peer):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    stranger = raw_peer(slot="worker-3", incarnation=4)
    nobody = stranger.connect(cluster.endpoint, b"somebody")
    stranger.say(nobody, FrameKind.HELLO, 0, b"worker-0")
    nobody.send_multipart([b"", b"x" * 100])
    mid_link = stranger.connect(cluster.endpoint)
    stranger.say(mid_link, FrameKind.DATA, 5, b"rest of an old link")
    liar = stranger.connect(cluster.endpoint, b"worker-4.1.9")
    stranger.say(liar, FrameKind.HELLO, 0, b"worker-0")
    cluster.until(lambda: cluster[0].counters.dropped_unknown == 4)
    peer.say(dealer, FrameKind.PROGRESS, 1)
    assert cluster.collect(0, 1)[0].sender == 1


def test_random_bytes_on_the_port_are_counted_and_disturb_nobody(zmq_cluster):
    cluster = zmq_cluster(2)
    address = cluster.addresses[0].endpoint.removeprefix("tcp://").split(":")

    def disturbances():
        cluster.tick(0)
        counters = cluster[0].counters
        return counters.failed_handshakes + counters.dropped_unknown

    for number, garbage in enumerate(
        (b"GET / HTTP/1.1\r\nHost: me\r\n\r\n", b"\xff" + b"\x00" * 8 + b"\x7f\x03" + b"\xee" * 60)
    ):
        with socket.create_connection((address[0], int(address[1]))) as scanner:
            scanner.sendall(garbage)
            cluster.live(0, 1, seconds=2)
        deadline = time.monotonic() + 10
        while disturbances() <= number and time.monotonic() < deadline:
            cluster.live(0, 1, seconds=1)
        assert disturbances() > number
    cluster.live(0, 1, seconds=2)


def test_a_message_longer_than_any_of_ours_ends_its_connection_and_is_counted(lone, raw_peer):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    stranger = raw_peer(slot="worker-3", incarnation=4)
    flood = stranger.connect(cluster.endpoint, b"somebody")
    flood.send_multipart([b"", bytes(BODY_BYTES_MAX + 1)])

    def ended():
        cluster.tick(0)
        return cluster[0].counters.ended_connections >= 1

    cluster.until(ended)
    assert cluster[0].counters.dropped_unknown == 0
    peer.say(dealer, FrameKind.PROGRESS, 1)
    assert cluster.collect(0, 1)[0].sender == 1


def test_a_second_connection_under_the_same_identity_is_mute(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    twin = peer.connect(cluster.endpoint)
    peer.say(twin, FrameKind.PROGRESS, 1, b"twin")
    for sequence in range(1, 40):
        peer.say(dealer, FrameKind.PROGRESS, sequence, b"real")
        assert bytes(cluster.collect(0, 1)[0].body) == b"real"


def test_frames_of_an_older_generation_are_dropped_and_counted(lone, raw_peer):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    cluster[0].start(2, 0, 2, {})
    peer.say(dealer, FrameKind.DATA, 1, b"of the past")
    peer.say(dealer, FrameKind.DATA, 2, b"of the past")
    cluster.until(lambda: cluster[0].counters.dropped_older == 2)
    assert cluster.inboxes[0] == []


def test_frames_of_a_newer_generation_stay_unread_until_it_begins(lone):
    cluster, peer = lone(generation=2)
    dealer = peer.connect(cluster.endpoint)
    peer.hello(dealer)
    cluster.until(lambda: cluster[0].newer_generation == 2)
    assert cluster[0].counters.kept == 1
    assert cluster.inboxes[0] == []
    cluster[0].start(2, 0, 2, {1: peer.address})
    assert cluster[0].newer_generation == 0
    cluster.until(lambda: cluster[0].connected)
    peer.say(dealer, FrameKind.PROGRESS, 1)
    assert cluster.collect(0, 1)[0].kind is FrameKind.PROGRESS


def test_a_generation_can_begin_again_on_the_same_sockets(zmq_cluster):
    cluster = zmq_cluster(3)
    cluster[1].send(0, FrameKind.DATA, 0, (1,), [b"never read"])
    for generation in (2, 3):
        for index in (2, 0, 3, 1):
            cluster[index].start(generation, index, 3, cluster.addresses)
            cluster.pump(index)
        cluster.until(lambda: all(transport.connected for transport in cluster.transports))
        for source, target in ((0, 1), (1, 2), (2, 0), (3, 0)):
            cluster[source].send(target, FrameKind.PROGRESS, generation, ())
        frames = [*cluster.collect(0, 2), *cluster.collect(1, 1), *cluster.collect(2, 1)]
        assert {frame.channel for frame in frames} == {generation}
    assert all(cluster[index].generation == 3 for index in range(4))


def test_a_failed_transport_works_again_in_the_next_generation(lone):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    peer.say(dealer, FrameKind.PROGRESS, 7)
    expect_violation(cluster, "sent frame 7", PeerLost)
    with pytest.raises(PeerLost):
        cluster.tick(0)
    peer.generation = 2
    cluster[0].start(2, 0, 2, {1: peer.address})
    again = peer.connect(cluster.endpoint)
    peer.hello(again)
    peer.say(again, FrameKind.PROGRESS, 1)
    assert cluster.collect(0, 1)[0].sender == 1


def test_a_joiner_may_greet_before_it_is_added(lone, raw_peer):
    cluster, peer = lone()
    open_link(cluster, peer)
    joiner = raw_peer(slot="worker-2", incarnation=77)
    dealer = joiner.connect(cluster.endpoint)
    joiner.hello(dealer)
    cluster.until(lambda: cluster[0].counters.kept == 1)
    assert cluster[0].newer_generation == 0
    assert cluster[0].peers == (1,)
    cluster[0].add_peer(3, joiner.address)
    assert cluster[0].peers == (1, 3)
    cluster.until(lambda: cluster[0].connected)
    joiner.say(dealer, FrameKind.PROGRESS, 1)
    assert cluster.collect(0, 1)[0].sender == 3


def test_an_observer_comes_back_as_a_new_boot(zmq_cluster):
    cluster = zmq_cluster(2)
    cluster.close(2)
    cluster.live(0, 1, seconds=15)
    again = ZmqTransport(Slot.parse("controller"), 2000)
    cluster.transports.append(again)
    cluster.inboxes.append([])
    address = PeerAddress(Slot.parse("controller"), 2000, again.bind())
    again.start(1, 2, 2, cluster.addresses | {2: address})
    for index in (0, 1):
        cluster[index].add_peer(2, address)
    cluster.until(lambda: again.connected)
    cluster[1].send(2, FrameKind.REPORT, 0, (), [b"here"])
    (report,) = cluster.collect(3, 1)
    assert (report.sender, report.body) == (1, b"here")


def test_a_message_over_the_limit_is_cut_off_by_the_socket(lone, raw_peer):
    cluster, peer = lone()
    dealer = open_link(cluster, peer)
    stranger = raw_peer(slot="worker-9")
    flood = stranger.connect(cluster.endpoint)
    flood.send(bytes(BODY_BYTES_MAX + 1), copy=False)
    for sequence in range(1, 20):
        peer.say(dealer, FrameKind.PROGRESS, sequence)
        cluster.collect(0, 1)
    assert cluster[0].counters.dropped_unknown == 0


def test_farewells_get_out_although_the_process_ends_at_once(zmq_cluster):
    cluster = zmq_cluster(2)
    cluster[1].send(0, FrameKind.STATE, 0, (), [bytes(4 << 20)])
    cluster[1].leave()
    cluster.close(1)
    frames = cluster.collect(0, 2)
    assert [frame.kind for frame in frames] == [FrameKind.STATE, FrameKind.BYE]


def test_members_that_leave_together_hear_each_others_farewell(zmq_cluster):
    cluster = zmq_cluster(3)
    for index in range(3):
        cluster[index].leave()
    for index in range(3):
        senders = {frame.sender for frame in cluster.collect(index, 2)}
        assert senders == {0, 1, 2} - {index}
        assert cluster[index].peers == ()


def test_frames_kept_of_an_observer_that_misbehaves_end_only_its_link(lone, raw_peer):
    cluster, _ = lone()
    observer = raw_peer(slot="controller", incarnation=5)
    dealer = observer.connect(cluster.endpoint)
    observer.hello(dealer)
    for sequence in (5, 6, 7):
        observer.say(dealer, FrameKind.REPORT, sequence)
    cluster.until(lambda: cluster[0].counters.kept == 4)
    cluster[0].add_peer(2, observer.address)
    assert cluster[0].receive(10) == []
    cluster[0].send(2, FrameKind.REPORT, 0, ())
    assert cluster[0].counters.dropped_observer == 2


def test_ipc_addresses_work(tmp_path):
    transports = [ZmqTransport(Slot.parse(f"worker-{index}"), 7) for index in range(2)]
    addresses = {
        index: PeerAddress(
            Slot.parse(f"worker-{index}"), 7, transport.bind(f"ipc://{tmp_path}/{index}")
        )
        for index, transport in enumerate(transports)
    }
    for index, transport in enumerate(transports):
        transport.start(1, index, 2, addresses)
    transports[0].send(1, FrameKind.PROGRESS, 0, (), [b"by ipc"])
    frames = []
    deadline = time.monotonic() + 20
    while not frames and time.monotonic() < deadline:
        transports[0].receive(10)
        transports[1].wait(0.01)
        frames = transports[1].receive(10)
    assert frames[0].body == b"by ipc"
    for transport in transports:
        transport.close()


def test_an_address_in_use_is_named(lone, raw_peer):
    cluster, peer = lone()
    with pytest.raises(UsageError, match=peer.endpoint):
        cluster[0].bind(peer.endpoint)


def test_an_address_off_this_machine_needs_a_declared_network(lone):
    cluster, _ = lone()
    far = PeerAddress(Slot.parse("worker-5"), 1, "tcp://10.1.2.3:7000")
    for attempt in (
        lambda: cluster[0].bind("tcp://0.0.0.0:*"),
        lambda: cluster[0].add_peer(4, far),
    ):
        with pytest.raises(UsageError, match="not encrypted"):
            attempt()
    trusting = ZmqTransport(Slot.parse("worker-6"), 1, security=TrustedNetwork())
    assert trusting.bind("tcp://0.0.0.0:*").startswith("tcp://0.0.0.0:")
    trusting.close()


def test_an_address_that_cannot_be_parsed_is_a_loss(lone):
    cluster, _ = lone()
    bad = PeerAddress(Slot.parse("worker-5"), 1, "tcp://127.0.0.1:notaport")
    with pytest.raises(PeerLost, match=r"worker-5 at .* cannot be connected to"):
        cluster[0].add_peer(4, bad)


def test_sockets_keep_their_options(lone):
    cluster, _ = lone()
    router = cluster[0]._listener.socket
    dealer = cluster[0]._outlets[1].socket
    assert router.getsockopt(zmq.MAXMSGSIZE) == BODY_BYTES_MAX
    assert router.getsockopt(zmq.RCVHWM) == 0
    assert dealer.getsockopt(zmq.SNDHWM) == 0
    assert dealer.getsockopt(zmq.IMMEDIATE) == 1
    assert dealer.getsockopt(zmq.HEARTBEAT_IVL) > 0
