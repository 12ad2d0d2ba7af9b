"""What a process itself has left at some ports: told as of now, and told again when it changes."""

from __future__ import annotations

import pytest

from service.dataflow.graph import Dataflow
from service.dataflow.operator import Capability, OperatorContext, Pact
from service.dataflow.progress.summary import identity
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.worker import Worker
from tests.unit.dataflow.test_worker import START, Feed, rows

SAME = identity(1)


class Asker(Feed):
    """Asks at every step whether what it sent below an epoch has passed, and notes the answer."""

    def __init__(self, below: int) -> None:
        self.below = below
        self.answers: list[bool] = []
        self.ports: set[int] = set()

    def step(self) -> None:
        super().step()
        self.answers.append(self.context.passed_here(self.ports, self.below))


class Keep:
    """A sink: takes what arrives, unless closed, and keeps a right until `store`."""

    def __init__(self) -> None:
        self.closed = False
        self.rights: list[Capability] = []

    def open(self, context: OperatorContext) -> None:
        self.context = context
        (self.input,) = context.inputs
        (self.output,) = context.outputs

    def step(self) -> None:
        while not self.closed and (message := self.input.pull()) is not None:
            self.rights.append(self.output.retain(0, message))

    def store(self) -> None:
        """Let the oldest right go, as an acknowledgement does: outside of any step."""
        self.rights.pop(0).drop()
        self.context.activate()


class Line:
    """Asker -> Keep, in each of several processes."""

    def __init__(self, peers: int = 1, below: int = 20) -> None:
        self.network = MemoryNetwork(peers)
        self.askers = [Asker(below) for _ in range(peers)]
        self.keeps = [Keep() for _ in range(peers)]
        self.workers = [self._worker(peer, peers) for peer in range(peers)]

    def _worker(self, peer: int, peers: int) -> Worker:
        graph = Dataflow()
        asker, keep = self.askers[peer], self.keeps[peer]
        first = graph.add("ask", asker, inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))
        second = graph.add("keep", keep, inputs=1, outputs=1, connectivity={(0, 0): SAME})
        graph.connect((first, 0), (second, 0), Pact.PIPELINE)
        asker.ports = {graph.target(second, 0), graph.source(second, 0)}
        return Worker(graph, peer, peers, START, self.network.transport(peer))

    def step(self, rounds: int = 3) -> None:
        for _ in range(rounds):
            for worker in self.workers:
                worker.step()


def test_nothing_is_left_before_anything_was_sent() -> None:
    line = Line()
    line.step()
    assert line.askers[0].answers[-1]


def test_a_message_that_waits_and_a_right_that_is_kept_are_left() -> None:
    line = Line()
    asker, keep = line.askers[0], line.keeps[0]
    keep.closed = True
    asker.output.send(asker.right, rows(1))
    assert not asker.context.passed_here(asker.ports, 20)
    line.step()
    assert not asker.answers[-1]
    keep.closed = False
    keep.context.activate()
    line.step()
    assert len(keep.rights) == 1
    assert not asker.answers[-1]
    keep.store()
    line.step()
    assert asker.answers[-1]


def test_who_was_told_not_yet_is_asked_again_with_no_frontier_to_wake_it() -> None:
    """The other right of the same time keeps every frontier where it is."""
    line = Line()
    asker, keep = line.askers[0], line.keeps[0]
    asker.output.send(asker.right, rows(1))
    line.step()
    steps = asker.steps
    line.step()
    assert asker.steps == steps
    keep.store()
    line.step()
    assert asker.steps == steps + 1
    assert asker.answers[-1]


def test_the_changes_of_the_running_step_count() -> None:
    """Taken and kept, but not told to anybody: neither queued nor recorded."""
    line = Line()
    asker, keep = line.askers[0], line.keeps[0]
    line.step()
    asker.output.send(asker.right, rows(1))
    keep.step()
    assert len(keep.rights) == 1
    assert not asker.context.passed_here(asker.ports, 20)
    keep.rights.pop().drop()
    assert asker.context.passed_here(asker.ports, 20)


@pytest.mark.parametrize(("epoch", "passed"), [(19, False), (20, True), (25, True)])
def test_only_what_is_below_the_epoch_counts(epoch: int, passed: bool) -> None:
    line = Line()
    asker, keep = line.askers[0], line.keeps[0]
    asker.right.downgrade((epoch,))
    asker.output.send(asker.right, rows(1))
    line.step()
    assert len(keep.rights) == 1
    assert asker.context.passed_here(asker.ports, 20) is passed


def test_what_another_process_has_left_does_not_count() -> None:
    line = Line(peers=2)
    first, second = line.askers
    first.output.send(first.right, rows(1))
    line.step()
    assert not first.context.passed_here(first.ports, 20)
    assert second.context.passed_here(second.ports, 20)
    assert not second.context.frontier_of(min(second.ports)).reached(20)
