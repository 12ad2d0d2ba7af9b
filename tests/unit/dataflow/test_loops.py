"""Loops in a worker: rows go round, counters count, frontiers know when an epoch has left.

The graph is what lowering makes of `iterate`: enter, feedback, head, a body, leave.
Cannot catch: what several processes and moving bins do to a loop; the simulation does that.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from service.dataflow.flow import Flow, Stream
from service.dataflow.operator import Capability, Message, OperatorContext
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.vertices import KafkaSink, KafkaSource
from service.dataflow.worker import Worker, WorkerLimits
from service.errors import GraphError
from service.migration.control_source import ControlSource
from service.migration.lowering import Edges, lower
from tests.fakes.control import ControlHand

COLUMNS = pa.schema([("n", pa.int64())])
START = (10,)


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=COLUMNS)


class Feed:
    """Stands for a source: sends when told to."""

    def open(self, context: OperatorContext) -> None:
        (self.output,) = context.outputs
        (self.commands,) = context.inputs
        self.right: Capability = context.initial[0]

    def step(self) -> None:
        while self.commands.pull() is not None:
            pass


class Collect:
    """Stands for a sink."""

    def __init__(self) -> None:
        self.taken: list[Message] = []

    def open(self, context: OperatorContext) -> None:
        (self.input,) = context.inputs

    def step(self) -> None:
        while (message := self.input.pull()) is not None:
            self.taken.append(message)

    @property
    def found(self) -> list[tuple[tuple[int, ...], list[int]]]:
        """(time, numbers) of each batch."""
        return [(each.time, each.payload.column("n").to_pylist()) for each in self.taken]


class Job:
    """One process that runs `flow` with a feed and a collector."""

    def __init__(self, flow: Flow, limits: WorkerLimits | None = None) -> None:
        self.feed, self.collect = Feed(), Collect()
        hand = ControlHand()
        self.control: ControlSource = hand.source
        edges = Edges(lambda _: self.feed, lambda *_: self.collect, lambda _: COLUMNS)
        graph = lower(flow, 1, self.control, edges).dataflow
        transport = MemoryNetwork(1).transport(0)
        self.worker = Worker(graph, 0, 1, START, transport, limits)

    def send(self, *values: int) -> None:
        self.feed.output.send(self.feed.right, rows(*values))
        self.settle()

    def settle(self) -> None:
        self.worker.step()
        while self.worker.has_work:
            self.worker.step()

    @property
    def reached(self) -> int | None:
        """Epoch up to which the collector may still hear of rows."""
        return self.collect.input.frontier().epoch()


def begun() -> tuple[Flow, Stream]:
    flow = Flow("job")
    return flow, flow.source("in", KafkaSource(["numbers"], record="number", fields=["n"]))


def halving(numbers: Stream, rounds_max: int | None = None) -> Stream:
    def body(inside: Stream) -> tuple[Stream, Stream]:
        even, odd = inside.branch("even", lambda batch: pc.equal(pc.bit_wise_and(batch["n"], 1), 0))
        halved = even.map_batches(
            "halve", lambda batch: pa.RecordBatch.from_arrays([pc.divide(batch["n"], 2)], ["n"])
        )
        return halved, odd

    return numbers.iterate("halving", body, rounds_max=rounds_max)


def halved(rounds_max: int | None = None, limits: WorkerLimits | None = None) -> Job:
    flow, numbers = begun()
    halving(numbers, rounds_max).sink("out", KafkaSink("odd", key="n", schema=4))
    return Job(flow, limits)


def test_rows_leave_a_loop_when_its_body_lets_them() -> None:
    job = halved()
    job.send(7, 12, 64)
    assert job.collect.found == [((10,), [7]), ((10,), [3]), ((10,), [1])]


def test_an_epoch_has_left_once_nothing_of_it_goes_round() -> None:
    job = halved()
    job.feed.output.send(job.feed.right, rows(1 << 40))
    job.feed.right.downgrade((15,))
    job.worker.step()
    assert job.reached == 10
    assert job.collect.found == []
    job.settle()
    assert job.collect.found == [((10,), [1])]
    assert job.reached == 15


def test_a_bound_on_rounds_drops_what_would_go_on() -> None:
    job = halved(rounds_max=3)
    job.send(3, 4, 8)
    # 4 takes three passes of the body: 4, 2, 1. 8 would take four.
    assert job.collect.found == [((10,), [3]), ((10,), [1])]


def test_loops_nest_and_an_outer_round_starts_the_inner_counter_again() -> None:
    flow, numbers = begun()

    def outer(inside: Stream) -> tuple[Stream, Stream]:
        odd = halving(inside, rounds_max=8)
        large, small = odd.branch("large", lambda batch: pc.greater(batch["n"], 5))
        smaller = large.map_batches(
            "less", lambda batch: pa.RecordBatch.from_arrays([pc.subtract(batch["n"], 1)], ["n"])
        )
        return smaller, small

    numbers.iterate("outer", outer).sink("out", KafkaSink("odd", key="n", schema=4))
    job = Job(flow)
    # 88 = 8 * 11 -> 11 - 1 = 10 -> 5: the inner loop runs anew in each round of the outer one.
    job.send(88, 6)
    assert sorted(job.collect.found) == [((10,), [3]), ((10,), [5])]


def test_a_loop_with_tiny_queues_does_not_wait_for_itself() -> None:
    job = halved(limits=WorkerLimits(local_queue=1))
    for power in range(30):
        job.send(1 << power)
    assert job.collect.found == [((10,), [1])] * 30
    assert job.worker.queued_bytes() == 0


def test_what_goes_round_has_the_columns_of_what_entered() -> None:
    flow, numbers = begun()

    def body(inside: Stream) -> tuple[Stream, Stream]:
        text = inside.map_batches(
            "text", lambda batch: pa.RecordBatch.from_arrays([batch["n"].cast(pa.string())], ["n"])
        )
        return text, inside

    numbers.iterate("loop", body).sink("out", KafkaSink("odd", key="n", schema=4))
    with pytest.raises(GraphError, match=r"round in 'loop\.again' has columns {'n': 'string'}"):
        Job(flow)
