"""Processes join and leave while a random dataflow runs: thousands of schedules, each one seed.

A schedule is a run of `Elastic` (progress_elastic.py): at least three processes of at least 50
actions each, on a graph that mostly has loops and often loops in loops, over links of different
speeds, while processes join and leave. That the schedules are like this is asserted with them.
Below, the joiner's own rules.

`MEGAPHONE_PROGRESS_SEEDS` sets how many schedules run; `make sim` raises it. A failure names its
seed: `Elastic(seed).run()` is that schedule.
"""

from __future__ import annotations

import os

import pytest

from service.dataflow.progress.broadcast import (
    ProgressBatch,
    ProgressReceiver,
    ProgressSender,
)
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.membership import Joiner, View, view_of
from service.dataflow.progress.topology import FrozenTopology
from service.dataflow.progress.tracker import Tracker
from tests.property.progress_cluster import ACTIONS_EACH
from tests.property.progress_elastic import Elastic
from tests.property.progress_mutants import GivenSumsOfAll

SEEDS = int(os.environ.get("MEGAPHONE_PROGRESS_SEEDS", "5000"))
#: Enough schedules to a block for shares to mean something, few enough for a test's time limit.
BLOCKS = max(1, SEEDS // 250)


def schedule(seed: int) -> Elastic:
    """Run one schedule; whatever fails names the seed."""
    try:
        return Elastic(seed).run()
    except Exception as error:  # whatever it was, the seed belongs to it
        error.add_note(f"seed {seed}: Elastic({seed}).run()")
        raise


@pytest.mark.parametrize("block", range(BLOCKS))
def test_who_joins_and_leaves_changes_no_frontier_and_everything_drains(block: int) -> None:
    seeds = range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS)
    looped = nested = joined = left = 0
    for seed in seeds:
        cluster = schedule(seed)
        assert cluster.founders >= 3
        founders = cluster.processes[: cluster.founders]
        assert min(process.actions for process in founders) >= ACTIONS_EACH
        assert len(set(cluster.links.delays.values())) >= 2, "all links are equally fast"
        looped += any(cluster.topology.is_cyclic)
        nested += max(cluster.topology.depths) >= 3
        joined += cluster.joined > 0
        left += len(cluster.gone) > 0
    assert looped >= len(seeds) * 0.5
    assert nested >= len(seeds) * 0.25
    assert joined >= len(seeds) * 0.9
    assert left >= len(seeds) * 0.9


def test_a_failure_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(ProgressSender, "ready", never)
    with pytest.raises(AssertionError) as caught:
        schedule(5)
    assert caught.value.__notes__ == ["seed 5: Elastic(5).run()"]


def test_per_peer_sums_are_wrong_for_those_who_left_and_only_for_them() -> None:
    """So the mutant that is given them is caught for what it stands for."""
    assert sum(GivenSumsOfAll(seed).run().joined for seed in range(30)) >= 30


def topology() -> FrozenTopology:
    return Elastic(0).topology


def test_a_view_that_lacks_batches_we_were_not_sent_is_not_taken() -> None:
    graph = topology()
    joiner = Joiner(graph, [0, 1])
    joiner.answered(0, 5)
    view = View((), {0: 5, 1: 3}, frozenset())
    assert not joiner.install(view), "peer 1 has not answered"
    joiner.answered(1, 4)
    assert not joiner.install(view), "batch 3 of peer 1 is in neither"
    assert joiner.install(View((), {0: 7, 1: 4}, frozenset()))
    assert joiner.receiver is not None
    assert [joiner.receiver.expected(peer) for peer in (0, 1)] == [7, 4]


def test_a_view_that_lacks_batches_of_one_that_left_before_it_could_be_asked_is_not_taken() -> None:
    """Its last batches are on their way to those who heard it, and not to the newcomer."""
    joiner = Joiner(topology(), [0])
    joiner.answered(0, 5)
    assert not joiner.install(View((), {0: 5, 7: 3}, frozenset()))
    assert joiner.install(View((), {0: 5, 7: 4}, frozenset({7})))
    assert joiner.receiver is not None
    assert joiner.receiver.has_left(7)


def test_batches_from_before_the_view_are_dropped_and_later_ones_applied() -> None:
    graph = topology()
    source = next(shape.sources[0] for shape in graph.operators if not shape.targets)
    joiner = Joiner(graph, [0])
    joiner.answered(0, 2)
    for number in (2, 3, 4):
        joiner.take(0, ProgressBatch(number, ((source, (number,), 1),), False))
    assert joiner.kept == 3
    assert joiner.install(View(((source, (2,), 1), (source, (3,), 1)), {0: 4}, frozenset()))
    assert joiner.tracker is not None
    assert joiner.tracker.pointstamps(source) == {(2,): 1, (3,): 1, (4,): 1}
    assert joiner.kept == 0


def test_a_peer_that_left_need_not_have_answered() -> None:
    joiner = Joiner(topology(), [0, 1])
    joiner.answered(0, 0)
    assert joiner.install(View((), {0: 0, 1: 9}, frozenset({1})))
    assert joiner.receiver is not None
    assert joiner.receiver.has_left(1)


def test_a_lost_batch_and_one_before_the_answer_are_errors() -> None:
    joiner = Joiner(topology(), [0])
    with pytest.raises(ProgressError, match="before it answered the subscription"):
        joiner.take(0, ProgressBatch(0, (), False))
    joiner.answered(0, 4)
    with pytest.raises(ProgressError, match="sent progress batch 5, expected 4"):
        joiner.take(0, ProgressBatch(5, (), False))


def test_who_holds_a_right_cannot_leave() -> None:
    sender = ProgressSender(topology())
    sender.assume([(0, (5,), 1)])
    with pytest.raises(ProgressError, match=r"holds 1 capabilities at \(5,\) of location 0"):
        sender.leave()


def test_a_view_is_of_whole_batches_only() -> None:
    tracker = Tracker(topology())
    tracker.update(0, (5,) * tracker.topology.depths[0], 1)
    with pytest.raises(AssertionError, match="half an action"):
        view_of(tracker, ProgressReceiver(), [])


def test_a_schedule_is_the_same_every_time() -> None:
    first, second = Elastic(11).run(), Elastic(11).run()
    assert first.joined > 0
    assert (first.batches_sent, first.joined, first.gone) == (
        second.batches_sent,
        second.joined,
        second.gone,
    )
