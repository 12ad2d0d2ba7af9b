"""From a flow to operators: the same graph everywhere, gates where they belong, errors at start."""

from __future__ import annotations

import pyarrow as pa
import pytest

from service.dataflow.event_time import Watermarks
from service.dataflow.flow import Flow, Stream, count, highest, total
from service.dataflow.operator import OperatorContext, Pact
from service.dataflow.transport.credit import CreditClass
from service.dataflow.vertices import (
    BatchFunction,
    KafkaSink,
    KafkaSource,
    SinkVertex,
    SourceVertex,
)
from service.dataflow.window_values import tumbling
from service.errors import GraphError, UsageError
from service.migration.control_source import ControlSource
from service.migration.lowering import Edges, Lowered, lower
from tests.fakes.control import ControlHand

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("f", pa.float64()), ("s", pa.string())])
SINK = KafkaSink("out", key="a", schema=4)


class Idle:
    def open(self, context: OperatorContext) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""


EDGES = Edges(source=lambda _: Idle(), sink=lambda *_: Idle(), schema=lambda _: SCHEMA)


def begun() -> tuple[Flow, Stream]:
    flow = Flow("job")
    source = KafkaSource(["events"], record="bid", fields=["a", "b", "f", "s"])
    return flow, flow.source("in", source)


def lowered(flow: Flow, control: ControlSource | None = None) -> Lowered:
    return lower(flow, 8, control or ControlHand().source, EDGES)


def two_stages() -> Flow:
    _, stream = begun()
    first = stream.key_by("a").aggregate("first", b=count())
    first.sink("early", SINK)
    second = first.select("narrow", "a", "b").key_by("b").aggregate("second", a=highest("a"))
    return second.sink("late", KafkaSink("late", key="b", schema=4))


def number_of(plan: Lowered, name: str) -> int:
    return [operator.name for operator in plan.dataflow.operators].index(name)


def test_a_stateful_vertex_becomes_f_and_s() -> None:
    plan = lowered(two_stages())
    assert [operator.name for operator in plan.dataflow.operators] == [
        "control",
        "in",
        "first.F",
        "first.S",
        "early",
        "narrow",
        "second.F",
        "second.S",
        "late",
    ]
    assert list(plan.hosts) == list(plan.routers) == ["first", "second"]


def test_equal_flows_are_lowered_to_equal_graphs() -> None:
    one, other = lowered(two_stages()), lowered(two_stages())
    assert one.dataflow.freeze().digest() == other.dataflow.freeze().digest()
    assert one.dataflow.edges == other.dataflow.edges


def test_words_about_event_time_do_not_wait_for_the_window_of_rows() -> None:
    flow = Flow("job")
    source = KafkaSource(["events"], record="bid", fields=["a", "b"])
    stream = flow.source("in", source, watermarks=Watermarks("b"))
    counts = stream.key_by("a").window(tumbling("1s")).aggregate("counts", n=count())
    plan = lowered(counts.sink("out", SINK))
    words = number_of(plan, "in.words")
    (credit,) = [edge.credit for edge in plan.dataflow.edges if edge.target == (words, 0)]
    assert credit is CreditClass.STATE


def test_rows_and_state_are_exchanged_on_credit_of_their_own_and_nothing_else_leaves() -> None:
    plan = lowered(two_stages())
    routed = {
        (edge.source, edge.target): edge.credit
        for edge in plan.dataflow.edges
        if edge.pact is Pact.ROUTED
    }
    expected = {}
    for vertex in ("first", "second"):
        f, s = number_of(plan, f"{vertex}.F"), number_of(plan, f"{vertex}.S")
        expected[(f, 0), (s, 0)] = CreditClass.DATA
        expected[(s, 1), (s, 1)] = CreditClass.STATE
    assert routed == expected


def test_commands_reach_every_source_f_and_s() -> None:
    plan = lowered(two_stages())
    reached = {
        plan.dataflow.operators[edge.target[0]].name
        for edge in plan.dataflow.edges
        if edge.source[0] == number_of(plan, "control")
    }
    assert reached == {"in", "first.F", "first.S", "second.F", "second.S"}


def test_state_never_answers_rows_or_state() -> None:
    """A path from rows or state to the state output deadlocks the first move."""
    plan = lowered(two_stages())
    for vertex in ("first", "second"):
        operator = plan.dataflow.operators[number_of(plan, f"{vertex}.S")]
        assert set(operator.connectivity) == {(0, 0), (1, 0), (2, 0), (2, 1)}


def test_the_gate_is_the_sinks_beside_and_the_next_stateful_inputs() -> None:
    plan = lowered(two_stages())
    graph = plan.dataflow
    early = graph.source(number_of(plan, "early"), 0)
    late = graph.source(number_of(plan, "late"), 0)
    second = graph.target(number_of(plan, "second.S"), 0)
    # What stays in the process is watched there, the way through an exchange by its other end.
    assert plan.hosts["first"].gate == [second]
    assert plan.hosts["first"].near == {graph.target(number_of(plan, "early"), 0), early}
    assert plan.hosts["second"].gate == []
    assert plan.hosts["second"].near == {graph.target(number_of(plan, "late"), 0), late}
    for vertex in ("first", "second"):
        operator = graph.operators[number_of(plan, f"{vertex}.S")]
        assert operator.watches == plan.hosts[vertex].gate
        assert operator.notified


