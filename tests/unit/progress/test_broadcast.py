"""When the sender speaks, how receivers order, what the bytes are."""

from __future__ import annotations

import pytest

from service.dataflow.progress.broadcast import (
    ProgressBatch,
    ProgressReceiver,
    ProgressSender,
    decode_progress,
    encode_progress,
)
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.topology import FrozenTopology, Topology
from service.dataflow.progress.tracker import Tracker


def source_and_sink() -> FrozenTopology:
    """One edge: location 0 is the output of the source, 1 the input of the sink."""
    topology = Topology()
    source = topology.add_operator("source", 0, 1)
    sink = topology.add_operator("sink", 1, 0)
    topology.connect((source, 0), (sink, 0))
    return topology.freeze()


def test_sender_waits_behind_its_own_capability_and_speaks_when_it_is_given_up() -> None:
    topology = source_and_sink()
    tracker, sender = Tracker(topology), ProgressSender(topology)
    tracker.update(0, (1,), 2)
    tracker.propagate()
    sender.assume([(0, (1,), 1)])
    sender.record([(1, (1,), 1)])
    assert not sender.ready(tracker)
    sender.record([(0, (2,), 1), (0, (1,), -1)])
    assert sender.ready(tracker)
    assert sender.take() == ProgressBatch(0, ((1, (1,), 1), (0, (2,), 1), (0, (1,), -1)))
    assert sender.is_empty
    assert not sender.ready(tracker)


def test_batch_out_of_sequence_is_refused() -> None:
    receiver = ProgressReceiver()
    assert receiver.accept(3, ProgressBatch(0, ((0, (1,), 1),))) == ((0, (1,), 1),)
    with pytest.raises(ProgressError, match="peer 3"):
        receiver.accept(3, ProgressBatch(2, ()))
    with pytest.raises(ProgressError, match="peer 3"):
        receiver.accept(3, ProgressBatch(0, ()))
    receiver.accept(3, ProgressBatch(1, (), is_final=True))
    with pytest.raises(ProgressError, match="final"):
        receiver.accept(3, ProgressBatch(2, ()))


def test_batch_survives_the_wire() -> None:
    batch = ProgressBatch(7, ((3, (1_800_000_000_000_000, 4, 0), 2), (0, (5,), -300)), True)
    assert decode_progress(encode_progress(batch)) == batch
