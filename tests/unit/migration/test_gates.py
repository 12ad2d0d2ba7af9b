"""Which part of S's gate is watched in the process, and which by frontiers."""

from __future__ import annotations

from service.dataflow.flow import Stream, count, highest
from service.dataflow.graph import Dataflow
from service.dataflow.vertices import KafkaSink
from service.migration.lowering import Lowered
from tests.unit.migration.test_lowering import SINK, begun, lowered, number_of


def stats_of(stream: Stream) -> Stream:
    return stream.key_by("a").aggregate("stats", b=count())


def ports_of(plan: Lowered, *names: str) -> set[int]:
    """Every port of these operators."""
    graph = plan.dataflow
    return {port for name in names for port in _ports(graph, number_of(plan, name))}


def _ports(graph: Dataflow, operator: int) -> list[int]:
    built = graph.operators[operator]
    inputs = [graph.target(operator, port) for port in range(built.inputs)]
    return inputs + [graph.source(operator, port) for port in range(built.outputs)]


def input_of(plan: Lowered, name: str) -> int:
    """The location of what stands first behind an exchange."""
    return plan.dataflow.target(number_of(plan, name), 0)


def test_all_on_the_way_to_a_sink_of_the_process_is_near() -> None:
    flow, stream = begun()
    stats = stats_of(stream).select("narrow", "a", "b")
    stats.sink("first", SINK)
    stats.select("narrower", "a").sink("second", KafkaSink("other", key="a", schema=4))
    plan = lowered(flow)
    assert plan.hosts["stats"].gate == []
    assert plan.hosts["stats"].near == ports_of(plan, "narrow", "first", "narrower", "second")


def test_what_leads_to_an_exchange_only_is_not_watched_in_the_process() -> None:
    flow, stream = begun()
    stats = stats_of(stream)
    stats.sink("beside", SINK)
    narrow = stats.select("narrow", "a", "b")
    away = narrow.exchange("away", by="b").select("there", "a")
    away.sink("out", KafkaSink("other", key="a", schema=4))
    plan = lowered(flow)
    assert plan.hosts["stats"].gate == [input_of(plan, "away")]
    assert plan.hosts["stats"].near == ports_of(plan, "beside")


def test_a_sink_that_is_reached_both_ways_is_near_and_behind_a_far_input() -> None:
    flow, stream = begun()
    stats = stats_of(stream)
    flow.concat("both", stats, stats.exchange("away", by="b")).sink("out", SINK)
    plan = lowered(flow)
    assert plan.hosts["stats"].gate == [input_of(plan, "away")]
    assert plan.hosts["stats"].near == ports_of(plan, "both", "out")


def test_nothing_beyond_the_next_stage_is_waited_for() -> None:
    flow, stream = begun()
    first = stats_of(stream)
    second = first.key_by("b").aggregate("second", a=highest("a"))
    third = second.key_by("a").aggregate("third", c=count())
    third.sink("late", KafkaSink("late", key="a", schema=4))
    plan = lowered(flow)
    assert plan.hosts["stats"].gate == [input_of(plan, "second.S")]
    assert plan.hosts["second"].gate == [input_of(plan, "third.S")]
    assert (plan.hosts["stats"].near, plan.hosts["third"].gate) == (frozenset(), [])


def test_a_sink_above_or_beside_s_is_no_part_of_its_gate() -> None:
    flow, stream = begun()
    stream.select("raw", "a").sink("beside", KafkaSink("raw", key="a", schema=4))
    first = stats_of(stream)
    first.sink("early", SINK)
    second = first.key_by("b").aggregate("second", a=highest("a"))
    second.sink("late", KafkaSink("late", key="b", schema=4))
    plan = lowered(flow)
    assert plan.hosts["stats"].near == ports_of(plan, "early")
    assert plan.hosts["second"].near == ports_of(plan, "late")
    assert plan.hosts["second"].gate == []
