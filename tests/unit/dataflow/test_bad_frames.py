"""What a peer must not send: the worker names it, and no traceback of a library shows.

What this kind cannot catch: frames that are no frames; those are the transport's tests.
"""

from __future__ import annotations

import pytest

from service.dataflow.transport.credit import encode_credit
from service.dataflow.transport.frame import FrameKind
from service.errors import ProtocolViolation
from tests.simulation.world import Shape, World


@pytest.mark.parametrize(
    ("kind", "channel", "body", "text"),
    [
        (FrameKind.PROGRESS, 0, b"garbage", "progress of peer 1 cannot be followed"),
        (FrameKind.CREDIT, 9, encode_credit(1), "credit of class 9"),
        (FrameKind.CREDIT, 1, encode_credit(1 << 40), "credit"),
        (FrameKind.DATA, 99, b"", "channel 99"),
        (FrameKind.ASIDE, 99, b"", "operator 99"),
        (FrameKind.REPORT, 0, b"{}", "REPORT frame to a worker"),
    ],
)
def test_a_frame_that_breaks_the_protocol_ends_the_generation(
    kind: FrameKind, channel: int, body: bytes, text: str
) -> None:
    world = World(0, Shape())
    link = world.network.transport(1)
    link.send(0, kind, channel, (), [body])
    for each in world.network.pending_links():
        while world.network.pending_frames(each):
            world.network.deliver(each)
    with pytest.raises(ProtocolViolation, match=text):
        world.members[0].step()
