"""Links with keys: who is let in, who is not, that it is counted, and that nothing hangs."""

from __future__ import annotations

import socket

import pytest

from service.dataflow.transport.curve import CurveLinks
from service.dataflow.transport.frame import BODY_BYTES_MAX, FrameKind
from service.dataflow.transport.keys import Allowed, new_pair
from service.dataflow.transport.link import LinkLimits, PeerAddress
from service.dataflow.transport.zeromq import ZmqTransport
from service.errors import PeerLost, UsageError
from service.ids import Slot

OWN, OTHER, STRANGER = new_pair(), new_pair(), new_pair()
ALLOWED = Allowed(
    "the list", {OWN.public: frozenset({"worker-0"}), OTHER.public: frozenset({"worker-1"})}
)


def of_slots(*pairs, allowed=ALLOWED):
    """Security by index of the transport."""
    return lambda index: CurveLinks(pairs[index], allowed)


@pytest.fixture
def guarded(raw_peer):
    """A started transport of worker-0 with keys, and a raw worker-1 whose sockets have none yet."""
    made = []

    def make():
        transport = ZmqTransport(Slot.parse("worker-0"), 1000, security=CurveLinks(OWN, ALLOWED))
        made.append(transport)
        endpoint = transport.bind()
        peer = raw_peer()
        # Without the gatekeeper: this one takes anybody.
        peer.router.curve_server = True
        peer.router.curve_secretkey = OTHER.secret
        port = peer.router.bind_to_random_port("tcp://127.0.0.1")
        told = f"tcp://127.0.0.1:{port}#{OTHER.public}"
        address = PeerAddress(Slot.parse("worker-1"), peer.incarnation, told)
        transport.start(1, 0, 2, {1: address})
        return transport, endpoint, peer

    yield make
    for transport in made:
        transport.close()


def knocking(pair, endpoint):
    """Options of a socket that connects to a told endpoint with the key of `pair`."""
    return lambda socket: CurveLinks(pair, ALLOWED).prepare_link(socket, endpoint)


def where(endpoint):
    return endpoint.partition("#")[0]


class Until:
    """Ticks a transport until something holds."""

    def __init__(self, transport):
        self.transport = transport
        self.now_ns = 0

    def __call__(self, holds):
        for _ in range(4000):
            if holds():
                return
            self.now_ns += 1_000_000
            self.transport.wait(0.005)
            self.transport.receive(1000)
            self.transport.tick(self.now_ns)
        raise AssertionError(f"it never held; {self.transport.counters}")


def test_members_with_listed_keys_talk_and_nobody_is_refused(zmq_cluster):
    keys = [new_pair() for _ in range(3)]
    slots = ["worker-0", "worker-*", "*"]
    allowed = Allowed(
        "the list", {key.public: frozenset({slot}) for key, slot in zip(keys, slots, strict=True)}
    )
    cluster = zmq_cluster(2, security_of=of_slots(*keys, allowed=allowed))
    cluster[0].send(1, FrameKind.DATA, 3, (7,), [b"sealed", bytes(100_000)])
    (frame,) = cluster.collect(1, 1)
    assert (frame.sender, frame.time) == (0, (7,))
    assert [bytes(part) for part in frame.parts] == [b"sealed", bytes(100_000)]
    cluster.tick(0)
    counters = cluster[0].counters
    assert (counters.failed_handshakes, counters.refused_keys) == (0, 0)
    assert (counters.dropped_unknown, counters.dropped_false_name) == (0, 0)


def test_the_longest_body_fits_when_it_is_sealed(zmq_cluster):
    cluster = zmq_cluster(2, security_of=of_slots(OWN, OTHER, OWN, allowed=everybody()))
    cluster[0].send(1, FrameKind.STATE, 0, (), [bytes(BODY_BYTES_MAX)])
    (frame,) = cluster.collect(1, 1)
    assert frame.body_length == BODY_BYTES_MAX


def everybody():
    return Allowed("the list", {pair.public: frozenset({"*"}) for pair in (OWN, OTHER)})


def test_a_key_that_is_not_listed_is_refused_counted_and_named(guarded):
    transport, endpoint, peer = guarded()
    dealer = peer.connect(where(endpoint), prepare=knocking(STRANGER, endpoint))
    peer.hello(dealer)
    Until(transport)(lambda: transport.counters.refused_keys == 1)
    assert transport.counters.last_refused == f"key {STRANGER.public} from 127.0.0.1"
    Until(transport)(lambda: transport.counters.failed_handshakes == 1)
    assert transport.counters.frames_received == 0
    assert not transport.connected


