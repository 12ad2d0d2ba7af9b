"""Frontiers of small graphs, worked out by hand. Cannot catch what only large graphs show."""

from __future__ import annotations

import pytest

from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.summary import egress, feedback, identity, ingress
from service.dataflow.progress.topology import FrozenTopology, Topology
from service.dataflow.progress.tracker import Tracker
from tests.counted_calls import calls_of


def chain(length: int) -> FrozenTopology:
    """A source, `length` operators and a sink in a row."""
    topology = Topology()
    last = topology.add_operator("source", 0, 1)
    for number in range(length):
        at = topology.add_operator(f"map-{number}", 1, 1, connectivity={(0, 0): identity(1)})
        topology.connect((last, 0), (at, 0))
        last = at
    sink = topology.add_operator("sink", 1, 0)
    topology.connect((last, 0), (sink, 0))
    return topology.freeze()


def test_frontier_of_every_port_follows_the_only_capability() -> None:
    topology = chain(3)
    tracker = Tracker(topology)
    tracker.update(topology.source(0, 0), (5,), 1)
    assert len(tracker.propagate()) == topology.location_count
    for location in range(topology.location_count):
        assert tracker.frontier(location).elements() == ((5,),)
    tracker.update(topology.source(0, 0), (9,), 1)
    tracker.update(topology.source(0, 0), (5,), -1)
    tracker.propagate()
    for location in range(topology.location_count):
        assert tracker.frontier(location).elements() == ((9,),)
    tracker.update(topology.source(0, 0), (9,), -1)
    tracker.propagate()
    assert all(tracker.frontier(location).is_empty for location in range(topology.location_count))
    assert tracker.is_empty


def test_loop_adds_a_counter_and_drains() -> None:
    topology = Topology()
    source = topology.add_operator("source", 0, 1)
    enter = topology.add_operator("enter", 1, 1, ([1], [2]), {(0, 0): ingress(1)})
    body = topology.add_operator(
        "body", 2, 2, 2, {(i, o): identity(2) for i in range(2) for o in range(2)}
    )
    back = topology.add_operator("feedback", 1, 1, 2, {(0, 0): feedback(2)})
    leave = topology.add_operator("leave", 1, 1, ([2], [1]), {(0, 0): egress(2)})
    sink = topology.add_operator("sink", 1, 0)
    topology.connect((source, 0), (enter, 0))
    topology.connect((enter, 0), (body, 0))
    topology.connect((back, 0), (body, 1))
    topology.connect((body, 0), (back, 0))
    topology.connect((body, 1), (leave, 0))
    topology.connect((leave, 0), (sink, 0))
    frozen = topology.freeze()
    tracker = Tracker(frozen)
    tracker.update(frozen.source(source, 0), (1,), 1)
    tracker.propagate()
    assert tracker.frontier(frozen.target(body, 0)).elements() == ((1, 0),)
    assert tracker.frontier(frozen.target(body, 1)).elements() == ((1, 1),)
    assert tracker.frontier(frozen.target(sink, 0)).elements() == ((1,),)
    tracker.update(frozen.target(body, 1), (1, 7), 1)
    tracker.update(frozen.source(source, 0), (1,), -1)
    tracker.propagate()
    assert tracker.frontier(frozen.target(body, 0)).is_empty
    assert tracker.frontier(frozen.target(body, 1)).elements() == ((1, 7),)
    assert tracker.frontier(frozen.target(sink, 0)).elements() == ((1,),)
    tracker.update(frozen.target(body, 1), (1, 7), -1)
    tracker.propagate()
    assert all(tracker.frontier(at).is_empty for at in range(frozen.location_count))


def test_time_of_another_depth_is_refused() -> None:
    tracker = Tracker(chain(1))
    with pytest.raises(ProgressError):
        tracker.update(0, (1, 0), 1)
    with pytest.raises(ProgressError):
        tracker.update(99, (1,), 1)


def test_updates_change_nothing_until_they_are_propagated() -> None:
    topology = chain(0)
    tracker = Tracker(topology)
    assert tracker.is_idle
    assert tracker.is_empty
    assert tracker.propagate() == []
    assert tracker.version == 0
    tracker.update(0, (1,), 1)
    assert not tracker.is_idle
    assert not tracker.is_empty
    assert tracker.frontier(1).is_empty
    assert tracker.propagate() == [0, 1]
    assert tracker.version == 1
    assert tracker.pointstamps(0) == {(1,): 1}
    assert tracker.changes() == [(0, (1,), 1)]


