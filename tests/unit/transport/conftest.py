"""Clusters of transports over memory and over ZeroMQ, driven alike; a raw socket that forges."""

from __future__ import annotations

import time

import pytest
import zmq

from service.dataflow.transport.curve import CurveLinks
from service.dataflow.transport.frame import FrameKind, pack_header
from service.dataflow.transport.keys import Allowed, new_pair
from service.dataflow.transport.link import Identity, PeerAddress
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.transport.zeromq import ZmqTransport
from service.errors import PeerError
from service.ids import Slot

DEADLINE_S = 20.0
STEP_NS = 100_000_000


class Cluster:
    """`members` transports and an observer; index `members` is the observer's."""

    def __init__(self, transports):
        self.transports = transports
        self.inboxes = [[] for _ in transports]
        self.now_ns = 0
        self.closed = set()

    def __getitem__(self, index):
        return self.transports[index]

    def pump(self, *indices):
        """Let the transports (all that are open, or those given) read what is there."""
        for index in indices or range(len(self.transports)):
            if index not in self.closed:
                self.inboxes[index].extend(self.transports[index].receive(1000))

    def collect(self, index, count):
        """The next `count` frames of a transport; all others read too, so that HELLOs pass."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self.inboxes[index]) < count:
            assert time.monotonic() < deadline, f"only {self.inboxes[index]} of {count} came"
            self.transports[index].wait(0.01)
            self.pump()
        frames, self.inboxes[index] = (
            self.inboxes[index][:count],
            self.inboxes[index][count:],
        )
        return frames

    def tick(self, index, steps=1):
        """Let the injected clock of one transport go on, reading between ticks."""
        for _ in range(steps):
            self.now_ns += STEP_NS
            self.transports[index].tick(self.now_ns)
            self.inboxes[index].extend(self.transports[index].receive(1000))

    def live(self, first, second, seconds):
        """Let injected seconds pass for two members that say something to each other in each."""
        for second_number in range(seconds):
            for index, other in ((first, second), (second, first)):
                self.tick(index, 5)
                self.transports[index].send(other, FrameKind.PROGRESS, 0, (second_number,))
            assert self.collect(first, 1)[0].time == (second_number,)
            assert self.collect(second, 1)[0].time == (second_number,)

    def error_of(self, index):
        """Tick until the transport raises; the error."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                self.tick(index)
            except PeerError as error:
                return error
            self.transports[index].wait(0.005)
        raise AssertionError("no error came")

    def until(self, condition, *indices):
        """Pump until `condition()` holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            self.pump(*indices)
            for index in indices or (0,):
                self.transports[index].wait(0.005)

    def close(self, index):
        self.transports[index].close()
        self.closed.add(index)

    def close_all(self):
        for index in range(len(self.transports)):
            self.close(index)


def slot_of(index, members):
    return Slot.parse("controller" if index == members else f"worker-{index}")


def zmq_transports(members, limits=None, security_of=lambda _: None):
    """Transports of `members` and an observer, bound and not started, and their addresses."""
    transports = [
        ZmqTransport(
            slot_of(index, members), 1000 + index, limits=limits, security=security_of(index)
        )
        for index in range(members + 1)
    ]
    addresses = {
        index: PeerAddress(slot_of(index, members), 1000 + index, transport.bind())
        for index, transport in enumerate(transports)
    }
    return transports, addresses


def one_key():
    """Security of transports that all have the same key."""
    pair = new_pair()
    allowed = Allowed("the list", {pair.public: frozenset({"*"})})
    return lambda _: CurveLinks(pair, allowed)


@pytest.fixture
def zmq_cluster():
    """A function that makes a ZeroMQ cluster, connected unless told otherwise."""
    made = []

    def make(members, limits=None, start=True, security_of=lambda _: None):
        transports, addresses = zmq_transports(members, limits, security_of)
        cluster = Cluster(transports)
        cluster.addresses = addresses
        made.append(cluster)
        if start:
            for index, transport in enumerate(transports):
                transport.start(1, index, members, addresses)
            # The observer's HELLO, which `connected` does not wait for, among them.
            cluster.until(
                lambda: all(
                    transport.connected and transport.counters.frames_received == members
                    for transport in transports
                )
            )
        return cluster

    yield make
    for cluster in made:
        cluster.close_all()


@pytest.fixture(params=["memory", "zeromq", "curve"])
def make_cluster(request, zmq_cluster):
    """A function that makes a connected cluster of either kind, or of sockets that encrypt."""
    if request.param == "zeromq":
        return zmq_cluster
    if request.param == "curve":
        return lambda members: zmq_cluster(members, security_of=one_key())
    return lambda members: Cluster(list(MemoryNetwork(members).transports))


class RawPeer:
    """A process that says whatever a test wants, with bare sockets."""

    def __init__(self, slot="worker-1", generation=1, incarnation=1001):
        self.slot = slot
        self.generation = generation
        self.incarnation = incarnation
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.dealers = []

    @property
    def address(self):
        return PeerAddress(Slot.parse(self.slot), self.incarnation, self.endpoint)

    def connect(self, endpoint, identity=None, prepare=lambda _: None):
        dealer = self.context.socket(zmq.DEALER)
        prepare(dealer)
        known = Identity(Slot.parse(self.slot), self.generation, self.incarnation).encode()
        dealer.setsockopt(zmq.IDENTITY, identity or known)
        dealer.connect(endpoint)
        self.dealers.append(dealer)
        return dealer

    def header(self, kind, sequence, **fields):
        values = {
            "kind": kind,
            "generation": self.generation,
            "incarnation": self.incarnation,
            "sequence": sequence,
            "channel": 0,
            "time": (),
            "flags": 0,
            "body_length": 0,
            "body_parts": 0,
        }
        return pack_header(**(values | fields))

    def say(self, dealer, kind, sequence, body=b"", **fields):
        of_body = {"body_length": len(body), "body_parts": int(bool(body))}
        header = self.header(kind, sequence, **(of_body | fields))
        dealer.send_multipart([header, body] if body else [header])

    def hello(self, dealer, to="worker-0"):
        self.say(dealer, FrameKind.HELLO, 0, to.encode())

    def close(self):
        self.context.destroy(linger=0)


@pytest.fixture
def raw_peer():
    """A function that makes raw peers."""
    made = []

    def make(**fields):
        made.append(RawPeer(**fields))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def lone(raw_peer):
    """A function that makes a transport of worker-0, whose only peer is a raw worker-1; started."""
    made = []

    def make(limits=None, start=True, **fields):
        transport = ZmqTransport(Slot.parse("worker-0"), 1000, limits=limits)
        cluster = Cluster([transport])
        made.append(cluster)
        cluster.endpoint = transport.bind()
        peer = raw_peer(**fields)
        if start:
            transport.start(1, 0, 2, {1: peer.address})
        return cluster, peer

    yield make
    for cluster in made:
        cluster.close_all()
