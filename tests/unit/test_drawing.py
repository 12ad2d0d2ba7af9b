"""A drawing shows every vertex and every stream, and says where each runs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.dataflow.flow import Flow, Stream, count, highest
from service.dataflow.row_vertices import SideVertex
from service.dataflow.vertices import KafkaSink, KafkaSource, MapVertex, TimedVertex, Vertex
from service.drawing import KINDS, document_of, svg_of, table_of
from service.errors import GraphError, UsageError
from tests.integration.job import contract

SVG = "{http://www.w3.org/2000/svg}"


def looping() -> Flow:
    flow = Flow("<climb>")
    bids = flow.source("bids", KafkaSource(["events"], "bid", ["auction", "price"]))

    def body(rows: Stream) -> tuple[Stream, Stream]:
        tops = rows.key_by("auction").aggregate("tops", price=highest("price"))
        return tops.map_batches("up", lambda batch: batch, columns=("auction", "price")), tops

    climbed = bids.iterate("loop", body, rounds_max=5)
    seen = climbed.key_by("auction").aggregate("seen", changes=count())
    return seen.sink("out", KafkaSink("changes", key="auction", schema=4))


def test_the_table_says_what_each_vertex_is_where_it_runs_and_what_it_reads() -> None:
    assert table_of(looping()).splitlines() == [
        "flow '<climb>'",
        "vertex        kind        runs in               reads",
        "bids          source      gateways              Kafka                   "
        "events: bid(auction, price)",
        "  loop.enter  enter loop  gateways              bids",
        "  loop.again  feedback    workers               up                      at most 5 rounds",
        "  loop.head   concat      gateways and workers  loop.enter, loop.again",
        "  tops        keyed       workers               loop.head               by auction: price",
        "  up          map         workers               tops",
        "loop.leave    leave loop  workers               tops",
        "seen          keyed       workers               loop.leave              "
        "by auction: changes",
        "out           sink        workers               seen                    "
        "changes, schema 4, key auction",
    ]


def test_the_document_says_the_same_as_the_table() -> None:
    document = document_of(looping())
    contract("graph").validate(document)
    assert document["flow"] == "<climb>"
    by_name = {each["name"]: each for each in document["vertices"]}
    assert list(by_name) == [vertex.name for vertex in looping().vertices]
    assert by_name["loop.head"] == {
        "name": "loop.head",
        "kind": "concat",
        "roles": ["gateway", "worker"],
        "loops": 1,
        "reads": ["loop.enter", "loop.again"],
        "detail": "",
    }
    assert by_name["bids"]["detail"] == "events: bid(auction, price)"


def test_the_picture_has_a_box_for_each_vertex_and_a_line_for_each_stream() -> None:
    flow = looping()
    root = ElementTree.fromstring(svg_of(flow))
    titles = [group.findtext(f"{SVG}title") or "" for group in root.iter(f"{SVG}g")]
    assert [title.split(":")[0] for title in titles] == [vertex.name for vertex in flow.vertices]
    lines = root.findall(f"{SVG}path")
    assert len(lines) == 9
    assert sum("stroke-dasharray" in line.attrib for line in lines) == 1
    frames = root.findall(f"{SVG}rect")
    assert len(frames) == 1
    assert root.findtext(f"{SVG}title") == "<climb>"


def test_what_is_fed_lies_below_what_feeds_it_and_boxes_do_not_overlap() -> None:
    root = ElementTree.fromstring(svg_of(looping()))
    boxes = [group.find(f"{SVG}rect") for group in root.iter(f"{SVG}g")]
    corners = [(int(box.attrib["x"]), int(box.attrib["y"])) for box in boxes if box is not None]
    assert len(set(corners)) == len(corners) == 9
    bids, enter, _, head, tops, up, leave, seen, out = (y for _, y in corners)
    assert bids < enter < head < tops < up
    assert tops < leave < seen < out


def spreading() -> Flow:
    flow = Flow("spread")
    bids = flow.source("bids", KafkaSource(["events"], "bid", ["auction", "price"]))
    large, small = bids.filter("some", lambda batch: batch["price"]).branch(
        "large", lambda batch: batch["price"]
    )
    mapped = large.exchange("by auction", by="auction").flat_map("twice", lambda b: [b, b])
    mapped.errors("wrong").capture("kept", "/captured")
    small.broadcast("all").delay("seconds", step=1_000_000).inspect("look", print)
    return mapped.sink("out", KafkaSink("out", key="auction", schema=4))


def test_vertices_without_state_are_drawn_by_what_the_flow_calls_them() -> None:
    assert table_of(spreading()).splitlines()[2:] == [
        "bids        source     gateways  Kafka       events: bid(auction, price)",
        "some        filter     gateways  bids",
        "large       branch     gateways  some",
        "large.else  others     gateways  large",
        "by auction  exchange   workers   large       by auction",
        "twice       flat map   workers   by auction",
        "wrong       errors     workers   twice",
        "kept        capture    workers   wrong       /captured",
        "all         broadcast  workers   large.else",
        "seconds     delay      workers   all",
        "look        inspect    workers   seconds",
        "out         sink       workers   twice       out, schema 4, key auction",
    ]
    root = ElementTree.fromstring(svg_of(spreading()))
    assert len(list(root.iter(f"{SVG}g"))) == 12
    assert len(root.findall(f"{SVG}path")) == 11


def test_every_kind_of_vertex_can_be_drawn() -> None:
    special = {MapVertex, SideVertex}
    # A class that others are derived from is no kind of its own.
    timed, left = set(), [TimedVertex]
    while left:
        below = [
            kind for kind in left.pop().__subclasses__() if kind.__module__.startswith("service.")
        ]
        left += below
        timed |= {kind for kind in below if not kind.__subclasses__()}
    assert set(get_args(Vertex)) - {TimedVertex} | timed == set(KINDS) | special


def test_the_same_flow_is_drawn_the_same_and_one_that_cannot_run_is_not_drawn() -> None:
    assert svg_of(looping()) == svg_of(looping())
    for draw in (svg_of, table_of):
        with pytest.raises(GraphError, match="has no source"):
            draw(Flow("empty"))


def test_the_command_prints_the_table_and_writes_the_picture(tmp_path: Path) -> None:
    picture = tmp_path / "flow.svg"
    arguments = ["graph", "nexmark:auction_bids", "--topic-prefix", "p", "--svg", str(picture)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "p-events: bid(" in result.output
    assert ElementTree.parse(picture).getroot().tag == f"{SVG}svg"
    arguments[-1] = str(tmp_path / "nowhere" / "flow.svg")
    failed = CliRunner().invoke(app, arguments)
    assert isinstance(failed.exception, UsageError)
    assert "cannot be written: No such file" in str(failed.exception)