def test_without_a_key_nobody_gets_in(guarded):
    transport, endpoint, peer = guarded()
    peer.hello(peer.connect(where(endpoint)))
    Until(transport)(lambda: transport.counters.failed_handshakes >= 1)
    assert transport.counters.refused_keys == 0
    assert transport.counters.frames_received == 0


def test_who_expects_another_key_here_does_not_talk_to_us(guarded):
    transport, endpoint, peer = guarded()
    told = f"{where(endpoint)}#{STRANGER.public}"
    peer.hello(peer.connect(where(endpoint), prepare=knocking(OTHER, told)))
    Until(transport)(lambda: transport.counters.failed_handshakes >= 1)
    assert transport.counters.frames_received == 0


def test_a_listed_key_under_the_name_of_another_slot_is_heard_by_nobody(guarded):
    transport, endpoint, peer = guarded()
    false = peer.connect(
        where(endpoint), identity=b"worker-0.1.77", prepare=knocking(OTHER, endpoint)
    )
    peer.incarnation, right = 77, peer.incarnation
    peer.hello(false)
    until = Until(transport)
    until(lambda: transport.counters.dropped_false_name == 1)
    assert transport.counters.dropped_unknown == 1
    peer.incarnation = right
    peer.hello(peer.connect(where(endpoint), prepare=knocking(OTHER, endpoint)))
    until(lambda: transport.counters.frames_received == 1)


def test_random_bytes_on_the_port_change_nothing(guarded):
    transport, endpoint, peer = guarded()
    host, _, port = where(endpoint).removeprefix("tcp://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)))
    peer.hello(peer.connect(where(endpoint), prepare=knocking(OTHER, endpoint)))
    Until(transport)(lambda: transport.counters.frames_received == 1)
    assert transport.counters.dropped_unknown == 0


def test_who_is_refused_says_so_at_once_and_does_not_wait(zmq_cluster):
    narrow = Allowed("the list", {OTHER.public: frozenset({"*"})})
    lists = [everybody(), narrow, everybody()]
    cluster = zmq_cluster(
        2,
        limits=LinkLimits(hello_timeout_ns=10**18),
        start=False,
        security_of=lambda index: CurveLinks((OWN, OTHER, OTHER)[index], lists[index]),
    )
    cluster[0].start(1, 0, 2, {1: cluster.addresses[1]})
    error = cluster.error_of(0)
    assert isinstance(error, PeerLost)
    assert "worker-1 at tcp://127.0.0.1" in str(error)
    assert "refuses the key of this process" in str(error)
    assert OTHER.public not in str(error)


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ("", "worker-1 at tcp://10.0.0.1:5 does not encrypt its links"),
        (f"#{OWN.public}", f"has the key {OWN.public}, which the list does not list for it"),
        (f"#{STRANGER.public}", f"add the line: {STRANGER.public} worker-1"),
    ],
    ids=["none", "another-slot's", "stranger's"],
)
def test_a_peer_whose_told_key_is_wrong_is_named_before_anything_is_sent(guarded, told, complaint):
    transport, _, _ = guarded()
    address = PeerAddress(Slot.parse("worker-1"), 5, f"tcp://10.0.0.1:5{told}")
    with pytest.raises(UsageError, match=complaint):
        transport.add_peer(4, address)


def test_who_does_not_encrypt_refuses_who_does(zmq_cluster):
    cluster = zmq_cluster(1)
    address = PeerAddress(Slot.parse("worker-1"), 5, f"tcp://127.0.0.1:5#{OWN.public}")
    with pytest.raises(UsageError, match="worker-1 at tcp://127.0.0.1:5 encrypts its links"):
        cluster[0].add_peer(4, address)


def test_the_answers_that_are_kept_are_bounded():
    security = CurveLinks(OWN, ALLOWED)
    for number in range(25_000):
        assert security.may_be(OTHER.public, b"worker-1.1.%d" % number)
    assert not security.may_be(OTHER.public, b"worker-2.1.1")
    assert not security.may_be(OTHER.public, b"\x00garbage")
    assert not security.may_be("", b"worker-1.1.1")
    assert len(security._known) <= 10_000
