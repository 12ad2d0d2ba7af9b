"""An ordered S: complete times only, in order, sorted; and batches that an eager S gathers.

Cannot catch: frontiers that are wrong; here they are set by hand.
"""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pytest

from service.dataflow.operator import Capability, InputPort, Ledger, Message
from service.dataflow.progress.antichain import Antichain
from service.dataflow.vertices import Order
from service.migration.gathering import gather
from service.migration.ordered import OrderedRows, sorted_rows
from service.migration.state_host import StateHost
from service.statestore.object_store import ObjectStore
from service.statestore.stateful_map import StatefulMap
from tests.fakes.control import FIRST, ControlHand, generation, move, promise
from tests.fakes.ports import Ports
from tests.unit.migration.test_state_host import GATE, OUT, STATE_OUT, Host, chunks_of

OWNERS = [0, 0, 1, 1]


def remember(seen: list[int], value: int) -> tuple[list[int], list[int]]:
    """The state is all values so far, and so is the output."""
    seen.append(value)
    return seen, list(seen)


class Ordered(Host):
    """An ordered S of a stateful map."""

    def __init__(self, peer: int, order: Order = Order.ORDERED) -> None:
        super().__init__(OWNERS, peer)
        outputs = pa.schema([("seen", pa.list_(pa.int64()))])
        program = StatefulMap("seen", "key", remember, "v", outputs, list)
        self.objects = ObjectStore("seen", program, 2)
        self.host = StateHost(self.objects, "key", self.hand.source, self.bins, order)
        self.host.gate = [GATE]
        self.ports = Ports(
            self.host,
            inputs=3,
            outputs=2,
            paths=[(2, 0), (2, 1), (0, 0), (1, 0)],
            routed=[1],
            start=(FIRST,),
            peers=4,
            peer=peer,
        )

    def seen(self) -> list[tuple[int, list[list[int]]]]:
        """Step; (epoch, outputs) of each batch emitted."""
        found = []
        for sent in self.step():
            if sent.output == OUT:
                assert isinstance(sent.payload, pa.RecordBatch)
                found.append((sent.time[0], sent.payload["seen"].to_pylist()))
        return found


def test_a_time_is_applied_once_nothing_at_or_before_it_can_come() -> None:
    host = Ordered(peer=0)
    host.rows(20, (0, 5), sender=3)
    host.rows(15, (0, 9), sender=3)
    assert host.seen() == []
    assert host.ports.credited == [(3, 64), (3, 64)]
    assert host.ports.rights(OUT) == [(15,), (20,)]
    assert host.host.held_bytes > 0
    assert not host.host.settled
    host.reach(15)
    assert host.seen() == []
    host.reach(16)
    assert host.seen() == [(15, [[9]])]
    host.reach(21)
    assert host.seen() == [(20, [[9, 5]])]
    assert host.ports.rights(OUT) == []
    assert host.host.settled
    assert host.host.held_bytes == 0


def test_rows_of_one_time_are_sorted_whoever_sent_them() -> None:
    expected = [(20, [[1], [1, 2], [1, 2, 7]])]
    for batches in ([[7], [1, 2]], [[2, 7], [1]], [[1], [2], [7]]):
        host = Ordered(peer=0)
        for sender, values in enumerate(batches):
            host.rows(20, *((0, value) for value in values), sender=sender)
        host.reach(21)
        assert host.seen() == expected


def test_an_ordered_vertex_without_room_applies_nothing_and_its_bins_stay() -> None:
    host = Ordered(peer=0)
    host.rows(115, (0, 5))
    host.read(move(120, (0, 2), (1, 2)), horizon=130)
    host.reach(120)
    host.ports.full.add(OUT)
    assert {sent.output for sent in host.step()} == {STATE_OUT}  # bin 1 has no row that waits
    assert host.host.installed.tolist() == [True, False, False, False]
    assert host.ports.rights(STATE_OUT) == [(120,)]
    host.ports.full.clear()
    sent = host.step()
    assert (sent[0].output, sent[0].time) == (OUT, (115,))
    assert host.ports.rights(STATE_OUT) == []
    assert host.objects.row_count == 0


def test_rows_that_wait_for_their_bin_as_well_go_on_time_by_time() -> None:
    giver, taker = Ordered(peer=0), Ordered(peer=1)
    giver.rows(20, (0, 5))
    for host in (giver, taker):
        host.read(move(120, (0, 1)), horizon=200)
    for epoch, value in ((126, 3), (125, 8), (125, 2)):
        taker.rows(epoch, (0, value), (2, value))
    taker.reach(127, gate=119)
    others = taker.seen()
    assert others == [(125, [[2], [2, 8]]), (126, [[2, 8, 3]])]
    assert taker.ports.rights(OUT) == [(125,), (126,)]
    giver.reach(120)
    taker.send_state(120, chunks_of(giver.step()))
    taker.reach(127)
    assert taker.seen() == [(125, [[5, 2], [5, 2, 8]]), (126, [[5, 2, 8, 3]])]
    assert taker.ports.rights(OUT) == []
    assert taker.host.settled