def test_count_below_zero_implies_nothing_until_the_sending_is_known() -> None:
    topology = chain(0)
    tracker = Tracker(topology)
    tracker.update(0, (1,), 1)
    tracker.propagate()
    tracker.update(1, (1,), -1)
    assert tracker.propagate() == []
    assert tracker.pointstamps(1) == {(1,): -1}
    tracker.update(1, (1,), 1)
    tracker.update(0, (1,), -1)
    assert tracker.propagate() == [0, 1]
    assert tracker.is_empty


def test_message_in_flight_holds_its_port_and_everything_after_it() -> None:
    topology = chain(2)
    tracker = Tracker(topology)
    tracker.update(topology.source(0, 0), (9,), 1)
    tracker.update(topology.target(2, 0), (4,), 1)
    tracker.propagate()
    assert tracker.frontier(topology.target(1, 0)).elements() == ((9,),)
    assert tracker.frontier(topology.target(2, 0)).elements() == ((4,),)
    assert tracker.frontier(topology.target(3, 0)).elements() == ((4,),)
    assert tracker.holders(topology.target(3, 0)) == [(topology.target(2, 0), (4,))]
    assert tracker.holders(topology.target(1, 0)) == [(topology.source(0, 0), (9,))]


def test_pointstamp_does_not_precede_itself() -> None:
    topology = chain(1)
    tracker = Tracker(topology)
    first, after = topology.source(0, 0), topology.source(1, 0)
    tracker.update(first, (3,), 1)
    tracker.update(after, (3,), 1)
    tracker.propagate()
    assert not tracker.is_preceded(first, (3,))
    assert tracker.is_preceded(first, (4,))
    assert not tracker.is_preceded(first, (2,))
    assert tracker.is_preceded(after, (3,))


def test_idle_operators_cost_nothing() -> None:
    costs = []
    for length in (1, 1000):
        topology = chain(length)
        tracker = Tracker(topology)
        tracker.update(0, (0,), 1)
        tracker.propagate()
        tracker.update(topology.location_count - 1, (5,), 1)
        costs.append(calls_of(tracker.propagate).total())
    assert costs[0] == costs[1] < 12


def test_advance_visits_each_location_of_a_chain_once() -> None:
    topology = chain(5)
    tracker = Tracker(topology)
    tracker.update(0, (0,), 1)
    tracker.propagate()
    tracker.update(0, (0,), -1)
    tracker.update(0, (1,), 1)
    assert calls_of(tracker.propagate).total() < 8 * topology.location_count
    assert tracker.frontier(topology.location_count - 1).elements() == ((1,),)


def test_thousand_operators_in_a_loop_drain() -> None:
    topology = Topology()
    source = topology.add_operator("source", 0, 1)
    last = topology.add_operator("enter", 1, 1, ([1], [2]), {(0, 0): ingress(1)})
    topology.connect((source, 0), (last, 0))
    head = topology.add_operator("head", 2, 1, 2, {(0, 0): identity(2), (1, 0): identity(2)})
    topology.connect((last, 0), (head, 0))
    last = head
    for number in range(1000):
        at = topology.add_operator(f"map-{number}", 1, 1, 2, {(0, 0): identity(2)})
        topology.connect((last, 0), (at, 0))
        last = at
    back = topology.add_operator("feedback", 1, 1, 2, {(0, 0): feedback(2)})
    topology.connect((last, 0), (back, 0))
    topology.connect((back, 0), (head, 1))
    frozen = topology.freeze()
    tracker = Tracker(frozen)
    for epoch in range(3):
        tracker.update(frozen.source(source, 0), (epoch,), 1)
        tracker.propagate()
        assert tracker.frontier(frozen.target(head, 1)).elements() == ((0, 1),)
    for epoch in range(3):
        tracker.update(frozen.source(source, 0), (epoch,), -1)
        assert len(tracker.propagate()) == frozen.location_count
    assert tracker.is_empty
    assert tracker.frontier(frozen.target(head, 1)).is_empty
