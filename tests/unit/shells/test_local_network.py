"""The links of `--local`: frames arrive at once, and a round knows whether any was sent."""

from __future__ import annotations

from service.dataflow.transport.frame import FrameKind
from service.links import Links
from service.local import LocalLinks, LocalNetwork


def test_a_frame_is_there_at_once_and_the_round_is_known_to_have_moved():
    network = LocalNetwork(2)
    ends: list[Links] = [LocalLinks(network, index) for index in range(3)]
    network.transports = tuple(ends)
    for index, end in enumerate(ends):
        assert end.bind("tcp://127.0.0.1:*") == f"memory:{index}"
        end.start(1, index, 2, {})
        assert end.connected
        assert end.observed
    assert not network.moved
    ends[0].send(2, FrameKind.REPORT, 0, (), [b"{}"])
    assert network.moved
    (frame,) = ends[2].receive(10)
    assert (frame.sender, frame.kind, frame.body) == (0, FrameKind.REPORT, b"{}")


def test_the_observers_farewell_reaches_every_member():
    network = LocalNetwork(2)
    ends = [LocalLinks(network, index) for index in range(3)]
    network.transports = tuple(ends)
    ends[2].leave()
    for end in ends[:2]:
        assert [(frame.sender, frame.kind) for frame in end.receive(10)] == [(2, FrameKind.BYE)]
