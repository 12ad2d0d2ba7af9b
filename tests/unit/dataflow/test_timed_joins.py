"""Joins within event time, as a flow writes them: what they give, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from service.dataflow.event_time import EventTime, Watermarks
from service.dataflow.flow import Flow, Stream
from service.dataflow.vertices import KafkaSource, Order, TimedVertex, upstreams_of
from service.dataflow.window_values import given, tumbling
from service.errors import GraphError, NotYetSupported

LEFT = ["id", "at", "expires", "reserve"]
RIGHT = ["auction", "price", "at"]


def sides(
    left: Watermarks | None = None, right: Watermarks | None = None
) -> tuple[Flow, Stream, Stream]:
    flow = Flow("job")
    left = left or Watermarks("at")
    return (
        flow,
        flow.source("auctions", KafkaSource(["a"], "auction", LEFT), watermarks=left),
        flow.source("bids", KafkaSource(["b"], "bid", RIGHT), watermarks=right or left),
    )


def best(auctions: Stream, bids: Stream, **other: Any) -> Stream:
    given = {"until": "expires", "by": "price", "at_least": "reserve", **other}
    return auctions.key_by("id").best_within("won", bids.key_by("auction"), **given)


def test_best_within_gives_the_columns_of_both_and_the_end_as_event_time() -> None:
    flow, auctions, bids = sides()
    won = best(auctions, bids)
    assert won.columns == ("id", "at", "expires", "reserve", "price", "at_right")
    assert won.event_time == EventTime("expires", "ms")
    vertex = flow.vertices[won.vertex]
    assert isinstance(vertex, TimedVertex)
    assert vertex.order is Order.ORDERED
    assert upstreams_of(vertex) == (0, 1)
    assert vertex.key == "id"


def test_a_stream_without_an_event_time_is_refused() -> None:
    flow, auctions, _ = sides()
    plain = flow.source("plain", KafkaSource(["c"], "bid", RIGHT))
    with pytest.raises(GraphError, match="'won' needs an event time: source 'plain' has no water"):
        best(auctions, plain)


def test_units_columns_and_keys_must_fit() -> None:
    _, auctions, bids = sides(right=Watermarks("at", unit="us"))
    with pytest.raises(GraphError, match="'won' reads event times of different units, 'at' in ms"):
        best(auctions, bids)
    _, auctions, bids = sides()
    with pytest.raises(GraphError, match="'zz'"):
        best(auctions, bids, until="zz")
    with pytest.raises(GraphError, match="'zz'"):
        best(auctions, bids, by="zz")
    with pytest.raises(GraphError, match="'zz'"):
        best(auctions, bids, at_least="zz")
    with pytest.raises(GraphError, match="'won': 'auction' is the key; copy it"):
        best(auctions, bids, by="auction")
    with pytest.raises(GraphError, match="'won': 'at' is both key and event time; copy it"):
        auctions.key_by("id").best_within("won", bids.key_by("at"), until="expires", by="price")
    with pytest.raises(NotYetSupported, match="how='outer' of 'won' is not supported"):
        best(auctions, bids, how="outer")
    with pytest.raises(GraphError, match="would have two columns 'at'; choose another suffix"):
        best(auctions, bids, suffix="")


def test_streams_of_two_flows_are_refused() -> None:
    _, auctions, _ = sides()
    _, _, bids = sides()
    with pytest.raises(GraphError, match="was used in"):
        best(auctions, bids)


def near(auctions: Stream, bids: Stream, **other: Any) -> Stream:
    given = {"lower": "0s", "upper": "1m", **other}
    return auctions.key_by("id").interval_join("near", bids.key_by("auction"), **given)


@pytest.mark.parametrize(
    ("arguments", "time"),
    [
        ({}, EventTime("at_right", "ms")),
        ({"how": "left"}, EventTime("at", "ms", delay=60_000)),
        ({"lower": "-5s"}, EventTime("at", "ms", delay=60_000)),
        ({"lower": "-5s", "upper": "-1s"}, EventTime("at", "ms")),
        ({"lower": timedelta(seconds=-5), "upper": "0s"}, EventTime("at", "ms")),
    ],
)
def test_an_interval_join_gives_the_event_time_of_the_later_row(
    arguments: dict[str, Any], time: EventTime
) -> None:
    _, auctions, bids = sides()
    joined = near(auctions, bids, **arguments)
    assert joined.columns == ("id", "at", "expires", "reserve", "price", "at_right")
    assert joined.event_time == time


def test_columns_that_are_not_known_leave_the_left_event_time() -> None:
    flow, auctions, bids = sides()
    unknown = bids.map_batches("map", lambda rows: rows)
    joined = near(auctions, unknown)
    assert joined.columns is None
    assert joined.event_time == EventTime("at", "ms", delay=60_000)
    assert best(auctions, unknown).event_time == EventTime("expires", "ms")
    assert len(flow.vertices) == 5


def test_an_interval_is_from_less_to_more_in_whole_units() -> None:
    _, auctions, bids = sides()
    with pytest.raises(GraphError, match="'near': lower is 2m, which is more than upper, 1m"):
        near(auctions, bids, lower="2m")
    with pytest.raises(GraphError, match="lower of 'near' is 5us, but the event time is in ms"):
        near(auctions, bids, lower="-5us")
    with pytest.raises(GraphError, match="is no length of time"):
        near(auctions, bids, upper="soon")
    with pytest.raises(NotYetSupported, match="how='outer' of 'near' is not supported"):
        near(auctions, bids, how="outer")


def test_windows_of_a_join_are_the_same_on_both_sides_and_regular() -> None:
    _, auctions, bids = sides()
    ten, twenty = tumbling("10s"), tumbling("20s")
    left = auctions.key_by("id").window(ten)
    with pytest.raises(GraphError, match="join 'j': windows of 10s every 10s on one side and of 2"):
        left.join("j", bids.key_by("auction").window(twenty))
    with pytest.raises(NotYetSupported, match="join 'j' of windows of 10s every 10s or of all row"):
        left.join("j", bids.window(ten))
    with pytest.raises(NotYetSupported, match="join 'j' of windows that are given or of all rows"):
        left.join("j", bids.key_by("auction").window(given()))
    with pytest.raises(NotYetSupported, match="an allowed lateness of join 'j'"):
        left.join("j", bids.key_by("auction").window(ten, allowed_lateness="1s"))
    with pytest.raises(NotYetSupported, match="how='left' of 'j' is not supported"):
        left.join("j", bids.key_by("auction").window(ten), how="left")
    joined = left.join("j", bids.key_by("auction").window(tumbling("10s")))
    assert joined.event_time == EventTime("window_end", "ms", -1)
