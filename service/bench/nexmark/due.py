"""When each result was due: the intended time of the event without which it could not be.

Flow: a query's results with the moments they were read, the events, how dates follow the clock ->
[timeline_of] -> Timeline, and how many results nothing could be said of. Pure.

q0, q1, q5, q7 and q8 give a time in their results, which the meter reads (`nexmark-loadgen
measure`). The results of q2, q3, q4 and q6 have none; here they are paired with the events that
they came of, after the run:

* q2: the k-th result of an auction is of the k-th bid on it.
* q3: a result says an auction; it is due when the later of the auction and its seller is.
* q6: the k-th result of a seller is of the seller's k-th auction that closed, due at `expires`.
* q4: a mean that is the mean of a category's first n auctions to close holds all of them; each
  auction's latency ends with the first such result that holds it. A mean of other sets, as two
  workers may give within an epoch, ends nobody's wait: the wait goes on to the next that fits.

Invariants
  DU1  No latency is understated: what pairs with several events counts from the latest that it
       needs, and what cannot be told apart counts until the result that surely has it.
  DU2  An auction is known to be closed when a date of `expires`, and of the bound of
       out-of-orderness beyond it, has been sent, not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.bench.nexmark.latencies import Timeline
from service.bench.nexmark.oracle import Recorded, winning
from service.errors import MegaphoneError
from service.nexmark.rules import Q2_MODULUS, QueryWindows

#: Of results that say a time: the field, what it is, and the size of the windows.
TIMED = {
    "q0": ("date_time", "date", 0),
    "q1": ("date_time", "date", 0),
    "q5": ("window_start", "window-start", QueryWindows().q5_size_ms),
    "q7": ("window_start", "window-start", QueryWindows().q7_size_ms),
    "q8": ("window_start", "window-start", QueryWindows().q8_size_ms),
}

#: Results that say no time.
UNTIMED = ("q2", "q3", "q4", "q6")
#: Of these, the results that wait for a watermark.
_CLOSING = ("q4", "q6")

Int64s = NDArray[np.int64]


class Events(Protocol):
    """The events of a run: what the generator sent, or what was drawn."""

    @property
    def person(self) -> pa.Table:
        """All persons."""
        ...

    @property
    def auction(self) -> pa.Table:
        """All auctions."""
        ...

    @property
    def bid(self) -> pa.Table:
        """All bids."""
        ...

    def recorded(self) -> Recorded:
        """All of them, as the oracle takes them."""
        ...


@dataclass(frozen=True, slots=True)
class Dating:
    """How event time follows the clock.

    Attributes:
        start_us: when the stream began.
        origin_us: the date of that moment.
        dilation: seconds of event time a second.
        early_us: how much earlier than its date's time an event may have been sent: out of order,
            the length of a group.
        late_ms: how much earlier than the latest event of a partition one may be, event time.
    """

    start_us: int
    origin_us: int
    dilation: Fraction
    early_us: int = 0
    late_ms: int = 0

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any], early_us: int = 0, late_ms: int = 0) -> Self:
        """What the generator says of its dates."""
        dilation = Fraction(str(plan["dilation"]))
        start_us = plan["schedule"]["start_us"]
        return cls(start_us, plan["origin_us"], dilation, early_us, late_ms)

    def due_us(self, dates_ms: Int64s) -> Int64s:
        """The first moment at which an event of at least each date may have been sent (DU1)."""
        ahead = (dates_ms * 1000 - self.origin_us) * self.dilation.denominator
        due: Int64s = self.start_us - (-ahead // self.dilation.numerator) - self.early_us
        return due

    def passed_us(self, dates_ms: Int64s) -> Int64s:
        """The first moment at which a watermark may have passed each date (DU2)."""
        return self.due_us(dates_ms + self.late_ms)


@dataclass(frozen=True, slots=True)
class Paired:
    """What pairing found: the date that each result waited for, and when it was read."""

    dates_ms: Int64s
    read_us: Int64s
    #: Results that no events could be told for.
    unpaired: int = 0


@dataclass(frozen=True, slots=True)
class Waits:
    """When each of some results was due, and when it was there, epoch us."""

    due_us: Int64s
    read_us: Int64s
    #: Results that no events could be told for.
    unpaired: int = 0


def timeline_of(
    query: str, results: pa.Table, read_us: Int64s, events: Events, dating: Dating
) -> tuple[Timeline, int]:
    """The latencies of results that say no time; as `waits_of` has it."""
    waits = waits_of(query, results, read_us, events, dating)
    return Timeline.of_values(waits.due_us, waits.read_us - waits.due_us), waits.unpaired


def waits_of(
    query: str, results: pa.Table, read_us: Int64s, events: Events, dating: Dating
) -> Waits:
    """What results waited for that say no time.

    Args:
        query: one of UNTIMED.
        results: in the order read, of each key in the order stored.
        read_us: when each was read.
        events: what the query read.
        dating: of the events.

    Raises:
        MegaphoneError: the results are not those of the events.
    """
    paired = _PAIRINGS[query](results, read_us, events)
    due_us = (dating.passed_us if query in _CLOSING else dating.due_us)(paired.dates_ms)
    return Waits(due_us, paired.read_us, paired.unpaired)


def _q2(results: pa.Table, read_us: Int64s, events: Events) -> Paired:
    mine = events.bid.filter(pa.array(_numbers(events.bid, "auction") % Q2_MODULUS == 0))
    given, wanted = _numbers(results, "auction"), _numbers(mine, "auction")
    at, of = np.argsort(given, kind="stable"), np.argsort(wanted, kind="stable")
    same = len(at) == len(of) and bool(
        (given[at] == wanted[of]).all()
        and (_numbers(results, "price")[at] == _numbers(mine, "price")[of]).all()
    )
    if not same:
        raise MegaphoneError("q2: the results are not the bids of their auctions, in order")
    return Paired(_numbers(mine, "date_time")[of], read_us[at])


def _q3(results: pa.Table, read_us: Int64s, events: Events) -> Paired:
    of = _places("q3", events.auction, "id", _numbers(results, "id"))
    sellers = _numbers(events.auction, "seller")[of]
    by = _places("q3", events.person, "id", sellers)
    opened = _numbers(events.auction, "date_time")[of]
    return Paired(np.maximum(opened, _numbers(events.person, "date_time")[by]), read_us)


def _q6(results: pa.Table, read_us: Int64s, events: Events) -> Paired:
    closed = winning(events.recorded()).sort_by(
        [("seller", "ascending"), ("expires", "ascending"), ("id", "ascending")]
    )
    sellers, expires = _numbers(closed, "seller"), _numbers(closed, "expires")
    given = _numbers(results, "seller")
    at = np.argsort(given, kind="stable")
    given = given[at]
    nth = np.arange(len(given)) - np.searchsorted(given, given)
    places = np.searchsorted(sellers, given) + nth
    if (places >= len(sellers)).any() or (sellers[places] != given).any():
        raise MegaphoneError("q6: there are more results than auctions that were won")
    return Paired(expires[places], read_us[at])


def _q4(results: pa.Table, read_us: Int64s, events: Events) -> Paired:
    closed = winning(events.recorded()).sort_by([("expires", "ascending"), ("id", "ascending")])
    given = _numbers(results, "category")
    means = results["avg"].to_numpy()
    dates, reads, unpaired = [], [], 0
    for category in np.unique(given).tolist():
        mine, at = closed.filter(pc.equal(closed["category"], category)), given == category
        first = _means(_numbers(mine, "price"))
        fits = list(_rising(dict(zip(first.tolist(), range(1, len(first) + 1))), means[at]))
        ends = np.array([n for n, _ in fits], dtype=np.int64)
        places = np.array([place for _, place in fits], dtype=np.int64)
        counts = np.diff(ends, prepend=0)
        dates.append(_numbers(mine, "expires")[: counts.sum()])
        reads.append(np.repeat(read_us[at][places], counts))
        # Behind the last mean that fits nothing says which auctions a result holds.
        unpaired += int(at.sum()) - (int(places[-1]) + 1 if len(places) else 0)
    return Paired(_together(dates), _together(reads), unpaired)


def _rising(length_of: dict[float, int], means: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """(n, place of the result) of each mean that holds more than all before it."""
    reached = 0
    for place, mean in enumerate(means.tolist()):
        n = length_of.get(mean, 0)
        if n > reached:
            reached = n
            yield n, place


def _means(prices: Int64s) -> NDArray[np.float64]:
    """Mean of the first n prices, for each n. Sums of a run's prices stay below 2**53."""
    means: NDArray[np.float64] = np.cumsum(prices) / np.arange(1, len(prices) + 1)
    return means


def _places(query: str, table: pa.Table, column: str, wanted: Int64s) -> Int64s:
    """The row of each wanted number, which is in the table once."""
    numbers = _numbers(table, column)
    order = np.argsort(numbers, kind="stable")
    at = np.searchsorted(numbers[order], wanted)
    if (at >= len(order)).any() or (numbers[order[at]] != wanted).any():
        raise MegaphoneError(f"{query}: no event has the {column} that a result is of")
    return order[at]


def _numbers(table: pa.Table, column: str) -> Int64s:
    numbers: Int64s = table[column].to_numpy()
    return numbers


def _together(parts: list[Int64s]) -> Int64s:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


_PAIRINGS = {"q2": _q2, "q3": _q3, "q4": _q4, "q6": _q6}
