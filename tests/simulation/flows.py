"""The flows that are simulated, each with the judge of its outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from service.dataflow.flow import Flow, Stream, count, highest, oldest, total
from service.dataflow.vertices import KafkaSink, KafkaSource

COLUMNS = pa.schema([("auction", pa.int64()), ("price", pa.int64()), ("date_time", pa.int64())])
GROUPS = 5

#: Rows per sink, in the order they became visible.
Outputs = Mapping[str, Sequence[Mapping[str, int]]]
#: Prices of each auction, in the order they were stamped.
Stamped = Mapping[int, Sequence[int]]
#: (epoch, auction, price) of each row that was stamped.
Timed = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class FlowUnderTest:
    """A flow, the check of its outputs (WO1-WO3), and the rows of state it must end with."""

    build: Callable[[], Flow]
    check: Callable[[Outputs, Stamped], None]
    state_rows: Callable[[Stamped], dict[str, int]]
    #: A check that needs the epochs, of flows whose results are decided by them.
    check_times: Callable[[Outputs, Timed], None] = lambda outputs, timed: None


def one_stage() -> FlowUnderTest:
    """The demo's flow."""
    return FlowUnderTest(_one_stage, _check_one_stage, lambda stamped: {"stats": len(stamped)})


def exchanged() -> FlowUnderTest:
    """The demo's flow, whose outputs go through an exchange on their way to the sink."""
    return FlowUnderTest(
        lambda: _one_stage(spread=True),
        _check_one_stage,
        lambda stamped: {"stats": len(stamped)},
    )


def relayed() -> FlowUnderTest:
    """Bids of each auction, through a stage of another key that tells what comes, in order."""
    return FlowUnderTest(
        _relayed,
        _check_relayed,
        lambda stamped: {
            "stats": len(stamped),
            "relay": len({auction % GROUPS for auction in stamped}),
        },
    )


def two_stages() -> FlowUnderTest:
    """Per group of auctions, the greatest number of bids of any auction in it."""
    return FlowUnderTest(
        _two_stages,
        _check_two_stages,
        lambda stamped: {
            "stats": len(stamped),
            "groups": len({auction % GROUPS for auction in stamped}),
        },
    )


def branches() -> FlowUnderTest:
    """Two branches of one source, joined again, counted, and written to two sinks."""
    return FlowUnderTest(_branches, _check_branches, lambda stamped: {"stats": len(stamped)})


def mixed() -> FlowUnderTest:
    """A keyed vertex fed by gateways and by another keyed vertex: F runs in every process."""
    return FlowUnderTest(
        _mixed,
        _check_mixed,
        lambda stamped: {"stats": len(stamped), "tops": len(stamped)},
    )


def tree() -> FlowUnderTest:
    """A keyed vertex in a loop: the highest price climbs from each auction to its ancestors."""
    return FlowUnderTest(_tree, _check_tree, lambda stamped: {"tops": len(_highest_below(stamped))})


def spread(workers: int) -> FlowUnderTest:
    """Exchange, delay, an error stream, a branch and a broadcast before and beside a keyed vertex.

    Bids whose price ends in nought are errors; dear ones are counted, the others go to all workers.
    """

    def check(outputs: Outputs, stamped: Stamped) -> None:
        _check_spread(outputs, stamped, workers)

    def state_rows(stamped: Stamped) -> dict[str, int]:
        return {"stats": sum(any(map(_is_dear, prices)) for prices in stamped.values())}

    return FlowUnderTest(_spread, check, state_rows)


def _one_stage(*, spread: bool = False) -> Flow:
    flow = Flow("one")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    stats = bids.key_by("auction").aggregate(
        "stats",
        bids=count(),
        total=total("price"),
        highest=highest("price"),
        oldest=oldest("date_time"),
    )
    if spread:
        stats = stats.exchange("away", by="auction")
    return stats.sink("out", KafkaSink("out", key="auction", schema=4))


def _check_one_stage(outputs: Outputs, stamped: Stamped) -> None:
    seen: dict[int, int] = {}
    for output in outputs["out"]:
        key, bids = output["auction"], output["bids"]
        prices = stamped[key][:bids]
        assert bids > seen.get(key, 0), f"WO1: auction {key} at {bids} after {seen.get(key)}"
        assert output["total"] == sum(prices), f"WO2: {output}"
        assert output["highest"] == max(prices), f"WO2: {output}"
        seen[key] = bids
    assert seen == {key: len(prices) for key, prices in stamped.items()}, "WO3"


