"""A worker over a memory transport: who runs when, what is sent to whom, what bounds a queue.

Cannot catch: orders of delivery that nobody thought of; the simulator draws them.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from service.dataflow.graph import Dataflow
from service.dataflow.operator import (
    Capability,
    CapabilityError,
    Message,
    OperatorContext,
    Pact,
)
from service.dataflow.progress.summary import identity
from service.dataflow.transport.credit import CreditClass
from service.dataflow.transport.frame import FrameKind
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.worker import Worker, WorkerLimits
from service.errors import ProtocolViolation

SAME = identity(1)
START = (10,)


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], names=["a"])


class Feed:
    """Sends when told to, at a capability held from the beginning."""

    def open(self, context: OperatorContext) -> None:
        self.context = context
        (self.output,) = context.outputs
        self.right: Capability = context.initial[0]
        self.steps = 0

    def step(self) -> None:
        self.steps += 1


class Collect:
    """Takes what arrives, unless it is closed, and notes its input's frontier at every step."""

    def __init__(self) -> None:
        self.closed = False
        self.taken: list[Message] = []
        self.epochs: list[int | None] = []

    def open(self, context: OperatorContext) -> None:
        self.context = context
        (self.input,) = context.inputs

    def step(self) -> None:
        self.epochs.append(self.input.frontier().epoch())
        while not self.closed and (message := self.input.pull()) is not None:
            self.taken.append(message)


class Pair:
    """Feed -> Collect in one process or, routed, across several."""

    def __init__(
        self,
        peers: int = 1,
        pact: Pact = Pact.PIPELINE,
        limits: WorkerLimits | None = None,
        *,
        stepped: bool = False,
    ) -> None:
        self.network = MemoryNetwork(peers, stepped=stepped)
        self.feeds: list[Feed] = []
        self.collects: list[Collect] = []
        self.workers = [self._worker(peer, peers, pact, limits) for peer in range(peers)]

    def _worker(self, peer: int, peers: int, pact: Pact, limits: WorkerLimits | None) -> Worker:
        graph = Dataflow()
        feed, collect = Feed(), Collect()
        first = graph.add("feed", feed, inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))
        second = graph.add("collect", collect, inputs=1, outputs=0, connectivity={}, notified=True)
        graph.connect((first, 0), (second, 0), pact)
        self.feeds.append(feed)
        self.collects.append(collect)
        return Worker(graph, peer, peers, START, self.network.transport(peer), limits)

    def step(self, rounds: int = 4) -> None:
        for _ in range(rounds):
            for worker in self.workers:
                worker.step()


def settle(pair: Pair) -> None:
    pair.step(10)


def test_a_message_is_delivered_and_the_frontier_follows_its_right() -> None:
    pair = Pair()
    (feed,), (collect,) = pair.feeds, pair.collects
    feed.output.send(feed.right, rows(1))
    pair.step(1)
    assert [message.payload for message in collect.taken] == [rows(1)]
    assert collect.input.frontier().epoch() == 10
    feed.right.downgrade((15,))
    pair.step(1)
    assert collect.input.frontier().epoch() == 15
    feed.right.drop()
    pair.step(1)
    assert collect.input.frontier().is_empty
    assert pair.workers[0].complete


def test_what_happened_between_steps_wakes_operators_within_the_next_one() -> None:
    pair = Pair()
    (feed,), (collect,) = pair.feeds, pair.collects
    pair.step(1)
    feed.right.downgrade((20,))
    pair.step(1)
    assert collect.epochs[-1] == 20
    assert not pair.workers[0].has_work


def test_an_idle_step_runs_no_operator() -> None:
    pair = Pair()
    pair.step(2)
    before = pair.feeds[0].steps, len(pair.collects[0].epochs)
    pair.step(5)
    assert (pair.feeds[0].steps, len(pair.collects[0].epochs)) == before


def test_activate_asks_for_one_more_step_of_one_operator() -> None:
    pair = Pair()
    pair.step(2)
    before = pair.feeds[0].steps, len(pair.collects[0].epochs)
    pair.feeds[0].context.activate()
    assert pair.workers[0].has_work
    pair.step(3)
    assert (pair.feeds[0].steps, len(pair.collects[0].epochs)) == (before[0] + 1, before[1])


