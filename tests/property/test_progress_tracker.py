"""The tracker against the definition of could-result-in, on random graphs and random counts.

Oracle: after every batch of random signed counts each location's frontier must equal what walking
all paths from all pointstamps with positive counts gives. It cannot catch an error of the order or
of the summaries, which both sides share; test_progress_graphs.py checks those.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from service.dataflow.progress.antichain import Antichain
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.progress.topology import FrozenTopology
from service.dataflow.progress.tracker import Tracker
from tests.property.test_progress_graphs import (
    frontier_by_walk,
    random_time,
    random_topology,
    summaries_by_enumeration,
)


def frontiers(tracker: Tracker) -> list[Antichain]:
    return [tracker.frontier(at) for at in range(tracker.topology.location_count)]


def random_changes(random: Random, topology: FrozenTopology, counts: Counter) -> list:
    """A few signed counts: new pointstamps, removals, moves, and counts below zero."""
    changes = []
    for _ in range(random.randint(1, 5)):
        if counts and random.random() < 0.5:
            location, time = random.choice(sorted(counts))
            changes.append((location, time, random.choice((-counts[location, time], -1, 1))))
        else:
            location = random.randrange(topology.location_count)
            time = random_time(random, topology.depths[location])
            changes.append((location, time, random.choice((-2, -1, 1, 1, 1, 2))))
        location, time, delta = changes[-1]
        counts[location, time] += delta
        if not counts[location, time]:
            del counts[location, time]
    return changes


def apply(tracker: Tracker, changes: list) -> list[int]:
    for change in changes:
        tracker.update(*change)
    return tracker.propagate()


@pytest.mark.parametrize("seed", range(150))
def test_frontiers_are_those_of_the_definition_after_every_batch(seed: int) -> None:
    random = Random(seed)
    topology = random_topology(random, random.choice((3, 8, 14)))
    tracker = Tracker(topology)
    counts: Counter = Counter()
    before = frontiers(tracker)
    for _ in range(15):
        changed = apply(tracker, random_changes(random, topology, counts))
        after = frontiers(tracker)
        active = [key for key, count in counts.items() if count > 0]
        assert after == frontier_by_walk(topology, active)
        assert sorted(changed) == [at for at in range(len(after)) if before[at] != after[at]]
        before = after
    for at in range(topology.location_count):
        assert tracker.pointstamps(at) == {
            time: count for (location, time), count in counts.items() if location == at
        }
    apply(tracker, [(location, time, -count) for (location, time), count in counts.items()])
    assert all(frontier.is_empty for frontier in frontiers(tracker))
    assert tracker.is_empty


def is_before_or_at(a: Timestamp, b: Timestamp) -> bool:
    """The order of timestamps as DESIGN writes it: epochs by <=, and counters lexicographically."""
    if a[0] > b[0]:
        return False
    for x, y in zip(a[1:], b[1:], strict=True):
        if x != y:
            return x < y
    return True


def test_could_result_in_is_what_some_path_makes_of_a_time() -> None:
    """By the definition: all paths enumerated, and an order that the product has no part in."""
    answers: Counter[bool] = Counter()
    nested = 0
    for seed in range(60):
        random = Random(seed)
        topology = random_topology(random, 9)
        nested += max(topology.depths) > 2
        start = random.randrange(topology.location_count)
        paths = summaries_by_enumeration(topology, start, topology.location_count)
        time = random_time(random, topology.depths[start])
        tracker = Tracker(topology)
        apply(tracker, [(start, time, 1)])
        for location, depth in enumerate(topology.depths):
            for _ in range(4):
                other = random_time(random, depth)
                could = any(
                    is_before_or_at(summary.results_in(time), other)
                    for summary in paths.get(location, ())
                )
                assert tracker.frontier(location).less_equal(other) == could, (seed, location)
                answers[could] += 1
    assert nested >= 20
    assert min(answers.values()) > 500


@pytest.mark.parametrize("seed", range(60))
def test_is_preceded_means_that_removing_the_pointstamp_itself_leaves_something(seed: int) -> None:
    random = Random(seed)
    topology = random_topology(random, 10)
    tracker = Tracker(topology)
    counts: Counter = Counter()
    for _ in range(4):
        apply(tracker, random_changes(random, topology, counts))
    probes = list(counts)
    probes += [(at, random_time(random, depth)) for at, depth in enumerate(topology.depths)]
    for location, time in probes:
        others = [key for key, n in counts.items() if n > 0 and key != (location, time)]
        expected = frontier_by_walk(topology, others)[location].less_equal(time)
        assert tracker.is_preceded(location, time) == expected


@pytest.mark.parametrize("seed", range(60))
def test_holders_are_the_earliest_pointstamps_that_result_in_the_frontier(seed: int) -> None:
    random = Random(seed)
    topology = random_topology(random, 10)
    tracker = Tracker(topology)
    counts: Counter = Counter()
    for _ in range(4):
        apply(tracker, random_changes(random, topology, counts))
    active = sorted(key for key, n in counts.items() if n > 0)
    for location in range(topology.location_count):
        frontier = tracker.frontier(location)
        could = [
            key
            for key in active
            if any(
                time in frontier.elements() for time in frontier_by_walk(topology, [key])[location]
            )
        ]
        holders = tracker.holders(location)
        assert set(holders) <= set(could)
        assert frontier_by_walk(topology, holders)[location] == frontier


@pytest.mark.parametrize("seed", range(60))
def test_view_does_not_depend_on_how_changes_were_batched(seed: int) -> None:
    random = Random(seed)
    topology = random_topology(random, 12)
    counts: Counter = Counter()
    changes = [c for _ in range(8) for c in random_changes(random, topology, counts)]
    together, apart, copied = Tracker(topology), Tracker(topology), Tracker(topology)
    apply(together, changes)
    random.shuffle(changes)
    for change in changes:
        apply(apart, [change])
    apply(copied, together.changes())
    assert frontiers(together) == frontiers(apart) == frontiers(copied)


def test_a_frontier_once_read_does_not_change() -> None:
    topology = random_topology(Random(1), 5)
    tracker = Tracker(topology)
    apply(tracker, [(topology.source(0, 0), (3,), 1)])
    read = tracker.frontier(topology.source(0, 0))
    apply(tracker, [(topology.source(0, 0), (3,), -1)])
    assert read.elements() == ((3,),)