def _relayed() -> Flow:
    flow = Flow("relayed")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    stats = bids.key_by("auction").aggregate("stats", bids=count())
    groups = stats.map_batches("group", _grouped, columns=["group", "auction", "bids"])
    # Of another key, whose bin stays where it is when the auction's moves.
    return (
        groups.key_by("group")
        .stateful_map(
            "relay",
            _told,
            value=("auction", "bids"),
            initial=dict,
            schema={name: pa.int64() for name in ("auction", "before", "bids")},
        )
        .sink("out", KafkaSink("out", key="auction", schema=4))
    )


def _grouped(rows: pa.RecordBatch) -> pa.RecordBatch:
    groups = pa.array(rows.column("auction").to_numpy() % GROUPS)
    columns = [groups, rows.column("auction"), rows.column("bids")]
    return pa.RecordBatch.from_arrays(columns, names=["group", "auction", "bids"])


def _told(
    seen: dict[int, int], row: tuple[int, int]
) -> tuple[dict[int, int], tuple[int, int, int]]:
    auction, bids = row
    before = seen.get(auction, 0)
    return {**seen, auction: bids}, (auction, before, bids)


def _check_relayed(outputs: Outputs, stamped: Stamped) -> None:
    seen: dict[int, int] = {}
    for output in outputs["out"]:
        key, before = output["auction"], seen.get(output["auction"], 0)
        assert output["before"] == before, f"WO1: auction {key} at {output} after {before}"
        assert output["bids"] > before, f"WO1: auction {key} at {output} after {before}"
        seen[key] = output["bids"]
    assert seen == {key: len(prices) for key, prices in stamped.items()}, "WO3"


def _two_stages() -> Flow:
    flow = Flow("two")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    stats = bids.key_by("auction").aggregate("stats", bids=count())
    groups = stats.map_batches("group", _group, columns=["group", "bids"])
    return (
        groups.key_by("group")
        .aggregate("groups", top=highest("bids"))
        .sink("out", KafkaSink("out", key="group", schema=4))
    )


def _group(rows: pa.RecordBatch) -> pa.RecordBatch:
    keys = rows.column("auction").to_numpy() % GROUPS
    return pa.RecordBatch.from_arrays([pa.array(keys), rows.column("bids")], ["group", "bids"])


def _check_two_stages(outputs: Outputs, stamped: Stamped) -> None:
    last: dict[int, int] = {}
    for output in outputs["out"]:
        group, top = output["group"], output["top"]
        assert top >= last.get(group, 0), f"WO1: group {group} at {top} after {last[group]}"
        last[group] = top
    expected: dict[int, int] = {}
    for key, prices in stamped.items():
        group = key % GROUPS
        expected[group] = max(expected.get(group, 0), len(prices))
    assert last == expected, "WO3"


def _branches() -> Flow:
    flow = Flow("branches")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    cheap = bids.filter("cheap", lambda rows: pc.less(rows.column("price"), 500))
    dear = bids.filter("dear", lambda rows: pc.greater_equal(rows.column("price"), 500))
    both = flow.concat("both", cheap, dear)
    stats = both.key_by("auction").aggregate("stats", bids=count(), total=total("price"))
    stats.sink("out", KafkaSink("out", key="auction", schema=4))
    return stats.sink("copy", KafkaSink("copy", key="auction", schema=4))


def _check_branches(outputs: Outputs, stamped: Stamped) -> None:
    """Branches may change the order of a key's bids, so that only totals can be foretold."""
    histories = []
    for rows in outputs.values():
        history: dict[int, list[tuple[int, int]]] = {}
        for row in rows:
            history.setdefault(row["auction"], []).append((row["bids"], row["total"]))
        histories.append(history)
    first, second = histories
    assert first == second, "WO2: two sinks of one stream saw different histories"
    for key, history in first.items():
        counts = [bids for bids, _ in history]
        assert counts == sorted(set(counts)), f"WO1: auction {key} at {counts}"
    finals = {key: history[-1] for key, history in first.items()}
    assert finals == {key: (len(p), sum(p)) for key, p in stamped.items()}, "WO3"


def _mixed() -> Flow:
    flow = Flow("mixed")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    stats = bids.key_by("auction").aggregate("stats", bids=count())
    ones = bids.map_batches("ones", _one_each, columns=["auction", "bids"])
    both = flow.concat("both", ones, stats)
    tops = both.key_by("auction").aggregate("tops", top=highest("bids"))
    return tops.sink("out", KafkaSink("out", key="auction", schema=4))


