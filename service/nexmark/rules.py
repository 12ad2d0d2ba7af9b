"""What each query of the suite must give, said once: for queries, oracle, benchmarks and tests.

Flow: [RULES] -> queries, service.bench.nexmark, docs/NEXMARK.md. Pure.

Windows are [start, end), aligned to the epoch, start in milliseconds; a time before the epoch lies
in the window that begins at or below it, so -1 lies in [-10 000, 0). A price is a long, an average
a double.

What the queries make of input that the generator never sends:

* **Unknown ids.** A bid on an auction that is not in the input counts in q0, q1, q2, q5 and q7, and
  wins nothing in q4 and q6. An auction whose seller is not in the input appears in q4 and q6, and
  not in q3 and q8.
* **Duplicate ids.** Every event counts for itself. Two auctions of one id are two auctions: q3
  joins each, q4 and q6 close each by its own times and reserve, with the bids on that id. Two
  persons of one id are two: q3 joins each, q8 gives each that has an auction in its window.
* **Duplicate events** are events: q0 to q3 give each, q5 counts each, q7 gives each of the highest.
* **Times** may be negative or far ahead; nothing is left out for them. A time far ahead moves its
  partition's watermark there, and what the partition brings behind it is late: results without it
  are right for what was in time. Windows end within 64 bits; a time whose window does not is bad
  input to a window and goes where late rows go.
* **An auction that ends before it begins**, or when it begins, is open for no bid: it has no
  winning price, as one that no bid has reached.
* **Prices** of 0 and 2^63-1 are prices: q1's product has as many digits as it needs, a mean's sum
  does not overflow.
* **Empty strings** are values, and so is an `extra` of a megabyte; no query looks into either.

What a query gives is compared as a multiset of rows, that of an upsert by the last row of each key.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Where the sellers of q3 live, and what they sell.
Q3_STATES = ("OR", "ID", "CA")
Q3_CATEGORY = 10
#: q2 takes the auctions that this divides.
Q2_MODULUS = 123
#: q1 multiplies prices by this many thousandths.
Q1_THOUSANDTHS = 908
#: q6 takes the mean of so many prices.
Q6_PRICES = 10


@dataclass(frozen=True, slots=True)
class QueryWindows:
    """Sizes of the windows, in milliseconds."""

    q5_size_ms: int = 10_000
    q5_slide_ms: int = 2_000
    q7_size_ms: int = 10_000
    q8_size_ms: int = 10_000


#: By name: those of the issue, and those that Megaphone's authors measured with.
PRESETS = {
    "default": QueryWindows(),
    "megaphone": QueryWindows(60_000, 1_000, 60_000, 12 * 3_600_000),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a query reads and gives.

    Attributes:
        inputs: record types it reads.
        columns: of its output, in order.
        upsert: the column whose last row counts; None: all rows do, as a multiset.
        meaning: the rule in words.
    """

    inputs: tuple[str, ...]
    columns: tuple[str, ...]
    upsert: str | None
    meaning: str


RULES: dict[str, Rule] = {
    "q0": Rule(
        ("bid",),
        ("auction", "bidder", "price", "channel", "url", "date_time", "extra"),
        None,
        "bids unchanged",
    ),
    "q1": Rule(
        ("bid",),
        ("auction", "bidder", "price", "date_time", "extra"),
        None,
        "price x 0.908 as a decimal string with three decimals",
    ),
    "q2": Rule(("bid",), ("auction", "price"), None, "bids on auctions that 123 divides"),
    "q3": Rule(
        ("auction", "person"),
        ("name", "city", "state", "id"),
        None,
        "every pair of an auction of category 10 and its seller, if that one lives in OR, ID or "
        "CA; id is the auction's",
    ),
    "q4": Rule(
        ("auction", "bid"),
        ("category", "avg"),
        "category",
        "mean of the winning prices of the category's auctions that have closed",
    ),
    "q5": Rule(
        ("bid",),
        ("auction", "num", "window_start"),
        None,
        "of each sliding window the auctions with the most bids, all of them if several have",
    ),
    "q6": Rule(
        ("auction", "bid"),
        ("seller", "avg"),
        "seller",
        "mean of the seller's last 10 winning prices, by (expires, id) of the auction, and by "
        "price where two auctions have both in common",
    ),
    "q7": Rule(
        ("bid",),
        ("auction", "bidder", "price", "date_time", "extra", "window_start"),
        None,
        "of each window the bids with the highest price, all of them if several have it",
    ),
    "q8": Rule(
        ("auction", "person"),
        ("id", "name", "window_start"),
        None,
        "persons who registered in a window and opened an auction in the same one: each "
        "registration once, however many auctions",
    ),
}
