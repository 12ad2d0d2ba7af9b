"""NEXMark in a few lines of plain Python a query, and streams with everything that is odd in them.

The queries here follow `service.nexmark.rules` event by event, with exact numbers; they stand
beside the oracle, which is SQL, and beside the flows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction

import pyarrow as pa
from hypothesis import strategies as st

from service.bench.nexmark.oracle import Recorded
from service.nexmark.rules import RULES, QueryWindows

Event = Mapping[str, object]
Stream = Mapping[str, list[dict]]

LONG_MAX = 2**63 - 1
TEXTS = ("name", "email_address", "credit_card", "city", "state", "extra")
TYPES = {
    "person": {
        "id": pa.int64(),
        **dict.fromkeys(TEXTS[:5], pa.string()),
        "date_time": pa.int64(),
        "extra": pa.string(),
    },
    "auction": {
        "id": pa.int64(),
        "item_name": pa.string(),
        "description": pa.string(),
        "initial_bid": pa.int64(),
        "reserve": pa.int64(),
        "date_time": pa.int64(),
        "expires": pa.int64(),
        "seller": pa.int64(),
        "category": pa.int64(),
        "extra": pa.string(),
    },
    "bid": {
        "auction": pa.int64(),
        "bidder": pa.int64(),
        "price": pa.int64(),
        "channel": pa.string(),
        "url": pa.string(),
        "date_time": pa.int64(),
        "extra": pa.string(),
    },
}

#: Few of each, so that they meet; edges among them.
_IDS = st.sampled_from([0, 1, 2, 3, 122, 123, 246, -123])
_TIMES = st.one_of(
    st.integers(-25_000, 65_000),
    st.sampled_from([0, -1, 9_999, 10_000, 12_000, 253_402_300_800_000]),
)
_PRICES = st.one_of(st.integers(0, 6), st.sampled_from([0, 100, LONG_MAX - 1, LONG_MAX]))
_WORDS = st.sampled_from(["", "a", "b"])


def _records(kind: str, **special: st.SearchStrategy) -> st.SearchStrategy[list[dict]]:
    of = {
        name: special.get(name, _WORDS if type_ == pa.string() else _PRICES)
        for name, type_ in TYPES[kind].items()
    }
    return st.lists(st.fixed_dictionaries(of), max_size=12)


def streams() -> st.SearchStrategy[Stream]:
    """Events of all three types, in the order in which each type's topic has them."""
    return st.fixed_dictionaries(
        {
            "person": _records(
                "person", id=_IDS, date_time=_TIMES, state=st.sampled_from(["", "OR", "ID", "WA"])
            ),
            "auction": _records(
                "auction",
                id=_IDS,
                seller=_IDS,
                date_time=_TIMES,
                expires=_TIMES,
                category=st.sampled_from([10, 11, -10]),
            ),
            "bid": _records("bid", auction=_IDS, bidder=_IDS, date_time=_TIMES),
        }
    )


def tables_of(stream: Stream) -> Recorded:
    """The events as tables."""
    return Recorded(
        **{
            kind: pa.Table.from_pylist(stream[kind], pa.schema(list(types.items())))
            for kind, types in TYPES.items()
        }
    )


def rows_of(query: str, stream: Stream, windows: QueryWindows | None = None) -> list[tuple]:
    """What `query` gives; of an upsert the last row of each key, its mean a fraction."""
    return list(_QUERIES[query](stream, windows or QueryWindows()))


def table_of(query: str, rows: Iterable[tuple]) -> pa.Table:
    """Rows of a query as a table of its columns."""
    types = {**TYPES["bid"], **TYPES["person"], "num": pa.int64(), "window_start": pa.int64()}
    types |= {"avg": pa.float64(), "category": pa.int64(), "seller": pa.int64()}
    types["price"] = pa.string() if query == "q1" else pa.int64()
    columns = RULES[query].columns
    lists = list(zip(*rows, strict=True)) or [()] * len(columns)
    return pa.table(
        {
            name: pa.array(
                [float(v) if isinstance(v, Fraction) else v for v in column], types[name]
            )
            for name, column in zip(columns, lists, strict=True)
        }
    )


def _q0(stream, _):
    for bid in stream["bid"]:
        yield tuple(bid[name] for name in RULES["q0"].columns)


def _q1(stream, _):
    for bid in stream["bid"]:
        thousandths = str(bid["price"] * 908).rjust(4, "0")
        price = f"{thousandths[:-3]}.{thousandths[-3:]}"
        yield bid["auction"], bid["bidder"], price, bid["date_time"], bid["extra"]


def _q2(stream, _):
    for bid in stream["bid"]:
        if bid["auction"] in (0, 123, 246, -123):
            yield bid["auction"], bid["price"]


def _q3(stream, _):
    for auction in stream["auction"]:
        for person in stream["person"]:
            sells = auction["category"] == 10 and auction["seller"] == person["id"]
            if sells and person["state"] in ("OR", "ID", "CA"):
                yield person["name"], person["city"], person["state"], auction["id"]


def _winning(stream):
    """(auction, price) of those that were won."""
    for auction in stream["auction"]:
        prices = [
            bid["price"]
            for bid in stream["bid"]
            if bid["auction"] == auction["id"]
            and auction["date_time"] <= bid["date_time"] < auction["expires"]
            and bid["price"] >= auction["reserve"]
        ]
        if prices:
            yield auction, max(prices)


def _q4(stream, _):
    found = defaultdict(list)
    for auction, price in _winning(stream):
        found[auction["category"]].append(price)
    for category, prices in found.items():
        yield category, Fraction(sum(prices), len(prices))


def _q5(stream, windows):
    counts = defaultdict(Counter)
    for bid in stream["bid"]:
        start = bid["date_time"] // windows.q5_slide_ms * windows.q5_slide_ms
        while start + windows.q5_size_ms > bid["date_time"]:
            counts[start][bid["auction"]] += 1
            start -= windows.q5_slide_ms
    for start, window in counts.items():
        for auction, num in window.items():
            if num == max(window.values()):
                yield auction, num, start


def _q6(stream, _):
    found = defaultdict(list)
    for auction, price in _winning(stream):
        found[auction["seller"]].append((auction["expires"], auction["id"], price))
    for seller, prices in found.items():
        last = [price for *_, price in sorted(prices)[-10:]]
        yield seller, Fraction(sum(last), len(last))


def _q7(stream, windows):
    found = defaultdict(list)
    for bid in stream["bid"]:
        found[bid["date_time"] // windows.q7_size_ms * windows.q7_size_ms].append(bid)
    for start, bids in found.items():
        for bid in bids:
            if bid["price"] == max(each["price"] for each in bids):
                yield (*(bid[name] for name in RULES["q7"].columns[:-1]), start)


def _q8(stream, windows):
    size = windows.q8_size_ms
    opened = {(each["seller"], each["date_time"] // size) for each in stream["auction"]}
    for each in stream["person"]:
        if (each["id"], each["date_time"] // size) in opened:
            yield each["id"], each["name"], each["date_time"] // size * size


_QUERIES = {
    "q0": _q0,
    "q1": _q1,
    "q2": _q2,
    "q3": _q3,
    "q4": _q4,
    "q5": _q5,
    "q6": _q6,
    "q7": _q7,
    "q8": _q8,
}
