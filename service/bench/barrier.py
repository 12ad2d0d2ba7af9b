"""One iteration of a loop without data: how long two processes need to agree on a round.

Flow: enter -> head -> [Rounds] -> feedback -> head, and leave -> nothing; in two real processes.

Each process asks to be told when a round is over everywhere, holding the right to its own; told, it
gives that up for the next round. So a round costs what the coordination costs and nothing else: one
progress batch from each process to the other, applied, propagated around the loop and delivered.

Invariants
  BB1  A process cannot be told of round n + 1 before all have given up round n: its own rate is
       the rate of the whole.
  BB2  Rounds of the warm-up are not counted.
Source: Naiad (SOSP 2013) section 5.2 measures the same: 753 us at 64 machines in the median.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from service.bench.document import Figure
from service.bench.pair import drive, together
from service.clock import Clock, SystemClock
from service.dataflow.graph import Dataflow
from service.dataflow.loops import FeedbackOperator
from service.dataflow.notificator import Notificator
from service.dataflow.operator import OperatorContext
from service.dataflow.operators import ConcatOperator
from service.dataflow.progress.summary import egress, feedback, identity, ingress
from service.dataflow.transport.zeromq import ZmqTransport
from service.dataflow.worker import Worker

PROCESSES = 2
#: What a round may take in the middle, and at its 99th of 100; microseconds.
BOUND_MEDIAN_US = 400.0
BOUND_P99_US = 2000.0


@dataclass(frozen=True, slots=True)
class BarrierOptions:
    """How many rounds are measured, after how many that are not."""

    rounds: int = 5000
    warm_up: int = 500


class Rounds:
    """Goes round as soon as everybody has; notes when."""

    def __init__(self, rounds: int, clock: Clock) -> None:
        """Go round `rounds` times, then give up."""
        self._rounds = rounds
        self._clock = clock
        #: When each round was over, nanoseconds.
        self.over_ns: list[int] = []

    def open(self, context: OperatorContext) -> None:
        """Ask for the first round."""
        self._told = Notificator(context.inputs)
        self._told.notify_at(context.initial[0])

    def step(self) -> None:
        """Take the round that is over and ask for the next."""
        for told in self._told.delivered():
            self.over_ns.append(self._clock.monotonic_ns())
            right = told.capability
            assert right is not None, "rounds are asked for with the right to them"
            if len(self.over_ns) == self._rounds:
                right.drop()
                continue
            right.downgrade((*right.time[:-1], right.time[-1] + 1))
            self._told.notify_at(right)


class _Outside:
    """A source of the loop that never sends, and an end that takes nothing."""

    def open(self, context: OperatorContext) -> None:
        """Give up what a source begins with."""
        for right in context.initial.values():
            right.drop()

    def step(self) -> None:
        """Nothing comes."""


def loop_of(rounds: Rounds) -> Dataflow:
    """The graph that `iterate` makes, with `rounds` as its body."""
    graph, inside = Dataflow(), identity(2)
    source = graph.add("in", _Outside(), inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))
    enter = graph.add(
        "enter",
        ConcatOperator(),
        inputs=1,
        outputs=1,
        connectivity={(0, 0): ingress(1)},
        depth=([1], [2]),
    )
    again = graph.add(
        "again",
        FeedbackOperator(None),
        inputs=1,
        outputs=1,
        connectivity={(0, 0): feedback(2)},
        depth=2,
    )
    head = graph.add(
        "head",
        ConcatOperator(),
        inputs=2,
        outputs=1,
        connectivity={(0, 0): inside, (1, 0): inside},
        depth=2,
    )
    body = graph.add(
        "rounds",
        rounds,
        inputs=1,
        outputs=1,
        connectivity={(0, 0): inside},
        depth=2,
        holds=frozenset({0}),
        notified=True,
    )
    leave = graph.add(
        "leave",
        ConcatOperator(),
        inputs=1,
        outputs=1,
        connectivity={(0, 0): egress(2)},
        depth=([2], [1]),
    )
    end = graph.add("out", _Outside(), inputs=1, outputs=0, connectivity={})
    graph.connect((source, 0), (enter, 0))
    graph.connect((enter, 0), (head, 0))
    graph.connect((again, 0), (head, 1))
    graph.connect((head, 0), (body, 0))
    graph.connect((body, 0), (again, 0), bounded=False)
    graph.connect((body, 0), (leave, 0))
    graph.connect((leave, 0), (end, 0))
    return graph


def go_round(transport: ZmqTransport, peers: int, options: BarrierOptions) -> list[int]:
    """One process's side: nanoseconds of each measured round."""
    clock = SystemClock()
    rounds = Rounds(options.warm_up + options.rounds + 1, clock)
    worker = Worker(loop_of(rounds), transport.index, peers, (1,), transport)
    drive(worker, transport, clock)
    over = rounds.over_ns[options.warm_up :]
    return [after - before for before, after in pairwise(over)]


def barrier_figures(runs: int, options: BarrierOptions) -> Iterator[Figure]:
    """Measure, in fresh processes each run."""
    middles: list[float] = []
    tails: list[float] = []
    for _ in range(runs):
        ((took, _),) = together(go_round, PROCESSES, [options])
        middle, tail = np.percentile(np.array(took) / 1000, (50, 99)).tolist()
        middles.append(middle)
        tails.append(tail)
    name = f"barrier: a round of a loop, {PROCESSES} processes"
    yield Figure.of(f"{name}, median", "us", middles, at_most=BOUND_MEDIAN_US)
    yield Figure.of(f"{name}, p99", "us", tails, at_most=BOUND_P99_US)