def test_in_a_loop_times_go_in_their_total_order() -> None:
    """(4, 7) is not before (5, 0) for a frontier, but comes first here (OR2)."""
    ledger = Ledger()
    waiting = OrderedRows()
    rows = pa.RecordBatch.from_pydict({"key": [1]})
    for time in ((5, 0), (4, 7)):
        waiting.add(rows, time, partial(Capability, 0, time, ledger))
    assert waiting.take(Antichain([(4, 7), (6, 0)])) is None
    assert not Antichain([(4, 9), (6, 0)]).less_equal((5, 0))
    first = waiting.take(Antichain([(4, 9), (6, 0)]))
    assert first is not None
    assert first.right.time == (4, 7)
    assert waiting.take(Antichain([(4, 9), (6, 0)])) is None
    second = waiting.take(Antichain([(5, 1)]))
    assert second is not None
    assert second.right.time == (5, 0)
    assert len(waiting) == 0
    assert waiting.take(Antichain()) is None


def test_rows_are_sorted_by_their_columns_and_nulls_come_last() -> None:
    one = pa.RecordBatch.from_pydict({"k": [2, 1, 1], "s": ["b", None, "z"]})
    other = pa.RecordBatch.from_pydict({"k": [1], "s": ["a"]})
    expected = [(1, "a"), (1, "z"), (1, None), (2, "b")]
    for batches in ([one, other], [other, one]):
        found = sorted_rows(batches).to_pydict()
        assert list(zip(found["k"], found["s"], strict=True)) == expected


# Gathering --------------------------------------------------------------------------------------


def test_many_batches_that_wait_are_applied_as_one_at_the_latest_time() -> None:
    host = Host(OWNERS, peer=0)
    for epoch in (11, 15, 12, *range(20, 27)):
        host.rows(epoch, (0, epoch), sender=3)
    ((epoch, rows),) = host.emitted()
    assert (epoch, rows[0][0]) == (26, 10)
    assert len(host.ports.credited) == 10
    assert host.ports.rights(OUT) == []


def test_a_few_batches_go_one_by_one() -> None:
    host = Host(OWNERS, peer=0)
    for epoch in range(20, 28):
        host.rows(epoch, (0, 1))
    assert [epoch for epoch, _ in host.emitted()] == list(range(20, 28))


def test_nothing_is_gathered_across_a_cut_or_the_horizon() -> None:
    host = Host(OWNERS, peer=0)
    host.host.merge_from = 1
    host.read(move(120, (2, 0)), horizon=140)
    for epoch in (100, 119, 121, 139, 110, 111, 140, 112):
        host.rows(epoch, (0, 1))
    assert [epoch for epoch, _ in host.emitted()] == [119, 139, 111, 112]
    assert host.ports.rights(OUT) == [(140,)]


def test_gathered_rows_of_a_bin_that_has_not_arrived_wait_together() -> None:
    host = Host(OWNERS, peer=1)
    host.host.merge_from = 1
    host.read(move(120, (0, 1)), horizon=140)
    for epoch in (121, 122, 123):
        host.rows(epoch, (0, 1), (2, 1))
    assert host.emitted() == [(123, {2: (3, 3)})]
    assert host.ports.rights(OUT) == [(123,)]


def test_no_more_is_gathered_than_a_batch_should_have() -> None:
    host = Host(OWNERS, peer=0)
    host.host.merge_from = 1
    host.host.drain_rows = 3
    for epoch in range(20, 27):
        host.rows(epoch, (0, 1))
    assert [epoch for epoch, _ in host.emitted()] == [22, 25, 26]


@pytest.mark.parametrize(
    ("times", "rows"), [([(5, 1), (5, 1), (5, 2)], 2), ([(5, 1), (6, 1)], 1), ([(5, 1)], 1)]
)
def test_in_a_loop_only_batches_of_one_time_are_gathered(
    times: list[tuple[int, int]], rows: int
) -> None:
    hand = ControlHand(generation(OWNERS))
    hand.read(promise(FIRST + 1_000))
    port = InputPort(0, Ledger(), lambda _: Antichain(), lambda *_: None)
    batch = pa.RecordBatch.from_pydict({"key": [1]})
    for epoch, counter in times:
        port.push(Message((FIRST + epoch, counter), batch, 64))
    first = port.pull()
    assert first is not None
    latest, found = gather(port, first, hand.source, 1_000)
    assert found.num_rows == rows
    assert latest.time == first.time
