"""Graphs that are accepted, and every way to be refused."""

from __future__ import annotations

import pytest

from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.summary import PathSummary, egress, feedback, identity, ingress
from service.dataflow.progress.topology import Topology

STRAIGHT = {(0, 0): identity(1)}


def test_locations_are_inputs_then_outputs_of_each_operator_in_turn() -> None:
    topology = Topology()
    source = topology.add_operator("source", 0, 2)
    join = topology.add_operator(
        "join", 2, 1, connectivity={(0, 0): identity(1), (1, 0): identity(1)}
    )
    topology.connect((source, 0), (join, 0))
    topology.connect((source, 1), (join, 1))
    frozen = topology.freeze()
    for shape in (topology, frozen):
        assert [shape.source(source, 0), shape.source(source, 1)] == [0, 1]
        assert [shape.target(join, 0), shape.target(join, 1), shape.source(join, 0)] == [2, 3, 4]
    assert frozen.location_count == 5
    assert frozen.is_source == (True, True, False, False, True)
    assert frozen.steps[2] == ((4, identity(1)),)
    assert frozen.describe(3) == "input 1 of 'join'"
    assert frozen.describe(4) == "output 0 of 'join'"


def test_digest_tells_graphs_apart() -> None:
    def graph(name: str, delay: int) -> str:
        topology = Topology()
        source = topology.add_operator("source", 0, 1)
        at = topology.add_operator(name, 1, 1, 1, {(0, 0): PathSummary(1, delay, ())})
        topology.connect((source, 0), (at, 0))
        return topology.freeze().digest()

    assert graph("a", 0) == graph("a", 0)
    assert len({graph("a", 0), graph("b", 0), graph("a", 1)}) == 3


def test_several_edges_may_meet_in_one_input_and_outputs_may_lead_nowhere() -> None:
    topology = Topology()
    source = topology.add_operator("source", 0, 3)
    sink = topology.add_operator("sink", 1, 1, connectivity={})
    topology.connect((source, 0), (sink, 0))
    topology.connect((source, 1), (sink, 0))
    frozen = topology.freeze()
    assert frozen.steps[frozen.target(sink, 0)] == ()
    assert frozen.is_cyclic == (False,) * 5


def test_operator_with_inputs_and_outputs_must_declare_its_connectivity() -> None:
    with pytest.raises(ProgressError, match=r"'map' .* declares no connectivity"):
        Topology().add_operator("map", 1, 1)


@pytest.mark.parametrize(
    ("connectivity", "depth"),
    [
        ({(1, 0): identity(1)}, 1),
        ({(0, 1): identity(1)}, 1),
        ({(0, 0): identity(2)}, 1),
        ({(0, 0): ingress(1)}, 1),
        ({(0, 0): identity(1)}, ([1], [2])),
        ({(0, 0): PathSummary(0, 0, (0,))}, 1),
        ({(0, 0): PathSummary(1, -1, ())}, 1),
        ({(0, 0): PathSummary(1, 0, (-1,))}, ([1], [2])),
    ],
)
def test_summary_that_does_not_fit_its_ports_is_refused(connectivity, depth) -> None:
    with pytest.raises(ProgressError, match="'map'"):
        Topology().add_operator("map", 1, 1, depth, connectivity)


def test_ports_and_depths_must_make_sense() -> None:
    topology = Topology()
    with pytest.raises(ProgressError, match="at least one port"):
        topology.add_operator("nothing", 0, 0)
    with pytest.raises(ProgressError, match="depths for 1 and 2"):
        topology.add_operator("source", 0, 2, ([1], [1, 1]))
    with pytest.raises(ProgressError, match="at least its epoch"):
        topology.add_operator("source", 0, 1, 0)


def test_edges_must_join_existing_ports_of_one_depth_once() -> None:
    topology = Topology()
    source = topology.add_operator("source", 0, 1)
    flat = topology.add_operator("flat", 1, 1, 1, STRAIGHT)
    deep = topology.add_operator("deep", 1, 0, 2)
    topology.connect((source, 0), (flat, 0))
    with pytest.raises(ProgressError, match="connected already"):
        topology.connect((source, 0), (flat, 0))
    with pytest.raises(ProgressError, match="length 1 but input 0 of 'deep' of length 2"):
        topology.connect((flat, 0), (deep, 0))
    with pytest.raises(ProgressError, match="'flat' has no output 1"):
        topology.connect((flat, 1), (flat, 0))
    with pytest.raises(ProgressError, match="'flat' has no input 1"):
        topology.connect((flat, 0), (flat, 1))
    with pytest.raises(ProgressError, match="no operator 7"):
        topology.connect((7, 0), (flat, 0))


