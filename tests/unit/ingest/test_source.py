"""A source on its own: ticks, positions, room, and the end.

Cannot catch: a consumer that tells wrong positions; see the consumer's contract.
"""

from __future__ import annotations

import pyarrow as pa
import pytest

from service.dataflow.operator import CapabilityError
from service.ingest.source import _OFFERED_BYTES_MAX, ReadRows, SourceOperator
from tests.fakes.control import move, stop
from tests.fakes.ports import Ports

START = 10


def read(*values: int, offset: int = 0, partition: int = 0) -> ReadRows:
    rows = pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], names=["a"])
    return ReadRows(rows, {("events", partition): offset})


class Bench:
    def __init__(self, *, owns_partitions: bool = True) -> None:
        self.source = SourceOperator(owns_partitions=owns_partitions)
        self.ports = Ports(
            self.source, inputs=1, outputs=1, paths=[(0, 0)], holds=[0], start=(START,)
        )
        self.ports.step()

    def sent(self) -> list[tuple[int, list[int]]]:
        found = []
        for message in self.ports.sent:
            assert isinstance(message.payload, pa.RecordBatch)
            found.append((message.time[0], message.payload.column("a").to_pylist()))
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_rows_are_stamped_with_the_tick_after_they_were_read_in_the_order_read(
    bench: Bench,
) -> None:
    bench.source.offer(read(1, 2))
    bench.source.offer(read(3))
    assert bench.sent() == []
    assert bench.source.has_rows
    bench.source.tick(20)
    bench.source.offer(read(4))
    bench.source.tick(21)
    assert bench.sent() == [(20, [1, 2]), (20, [3]), (21, [4])]
    assert not bench.source.has_rows
    assert bench.source.rows_sent == 4


def test_a_tick_closes_its_epoch_even_without_rows(bench: Bench) -> None:
    assert bench.ports.rights(0) == [(START,)]
    bench.source.tick(20)
    assert bench.ports.rights(0) == [(21,)]
    assert bench.source.last_tick == 20
    assert bench.sent() == []


def test_a_tick_that_does_not_rise_is_refused(bench: Bench) -> None:
    bench.source.tick(20)
    with pytest.raises(CapabilityError, match=r"at \(21,\) does not allow \(20,\)"):
        bench.source.tick(20)


def test_positions_are_those_behind_closed_epochs(bench: Bench) -> None:
    bench.source.offer(read(1, offset=5))
    bench.source.offer(read(2, offset=9, partition=1))
    assert bench.source.positions == {}
    bench.source.tick(20)
    assert bench.source.positions == {("events", 0): 5, ("events", 1): 9}
    bench.source.offer(read(3, offset=6))
    assert bench.source.positions == {("events", 0): 5, ("events", 1): 9}
    bench.source.tick(21)
    assert bench.source.positions == {("events", 0): 6, ("events", 1): 9}


def test_a_poll_without_rows_of_this_type_still_moves_the_position(bench: Bench) -> None:
    bench.source.offer(read(offset=7))
    bench.source.tick(20)
    assert bench.sent() == []
    assert bench.source.positions == {("events", 0): 7}


def test_a_source_without_partitions_holds_nothing_back() -> None:
    bench = Bench(owns_partitions=False)
    assert bench.ports.rights(0) == []
    bench.source.tick(20)
    assert bench.ports.rights(0) == []


def test_after_the_stop_it_holds_nothing_and_ticks_no_more(bench: Bench) -> None:
    bench.source.offer(read(1, offset=1))
    bench.source.tick(20)
    bench.source.offer(read(2, offset=2))
    bench.ports.put(0, 30, stop(30))
    bench.ports.step()
    assert bench.source.stop == stop(30)
    assert bench.ports.rights(0) == []
    assert not bench.source.may_read
    bench.source.tick(40)
    assert bench.sent() == [(20, [1])]
    assert bench.source.positions == {("events", 0): 1}
    assert bench.source.last_tick == 20


def test_other_commands_pass_it_by(bench: Bench) -> None:
    bench.ports.put(0, 30, move(30, (0, 1)))
    bench.ports.step()
    assert bench.ports.rights(0) == [(START,)]
    assert bench.source.stop is None
    assert bench.source.may_read


def test_it_reads_only_while_there_is_room_below(bench: Bench) -> None:
    assert bench.source.may_read
    bench.ports.full.add(0)
    assert not bench.source.may_read


def test_it_stops_reading_when_much_waits_for_a_tick_that_does_not_come(bench: Bench) -> None:
    rows = pa.RecordBatch.from_arrays([pa.array(range(_OFFERED_BYTES_MAX // 16))], names=["a"])
    bench.source.offer(ReadRows(rows, {}))
    assert bench.source.may_read
    bench.source.offer(ReadRows(rows, {}))
    assert not bench.source.may_read
    bench.source.tick(20)
    assert bench.source.may_read