def test_resume_asks_for_one_more_step_but_not_before_the_process_has_received() -> None:
    pair = Pair()
    pair.step(2)
    feed = pair.feeds[0]
    before = feed.steps

    def portion() -> None:
        feed.steps += 1
        if feed.steps < before + 3:
            feed.context.resume()

    feed.step = portion  # type: ignore[method-assign]  # it works in portions
    feed.context.activate()
    for steps in (1, 2, 3):
        pair.step(1)
        assert feed.steps == before + steps
        assert pair.workers[0].has_work == (steps < 3)


def test_the_step_is_bounded_when_an_operator_always_wants_more() -> None:
    pair = Pair()
    feed = pair.feeds[0]
    feed.step = feed.context.activate  # type: ignore[method-assign]  # it never has enough
    pair.step(1)
    assert pair.workers[0].has_work


def test_a_message_of_an_earlier_step_gives_no_right() -> None:
    pair = Pair()
    graph = Dataflow()

    class Hoard:
        """Pulls in one step and forwards in the next."""

        kept: Message | None = None

        def open(self, context: OperatorContext) -> None:
            self.context = context
            (self.input,) = context.inputs
            (self.output,) = context.outputs

        def step(self) -> None:
            if self.kept is not None:
                self.output.forward(0, self.kept, self.kept.payload)
            self.kept = self.input.pull()
            self.context.activate()

    feed, hoard, collect = Feed(), Hoard(), Collect()
    a = graph.add("feed", feed, inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))
    b = graph.add("hoard", hoard, inputs=1, outputs=1, connectivity={(0, 0): SAME})
    c = graph.add("collect", collect, inputs=1, outputs=0, connectivity={})
    graph.connect((a, 0), (b, 0))
    graph.connect((b, 0), (c, 0))
    worker = Worker(graph, 0, 1, START, pair.network.transport(0))
    feed.output.send(feed.right, rows(1))
    with pytest.raises(CapabilityError, match=r"message at \(10,\) was pulled in step"):
        worker.step()


def test_rows_reach_the_peer_they_are_routed_to_and_count_until_taken() -> None:
    pair = Pair(peers=3, pact=Pact.ROUTED)
    settle(pair)
    feed = pair.feeds[0]
    pair.collects[2].closed = True
    feed.output.send(feed.right, rows(1), 0)
    feed.output.send(feed.right, rows(2), 2)
    for each in pair.feeds:
        each.right.drop()
    settle(pair)
    taken = [[message.payload for message in collect.taken] for collect in pair.collects]
    assert taken == [[rows(1)], [], []]
    assert [collect.input.frontier().epoch() for collect in pair.collects] == [10, 10, 10]
    assert not any(worker.complete for worker in pair.workers)
    pair.collects[2].closed = False
    pair.collects[2].context.activate()
    settle(pair)
    assert pair.collects[2].taken[0].payload == rows(2)
    assert pair.collects[2].taken[0].sender == 0
    assert all(worker.complete for worker in pair.workers)


def test_no_frontier_moves_before_every_peer_has_spoken() -> None:
    pair = Pair(peers=2, pact=Pact.ROUTED, stepped=True)
    for feed in pair.feeds:
        feed.right.downgrade((30,))
    pair.step(3)
    assert [collect.input.frontier().epoch() for collect in pair.collects] == [10, 10]
    pair.network.deliver_all()
    pair.step(3)
    assert [collect.input.frontier().epoch() for collect in pair.collects] == [30, 30]


def test_a_full_local_queue_refuses_room_and_wakes_the_sender_once_it_has_room() -> None:
    pair = Pair(limits=WorkerLimits(local_queue=16))
    (feed,), (collect,) = pair.feeds, pair.collects
    pair.step(2)
    collect.closed = True
    assert feed.output.ready()
    feed.output.send(feed.right, rows(1, 2))
    assert not feed.output.ready()
    pair.step(2)
    before = feed.steps
    pair.step(2)
    assert feed.steps == before
    collect.closed = False
    collect.context.activate()
    pair.step(1)
    assert feed.steps == before + 1
    assert feed.output.ready()


