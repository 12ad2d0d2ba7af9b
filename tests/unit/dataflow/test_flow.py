"""The users' API: a flow is a value, and one that cannot run is refused when it is written."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from service.dataflow.flow import Flow, LoopBody, Stream, count, highest, lowest, oldest, total
from service.dataflow.flow_shape import loops_of, roles_of
from service.dataflow.vertices import (
    AggregateVertex,
    ConcatVertex,
    FeedbackVertex,
    KafkaSink,
    KafkaSource,
    MapVertex,
    SinkVertex,
    SourceVertex,
    upstreams_of,
)
from service.errors import GraphError, NotYetSupported
from service.ids import Role

SINK = KafkaSink("out", key="a", schema=4)
OTHER = KafkaSource(["others"], record="bid", fields=["a", "b"])


def _none(batch: pa.RecordBatch) -> pa.Array:
    return pa.array([False] * batch.num_rows)


@pytest.fixture
def flow() -> Flow:
    return Flow("job")


@pytest.fixture
def stream(flow: Flow) -> Stream:
    return flow.source("in", KafkaSource(["events"], record="bid", fields=["a", "b"]))


def test_vertices_stand_in_the_order_they_were_written_inputs_first(
    flow: Flow, stream: Stream
) -> None:
    left = stream.filter("left", lambda rows: rows.column("a"))
    right = stream.select("right", "a", "b")
    both = flow.concat("both", left, right)
    named = both.map_batches("named", lambda rows: rows, columns=["a", "b"])
    stats = named.key_by("a").aggregate("stats", n=count(), top=highest("b"))
    assert stats.sink("out", SINK) is flow
    kinds = [type(vertex) for vertex in flow.vertices]
    assert kinds == [
        SourceVertex,
        MapVertex,
        MapVertex,
        ConcatVertex,
        MapVertex,
        AggregateVertex,
        SinkVertex,
    ]
    assert [upstreams_of(vertex) for vertex in flow.vertices] == [
        (),
        (0,),
        (0,),
        (1, 2),
        (3,),
        (4,),
        (5,),
    ]
    assert stats.columns == ("a", "n", "top")
    flow.check()


def test_filter_and_select_work_on_whole_batches(flow: Flow, stream: Stream) -> None:
    stream.filter("even", lambda rows: pa.array([v % 2 == 0 for v in rows["a"].to_pylist()]))
    stream.select("narrow", "b")
    rows = pa.RecordBatch.from_pydict({"a": [1, 2, 4], "b": [5, 6, 7]})
    even, narrow = flow.vertices[1:]
    assert isinstance(even, MapVertex)
    assert isinstance(narrow, MapVertex)
    assert even.function(rows).to_pydict() == {"a": [2, 4], "b": [6, 7]}
    assert narrow.function(rows).to_pydict() == {"b": [5, 6, 7]}


def test_a_name_is_used_once(flow: Flow, stream: Stream) -> None:
    with pytest.raises(GraphError, match="'job' already has a vertex named 'in'"):
        stream.select("in", "a")


@pytest.mark.parametrize(
    ("topics", "fields", "text"),
    [
        ([], ["a"], "at least one topic"),
        (["events"], [], "at least one topic and one field"),
        (["events"], ["a", "a"], "repeat a name"),
        ("events", ["a"], "takes lists"),
        (["events"], "a", "takes lists"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(
    topics: list[str], fields: list[str], text: str
) -> None:
    with pytest.raises(GraphError, match=text):
        KafkaSource(topics, record="bid", fields=fields)


def test_an_unknown_column_is_refused_where_it_is_used(stream: Stream) -> None:
    keyed = stream.key_by("a")
    for wrong in (
        lambda: stream.key_by("c"),
        lambda: stream.select("s", "a", "c"),
        lambda: stream.sink("out", KafkaSink("out", key="c", schema=4)),
        lambda: keyed.aggregate("stats", top=highest("c")),
    ):
        with pytest.raises(GraphError, match="needs column 'c'; the stream has"):
            wrong()


def test_columns_that_a_function_decides_are_checked_later(stream: Stream) -> None:
    stream.map_batches("free", lambda rows: rows).key_by("anything")


def test_an_aggregate_needs_something_to_compute_under_another_name_than_the_key(
    stream: Stream,
) -> None:
    keyed = stream.key_by("a")
    with pytest.raises(GraphError, match="nothing to compute"):
        keyed.aggregate("stats")
    with pytest.raises(GraphError, match="named like the key 'a'"):
        keyed.aggregate("stats", a=count())
    with pytest.raises(GraphError, match=r"'n' is 'b'; use count\(\)"):
        keyed.aggregate("stats", n="b")  # type: ignore[arg-type]  # the mistake under test


def test_every_aggregate_may_be_used(stream: Stream) -> None:
    found = stream.key_by("a").aggregate(
        "stats", n=count(), t=total("b"), h=highest("b"), l=lowest("b"), o=oldest("b")
    )
    assert found.columns == ("a", "n", "t", "h", "l", "o")


def test_concat_joins_equal_streams_of_one_flow(flow: Flow, stream: Stream) -> None:
    with pytest.raises(GraphError, match="at least two"):
        flow.concat("both", stream)
    with pytest.raises(GraphError, match=r"different columns .*\['a', 'b'\], \['a'\]"):
        flow.concat("both", stream, stream.select("narrow", "a"))
    other = Flow("other").source("in", KafkaSource(["events"], record="bid", fields=["x"]))
    with pytest.raises(GraphError, match="a stream of flow 'other' was used in 'job'"):
        flow.concat("both", stream, other)


def test_a_flow_without_a_source_or_with_a_loose_end_is_refused(flow: Flow, stream: Stream) -> None:
    with pytest.raises(GraphError, match="'empty' has no source"):
        Flow("empty").check()
    with pytest.raises(GraphError, match="nothing reads 'in'"):
        flow.check()
    stats = stream.key_by("a").aggregate("stats", n=count())
    with pytest.raises(GraphError, match=r"nothing reads 'stats'; add \.sink"):
        flow.check()
    stats.sink("out", SINK)
    flow.check()


def test_rows_stay_in_gateways_until_a_keyed_vertex_sends_them_to_workers(
    flow: Flow, stream: Stream
) -> None:
    keyed = stream.key_by("a").aggregate("stats", b=count())
    stream.select("narrow", "a").sink("straight", SINK)
    again = keyed.select("late", "a").key_by("a").aggregate("stats again", b=count())
    again.sink("kept", SINK)
    flow.concat("both", keyed, stream).sink("mixed", SINK)
    flow.check()
    gateways, workers = frozenset({Role.GATEWAY}), frozenset({Role.WORKER})
    roles = [vertex.name for vertex in flow.vertices], roles_of(flow.vertices)
    assert dict(zip(*roles, strict=True)) == {
        "in": gateways,
        "narrow": gateways,
        "straight": gateways,
        "stats": workers,
        "late": workers,
        "stats again": workers,
        "kept": workers,
        "both": gateways | workers,
        "mixed": gateways | workers,
    }


def halve(rows: Stream) -> tuple[Stream, Stream]:
    again, done = rows.branch("even", lambda batch: pc.equal(batch["a"], 0))
    return again, done


def test_a_loop_is_entered_gone_round_and_left(flow: Flow, stream: Stream) -> None:
    stream.iterate("loop", halve, rounds_max=3).sink("out", SINK)
    flow.check()
    names = [vertex.name for vertex in flow.vertices]
    assert names[1:4] == ["loop.enter", "loop.again", "loop.head"]
    assert names[-2:] == ["loop.leave", "out"]
    feedback = flow.vertices[2]
    assert isinstance(feedback, FeedbackVertex)
    assert (feedback.loop, feedback.rounds_max) == (1, 3)
    assert names[feedback.upstream] == "even"
    around = dict(zip(names, loops_of(flow.vertices), strict=True))
    assert around["in"] == around["out"] == ()
    assert around["loop.head"] == around["even"] == around["even.else"] == (1,)


def test_a_stream_from_outside_enters_the_loop_it_is_used_in(flow: Flow, stream: Stream) -> None:
    def body(rows: Stream) -> tuple[Stream, Stream]:
        with pytest.raises(GraphError, match="lie in different loops; bring one into"):
            loops_of([*flow.vertices, ConcatVertex("both", (rows.vertex, stream.vertex))])
        both = flow.concat("both", rows, stream.into("more", rows))
        return both.branch("even", lambda batch: pc.equal(batch["a"], 0))

    stream.iterate("outer", body).sink("out", SINK)
    flow.check()
    with pytest.raises(GraphError, match="'lost': 'in' lies in no loop that 'in' could enter"):
        stream.into("lost", stream)


def test_loops_nest(flow: Flow, stream: Stream) -> None:
    def outer(rows: Stream) -> tuple[Stream, Stream]:
        left = rows.iterate("inner", halve)
        return left.branch("odd", lambda batch: pc.equal(batch["b"], 0))

    stream.iterate("outer", outer).sink("out", SINK)
    flow.check()
    names = [vertex.name for vertex in flow.vertices]
    around = dict(zip(names, loops_of(flow.vertices), strict=True))
    outside = names.index("outer.enter")
    assert around["even"] == (outside, names.index("inner.enter"))
    assert around["inner.leave"] == around["odd"] == (outside,)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda rows: rows, "must return two streams, what goes round again and what leaves"),
        (lambda rows: (rows, None), "must return two streams"),
        (lambda rows: (rows.flow.source("else", OTHER),) * 2, "'else', which does not lie in that"),
        (lambda rows: Flow("f").source("in", OTHER).branch("b", _none), "of flow 'f' was used in"),
    ],
)
def test_a_body_that_returns_something_else_is_refused(
    stream: Stream, body: LoopBody, message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        stream.iterate("loop", body)


def test_a_loop_that_was_begun_and_not_closed_is_refused(flow: Flow, stream: Stream) -> None:
    def body(rows: Stream) -> tuple[Stream, Stream]:
        rows.sink("out", SINK)
        raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        stream.iterate("loop", body)
    with pytest.raises(GraphError, match=r"'loop\.again' was begun and not closed"):
        flow.check()


def test_a_sink_in_a_loop_and_no_rounds_at_all_are_refused(flow: Flow, stream: Stream) -> None:
    with pytest.raises(GraphError, match="rounds_max is 0; it must be at least 1"):
        stream.iterate("loop", halve, rounds_max=0)

    def body(rows: Stream) -> tuple[Stream, Stream]:
        rows.sink("inside", SINK)
        return halve(rows)

    stream.iterate("loop", body).sink("out", SINK)
    with pytest.raises(GraphError, match="sink 'inside' lies in a loop"):
        flow.check()


def test_what_this_version_cannot_do_is_refused_by_name(stream: Stream) -> None:
    with pytest.raises(NotYetSupported, match=r"how='left' of join 'pairs' is not supported"):
        stream.key_by("a").join("pairs", stream.key_by("a"), how="left")
