"""Windows as a flow is written: what they add to it, and what is refused by name.

Cannot catch: what windows give; tests of the stores do.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from service.dataflow.event_time import EventTime, Watermarks
from service.dataflow.flow import Flow, Stream, count, distinct_count, highest, mean, oldest
from service.dataflow.vertices import KafkaSource
from service.dataflow.window_values import given, session, sliding, tumbling
from service.dataflow.window_vertices import AssignWindows
from service.drawing import table_of
from service.errors import GraphError, NotYetSupported
from service.migration.stateful import keyed_parts

SCHEMA = pa.schema([(name, pa.int64()) for name in ("auction", "price", "date_time")])


def bids(watermarks: Watermarks | None = None) -> Stream:
    source = KafkaSource(["bids"], "bid", ["auction", "price", "date_time"])
    time = watermarks or Watermarks("date_time")
    return Flow("hot").source("bids", source, watermarks=time)


def test_windows_of_a_key_add_its_bounds_and_an_event_time() -> None:
    counts = bids().key_by("auction").window(sliding("10s", every="2s")).aggregate("c", n=count())
    assert counts.columns == ("auction", "window_start", "window_end", "n")
    assert counts.event_time == EventTime("window_end", "ms", -1)
    again = counts.window(given()).aggregate("top", n=highest("n"))
    assert again.columns == ("window_start", "window_end", "n")
    assert again.event_time == EventTime("window_end", "ms", -1)
    assert again.sink is not None


def test_windows_of_all_rows_are_assigned_before_rows_go_to_their_worker() -> None:
    stream = bids().window(tumbling("10s")).aggregate("c", n=count(), m=mean("price"))
    assert stream.columns == ("window_start", "window_end", "n", "m")
    assert [vertex.name for vertex in stream.flow.vertices] == ["bids", "c.windows", "c"]
    table = table_of(stream.map_batches("same", lambda rows: rows).inspect("see", print).flow)
    assert "windows" in table
    assert "n, m in windows of 10s every 10s" in table


def test_the_parts_send_what_the_windows_read() -> None:
    stream = bids().key_by("auction").window(tumbling("10s")).aggregate("c", top=highest("price"))
    vertex = stream.flow.vertices[-1]
    parts = keyed_parts(vertex, [SCHEMA], 2, [EventTime("date_time", "ms")])
    assert parts.columns == ["auction", "date_time", "price"]
    assert parts.schema.names == ["auction", "window_start", "window_end", "top"]
    assert not parts.sorted


def test_text_keys_keep_their_name_in_the_output() -> None:
    stream = bids().key_by("auction").window(tumbling("10s")).aggregate("c", n=count())
    schema = SCHEMA.set(0, pa.field("auction", pa.string()))
    parts = keyed_parts(stream.flow.vertices[-1], [schema], 2, [EventTime("date_time", "ms")])
    assert parts.schema.field(0) == pa.field("auction", pa.string())
    assert parts.text_key == "auction"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_windows_of_rows_are_assigned_in_the_unit_of_a_timestamp(unit: str) -> None:
    assign = AssignWindows("c", tumbling("10s"), EventTime("t", "ms"))
    moments = pa.array([12, -1], pa.timestamp("s")).cast(pa.timestamp(unit))
    found = assign(pa.record_batch({"t": moments}))
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    assert found["window_start"].to_pylist() == [10 * scale, -10 * scale]
    assert found["window_end"].to_pylist() == [20 * scale, 0]


def test_a_row_without_event_time_is_named() -> None:
    assign = AssignWindows("c", tumbling("10s"), EventTime("t", "ms"))
    with pytest.raises(GraphError, match="1 nulls in column 't'"):
        assign(pa.record_batch({"t": pa.array([1, None], pa.int64())}))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tumbling("0s"), "the size of a window is 0s"),
        (lambda: sliding("10s", every="0ms"), "the every of a window is 0ms"),
        (lambda: sliding("10s", every="11s"), "would leave gaps"),
        (lambda: tumbling("ten"), "no length of time"),
        (lambda: session("0s"), "the gap of sessions is 0s"),
        (lambda: _keyed(None), "is no window"),
        (lambda: bids().window(tumbling("1s")).top("t", by="price", n=0), "n is 0"),
        (lambda: bids().window(tumbling("1s")).top("t", by="prise"), "prise"),
        (lambda: _keyed(tumbling("10s"), "-1s"), "no length of time"),
        (lambda: _keyed(given()), "window_start"),
        (lambda: bids().key_by("auction").window(tumbling("1s")).aggregate("c"), "nothing"),
        (lambda: _keyed(tumbling("1s"), window_end=count()), "named 'window_end'"),
        (lambda: _keyed(tumbling("1s"), auction=count()), "named 'auction'"),
        (lambda: _keyed(tumbling("1s"), n=oldest("price")), "of windows there are"),
        (lambda: _keyed(tumbling("1s"), n=highest("prise")), "prise"),
    ],
)
def test_what_makes_no_windows_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(GraphError, match=text):
        make()


def _keyed(window: object, lateness: str = "0s", **aggregates: object) -> object:
    windows = bids().key_by("auction").window(window, allowed_lateness=lateness)  # type: ignore[arg-type]  # that is the test
    return windows.aggregate("c", **(aggregates or {"n": count()}))  # type: ignore[arg-type]  # of any kind


def test_a_stream_without_event_time_has_no_windows() -> None:
    source = KafkaSource(["bids"], "bid", ["auction"])
    stream = Flow("hot").source("bids", source)
    with pytest.raises(GraphError, match="'c' needs an event time: source 'bids' has no waterm"):
        stream.key_by("auction").window(tumbling("10s")).aggregate("c", n=count())


def test_rows_that_have_columns_of_windows_are_not_given_others() -> None:
    counts = bids().key_by("auction").window(tumbling("10s")).aggregate("c", n=count())
    with pytest.raises(GraphError, match="use given"):
        counts.window(tumbling("20s")).aggregate("more", n=count())


def test_the_best_rows_have_their_windows_beside_them() -> None:
    top = bids().window(tumbling("10s")).top("best", by="price", n=3, ties=False)
    assert top.columns == ("auction", "price", "date_time", "window_start", "window_end")
    given_again = top.key_by("auction").window(given()).top("again", by="price", lowest=True)
    assert given_again.columns == top.columns
    with pytest.raises(GraphError, match="use given"):
        top.key_by("auction").window(tumbling("1m")).top("more", by="price")
    assert "3 of greatest price in windows of 10s every 10s" in table_of(_ended(given_again))


def test_the_parts_of_the_best_rows_send_all_columns() -> None:
    stream = bids().key_by("auction").window(tumbling("10s")).top("best", by="price")
    schema = SCHEMA.set(0, pa.field("auction", pa.string()))
    parts = keyed_parts(stream.flow.vertices[-1], [schema], 2, [EventTime("date_time", "ms")])
    assert parts.columns[:3] == ["auction", "price", "date_time"]
    assert parts.schema.names == [*stream.columns]
    assert parts.schema.field("auction").type == pa.string()


def test_sessions_send_what_they_read() -> None:
    stream = bids().key_by("auction").window(session("30s")).aggregate("s", n=count())
    parts = keyed_parts(stream.flow.vertices[-1], [SCHEMA], 2, [EventTime("date_time", "ms")])
    assert parts.columns == ["auction", "date_time"]
    assert parts.schema.names == ["auction", "window_start", "window_end", "n"]


def test_sessions_of_all_rows_are_of_one_key_that_nobody_is_told_of() -> None:
    stream = bids().window(session("30s")).aggregate("s", n=count())
    assert stream.columns == ("window_start", "window_end", "n")
    assert [vertex.name for vertex in stream.flow.vertices] == ["bids", "s.windows", "s"]
    assert stream.late("late").columns == ("auction", "price", "date_time")
    top = bids().window(session("30s")).top("t", by="price")
    assert top.columns == ("auction", "price", "date_time", "window_start", "window_end")
    assert "1 of greatest price in windows of sessions, 30s apart" in table_of(_ended(top))
    # What one vertex gives is a stream as any other: sessions of sessions.
    more = stream.window(session("1m")).aggregate("more", n=count())
    assert more.columns == ("window_start", "window_end", "n")


def test_a_length_of_sessions_that_is_no_whole_number_of_the_unit_is_refused() -> None:
    stream = bids(Watermarks("date_time", unit="s"))
    vertex = stream.key_by("auction").window(session("1500ms")).top("c", by="price")
    with pytest.raises(GraphError, match="gap of the sessions of 'c' is 1500ms"):
        keyed_parts(vertex.flow.vertices[-1], [SCHEMA], 2, [EventTime("date_time", "s")])


def test_different_values_are_counted_beside_other_numbers() -> None:
    windows = bids().key_by("auction").window(tumbling("10s"))
    stream = windows.aggregate("d", bidders=distinct_count("price"), n=count())
    parts = keyed_parts(stream.flow.vertices[-1], [SCHEMA], 2, [EventTime("date_time", "ms")])
    assert parts.columns == ["auction", "date_time", "price"]
    assert parts.schema.names[3:] == ["bidders", "n"]
    with pytest.raises(NotYetSupported, match="different values of several columns"):
        windows.aggregate("e", a=distinct_count("price"), b=distinct_count("auction"))


def _ended(stream: Stream) -> Flow:
    stream.inspect("see", lambda _, __: None).inspect("end", lambda _, __: None)
    return stream.flow


def test_a_length_that_is_no_whole_number_of_the_unit_is_refused_when_it_is_lowered() -> None:
    stream = bids(Watermarks("date_time", unit="s"))
    vertex = stream.key_by("auction").window(tumbling("1500ms")).aggregate("c", n=count())
    with pytest.raises(GraphError, match="size of the windows of 'c' is 1500ms"):
        keyed_parts(vertex.flow.vertices[-1], [SCHEMA], 2, [EventTime("date_time", "s")])
