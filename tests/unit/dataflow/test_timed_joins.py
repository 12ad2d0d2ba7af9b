"""Joins within event time, as a flow writes them: what they give, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from service.dataflow.event_time import EventTime, Watermarks
from service.dataflow.flow import Flow, Stream
from service.dataflow.vertices import KafkaSource, Order, TimedVertex, upstreams_of
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
