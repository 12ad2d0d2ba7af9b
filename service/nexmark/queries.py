"""NEXMark queries as values in the users' API.

Flow: `megaphone run nexmark:<query>` -> [BUILT_IN] -> Flow. What a query means is in its value
alone; whether its bins move is not its business. The rules, bad input included, are those of
`service.nexmark.rules`.

Invariants
  NQ1  A query reads what it needs and no more: topics of the types it uses, columns that reach its
       output or decide about it.
  NQ2  Where events come from and how they are written is in `QueryTopics`; no query asks.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.dataflow.event_time import Watermarks
from service.dataflow.flow import Flow, Stream, count, highest, mean, oldest, total
from service.dataflow.vertices import KafkaSink, KafkaSource, Order
from service.dataflow.window_values import given, sliding, tumbling
from service.errors import UsageError
from service.nexmark.decimals import thousandths_of
from service.nexmark.forms import Topics
from service.nexmark.query_topics import QueryTopics
from service.nexmark.rules import (
    Q1_THOUSANDTHS,
    Q2_MODULUS,
    Q3_CATEGORY,
    Q3_STATES,
    Q6_PRICES,
    RULES,
)

#: Ids of the results' schemas in the shipped registry folder.
SCHEMAS = {
    "auction_bids": 4,
    "q0": 3,
    **{f"q{number}": 9 + number for number in range(1, 9)},
}


#: Of (expires, id, price).
_PRICE = itemgetter(2)
#: Fields that are event times.
_TIMES = ("date_time", "expires")


def _read(
    topics: QueryTopics, flow: Flow, kind: str, fields: Sequence[str], *, timed: bool = False
) -> Stream:
    """Add a source of events of a type to a query's flow, `timed` with watermarks."""
    tagged = topics.event_topics is Topics.TAGGED
    source = KafkaSource(
        [topics.of(kind)],
        record="event" if tagged else kind,
        fields=fields,
        format=topics.format,
        inside=kind if tagged else "",
        times=[name for name in fields if name in _TIMES],
    )
    watermarks = Watermarks("date_time", topics.out_of_orderness) if timed else None
    return flow.source(kind, source, watermarks=watermarks)


def _write(topics: QueryTopics, stream: Stream, key: str) -> Flow:
    """End a query's flow in a topic, its records keyed by a column."""
    name = stream.flow.name
    topic = topics.output or f"{topics.prefix}-{name.replace('_', '-')}"
    sink = KafkaSink(topic, key=key, schema=SCHEMAS[name], format=topics.format)
    return stream.sink("out", sink)


def auction_bids(topics: QueryTopics) -> Flow:
    """Per auction: number of bids, their sum and the highest price, emitted on change.

    It reads records of all types in one topic, in Avro, whatever `topics` says of events.
    """
    flow = Flow("auction_bids")
    fields = ["auction", "price", "date_time"]
    source = KafkaSource([topics.events], record="bid", fields=fields)
    stats = (
        flow.source("bids", source)
        .key_by("auction")
        .aggregate(
            "stats",
            bids=count(),
            total=total("price"),
            highest=highest("price"),
            oldest=oldest("date_time"),
        )
    )
    return _write(topics, stats, "auction")


def q0(topics: QueryTopics) -> Flow:
    """Bids unchanged: what the way through costs.

    Odd input: a bid on an auction that nobody opened, a bid that came twice, any time and any price
    are bids.
    """
    bids = _read(topics, Flow("q0"), "bid", RULES["q0"].columns)
    return _write(topics, bids, "auction")


def q1(topics: QueryTopics) -> Flow:
    """Bids with prices in euros, x 0.908, as decimal text with three decimals: a map.

    Odd input: as q0; a price of 0 is 0.000, one of 2^63-1 has all its digits.
    """
    bids = _read(topics, Flow("q1"), "bid", RULES["q1"].columns)
    return _write(topics, bids.map_batches("euros", _in_euros, bids.columns), "auction")


def _in_euros(bids: pa.RecordBatch) -> pa.RecordBatch:
    place = bids.schema.get_field_index("price")
    return bids.set_column(place, "price", thousandths_of(bids.column(place), Q1_THOUSANDTHS))


def q2(topics: QueryTopics) -> Flow:
    """Auction and price of bids on auctions that 123 divides: a filter.

    Odd input: as q0; 123 divides 0 and negative multiples, too.
    """
    bids = _read(topics, Flow("q2"), "bid", RULES["q2"].columns)
    return _write(topics, bids.filter("chosen", _divided), "auction")