def test_a_peer_that_takes_nothing_blocks_the_sender_until_it_takes() -> None:
    pair = Pair(peers=2, pact=Pact.ROUTED, limits=WorkerLimits(data_window=1000))
    settle(pair)
    feed, collect = pair.feeds[0], pair.collects[1]
    collect.closed = True
    sent = 0
    while feed.output.ready():
        feed.output.send(feed.right, rows(sent), 1)
        sent += 1
    assert 1 <= sent <= 2
    settle(pair)
    used, free = pair.workers[0].credit_bytes()[CreditClass.DATA]
    assert used >= 1000
    assert free == 0
    before = feed.steps
    collect.closed = False
    collect.context.activate()
    settle(pair)
    assert feed.output.ready()
    assert feed.steps == before + 1
    assert len(collect.taken) == sent


def test_an_output_that_is_blocked_does_not_keep_another_from_waking() -> None:
    """Two outputs of one operator were refused; room on either is news to it."""
    network = MemoryNetwork(1)
    graph = Dataflow()

    class Fork:
        def open(self, context: OperatorContext) -> None:
            self.rights = context.initial
            self.outputs = context.outputs
            self.ready: list[tuple[bool, bool]] = []

        def step(self) -> None:
            left, right = self.outputs
            self.ready.append((left.ready(), right.ready()))

    fork, left, right = Fork(), Collect(), Collect()
    left.closed = right.closed = True
    top = graph.add("fork", fork, inputs=0, outputs=2, connectivity={}, holds=frozenset({0, 1}))
    for port, collect in enumerate((left, right)):
        below = graph.add("collect", collect, inputs=1, outputs=0, connectivity={})
        graph.connect((top, port), (below, 0))
    worker = Worker(graph, 0, 1, START, network.transport(0), WorkerLimits(local_queue=8))
    worker.step()
    for port in (0, 1):
        fork.outputs[port].send(fork.rights[port], rows(1))
        assert not fork.outputs[port].ready()
    worker.step()
    right.closed = False
    right.context.activate()
    worker.step()
    assert fork.ready[-1] == (False, True)


def test_pressure_is_known_to_every_peer_until_it_ends() -> None:
    pair = Pair(peers=3)
    pair.workers[1].announce_pressure(True)
    settle(pair)
    assert [worker.pressed for worker in pair.workers] == [{1}, {1}, {1}]
    pair.workers[1].announce_pressure(False)
    settle(pair)
    assert [worker.pressed for worker in pair.workers] == [set(), set(), set()]


@pytest.mark.parametrize(
    ("send", "text"),
    [
        (lambda t: t.send(0, FrameKind.DATA, 9, (10,), [b""]), "channel 9 of 1"),
        (lambda t: t.send(0, FrameKind.HELLO, 0, ()), "HELLO frame"),
        (lambda t: t.send(0, FrameKind.REPORT, 0, ()), "REPORT frame"),
    ],
)
def test_what_the_protocol_does_not_allow_ends_the_generation(
    send: Callable[[object], None], text: str
) -> None:
    pair = Pair(peers=2)
    send(pair.network.transport(1))
    with pytest.raises(ProtocolViolation, match=f"peer 1 .*{text}"):
        pair.workers[0].step()


def test_a_peer_that_leaves_is_owed_nothing() -> None:
    pair = Pair(peers=2)
    for feed in pair.feeds:
        feed.right.drop()
    settle(pair)
    pair.network.transport(1).leave()
    pair.workers[0].step()
    assert pair.workers[0].complete


def test_progress_is_counted_for_those_who_watch_it() -> None:
    pair = Pair(peers=3, pact=Pact.ROUTED)
    for feed in pair.feeds:
        feed.right.drop()
    settle(pair)
    for worker in pair.workers:
        assert worker.progress_batches_sent == 1
        assert worker.progress_bytes_sent > 0
        assert worker.queued_bytes() == 0
