"""Frontiers of small graphs, worked out by hand. Cannot catch what only large graphs show."""

from __future__ import annotations

import pytest

from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.summary import egress, feedback, identity, ingress
from service.dataflow.progress.topology import FrozenTopology, Topology
from service.dataflow.progress.tracker import Tracker


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


def test_cycle_without_feedback_is_refused_by_name() -> None:
    topology = Topology()
    left = topology.add_operator("left", 1, 1, 2, {(0, 0): identity(2)})
    right = topology.add_operator("right", 1, 1, 2, {(0, 0): identity(2)})
    topology.connect((left, 0), (right, 0))
    topology.connect((right, 0), (left, 0))
    with pytest.raises(ProgressError, match="(left -> right -> left|right -> left -> right)"):
        topology.freeze()


def test_time_of_another_depth_is_refused() -> None:
    tracker = Tracker(chain(1))
    with pytest.raises(ProgressError):
        tracker.update(0, (1, 0), 1)
    with pytest.raises(ProgressError):
        tracker.update(99, (1,), 1)
