"""Lowering of what has no state: channels, ports, depths, and who is waited for."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from service.dataflow.flow import Flow, Stream, count
from service.dataflow.operator import OperatorContext, Pact
from service.dataflow.transport.credit import CreditClass
from service.dataflow.vertices import KafkaSink, KafkaSource
from service.migration.lowering import Edges, Lowered, lower
from tests.fakes.control import ControlHand

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64())])
SINK = KafkaSink("out", key="a", schema=4)


class Idle:
    def open(self, context: OperatorContext) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""


def begun() -> Stream:
    return Flow("job").source("in", KafkaSource(["events"], record="bid", fields=["a", "b"]))


def lowered(stream: Stream) -> Lowered:
    edges = Edges(lambda _: Idle(), lambda *_: Idle(), lambda _: SCHEMA)
    return lower(stream.flow, 8, ControlHand().source, edges)


def number_of(plan: Lowered, name: str) -> int:
    return [operator.name for operator in plan.dataflow.operators].index(name)


def channels(plan: Lowered) -> list[tuple[str, int, str, Pact]]:
    operators = plan.dataflow.operators
    return [
        (operators[e.source[0]].name, e.source[1], operators[e.target[0]].name, e.pact)
        for e in plan.dataflow.edges
        if operators[e.source[0]].name != "control"
    ]


def test_an_exchange_is_a_sender_and_a_receiver_on_a_routed_data_channel() -> None:
    for spread in (begun().exchange("x", by="a"), begun().broadcast("x")):
        spread.sink("out", SINK)
        plan = lowered(spread)
        assert channels(plan) == [
            ("in", 0, "x.send", Pact.PIPELINE),
            ("x.send", 0, "x", Pact.ROUTED),
            ("x", 0, "out", Pact.PIPELINE),
        ]
        (routed,) = [edge for edge in plan.dataflow.edges if edge.pact is Pact.ROUTED]
        assert routed.credit is CreditClass.DATA
        assert routed.bounded


def test_sides_are_further_outputs_of_one_operator_and_none_of_their_own() -> None:
    even, odd = begun().branch("even", pc.field("a") > 0)
    wrong = even.errors("wrong")
    for number, stream in enumerate((even, odd, wrong)):
        stream.sink(f"out {number}", SINK)
    plan = lowered(even)
    assert channels(plan) == [
        ("in", 0, "even", Pact.PIPELINE),
        ("even", 0, "out 0", Pact.PIPELINE),
        ("even", 1, "out 1", Pact.PIPELINE),
        ("even", 2, "out 2", Pact.PIPELINE),
    ]
    built = plan.dataflow.operators[number_of(plan, "even")]
    assert set(built.connectivity) == {(0, 0), (0, 1), (0, 2)}


def test_nobody_has_an_errors_output_unless_the_flow_asks() -> None:
    mapped = begun().map_batches("m", lambda rows: rows)
    mapped.sink("out", SINK)
    assert lowered(mapped).dataflow.operators[2].outputs == 1


def test_delays_and_captures_are_told_of_frontiers_and_others_are_not(tmp_path) -> None:
    stream = begun().delay("late", step=10).inspect("look", print).capture("kept", tmp_path)
    stream.sink("out", SINK)
    plan = lowered(stream)
    notified = [each.name for each in plan.dataflow.operators if each.notified]
    assert notified == ["late", "kept"]
    assert list(plan.delays) == ["late"]
    # A file is made by who runs, not by who builds.
    assert list(tmp_path.iterdir()) == []


def test_the_gate_ends_at_the_first_exchange() -> None:
    kept = begun().key_by("a").aggregate("kept", b=count())
    kept.exchange("x", by="b").delay("late", step=10).broadcast("all").sink("out", SINK)
    plan = lowered(kept)
    assert plan.hosts["kept"].gate == [plan.dataflow.target(number_of(plan, "x"), 0)]
    assert plan.hosts["kept"].near == frozenset()


def test_every_vertex_has_a_place_to_probe() -> None:
    even, odd = begun().exchange("x", by="a").branch("even", pc.field("a") > 0)
    odd.inspect("look", print)
    even.key_by("a").aggregate("kept", b=count()).sink("out", SINK)
    plan = lowered(even)
    graph = plan.dataflow
    assert plan.places == {
        "in": graph.source(number_of(plan, "in"), 0),
        "x": graph.source(number_of(plan, "x"), 0),
        "even": graph.source(number_of(plan, "even"), 0),
        "even.else": graph.source(number_of(plan, "even"), 1),
        "look": graph.source(number_of(plan, "look"), 0),
        "kept": graph.source(number_of(plan, "kept.S"), 0),
        "out": graph.source(number_of(plan, "out"), 0),
    }


def test_in_a_loop_exchange_delay_and_sides_have_its_depth() -> None:
    def body(inside: Stream) -> tuple[Stream, Stream]:
        spread = inside.exchange("x", by="a").delay("late", step=10)
        return spread.branch("again", pc.field("a") > 0)

    leaving = begun().iterate("loop", body)
    leaving.sink("out", SINK)
    plan = lowered(leaving)
    depths = plan.dataflow.freeze().depths
    for name in ("x.send", "x", "late", "again"):
        number = number_of(plan, name)
        assert depths[plan.dataflow.target(number, 0)] == 2
        assert depths[plan.dataflow.source(number, 0)] == 2
    assert depths[plan.dataflow.source(number_of(plan, "again"), 1)] == 2
    assert depths[plan.dataflow.source(number_of(plan, "loop.leave"), 0)] == 1


def test_equal_flows_are_lowered_to_equal_graphs(tmp_path) -> None:
    def one() -> Lowered:
        even, odd = begun().exchange("x", by="a").branch("even", pc.field("a") > 0)
        odd.delay("late", step=10).capture("kept", tmp_path)
        even.errors("wrong").inspect("look", print)
        even.sink("out", SINK)
        return lowered(even)

    first, second = one(), one()
    assert first.dataflow.freeze().digest() == second.dataflow.freeze().digest()
    assert first.dataflow.edges == second.dataflow.edges
