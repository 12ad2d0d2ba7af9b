"""The gate of an S: what must have passed a cut before rows of an arrived bin go on.

Flow: lowering -> [gate_of] -> StateHost.gate, StateHost.near. Pure: looks at the graph.

What S emits passes operators of its own process until it comes to a sink or to a channel that leads
through an exchange. Such a sink is *near*: the old owner alone can tell when all it emitted is in
Kafka. The input at the other end of such a channel is *far*: once its frontier has reached the cut,
every row below the cut is there, or further down, and every row from the cut on comes after it.
What lies beyond keeps that order by itself: channels are first in, first out, a stateful vertex
applies rows below a cut before those from it on (S1, S7), and a sink writes in the order in which
it takes. So nothing beyond the first exchange is waited for, Kafka least of all.

The order that a gate keeps is the one there is without moves: of one key, along one way. Where rows
of two vertices meet in a sink, or of one vertex by two ways, or where an exchange by another column
sends rows of one key to different processes, nothing says which come first. A `delay` puts rows off
to later times than the gate looks at: behind it, rows from before and after a cut may change
places.

Invariants
  GT1  Every way from S's rows to a sink or to another process goes by a near sink or a far input.
  GT2  The near ports are those of operators on ways within the process to its sinks: what leads to
       an exchange only is not waited for here.
Source: DESIGN §7 (gate), which names the sinks and stateful inputs beyond as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from service.dataflow.graph import Dataflow
from service.dataflow.operator import Edge, Pact
from service.dataflow.transport.credit import CreditClass


@dataclass(frozen=True, slots=True)
class Gate:
    """The two parts of a gate."""

    #: Inputs, by location, whose frontiers must have reached the cut.
    far: list[int]
    #: Ports of the process, by location, at which nothing below the cut may be left.
    near: frozenset[int]


def gate_of(graph: Dataflow, host: int, sinks: Collection[int]) -> Gate:
    """The gate of one S.

    Args:
        graph: with every channel.
        host: operator number of the S.
        sinks: operator number of each sink.
    """
    rows = [edge for edge in graph.edges if edge.credit is not CreditClass.STATE]
    stays = [edge for edge in rows if edge.pact is Pact.PIPELINE]
    forward = _followed(stays, lambda edge: (edge.source[0], edge.target[0]))
    here = forward(edge.target[0] for edge in stays if edge.source[0] == host)
    back = _followed(stays, lambda edge: (edge.target[0], edge.source[0]))
    ways = back(here & {*sinks}) & here
    near = {
        place(operator, port)
        for operator in ways
        for place, count in (
            (graph.target, graph.operators[operator].inputs),
            (graph.source, graph.operators[operator].outputs),
        )
        for port in range(count)
    }
    far = {
        graph.target(*edge.target)
        for edge in rows
        if edge.pact is Pact.ROUTED and edge.source[0] in here | {host}
    }
    return Gate(sorted(far), frozenset(near))


def _followed(
    edges: Iterable[Edge], ends: Callable[[Edge], tuple[int, int]]
) -> Callable[[Iterable[int]], set[int]]:
    """A function from operators to all that can be reached from them, themselves included."""
    steps: dict[int, list[int]] = {}
    for edge in edges:
        begin, end = ends(edge)
        steps.setdefault(begin, []).append(end)

    def follow(begins: Iterable[int]) -> set[int]:
        found: set[int] = set()
        open_ = list(begins)
        while open_:
            operator = open_.pop()
            if operator not in found:
                found.add(operator)
                open_ += steps.get(operator, ())
        return found

    return follow