def _divided(bids: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which auctions 123 divides: NumPy divides by one number sooner than Arrow by a column."""
    auctions = bids.column("auction").to_numpy(zero_copy_only=False)
    divided: NDArray[np.bool_] = auctions // Q2_MODULUS * Q2_MODULUS == auctions
    return divided


def q3(topics: QueryTopics) -> Flow:
    """Who sells what in which city: auctions of category 10 and their sellers in OR, ID or CA.

    Every pair leaves once, when the later of the two has come. All such auctions and sellers are
    kept, for ever.

    Odd input: an auction of an unknown seller waits for ever; of two auctions, or two persons, with
    one id each is joined; times do not matter; empty texts are texts.
    """
    flow = Flow("q3")
    auctions = _read(topics, flow, "auction", ["id", "seller", "category"])
    persons = _read(topics, flow, "person", ["id", "name", "city", "state"])
    chosen = auctions.filter("category", pc.field("category") == Q3_CATEGORY)
    local = persons.filter("states", pc.field("state").isin(Q3_STATES))
    pairs = (
        chosen.select("auctions", "id", "seller")
        .key_by("seller")
        .join("sellers", local.key_by("id"))
    )
    return _write(topics, pairs.select("columns", *RULES["q3"].columns), "id")


def _winning(flow: Flow, topics: QueryTopics, *columns: str) -> Stream:
    """The winning price of each auction, when the watermark passes its `expires`."""
    fields = ["id", "reserve", "date_time", "expires", *columns]
    auctions = _read(topics, flow, "auction", fields, timed=True)
    bids = _read(topics, flow, "bid", ["auction", "price", "date_time"], timed=True)
    return auctions.key_by("id").best_within(
        "winning", bids.key_by("auction"), until="expires", by="price", at_least="reserve"
    )


def q4(topics: QueryTopics) -> Flow:
    """Per category, the mean winning price of the auctions that have closed, emitted on change.

    The mean is of all such auctions since the beginning, so one number a category is kept for ever;
    an auction and its bids are kept until the watermark passes its `expires`.

    Odd input: bids on unknown auctions win nothing; two auctions of one id close each by its own
    times and reserve; one that ends before it begins has no winner; a time far ahead moves the
    watermark there, and what its partition brings behind it is late; the sum of prices of 2^63-1
    does not overflow.
    """
    winning = _winning(Flow("q4"), topics, "category")
    means = winning.key_by("category").aggregate("means", avg=mean("price"))
    return _write(topics, means, "category")


def q5(topics: QueryTopics) -> Flow:
    """The auctions with the most bids in each sliding window, all of them if several have.

    Bids are counted by auction, wherever that is; the counts of a window meet in one place.

    Odd input: unknown auctions count, and a bid that came twice counts twice; -1 lies in the window
    that begins below 0; a time whose window does not end within 64 bits goes where late bids go.
    """
    size, slide = topics.windows.q5_size_ms, topics.windows.q5_slide_ms
    bids = _read(topics, Flow("q5"), "bid", ["auction", "date_time"], timed=True)
    windows = bids.key_by("auction").window(sliding(f"{size}ms", every=f"{slide}ms"))
    counts = windows.aggregate("counts", num=count())
    hottest = counts.window(given()).top("hottest", by="num", n=1, ties=True)
    return _write(topics, hottest.select("columns", *RULES["q5"].columns), "auction")


def q6(topics: QueryTopics) -> Flow:
    """Per seller, the mean of the last 10 winning prices, emitted with every auction that closes.

    The last are those that close last, by (expires, id), whatever order they come in.

    Odd input: as q4; a seller need be no person.
    """
    winning = _winning(Flow("q6"), topics, "seller")
    means = winning.key_by("seller").stateful_map(
        "means",
        _with_one_more,
        value=("expires", "id", "price"),
        initial=list,
        schema={"avg": pa.float64()},
        order=Order.ORDERED,
    )
    return _write(topics, means, "seller")


def _with_one_more(
    last: list[tuple[int, int, int]], auction: tuple[int, int, int]
) -> tuple[list[tuple[int, int, int]], float]:
    """A seller's last auctions with one more, and the mean of their prices."""
    insort(last, auction)
    del last[:-Q6_PRICES]
    return last, sum(map(_PRICE, last)) / len(last)


def q7(topics: QueryTopics) -> Flow:
    """The bids with the highest price of each window, all of them if several have it.

    Odd input: as q5; 0 may be the highest price, and a bid that came twice is given twice.
    """
    fields = RULES["q1"].columns
    bids = _read(topics, Flow("q7"), "bid", fields, timed=True)
    windows = bids.window(tumbling(f"{topics.windows.q7_size_ms}ms"))
    highest_bids = windows.top("highest", by="price", n=1, ties=True)
    return _write(topics, highest_bids.select("columns", *RULES["q7"].columns), "auction")


def q8(topics: QueryTopics) -> Flow:
    """Who registered and opened an auction in the same window: each registration once.

    Odd input: an auction of an unknown seller gives nothing; each of two persons with one id is
    given; times as in q5.
    """
    flow, window = Flow("q8"), tumbling(f"{topics.windows.q8_size_ms}ms")
    persons = _read(topics, flow, "person", ["id", "name", "date_time"], timed=True)
    auctions = _read(topics, flow, "auction", ["seller", "date_time"], timed=True)
    opened = auctions.key_by("seller").window(window)
    sellers = persons.key_by("id").window(window).join("sellers", opened, how="semi")
    return _write(topics, sellers.select("columns", *RULES["q8"].columns), "id")


BUILT_IN: dict[str, Callable[[QueryTopics], Flow]] = {
    "auction_bids": auction_bids,
    "q0": q0,
    "q1": q1,
    "q2": q2,
    "q3": q3,
    "q4": q4,
    "q5": q5,
    "q6": q6,
    "q7": q7,
    "q8": q8,
}


def built_in(name: str, topics: QueryTopics) -> Flow:
    """The query called `name`.

    Raises:
        UsageError: there is none; the text lists them.
    """
    build = BUILT_IN.get(name)
    if build is None:
        raise UsageError(f"no NEXMark query {name!r}; there are: {', '.join(BUILT_IN)}")
    return build(topics)
