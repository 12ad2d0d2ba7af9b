"""Frames that a process of the job would never send: a worker ends by a named error or goes on.

Cannot catch: a peer that says what it may say and lies.
"""

from __future__ import annotations

from contextlib import suppress

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from service.dataflow.transport.frame import FLAG_SCHEMA, FrameKind
from service.dataflow.transport.rows import SchemaCache
from service.errors import MegaphoneError
from tests.simulation.world import Shape, World

_, ROWS = SchemaCache().encode(1, 0, pa.record_batch({"auction": [1, 2], "x": ["a", None]}))
bodies = (
    st.lists(st.binary(max_size=120), max_size=3)
    | st.just([bytes(part) for part in ROWS])
    | st.just([bytes(ROWS[-1])])
)
times = st.lists(st.integers(0, 2**64 - 1), max_size=3).map(tuple)
frames = st.tuples(
    st.sampled_from([kind for kind in FrameKind if kind not in (FrameKind.HELLO, FrameKind.PULSE)]),
    st.integers(0, 40) | st.integers(0, 2**32 - 1),
    times,
    bodies,
    st.sampled_from([0, FLAG_SCHEMA]) | st.integers(0, 255),
)


@settings(max_examples=40)  # Each builds a cluster.
@given(st.lists(frames, min_size=1, max_size=12))
def test_whatever_a_peer_sends_a_worker_ends_by_name_or_goes_on(sent):
    world = World(0, Shape())
    link = world.network.transport(1)
    for kind, channel, time, parts, flags in sent:
        link.send(0, kind, channel, time, parts, flags)
        if kind is FrameKind.BYE:
            break
    for each in world.network.pending_links():
        while world.network.pending_frames(each):
            world.network.deliver(each)
    with suppress(MegaphoneError):
        for _ in range(3):
            world.members[0].step()
