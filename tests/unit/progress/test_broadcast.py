"""When the sender speaks, how receivers order, what the bytes are."""

from __future__ import annotations

import pytest

from service.dataflow.progress.broadcast import (
    CHANGES_BUFFERED_MAX,
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


def test_every_integer_of_the_wire_format_is_where_the_layout_says() -> None:
    batch = ProgressBatch(300, ((2, (1000, 7), 1), (130, (999,), -2)), True)
    header = [2, 1, 2, 0, 0, 0, 0x2C, 1, 0, 0, 0, 0, 0, 0]
    locations = [2, 0, 0, 0, 130, 0, 0, 0]
    deltas = [1, 0, 0, 0, 0, 0, 0, 0, 0xFE, *[0xFF] * 7]
    lengths = [2, 1]
    coordinates = [0xE8, 3, 0, 0, 0, 0, 0, 0, 7, *[0] * 7, 0xE7, 3, 0, 0, 0, 0, 0, 0]
    expected = bytes([*header, *locations, *deltas, *lengths, *coordinates])
    assert encode_progress(batch) == expected


HEAD = bytes([2, 0, 1, 0, 0, 0, *[0] * 8])
#: Location 3, delta -1; lengths and coordinates are missing.
CHANGE = bytes([3, 0, 0, 0, *[0xFF] * 8])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "at least 14 bytes, got 0"),
        (HEAD[:-1], "at least 14 bytes, got 13"),
        (b"\x01" + HEAD[1:], "format 1"),
        (HEAD[:1] + b"\x02" + HEAD[2:], "flags 0x2"),
        (HEAD, "too early for 1 changes"),
        (HEAD[:2] + b"\xff" * 4 + HEAD[6:] + bytes(21), "too early for 4294967295 changes"),
        (HEAD + CHANGE + b"\x01" + bytes(7), "too early"),
        (HEAD + CHANGE + b"\x02" + bytes(8), "should have 43"),
        (HEAD + CHANGE + b"\x01" + bytes(9), "should have 35"),
        (HEAD[:2] + bytes(12) + b"\0", "should have 14"),
        (HEAD + bytes(12) + b"\x01" + bytes(8), "change of zero"),
        (HEAD[:2] + b"\x02" + HEAD[3:] + bytes([3, 0, 0, 0] * 2) + b"\x01" * 16 + b"\0\x02"
         + bytes(16), "without an epoch"),
    ],
)  # fmt: skip
def test_garbage_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ProgressError, match=reason):
        decode_progress(data)


def test_decrease_that_others_precede_is_kept_until_they_are_gone() -> None:
    """A consumed message behind somebody else's capability is news to nobody."""
    topology = source_and_sink()
    tracker, sender = Tracker(topology), ProgressSender(topology)
    tracker.update(0, (1,), 1)
    tracker.update(1, (1,), 1)
    tracker.propagate()
    sender.record([(1, (1,), -1)])
    assert not sender.ready(tracker)
    assert not sender.ready(tracker)
    tracker.update(0, (1,), -1)
    tracker.propagate()
    assert sender.ready(tracker)


def test_one_of_two_capabilities_for_a_time_is_given_up_silently() -> None:
    topology = source_and_sink()
    tracker, sender = Tracker(topology), ProgressSender(topology)
    tracker.update(0, (1,), 2)
    tracker.propagate()
    sender.assume([(0, (1,), 2)])
    sender.record([(0, (1,), -1)])
    assert not sender.ready(tracker)
    sender.record([(0, (1,), -1)])
    assert sender.ready(tracker)


def test_too_many_buffered_changes_are_sent_whatever_the_rule_says() -> None:
    topology = source_and_sink()
    tracker, sender = Tracker(topology), ProgressSender(topology)
    tracker.update(0, (0,), 1)
    tracker.propagate()
    for epoch in range(CHANGES_BUFFERED_MAX):
        sender.record([(1, (epoch,), 1)])
    assert not sender.ready(tracker)
    sender.record([(1, (CHANGES_BUFFERED_MAX,), 1)])
    assert sender.ready(tracker)
    assert len(sender.take().changes) == CHANGES_BUFFERED_MAX + 1


def test_batches_are_numbered_from_where_the_sender_starts_and_may_be_final() -> None:
    sender = ProgressSender(source_and_sink(), sequence=5)
    assert sender.take() == ProgressBatch(5, ())
    assert sender.sequence == 6
    assert sender.take(is_final=True) == ProgressBatch(6, (), True)


def test_joiner_follows_a_peer_from_the_number_it_was_told() -> None:
    receiver = ProgressReceiver()
    receiver.expect(1, 40)
    assert receiver.expected(1) == 40
    assert receiver.expected(2) == 0
    receiver.accept(1, ProgressBatch(40, (), is_final=True))
    assert receiver.has_left(1)
    assert not receiver.has_left(2)
    receiver.expect(1, 0)
    assert not receiver.has_left(1)


def test_capability_granted_to_a_joiner_does_not_silence_the_one_who_granted_it() -> None:
    topology = source_and_sink()
    view, granting, joining = Tracker(topology), ProgressSender(topology), ProgressSender(topology)
    view.update(0, (1,), 1)
    granting.assume([(0, (1,), 1)])
    granting.grant([(0, (1,), 1)])
    joining.assume([(0, (1,), 1)])
    for change in granting.take().changes:
        view.update(*change)
    view.propagate()
    for sender in (granting, joining):
        sender.record([(0, (1,), -1)])
        assert sender.ready(view)
