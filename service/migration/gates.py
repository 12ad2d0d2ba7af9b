"""The gate of an S: what must have passed a cut before rows of an arrived bin go on.

Flow: lowering -> [gate_of] -> StateHost.gate, StateHost.near. Pure: looks at the graph.

What S emits passes operators of its own process until a channel leads through an exchange. A sink
that it reaches only within the process is *near*: the old owner alone can tell when all it emitted
is in Kafka. Every other sink, and every stateful input, lies behind an exchange: *far*.

The order that a gate keeps is that of one vertex: where rows of two meet in one sink, nothing says
which come first, with moves or without.

Invariants
  GT1  Every sink and every stateful rows input that can be reached from S's rows is near or far.
  GT2  A sink that can be reached both ways is far: a frontier covers the near way as well.
  GT3  The near ports are those of operators on ways to near sinks: nothing is waited for that such
       a sink's frontier would not wait for.
Source: DESIGN §7 (gate).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from service.dataflow.graph import Dataflow
from service.dataflow.operator import Edge, Pact
from service.dataflow.transport.credit import CreditClass


@dataclass(frozen=True, slots=True)
class Gate:
    """The two parts of a gate."""

    #: Locations whose frontiers must have reached the cut.
    far: list[int]
    #: Ports of the process, by location, at which nothing below the cut may be left.
    near: frozenset[int]


def gate_of(graph: Dataflow, host: int, ends: Mapping[int, int]) -> Gate:
    """The gate of one S.

    Args:
        graph: with every channel.
        host: operator number of the S.
        ends: operator number of each sink and each S -> the location that stands for it.
    """
    rows = [edge for edge in graph.edges if edge.credit is not CreditClass.STATE]
    forward = _followed(rows, lambda edge: (edge.source[0], edge.target[0]))
    stays = [edge for edge in rows if edge.pact is Pact.PIPELINE]
    reached = forward(edge.target[0] for edge in rows if edge.source[0] == host)
    away = forward(
        edge.target[0]
        for edge in rows
        if edge.pact is Pact.ROUTED and edge.source[0] in reached | {host}
    )
    sinks = [end for end in ends if end in reached - away]
    back = _followed(stays, lambda edge: (edge.target[0], edge.source[0]))
    ways = (back(sinks) & reached) - away
    ports = {
        place(operator, port)
        for operator in ways
        for place, count in (
            (graph.target, graph.operators[operator].inputs),
            (graph.source, graph.operators[operator].outputs),
        )
        for port in range(count)
    }
    return Gate([ends[end] for end in ends if end in away], frozenset(ports))


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
