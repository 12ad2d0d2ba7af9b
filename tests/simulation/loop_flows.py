"""Simulated flows whose rows go round: loops in loops, and a loop that only its bound ends."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from service.dataflow.flow import Flow, Stream, count, highest
from service.dataflow.vertices import KafkaSink, KafkaSource
from tests.simulation.flows import COLUMNS, FlowUnderTest, Outputs, Stamped

#: Auctions of a group: inside it one walks down, from its first to another group one jumps.
GROUP = 4
#: How often rows pass the bounded loop.
ROUNDS = 4


def nested() -> FlowUnderTest:
    """A keyed vertex in a loop in a loop: the highest price walks down a group, then jumps."""
    return FlowUnderTest(_nested, _check_nested, lambda stamped: {"tops": len(_tops(stamped))})


def stages() -> FlowUnderTest:
    """Keyed vertices in the outer loop, in the inner one and behind both; they see one walk."""
    return FlowUnderTest(
        _stages,
        _check_stages,
        lambda stamped: {
            "entered": len(_entered(stamped)),
            "tops": len(_tops(stamped)),
            "groups": len({auction // GROUP for auction in _tops(stamped)}),
        },
    )


def bounded() -> FlowUnderTest:
    """A keyed vertex counts who passes by, in a loop that never lets anything leave by itself."""
    return FlowUnderTest(
        _bounded, _check_bounded, lambda stamped: {"visits": len(_visits(stamped))}
    )


def _nested() -> Flow:
    flow = Flow("nested")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    tops = bids.select("prices", "auction", "price").iterate("outer", _outer)
    return tops.sink("out", KafkaSink("out", key="auction", schema=4))


def _outer(rows: Stream) -> tuple[Stream, Stream]:
    tops = rows.iterate("inner", _inner)
    return tops.map_batches("jump", _to_other_groups, columns=["auction", "price"]), tops


def _inner(rows: Stream) -> tuple[Stream, Stream]:
    tops = rows.key_by("auction").aggregate("tops", price=highest("price"))
    return tops.map_batches("walk", _down_the_group, columns=["auction", "price"]), tops


def _next(auction: int) -> int | None:
    """Where a price goes on to; None at the end of its way."""
    if auction % GROUP:
        return auction - 1
    return auction // GROUP or None


def _down_the_group(rows: pa.RecordBatch) -> pa.RecordBatch:
    auctions = rows.column("auction").to_numpy()
    return _moved(rows, auctions - 1, auctions % GROUP != 0)


def _to_other_groups(rows: pa.RecordBatch) -> pa.RecordBatch:
    auctions = rows.column("auction").to_numpy()
    return _moved(rows, auctions // GROUP, (auctions % GROUP == 0) & (auctions >= GROUP))


def _moved(rows: pa.RecordBatch, to: np.ndarray, kept: np.ndarray) -> pa.RecordBatch:
    moved = pa.RecordBatch.from_arrays([pa.array(to), rows.column("price")], rows.schema.names)
    return moved.filter(pa.array(kept))


def _tops(stamped: Stamped) -> dict[int, int]:
    """The highest price of each auction and of all from which one comes to it."""
    found: dict[int, int] = {}
    for auction, prices in stamped.items():
        at: int | None = auction
        while at is not None:
            found[at] = max(found.get(at, 0), *prices)
            at = _next(at)
    return found


def _check_nested(outputs: Outputs, stamped: Stamped) -> None:
    last: dict[int, int] = {}
    for output in outputs["out"]:
        auction, price = output["auction"], output["price"]
        assert price >= last.get(auction, 0), f"WO1: auction {auction} at {price}"
        last[auction] = price
    assert last == _tops(stamped), "WO3"


def _stages() -> Flow:
    flow = Flow("stages")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    tops = bids.select("prices", "auction", "price").iterate("outer", _outer_stage)
    groups = tops.map_batches("group", _to_groups, columns=["group", "price"])
    return (
        groups.key_by("group")
        .aggregate("groups", price=highest("price"))
        .sink("out", KafkaSink("out", key="group", schema=4))
    )


def _outer_stage(rows: Stream) -> tuple[Stream, Stream]:
    return _outer(rows.key_by("auction").aggregate("entered", price=highest("price")))


def _to_groups(rows: pa.RecordBatch) -> pa.RecordBatch:
    groups = rows.column("auction").to_numpy() // GROUP
    return pa.RecordBatch.from_arrays([pa.array(groups), rows.column("price")], ["group", "price"])


def _entered(stamped: Stamped) -> set[int]:
    """Auctions at which a round of the outer loop begins."""
    jumps = {auction // GROUP for auction in _tops(stamped) if auction % GROUP == 0}
    return set(stamped) | (jumps - {0})


def _check_stages(outputs: Outputs, stamped: Stamped) -> None:
    last: dict[int, int] = {}
    for output in outputs["out"]:
        group, price = output["group"], output["price"]
        assert price >= last.get(group, 0), f"WO1: group {group} at {price}"
        last[group] = price
    expected: dict[int, int] = {}
    for auction, price in _tops(stamped).items():
        expected[auction // GROUP] = max(expected.get(auction // GROUP, 0), price)
    assert last == expected, "WO3"


def _bounded() -> Flow:
    flow = Flow("bounded")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    visits = bids.select("auctions", "auction", "price").iterate("visit", _visit, rounds_max=ROUNDS)
    return visits.sink("out", KafkaSink("out", key="auction", schema=4))


def _visit(rows: Stream) -> tuple[Stream, Stream]:
    """Rows go round whatever was counted; auction 0 visits itself."""
    visits = rows.key_by("auction").aggregate("visits", visits=count())
    return rows.map_batches("up", _to_parent, columns=["auction", "price"]), visits


def _to_parent(rows: pa.RecordBatch) -> pa.RecordBatch:
    parents = pc.divide(rows.column("auction"), 2)
    return pa.RecordBatch.from_arrays([parents, rows.column("price")], ["auction", "price"])


def _visits(stamped: Stamped) -> Counter[int]:
    found: Counter[int] = Counter()
    for auction, prices in stamped.items():
        for passed in range(ROUNDS):
            found[auction >> passed] += len(prices)
    return found


def _check_bounded(outputs: Outputs, stamped: Stamped) -> None:
    last: dict[int, int] = {}
    for output in outputs["out"]:
        auction, visits = output["auction"], output["visits"]
        assert visits > last.get(auction, 0), f"WO1: auction {auction} at {visits}"
        last[auction] = visits
    assert last == _visits(stamped), "WO3"
