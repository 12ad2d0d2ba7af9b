"""Rights: what may be sent when, and what every action does to the counts of pointstamps.

Cannot catch: an operator that keeps a capability it should have dropped; the simulator does.
"""

from __future__ import annotations

import pyarrow as pa
import pytest

from service.dataflow.operator import (
    Capability,
    CapabilityError,
    Ledger,
    OperatorContext,
    payload_size,
)
from tests.fakes.ports import Ports

ROWS = pa.RecordBatch.from_pydict({"a": [1, 2, 3]})
INPUT, OUTPUT = 0, 2  # locations of the first ports of `Bare`


class Bare:
    """An operator that does nothing by itself."""

    def open(self, context: OperatorContext) -> None:
        self.context = context
        self.input, self.other = context.inputs
        self.output, self.silent = context.outputs

    def step(self) -> None:
        """Nothing."""


@pytest.fixture
def bare() -> Bare:
    return Bare()


@pytest.fixture
def ports(bare: Bare) -> Ports:
    return Ports(bare, inputs=2, outputs=2, paths=[(0, 0)], routed=[1], peers=3, peer=1)


def counts(ports: Ports) -> dict[tuple[int, tuple[int, ...]], int]:
    return dict(ports.ledger.items())


def test_a_message_counts_at_its_input_until_it_is_pulled(ports: Ports, bare: Bare) -> None:
    ports.put(0, 5, ROWS)
    assert counts(ports) == {(INPUT, (5,)): 1}
    message = bare.input.pull()
    assert message is not None
    assert message.payload is ROWS
    assert counts(ports) == {}
    assert bare.input.pull() is None


def test_pulling_returns_the_credit_of_a_remote_message_and_no_other(
    ports: Ports, bare: Bare
) -> None:
    ports.put(0, 5, ROWS)
    ports.put(0, 5, ROWS, sender=2)
    assert bare.input.bytes == 128
    bare.input.pull()
    assert ports.credited == []
    bare.input.pull()
    assert ports.credited == [(2, 64)]
    assert bare.input.bytes == 0


def test_a_forwarded_message_counts_at_the_target_at_its_own_time(ports: Ports, bare: Bare) -> None:
    ports.put(0, 5, ROWS)
    message = bare.input.pull()
    assert message is not None
    bare.output.forward(0, message, ROWS)
    assert counts(ports) == {(100, (5,)): 1}
    assert ports.sent[-1].time == (5,)


def test_a_message_gives_no_right_to_an_output_without_a_declared_path(
    ports: Ports, bare: Bare
) -> None:
    ports.put(1, 5, ROWS)
    message = bare.other.pull()
    assert message is not None
    with pytest.raises(CapabilityError, match=r"input 1 has no declared path .* message at \(5,\)"):
        bare.output.forward(1, message, ROWS)
    with pytest.raises(CapabilityError, match="input 1 has no declared path"):
        bare.output.retain(1, message)
    assert ports.sent == []


def test_a_message_gives_no_right_after_the_step_it_was_pulled_in(ports: Ports, bare: Bare) -> None:
    ports.put(0, 5, ROWS)
    message = bare.input.pull()
    assert message is not None
    ports.step()
    with pytest.raises(CapabilityError, match=r"message at \(5,\) was pulled in step 0 .* step 1"):
        bare.output.forward(0, message, ROWS)
    with pytest.raises(CapabilityError, match="keep a capability instead"):
        bare.output.retain(0, message)
    assert counts(ports) == {}


def test_a_message_never_pulled_gives_no_right(ports: Ports, bare: Bare) -> None:
    ports.put(0, 5, ROWS)
    with pytest.raises(CapabilityError, match=r"at \(5,\)"):
        bare.output.forward(0, bare.input.queue[0], ROWS)


