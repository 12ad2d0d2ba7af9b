"""Which column is the event time of a stream, where it goes, and where it is lost by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from service.dataflow.event_time import EventTime, Unit, Watermarks, in_unit, unit_of
from service.dataflow.flow import Flow, Stream, count, highest
from service.dataflow.vertices import KafkaSource, Order, TimedVertex
from service.errors import GraphError

FIELDS = ["auction", "price", "date_time"]
TIME = EventTime("date_time", "ms")


def bids(flow: Flow | None = None, name: str = "bids", *, unit: Unit = "ms") -> Stream:
    flow = flow or Flow("job")
    source = KafkaSource([name], "bid", FIELDS)
    return flow.source(name, source, watermarks=Watermarks("date_time", unit=unit))


@dataclass(frozen=True)
class Timed(TimedVertex):
    """A vertex with event time that gives its rows on."""

    name: str
    keys: tuple[str, ...]
    upstreams: tuple[int, ...]

    def event_time(self, given: Sequence[EventTime]) -> EventTime:
        """That of the first stream."""
        return given[0]


def timed(stream: Stream, name: str = "timed") -> Stream:
    keyed = stream.key_by("auction")
    keyed._need_event_time(name)
    return stream._then(Timed(name, ("auction",), (stream.vertex,)), stream.columns)


@pytest.mark.parametrize(
    ("duration", "unit", "length"),
    [
        ("1.5s", "ms", 1_500),
        ("250us", "us", 250),
        ("2us", "ns", 2_000),
        ("1m", "s", 60),
        (timedelta(hours=1), "ms", 3_600_000),
        ("0s", "s", 0),
    ],
)
def test_a_length_of_time_is_a_whole_number_of_the_streams_unit(
    duration: str | timedelta, unit: Unit, length: int
) -> None:
    assert in_unit(duration, unit, "gap") == length


@pytest.mark.parametrize(
    ("duration", "unit", "says"),
    [("1.5s", "s", "whole number of s"), ("10us", "ms", "gap is 10us"), ("soon", "ms", "gap")],
)
def test_a_length_that_is_none_is_refused(duration: str, unit: Unit, says: str) -> None:
    with pytest.raises(GraphError, match=says):
        in_unit(duration, unit, "gap")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"unit": "min"}, "none of s, ms, us, ns"),
        ({"out_of_orderness": "1us"}, None),
        ({"out_of_orderness": "1s", "generator": lambda rows: None}, "exclude each other"),
        ({"generator": 7}, "no function"),
        ({"idle_after": "0s"}, "longer than 0s"),
        ({"idle_after": "often"}, "idle_after"),
    ],
)
def test_watermarks_that_cannot_be_meant_are_refused(
    arguments: dict[str, Any], says: str | None
) -> None:
    def made() -> object:
        return Watermarks("date_time", **arguments).allowed

    with pytest.raises(GraphError, match=says or "whole number of ms"):
        made()


def test_the_type_of_a_column_says_the_unit() -> None:
    assert unit_of(pa.field("t", pa.timestamp("us")), "ms", "in") == "us"
    assert unit_of(pa.field("t", pa.int64()), "ms", "in") == "ms"
    with pytest.raises(GraphError, match="must be an int64 or a timestamp, not string"):
        unit_of(pa.field("t", pa.string()), "ms", "in")


def test_a_source_without_the_column_is_refused() -> None:
    with pytest.raises(GraphError, match="none of its columns"):
        Flow("job").source(
            "bids", KafkaSource(["bids"], "bid", ["auction"]), watermarks=Watermarks("date_time")
        )


KEPT: dict[str, Callable[[Stream], Stream]] = {
    "filter": lambda rows: rows.filter("large", pc.field("price") > 5),
    "select": lambda rows: rows.select("narrow", "auction", "date_time"),
    "columns": lambda rows: rows.with_columns("more", twice=pc.field("price") * 2),
    "batches": lambda rows: rows.map_batches("same", lambda batch: batch),
    "branch": lambda rows: rows.branch("odd", pc.field("price") > 5)[1],
    "exchange": lambda rows: rows.exchange("spread", by="auction"),
    "inspect": lambda rows: rows.inspect("look", lambda epoch, batch: None),
    "concat": lambda rows: rows.flow.concat("both", rows, bids(rows.flow, "more")),
    "distinct": lambda rows: rows.key_by("auction").distinct("first", order=Order.ORDERED),
    "map": lambda rows: rows.key_by("auction").stateful_map(
        "count",
        lambda state, time: (time, time),
        value="date_time",
        schema={"date_time": pa.int64()},
        order=Order.ORDERED,
    ),
    "timed": timed,
}


@pytest.mark.parametrize("operation", KEPT)
def test_it_is_kept_by(operation: str) -> None:
    assert KEPT[operation](bids()).event_time == TIME


def looped(rows: Stream) -> Stream:
    return rows.iterate("round", lambda inside: inside.branch("ends", pc.field("price") > 5))


LOST: dict[str, tuple[Callable[[Stream], Stream], str]] = {
    "select": (
        lambda rows: rows.select("narrow", "auction").filter("all", pc.field("auction") > 0),
        "'narrow' drops column 'date_time'",
    ),
    "delay": (lambda rows: rows.delay("later", step=10_000_000), "delay 'later' puts rows off"),
    "eager": (
        lambda rows: rows.key_by("auction").distinct("first"),
        "'first' may let rows wait beyond their time; give it order=Order.ORDERED",
    ),
    "aggregate": (
        lambda rows: rows.key_by("auction").aggregate("n", n=count(), order=Order.ORDERED),
        "'n' drops column 'date_time'",
    ),
    "join": (
        lambda rows: rows.key_by("auction").join("pairs", bids(rows.flow, "b").key_by("auction")),
        "as old as may be",
    ),
    "units": (
        lambda rows: rows.flow.concat("both", rows, bids(rows.flow, "more", unit="us")),
        "different event times: 'bids' has 'date_time' in ms, 'more' has 'date_time' in us",
    ),
    "loop": (looped, "brings it into a loop"),
    "none": (
        lambda rows: rows.flow.source("bare", KafkaSource(["bare"], "bid", FIELDS)),
        "source 'bare' has no watermarks",
    ),
}


@pytest.mark.parametrize("operation", LOST)
def test_it_is_lost_by_name_at(operation: str) -> None:
    change, says = LOST[operation]
    stream = change(bids())
    assert stream.event_time is None
    with pytest.raises(GraphError, match=f"'counts' needs an event time: .*{says}"):
        timed(stream, "counts")


def test_a_vertex_with_event_time_in_a_loop_is_refused() -> None:
    rows = bids()

    def body(inside: Stream) -> tuple[Stream, Stream]:
        counts = inside._then(Timed("timed", ("auction",), (inside.vertex,)), inside.columns)
        return counts.branch("ends", pc.field("price") > 5)

    rows.iterate("round", body).inspect("look", lambda epoch, batch: None)
    with pytest.raises(GraphError, match="'timed' has windows or timers and lies in a loop"):
        rows.flow.check()


def test_an_ordered_aggregate_may_name_an_output_like_the_event_time() -> None:
    latest = (
        bids()
        .key_by("auction")
        .aggregate("latest", date_time=highest("date_time"), order=Order.ORDERED)
    )
    assert latest.event_time == TIME
