"""Random nested dataflow graphs, and two ways to know a frontier without a tracker.

Shared by the progress properties: `random_topology` makes graphs with loops inside loops,
`frontier_by_walk` computes could-result-in from scratch, `summaries_by_enumeration` lists what
every path does. The tests here check these oracles against each other, and paths against
composition. They cannot catch an error of the order itself: all use the same `less_equal`.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.dataflow.progress.antichain import Antichain
from service.dataflow.progress.cycles import components, find_stuck_cycle
from service.dataflow.progress.summary import PathSummary, egress, feedback, identity, ingress
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.progress.topology import FrozenTopology, Topology

Port = tuple[int, int]


class _Builder:
    """Adds operators at random; a stream is the output port it comes from."""

    def __init__(self, random: Random, operators: int) -> None:
        self.random = random
        self.topology = Topology()
        self.left = operators
        self.unread: set[Port] = set()

    def add(self, name: str, streams: list[Port], outputs: int, depth, connectivity) -> list[Port]:
        """Add an operator that reads `streams` (None: connected later) and return its outputs."""
        self.left -= 1
        operator = self.topology.add_operator(name, len(streams), outputs, depth, connectivity)
        for port, stream in enumerate(streams):
            if stream is not None:
                self.topology.connect(stream, (operator, port))
        return [(operator, port) for port in range(outputs)]

    def scope(self, streams: list[Port], depth: int) -> list[Port]:
        """Grow a scope from the streams that enter it; return the streams that it has."""
        random = self.random
        streams = list(streams)
        for _ in range(random.randint(1, 4)):
            if self.left <= 0:
                break
            if depth < 4 and random.random() < 0.4:
                streams += self.loop(random.choice(streams), depth)
            else:
                streams += self.plain(streams, depth)
        return streams

    def plain(self, streams: list[Port], depth: int) -> list[Port]:
        random = self.random
        inputs = [random.choice(streams) for _ in range(random.randint(1, 3))]
        outputs = random.randint(1, 2)
        connectivity = {
            # Some operators delay what they send; a few pairs are not connected at all.
            (taker, giver): PathSummary(depth, int(random.random() < 0.15), ())
            for taker in range(len(inputs))
            for giver in range(outputs)
            if random.random() < 0.8
        }
        return self.add("plain", inputs, outputs, depth, connectivity)

    def loop(self, stream: Port, depth: int) -> list[Port]:
        inside = depth + 1
        (entered,) = self.add("enter", [stream], 1, ([depth], [inside]), {(0, 0): ingress(depth)})
        head = self.add(
            "head", [entered, None], 1, inside, {(0, 0): identity(inside), (1, 0): identity(inside)}
        )
        streams = self.scope(head, inside)
        (back,) = self.add(
            "feedback", [self.random.choice(streams)], 1, inside, {(0, 0): feedback(inside)}
        )
        self.topology.connect(back, (head[0][0], 1))
        left = self.random.choice(streams)
        return self.add("leave", [left], 1, ([inside], [depth]), {(0, 0): egress(inside)})


def random_topology(random: Random, operators: int = 12) -> FrozenTopology:
    """A graph of about `operators` operators, loops up to three deep, with one or two sources."""
    builder = _Builder(random, operators)
    streams: list[Port] = []
    for _ in range(random.randint(1, 2)):
        streams += builder.add("source", [], 1, 1, None)
    while builder.left > 0:
        streams = builder.scope(streams, 1)
    builder.add("sink", [streams[-1]], 0, 1, None)
    return builder.topology.freeze()


def random_time(random: Random, depth: int, epochs: int = 4, rounds: int = 4) -> Timestamp:
    """A timestamp with small coordinates, so that random ones often compare."""
    return (random.randrange(epochs), *(random.randrange(rounds) for _ in range(depth - 1)))


def frontier_by_walk(
    topology: FrozenTopology, active: list[tuple[int, Timestamp]]
) -> list[Antichain]:
    """Frontier of every location by the definition: follow every path from every pointstamp.

    A walk ends where something at least as early has been; cycles advance, so all walks end.
    """
    frontiers = [Antichain() for _ in range(topology.location_count)]
    walk = list(active)
    while walk:
        location, time = walk.pop()
        if frontiers[location].insert(time):
            walk += [(to, does.results_in(time)) for to, does in topology.steps[location]]
    return frontiers


def summaries_by_enumeration(
    topology: FrozenTopology, start: int, hops: int
) -> dict[int, set[PathSummary]]:
    """Summaries of all walks of at most `hops` steps from `start`, by where they end."""
    found = {start: {identity(topology.depths[start])}}
    edge = [(start, identity(topology.depths[start]))]
    for _ in range(hops):
        reached = []
        for at, summary in edge:
            for to, does in topology.steps[at]:
                longer = summary.followed_by(does)
                if longer not in found.setdefault(to, set()):
                    found[to].add(longer)
                    reached.append((to, longer))
        edge = reached
    return found


def test_random_graphs_have_loops_and_loops_in_loops() -> None:
    depths, entered = [], 0
    for seed in range(200):
        topology = random_topology(Random(seed), 8)
        depths.append(max(topology.depths) if any(topology.is_cyclic) else 1)
        entered += any(summary.tail for steps in topology.steps for _, summary in steps)
    assert sum(depth >= 2 for depth in depths) >= 100
    assert sum(depth >= 3 for depth in depths) >= 50
    assert max(depths) == 4
    assert entered >= 100, "loops are entered"


@pytest.mark.parametrize("seed", range(40))
def test_composed_summaries_of_all_paths_give_the_frontier_of_one_pointstamp(seed: int) -> None:
    random = Random(seed)
    topology = random_topology(random, 8)
    start = random.randrange(topology.location_count)
    # Minimal results come from paths without cycles, so as many hops as locations are enough.
    paths = summaries_by_enumeration(topology, start, topology.location_count)
    for _ in range(5):
        time = random_time(random, topology.depths[start])
        frontiers = frontier_by_walk(topology, [(start, time)])
        for location, frontier in enumerate(frontiers):
            results = [summary.results_in(time) for summary in paths.get(location, ())]
            assert frontier == Antichain(results)


@pytest.mark.parametrize("seed", range(40))
def test_parallel_paths_have_one_minimal_summary(seed: int) -> None:
    """The order of timestamps makes the results of all paths between two places comparable."""
    random = Random(seed)
    topology = random_topology(random, 8)
    start = random.randrange(topology.location_count)
    time = random_time(random, topology.depths[start])
    for summaries in summaries_by_enumeration(topology, start, topology.location_count).values():
        assert len(Antichain(summary.results_in(time) for summary in summaries)) == 1


@pytest.mark.parametrize("seed", range(40))
def test_components_are_ordered_like_the_edges(seed: int) -> None:
    topology = random_topology(Random(seed), 20)
    assert sorted(at for part in topology.components for at in part) == list(
        range(topology.location_count)
    )
    for at, steps in enumerate(topology.steps):
        for to, _ in steps:
            assert topology.component_of[at] <= topology.component_of[to]
    for part, is_cyclic in zip(topology.components, topology.is_cyclic, strict=True):
        assert is_cyclic == any(
            topology.component_of[to] == topology.component_of[at]
            for at in part
            for to, _ in topology.steps[at]
        )


@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=8, max_size=8))
@settings(max_examples=200, deadline=None)
def test_components_are_the_classes_of_mutual_reachability(successors: list[list[int]]) -> None:
    reach = [{at} for at in range(8)]
    for _ in range(8):
        for at in range(8):
            for to in successors[at]:
                reach[at] |= reach[to]
    found = components(successors)
    for at in range(8):
        mutual = sorted(to for to in reach[at] if at in reach[to])
        assert mutual in found


def _random_steps(random: Random) -> tuple[list[list[tuple[int, PathSummary]]], list[int]]:
    """Any graph at all, mostly illegal."""
    depths = [random.randint(1, 3) for _ in range(random.randint(1, 5))]
    steps: list[list[tuple[int, PathSummary]]] = [[] for _ in depths]
    for _ in range(random.randint(0, 7)):
        at, to = random.randrange(len(depths)), random.randrange(len(depths))
        keep = random.randint(1, min(depths[at], depths[to]))
        tail = (0,) * (depths[to] - keep)
        steps[at].append((to, PathSummary(keep, int(random.random() < 0.6), tail)))
    return steps, depths


def _has_stuck_walk(steps: list[list[tuple[int, PathSummary]]], depths: list[int]) -> bool:
    """Close over all walks; increments above 1 and tails make no difference to advancing."""
    for start, depth in enumerate(depths):
        walk = [(start, identity(depth))]
        seen = set()
        for at, summary in walk:
            for to, does in steps[at]:
                longer = summary.followed_by(does)
                short = PathSummary(longer.keep, min(longer.increment, 1), (0,) * len(longer.tail))
                if to == start and not longer.advances(depth):
                    return True
                if (to, short) not in seen:
                    seen.add((to, short))
                    walk.append((to, short))
    return False


def test_a_stuck_cycle_is_found_iff_some_closed_walk_does_not_advance() -> None:
    verdicts = {True: 0, False: 0}
    for seed in range(3000):
        steps, depths = _random_steps(Random(seed))
        cycle = find_stuck_cycle(steps, depths)
        assert (cycle is not None) == _has_stuck_walk(steps, depths), (seed, steps, depths)
        verdicts[cycle is not None] += 1
        if cycle is not None:
            for at, to in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
                assert to in [next_ for next_, _ in steps[at]]
    assert min(verdicts.values()) > 500


@pytest.mark.parametrize("seed", range(200))
def test_advances_means_that_every_time_is_before_its_result(seed: int) -> None:
    random = Random(seed)
    depth = random.randint(1, 3)
    keep = random.randint(1, depth)
    tail = tuple(random.randrange(3) for _ in range(depth - keep))
    summary = PathSummary(keep, random.randrange(2), tail)
    times = [(e, *rest) for e in range(3) for rest in _counters(depth - 1)]
    strictly = all(Antichain([time]).less_than(summary.results_in(time)) for time in times)
    assert summary.advances(depth) == strictly


def _counters(count: int) -> list[tuple[int, ...]]:
    if not count:
        return [()]
    return [(c, *rest) for c in range(4) for rest in _counters(count - 1)]