def _one_each(rows: pa.RecordBatch) -> pa.RecordBatch:
    ones = pa.array([1] * rows.num_rows, pa.int64())
    return pa.RecordBatch.from_arrays([rows.column("auction"), ones], ["auction", "bids"])


def _check_mixed(outputs: Outputs, stamped: Stamped) -> None:
    last: dict[int, int] = {}
    for output in outputs["out"]:
        auction, top = output["auction"], output["top"]
        assert top >= last.get(auction, 0), f"WO1: auction {auction} at {top}"
        last[auction] = top
    assert last == {key: len(prices) for key, prices in stamped.items()}, "WO3"


def _tree() -> Flow:
    """Auction a lies below a // 2."""
    flow = Flow("tree")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    tops = bids.select("prices", "auction", "price").iterate("climb", _climb)
    return tops.sink("out", KafkaSink("out", key="auction", schema=4))


def _climb(rows: Stream) -> tuple[Stream, Stream]:
    tops = rows.key_by("auction").aggregate("tops", price=highest("price"))
    return tops.map_batches("up", _to_parents, columns=["auction", "price"]), tops


def _to_parents(rows: pa.RecordBatch) -> pa.RecordBatch:
    below = rows.filter(pc.greater(rows.column("auction"), 0))
    parents = pc.divide(below.column("auction"), 2)
    return pa.RecordBatch.from_arrays([parents, below.column("price")], ["auction", "price"])


def _highest_below(stamped: Stamped) -> dict[int, int]:
    """The highest price of each auction and all below it."""
    found: dict[int, int] = {}
    for auction, prices in stamped.items():
        at = auction
        while True:
            found[at] = max(found.get(at, 0), *prices)
            if at == 0:
                break
            at //= 2
    return found


def _check_tree(outputs: Outputs, stamped: Stamped) -> None:
    last: dict[int, int] = {}
    for output in outputs["out"]:
        auction, price = output["auction"], output["price"]
        assert price >= last.get(auction, 0), f"WO1: auction {auction} at {price}"
        last[auction] = price
    assert last == _highest_below(stamped), "WO3"


def _spread() -> Flow:
    flow = Flow("spread")
    bids = flow.source("bids", KafkaSource(["events"], "bid", COLUMNS.names))
    late = bids.exchange("by auction", by="auction").delay("late", step=300)
    good = late.map_rows("checked", _checked, _PRICES)
    good.errors("wrong").select("bad", "auction", "price").sink(
        "bad out", KafkaSink("bad", key="auction", schema=4)
    )
    dear, cheap = good.branch("dear", pc.field("price") >= 500)
    cheap.broadcast("all").sink("copies", KafkaSink("copies", key="auction", schema=4))
    stats = dear.key_by("auction").aggregate("stats", bids=count(), total=total("price"))
    return stats.sink("out", KafkaSink("out", key="auction", schema=4))


_PRICES = pa.schema([("auction", pa.int64()), ("price", pa.int64())])


def _checked(bid: dict[str, int]) -> dict[str, int]:
    if bid["price"] % 10 == 0:
        raise ValueError(bid["price"])
    return {"auction": bid["auction"], "price": bid["price"]}


def _is_dear(price: int) -> bool:
    return price % 10 != 0 and price >= 500


def _check_spread(outputs: Outputs, stamped: Stamped, workers: int) -> None:
    """Gateways' bids of one auction never meet, so that each auction's bids keep their order."""
    seen: dict[int, int] = {}
    for output in outputs["out"]:
        key, bids = output["auction"], output["bids"]
        prices = [price for price in stamped[key] if _is_dear(price)][:bids]
        assert bids > seen.get(key, 0), f"WO1: auction {key} at {bids} after {seen.get(key)}"
        assert output["total"] == sum(prices), f"WO2: {output}"
        seen[key] = bids
    dear = {key: sum(map(_is_dear, prices)) for key, prices in stamped.items()}
    assert seen == {key: bids for key, bids in dear.items() if bids}, "WO3"
    every = [(key, price) for key, prices in stamped.items() for price in prices]
    bad = Counter((row["auction"], row["price"]) for row in outputs["bad out"])
    assert bad == Counter(each for each in every if each[1] % 10 == 0), "WO3"
    copies = Counter((row["auction"], row["price"]) for row in outputs["copies"])
    cheap = [each for each in every if each[1] % 10 and each[1] < 500]
    assert copies == Counter(cheap * workers), "WO3"
