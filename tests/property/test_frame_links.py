"""Properties of two links that face each other over connections that keep order (LK1, LK2)."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.transport.frame import FrameKind, decode_header
from service.dataflow.transport.link import Identity, Link, PeerAddress
from service.ids import Slot

NAMES = (Slot.parse("worker-0"), Slot.parse("gateway-3"))


class End:
    """One end: its link, what it put on the wire, what its engine offered and received."""

    def __init__(self, number):
        own, other = NAMES[number], NAMES[1 - number]
        self.link = Link(
            Identity(own, 5, 10 + number),
            1 - number,
            PeerAddress(other, 11 - number, "inproc://nowhere"),
        )
        self.wire = deque()
        self.offered = []
        self.received = []

    def greet(self):
        if not self.link.hello_sent:
            self.wire.append(self.link.hello())
            self.link.hello_sent = True
            self.flush()

    def flush(self):
        while (waiting := self.link.release()) is not None:
            self.put(*waiting)

    def put(self, kind, channel, time, parts, flags):
        body = b"".join(parts)
        self.wire.append((self.link.stamp(kind, channel, time, flags, len(body), 1), body))

    def offer(self):
        number = len(self.offered)
        self.offered.append(number)
        if self.link.may_send:
            self.put(FrameKind.DATA, number, (), [b"body"], 0)
        else:
            self.link.hold(FrameKind.DATA, number, (), [b"body"], 0)

    def pulse(self):
        if self.link.pass_time(600_000_000):
            self.put(FrameKind.PULSE, 0, (), [], 0)

    def read(self, wire):
        if wire:
            header, body = wire.popleft()
            frame = decode_header(header)
            if self.link.accept(frame, body):
                self.received.append(frame.channel)
            self.flush()


@given(
    st.lists(
        st.tuples(st.sampled_from(["greet", "offer", "read", "pulse"]), st.integers(0, 1)),
        max_size=40,
    )
)
def test_everything_offered_arrives_once_in_order_and_nothing_precedes_hello(steps):
    ends = (End(0), End(1))
    for step, number in steps:
        end = ends[number]
        if step == "read":
            end.read(ends[1 - number].wire)
        else:
            getattr(end, step)()
        for one, other in (ends, ends[::-1]):
            kinds = [decode_header(header).kind for header, _ in one.wire]
            if not other.link.hello_sent:
                assert kinds in ([], [FrameKind.HELLO])
    for end in ends:
        end.greet()
    while ends[0].wire or ends[1].wire:
        for number, end in enumerate(ends):
            end.read(ends[1 - number].wire)
    for one, other in (ends, ends[::-1]):
        assert one.received == other.offered
        assert one.link.may_send
