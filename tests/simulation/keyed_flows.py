"""Flows with operators that keep more than aggregates, each with the judge of its outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from service.dataflow.flow import Flow, Stream, count, highest
from service.dataflow.vertices import KafkaSink, KafkaSource, Order
from tests.simulation.flows import (
    COLUMNS,
    GROUPS,
    FlowUnderTest,
    Outputs,
    Stamped,
    Timed,
    _check_tree,
    _highest_below,
    _to_parents,
)

_MODULUS = (1 << 31) - 1


def remembering() -> FlowUnderTest:
    """Per auction a digest that depends on every price and on their order."""
    return FlowUnderTest(
        _remembering, _check_remembering, lambda stamped: {"digests": len(stamped)}
    )


def named() -> FlowUnderTest:
    """Bids and highest price of each auction, under keys that are text."""
    return FlowUnderTest(_named, _check_named, lambda stamped: {"stats": len(stamped)})


def remembering_names() -> FlowUnderTest:
    """`remembering` under keys that are text."""
    return FlowUnderTest(
        _remembering_names, _check_names, lambda stamped: {"digests": len(stamped)}
    )


def listed() -> FlowUnderTest:
    """`joined` with lists in the rows, which are kept as objects."""
    return FlowUnderTest(_listed, _check_listed, lambda stamped: {"pairs": len(stamped)})


def joined() -> FlowUnderTest:
    """Cheap bids with dear bids of the same auction."""
    return FlowUnderTest(_joined, _check_joined, lambda stamped: {"pairs": len(stamped)})


def firsts() -> FlowUnderTest:
    """The first bid of each auction."""
    return FlowUnderTest(_firsts, _check_firsts, lambda stamped: {"firsts": len(stamped)})


def in_order() -> FlowUnderTest:
    """The digest again, over groups of auctions whose bids several gateways read."""
    return FlowUnderTest(
        _in_order,
        lambda outputs, stamped: None,
        lambda stamped: {"digests": len({auction % GROUPS for auction in stamped})},
        check_times=_check_in_order,
    )


def ordered_tree() -> FlowUnderTest:
    """`flows.tree` with an ordered vertex in its loop."""
    return FlowUnderTest(
        _ordered_tree, _check_tree, lambda stamped: {"tops": len(_highest_below(stamped))}
    )


def _bids(flow: Flow) -> Stream:
    return flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))


def _digest(state: tuple[int, int] | None, price: int) -> tuple[tuple[int, int], tuple[int, int]]:
    bids, digest = state or (0, 0)
    state = bids + 1, (digest * 31 + price + 1) % _MODULUS
    return state, state


def _digests(prices: Sequence[int]) -> list[tuple[int, int]]:
    """What `_digest` puts out for these prices."""
    found = []
    state: tuple[int, int] | None = None
    for price in prices:
        state, output = _digest(state, price)
        found.append(output)
    return found


_DIGEST = {"bids": pa.int64(), "digest": pa.int64()}


def _remembering() -> Flow:
    flow = Flow("remembering")
    digests = (
        _bids(flow)
        .key_by("auction")
        .stateful_map("digests", _digest, value="price", schema=_DIGEST)
    )
    return digests.sink("out", KafkaSink("out", key="auction", schema=4))


def _check_remembering(outputs: Outputs, stamped: Stamped) -> None:
    seen: dict[int, list[tuple[int, int]]] = {}
    for output in outputs["out"]:
        seen.setdefault(output["auction"], []).append((output["bids"], output["digest"]))
    assert seen == {key: _digests(prices) for key, prices in stamped.items()}, "WO1, WO2, WO3"


def _names(flow: Flow) -> Stream:
    def name(rows: pa.RecordBatch) -> pa.RecordBatch:
        names = pc.cast(rows.column("auction"), pa.string())
        return pa.RecordBatch.from_arrays([names, rows.column("price")], ["name", "price"])

    return _bids(flow).map_batches("names", name, columns=["name", "price"])


def _named() -> Flow:
    flow = Flow("named")
    stats = _names(flow).key_by("name").aggregate("stats", bids=count(), top=highest("price"))
    return stats.sink("out", KafkaSink("out", key="name", schema=4))


def _check_named(outputs: Outputs, stamped: Stamped) -> None:
    seen: dict[int, int] = {}
    for output in outputs["out"]:
        key, bids = int(output["name"]), output["bids"]
        assert bids > seen.get(key, 0), f"WO1: auction {key} at {bids} after {seen.get(key)}"
        assert output["top"] == max(stamped[key][:bids]), f"WO2: {output}"
        seen[key] = bids
    assert seen == {key: len(prices) for key, prices in stamped.items()}, "WO3"


def _remembering_names() -> Flow:
    flow = Flow("remembering names")
    digests = (
        _names(flow).key_by("name").stateful_map("digests", _digest, value="price", schema=_DIGEST)
    )
    return digests.sink("out", KafkaSink("out", key="name", schema=4))


def _check_names(outputs: Outputs, stamped: Stamped) -> None:
    found = [{**output, "auction": int(output["name"])} for output in outputs["out"]]
    _check_remembering({"out": found}, stamped)


def _listed() -> Flow:
    def listing(rows: pa.RecordBatch) -> pa.RecordBatch:
        prices = [[price] for price in rows.column("price").to_pylist()]
        lists = pa.array(prices, pa.list_(pa.int64()))
        return pa.RecordBatch.from_arrays([rows.column("auction"), lists], ["auction", "price"])

    flow = Flow("listed")
    cheap, dear = _by_price(flow)
    columns = ["auction", "price"]
    left = cheap.map_batches("left", listing, columns=columns).key_by("auction")
    right = dear.map_batches("right", listing, columns=columns).key_by("auction")
    return left.join("pairs", right).sink("out", KafkaSink("out", key="auction", schema=4))


def _check_listed(outputs: Outputs, stamped: Stamped) -> None:
    found = [
        {name: cell[0] if isinstance(cell, list) else cell for name, cell in output.items()}
        for output in outputs["out"]
    ]
    _check_joined({"out": found}, stamped)


def _by_price(flow: Flow) -> tuple[Stream, Stream]:
    """Cheap bids and dear ones."""
    return (
        _bids(flow)
        .select("prices", "auction", "price")
        .branch("cheap", lambda rows: pc.less(rows.column("price"), 500))
    )


def _joined() -> Flow:
    flow = Flow("joined")
    cheap, dear = _by_price(flow)
    pairs = cheap.key_by("auction").join("pairs", dear.key_by("auction"))
    return pairs.sink("out", KafkaSink("out", key="auction", schema=4))


def _check_joined(outputs: Outputs, stamped: Stamped) -> None:
    found = Counter((row["auction"], row["price"], row["price_right"]) for row in outputs["out"])
    expected = Counter(
        (auction, cheap, dear)
        for auction, prices in stamped.items()
        for cheap in prices
        for dear in prices
        if cheap < 500 <= dear
    )
    assert found == expected, "WO2, WO3: each pair once"


def _firsts() -> Flow:
    flow = Flow("firsts")
    firsts = _bids(flow).key_by("auction").distinct("firsts")
    return firsts.sink("out", KafkaSink("out", key="auction", schema=4))


def _check_firsts(outputs: Outputs, stamped: Stamped) -> None:
    found = [(output["auction"], output["price"]) for output in outputs["out"]]
    assert sorted(found) == sorted((key, prices[0]) for key, prices in stamped.items()), "WO2, WO3"


def _in_order() -> Flow:
    flow = Flow("in order")
    groups = _bids(flow).map_batches("group", _group, columns=["group", "price"])
    digests = groups.key_by("group").stateful_map(
        "digests", _digest, value="price", schema=_DIGEST, order=Order.ORDERED
    )
    return digests.sink("out", KafkaSink("out", key="group", schema=4))


def _group(rows: pa.RecordBatch) -> pa.RecordBatch:
    keys = rows.column("auction").to_numpy() % GROUPS
    return pa.RecordBatch.from_arrays([pa.array(keys), rows.column("price")], ["group", "price"])


def _check_in_order(outputs: Outputs, timed: Timed) -> None:
    """The run is foretold from the rows and their epochs: nothing else may matter."""
    prices: dict[int, list[int]] = {}
    for _, group, price in sorted((epoch, auction % GROUPS, p) for epoch, auction, p in timed):
        prices.setdefault(group, []).append(price)
    seen: dict[int, list[tuple[int, int]]] = {}
    for output in outputs["out"]:
        seen.setdefault(output["group"], []).append((output["bids"], output["digest"]))
    assert seen == {group: _digests(each) for group, each in prices.items()}, "WO1, WO2, WO3"


def _ordered_tree() -> Flow:
    flow = Flow("ordered tree")
    tops = _bids(flow).select("prices", "auction", "price").iterate("climb", _climb)
    return tops.sink("out", KafkaSink("out", key="auction", schema=4))


def _climb(rows: Stream) -> tuple[Stream, Stream]:
    tops = rows.key_by("auction").aggregate("tops", order=Order.ORDERED, price=highest("price"))
    return tops.map_batches("up", _to_parents, columns=["auction", "price"]), tops
