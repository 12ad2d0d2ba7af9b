"""The graph as built: numbers of ports and channels, and what a wrong graph is told."""

from __future__ import annotations

import pytest

from service.dataflow.graph import Dataflow
from service.dataflow.operator import OperatorContext, Pact
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.summary import identity
from service.dataflow.transport.credit import CreditClass

SAME = identity(1)


class Idle:
    def open(self, context: OperatorContext) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""


def chain() -> Dataflow:
    graph = Dataflow()
    first = graph.add("first", Idle(), inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))
    second = graph.add("second", Idle(), inputs=2, outputs=1, connectivity={(0, 0): SAME})
    graph.connect((first, 0), (second, 0))
    graph.connect((first, 0), (second, 1), Pact.ROUTED, CreditClass.STATE)
    return graph


def test_operators_and_channels_are_numbered_in_the_order_they_are_added() -> None:
    graph = chain()
    assert [operator.name for operator in graph.operators] == ["first", "second"]
    assert [edge.channel for edge in graph.edges] == [0, 1]
    assert [edge.target for edge in graph.edges] == [(1, 0), (1, 1)]
    assert [edge.location for edge in graph.edges] == [graph.target(1, 0), graph.target(1, 1)]
    assert [(edge.pact, edge.credit) for edge in graph.edges] == [
        (Pact.PIPELINE, CreditClass.DATA),
        (Pact.ROUTED, CreditClass.STATE),
    ]


def test_equal_calls_give_equal_graphs() -> None:
    assert chain().freeze().digest() == chain().freeze().digest()
    assert chain().edges == chain().edges


def test_what_is_declared_is_what_the_tracker_gets() -> None:
    graph = chain()
    frozen = graph.freeze()
    steps = frozen.steps
    assert steps[graph.target(1, 0)] == ((graph.source(1, 0), SAME),)
    assert steps[graph.target(1, 1)] == ()


def test_an_input_that_nothing_feeds_is_refused_by_name() -> None:
    graph = Dataflow()
    graph.add("lonely", Idle(), inputs=1, outputs=0, connectivity={})
    with pytest.raises(ProgressError, match="input 0 of 'lonely' is not connected"):
        graph.freeze()


def test_a_cycle_that_does_not_advance_is_refused_by_name() -> None:
    graph = Dataflow()
    number = graph.add("round", Idle(), inputs=1, outputs=1, connectivity={(0, 0): SAME})
    graph.connect((number, 0), (number, 0))
    with pytest.raises(ProgressError, match="round"):
        graph.freeze()


def test_a_watched_location_is_noted_with_the_operator() -> None:
    graph = chain()
    graph.watch(0, graph.source(1, 0))
    assert graph.operators[0].watches == [graph.source(1, 0)]
    assert graph.operators[1].watches == []