def test_input_without_an_edge_is_refused() -> None:
    topology = Topology()
    topology.add_operator("sink", 1, 0)
    with pytest.raises(ProgressError, match="input 0 of 'sink' is not connected"):
        topology.freeze()


def test_unknown_location_has_no_description() -> None:
    topology = Topology()
    topology.add_operator("source", 0, 1)
    with pytest.raises(ProgressError, match="no location 1"):
        topology.freeze().describe(1)


def loop(back: PathSummary, depth: int = 2) -> Topology:
    """Make source -> enter -> body -> feedback -> body and body -> leave -> sink."""
    topology = Topology()
    into = identity(1) if depth == 1 else ingress(1)
    out = identity(1) if depth == 1 else egress(2)
    source = topology.add_operator("source", 0, 1)
    enter = topology.add_operator("enter", 1, 1, ([1], [depth]), {(0, 0): into})
    body = topology.add_operator(
        "body", 2, 1, depth, {(0, 0): identity(depth), (1, 0): identity(depth)}
    )
    feed = topology.add_operator("feedback", 1, 1, depth, {(0, 0): back})
    leave = topology.add_operator("leave", 1, 1, ([depth], [1]), {(0, 0): out})
    sink = topology.add_operator("sink", 1, 0)
    topology.connect((source, 0), (enter, 0))
    topology.connect((enter, 0), (body, 0))
    topology.connect((feed, 0), (body, 1))
    topology.connect((body, 0), (feed, 0))
    topology.connect((body, 0), (leave, 0))
    topology.connect((leave, 0), (sink, 0))
    return topology


def test_loop_with_feedback_is_accepted_and_is_one_component() -> None:
    frozen = loop(feedback(2)).freeze()
    assert [len(part) for part in frozen.components if len(part) > 1] == [4]
    assert sum(frozen.is_cyclic) == 1


def test_cycle_that_raises_the_epoch_outside_of_loops_is_accepted() -> None:
    assert sum(loop(feedback(1), depth=1).freeze().is_cyclic) == 1


def test_cycle_without_feedback_is_refused_and_named() -> None:
    with pytest.raises(ProgressError, match=r"body -> feedback -> body|feedback -> body ->"):
        loop(identity(2)).freeze()


def test_cycle_that_raises_the_epoch_inside_a_loop_is_refused_and_named() -> None:
    """(e, 5) would lead to (e + 1, 0), which is not after it."""
    with pytest.raises(ProgressError, match="feedback"):
        loop(PathSummary(1, 1, (0,))).freeze()


def test_leaving_and_entering_a_loop_again_without_outer_feedback_is_refused() -> None:
    topology = Topology()
    enter = topology.add_operator("enter", 1, 1, ([1], [2]), {(0, 0): ingress(1)})
    leave = topology.add_operator("leave", 1, 1, ([2], [1]), {(0, 0): egress(2)})
    topology.connect((enter, 0), (leave, 0))
    topology.connect((leave, 0), (enter, 0))
    with pytest.raises(ProgressError, match=r"enter -> leave -> enter|leave -> enter -> leave"):
        topology.freeze()


def test_state_port_fed_back_to_its_own_operator_is_no_cycle_where_no_path_is_declared() -> None:
    """The state host of a migration: its state output returns to its state input."""
    topology = Topology()
    control = topology.add_operator("control", 0, 1)
    router = topology.add_operator("router", 1, 1, 1, STRAIGHT)
    same = identity(1)
    host = topology.add_operator(
        "host", 3, 2, 1, {(0, 0): same, (0, 1): same, (1, 0): same, (2, 0): same}
    )
    topology.connect((control, 0), (router, 0))
    topology.connect((control, 0), (host, 0))
    topology.connect((router, 0), (host, 1))
    topology.connect((host, 1), (host, 2))
    assert not any(topology.freeze().is_cyclic)
