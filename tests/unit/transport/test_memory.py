"""The network in memory, as a simulator uses it."""

from __future__ import annotations

import threading

import pytest

from service.dataflow.transport.frame import FrameKind
from service.dataflow.transport.memory import LinkName, MemoryNetwork
from service.errors import PeerLost

PROGRESS = FrameKind.PROGRESS


def test_a_stepped_network_delivers_link_by_link_and_in_order_within_each():
    network = MemoryNetwork(3, stepped=True)
    for number in range(3):
        network.transport(1).send(0, PROGRESS, 1, (number,))
        network.transport(2).send(0, PROGRESS, 2, (number,))
    assert network.pending_links() == [LinkName(1, 0), LinkName(2, 0)]
    assert network.transport(0).receive(10) == []
    for link in ((2, 0), (1, 0), (2, 0)):
        network.deliver(LinkName(*link))
    frames = network.transport(0).receive(10)
    assert [(frame.sender, frame.time) for frame in frames] == [(2, (0,)), (1, (0,)), (2, (1,))]
    assert network.pending_frames(LinkName(1, 0)) == 2
    assert network.deliver_all() == 3
    assert network.pending_links() == []


def test_delivering_from_an_empty_link_is_an_error():
    network = MemoryNetwork(2, stepped=True)
    with pytest.raises(KeyError):
        network.deliver(LinkName(0, 1))
    network.transport(0).send(1, PROGRESS, 0, ())
    network.deliver(LinkName(0, 1))
    with pytest.raises(IndexError):
        network.deliver(LinkName(0, 1))


def test_a_crash_is_noticed_after_what_was_under_way():
    network = MemoryNetwork(3, stepped=True)
    network.transport(1).send(0, PROGRESS, 0, (1,))
    network.crash(1)
    network.transport(1).send(0, PROGRESS, 0, (2,))
    assert network.transport(0).receive(10) == []
    with pytest.raises(PeerLost):
        network.transport(2).receive(10)
    network.deliver(LinkName(1, 0))
    assert [frame.time for frame in network.transport(0).receive(10)] == [(1,)]
    with pytest.raises(PeerLost, match="peer 1"):
        network.transport(0).receive(10)


def test_lost_frames_of_a_member_are_a_loss_and_of_the_observer_are_not():
    network = MemoryNetwork(2, stepped=True)
    network.transport(2).send(0, PROGRESS, 0, ())
    assert network.drop(LinkName(2, 0)) == 1
    assert network.transport(0).receive(1) == []
    assert network.drop(LinkName(1, 0)) == 0
    network.transport(1).send(0, PROGRESS, 0, ())
    assert network.drop(LinkName(1, 0)) == 1
    with pytest.raises(PeerLost, match="peer 1"):
        network.transport(0).receive(1)


def test_a_stepped_network_never_blocks():
    network = MemoryNetwork(1, stepped=True)
    network.transport(0).wait(3600)


def test_another_thread_ends_a_wait():
    network = MemoryNetwork(2)
    sender = threading.Thread(target=lambda: network.transport(1).send(0, PROGRESS, 0, (4,)))
    sender.start()
    network.transport(0).wait(60)
    sender.join()
    assert network.transport(0).receive(1)[0].time == (4,)


def test_bodies_pass_by_reference():
    network = MemoryNetwork(2)
    body = memoryview(b"large enough to matter")
    network.transport(0).send(1, FrameKind.STATE, 0, (), [body])
    assert network.transport(1).receive(1)[0].body is body