def test_a_retained_message_may_be_sent_in_any_later_step(ports: Ports, bare: Bare) -> None:
    ports.put(0, 5, ROWS)
    message = bare.input.pull()
    assert message is not None
    right = bare.output.retain(0, message)
    ports.step()
    bare.output.send(right, ROWS)
    assert counts(ports) == {(OUTPUT, (5,)): 1, (100, (5,)): 1}
    right.drop()
    assert counts(ports) == {(100, (5,)): 1}


def test_a_capability_allows_its_time_and_later_ones_only() -> None:
    ledger = Ledger()
    right = Capability(7, (5,), ledger)
    later = right.delayed((9,))
    assert dict(ledger.items()) == {(7, (5,)): 1, (7, (9,)): 1}
    right.downgrade((8,))
    assert dict(ledger.items()) == {(7, (8,)): 1, (7, (9,)): 1}
    with pytest.raises(CapabilityError, match=r"at \(8,\) does not allow \(7,\)"):
        right.downgrade((7,))
    with pytest.raises(CapabilityError, match=r"at \(9,\) does not allow \(8,\)"):
        later.delayed((8,))
    with pytest.raises(CapabilityError, match=r"at \(8,\) does not allow \(9, 0\)"):
        right.delayed((9, 0))
    right.downgrade((8,))
    assert right.time == (8,)
    assert dict(ledger.items()) == {(7, (8,)): 1, (7, (9,)): 1}


def test_a_dropped_capability_names_the_time_it_had_and_the_time_asked_for(
    ports: Ports, bare: Bare
) -> None:
    right = Capability(OUTPUT, (5,), ports.ledger)
    right.drop()
    assert not right.held
    assert counts(ports) == {}
    with pytest.raises(CapabilityError, match=r"dropped at \(5,\), was used for \(6,\)"):
        right.delayed((6,))
    with pytest.raises(CapabilityError, match=r"dropped at \(5,\), was used for \(6,\)"):
        right.downgrade((6,))
    with pytest.raises(CapabilityError, match=r"dropped at \(5,\)"):
        bare.output.send(right, ROWS)
    with pytest.raises(CapabilityError, match=r"dropped at \(5,\)"):
        right.drop()
    assert counts(ports) == {}


def test_a_capability_of_another_port_is_refused(ports: Ports, bare: Bare) -> None:
    right = Capability(3, (5,), ports.ledger)
    with pytest.raises(CapabilityError, match=r"location 3 at \(5,\) was used at location 2"):
        bare.output.send(right, ROWS)


def test_an_initial_capability_was_counted_by_all_before(ports: Ports) -> None:
    right = Capability.initial(OUTPUT, (0,), ports.ledger)
    assert counts(ports) == {}
    right.drop()
    assert counts(ports) == {(OUTPUT, (0,)): -1}


def test_a_routed_edge_needs_a_peer_and_a_pipeline_edge_takes_none(
    ports: Ports, bare: Bare
) -> None:
    across = Capability(3, (5,), ports.ledger)
    with pytest.raises(CapabilityError, match="routed"):
        bare.silent.send(across, ROWS)
    bare.silent.send(across, ROWS, 2)
    bare.silent.send(across, ROWS, 1)
    assert [sent.peer for sent in ports.sent] == [2, 1]
    along = Capability(OUTPUT, (5,), ports.ledger)
    with pytest.raises(CapabilityError, match="pipeline"):
        bare.output.send(along, ROWS, 1)


def test_an_output_is_ready_while_all_its_edges_have_room(ports: Ports, bare: Bare) -> None:
    assert bare.output.ready()
    ports.full.add(0)
    assert not bare.output.ready()
    assert bare.silent.ready()


def test_a_payload_counts_by_its_bytes_and_a_command_as_small() -> None:
    assert payload_size(ROWS) == 24
    assert payload_size(ROWS.slice(1, 1)) == 24  # a slice keeps the whole alive
    assert payload_size(b"12345") == 5
    assert payload_size(("stop", 5)) == 64