def test_in_a_loop_s_has_a_control_stream_of_its_depth_and_lies_below_itself() -> None:
    _, stream = begun()

    def body(rows: Stream) -> tuple[Stream, Stream]:
        kept = rows.key_by("a").aggregate("kept", b=highest("b"))
        named = kept.map_batches("named", lambda batch: batch.select(["a", "b"]))
        return named, kept

    entering = stream.select("narrow", "a", "b")
    entering.iterate("loop", body).sink("out", SINK)
    plan = lowered(entering.flow)
    graph = plan.dataflow
    topology = graph.freeze()
    control = number_of(plan, "control")
    assert graph.operators[control].holds == {0, 1}
    fed = [edge.target[0] for edge in graph.edges if edge.source == (control, 1)]
    assert fed == [number_of(plan, "kept.F"), number_of(plan, "kept.S")]
    below = graph.target(number_of(plan, "kept.S"), 0)
    assert plan.hosts["kept"].gate == [below]
    assert graph.source(number_of(plan, "out"), 0) in plan.hosts["kept"].near
    assert topology.depths[below] == 2
    unbounded = [edge.target[0] for edge in graph.edges if not edge.bounded]
    assert unbounded == [number_of(plan, "loop.again")]


def test_the_table_is_read_up_to_every_s() -> None:
    control = ControlHand().source
    control.readers.clear()
    plan = lowered(two_stages(), control)
    assert control.readers == [
        plan.dataflow.source(number_of(plan, f"{vertex}.S"), 0) for vertex in ("first", "second")
    ]


def test_sources_and_the_control_source_hold_the_first_time() -> None:
    plan = lowered(two_stages())
    holding = [operator.name for operator in plan.dataflow.operators if operator.holds]
    assert holding == ["control", "in"]


def test_vertices_reach_whoever_makes_the_ends() -> None:
    seen: list[str] = []

    def source(vertex: SourceVertex) -> Idle:
        seen.append(vertex.name)
        return Idle()

    def sink(vertex: SinkVertex, columns: pa.Schema) -> Idle:
        assert vertex.connector.key in columns.names
        seen.append(vertex.connector.topic)
        return Idle()

    lower(two_stages(), 8, ControlHand().source, Edges(source, sink, lambda _: SCHEMA))
    assert seen == ["in", "out", "late"]


def test_a_flow_that_cannot_run_is_refused() -> None:
    flow, stream = begun()
    with pytest.raises(GraphError, match="nothing reads 'in'"):
        lowered(flow)
    stream.key_by("a").aggregate("stats", n=count()).sink("out", SINK)
    with pytest.raises(UsageError, match="power of two"):
        lower(flow, 12, ControlHand().source, EDGES)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda rows: rows.select(["missing"]), "'wrong' failed on an empty batch with columns"),
        (lambda rows: rows.to_pylist(), "'wrong' must return a pyarrow.RecordBatch, not list"),
        (lambda rows: rows.column("a")[0].as_py() + 1, "'wrong' failed on an empty batch"),
    ],
)
def test_a_wrong_function_is_found_at_start(function: BatchFunction, text: str) -> None:
    flow, stream = begun()
    mapped = stream.map_batches("wrong", function)
    mapped.key_by("a").aggregate("stats", n=count()).sink("out", SINK)
    with pytest.raises(GraphError, match=text):
        lowered(flow)


def test_columns_that_a_function_renamed_are_checked_at_start() -> None:
    flow, stream = begun()
    renamed = stream.map_batches("renamed", lambda rows: rows.select(["b"]))
    renamed.key_by("a").aggregate("stats", n=count()).sink("out", SINK)
    with pytest.raises(GraphError, match=r"'stats' needs an int64 column 'a'.*\{'b': 'int64'\}"):
        lowered(flow)


def test_a_key_that_is_neither_integer_nor_text_is_refused() -> None:
    flow, stream = begun()
    sink = KafkaSink("out", key="f", schema=4)
    stream.key_by("f").aggregate("stats", n=count()).sink("out", sink)
    with pytest.raises(GraphError, match="'stats' needs an int64 column 'f' as its key, or one"):
        lowered(flow)


def test_of_a_key_that_is_text_the_type_stays() -> None:
    flow, stream = begun()
    sink = KafkaSink("out", key="n", schema=4)
    stats = stream.key_by("s").aggregate("stats", n=count())
    stats.key_by("s").aggregate("more", n=count()).sink("out", sink)
    plan = lowered(flow)
    assert plan.hosts["more"].store.columns == (("s", "key of string"), ("n", "int64"))


def test_an_aggregate_of_text_is_refused() -> None:
    flow, stream = begun()
    stream.key_by("a").aggregate("stats", t=total("s")).sink("out", SINK)
    with pytest.raises(UsageError, match="'s'"):
        lowered(flow)


def test_concatenated_streams_must_have_equal_types() -> None:
    flow, stream = begun()
    left = stream.select("left", "a", "b")
    right = stream.map_batches(
        "right",
        lambda rows: pa.RecordBatch.from_arrays([rows["a"], rows["f"]], ["a", "b"]),
        columns=["a", "b"],
    )
    both = flow.concat("both", left, right)
    both.key_by("a").aggregate("stats", n=count()).sink("out", SINK)
    with pytest.raises(GraphError, match=r"'both' differ: .*'b': 'int64'.* and .*'b': 'double'"):
        lowered(flow)


def test_the_output_of_one_vertex_has_the_types_the_next_one_needs() -> None:
    flow, stream = begun()
    stats = stream.key_by("a").aggregate("stats", n=count(), mean=highest("f"))
    stats.key_by("n").aggregate("more", top=highest("mean")).sink(
        "out", KafkaSink("out", key="n", schema=4)
    )
    plan = lowered(flow)
    assert plan.hosts["more"].store.program.output_dtypes == {"top": "float64"}
