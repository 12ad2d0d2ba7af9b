"""Winning bids in plain Python: what a user of another stream processor writes for q4 and q6.

Flow: events of some auctions and all bids on them -> [ClosingAuctions] -> auctions that have ended,
each with its winning price. A peer's side keeps one for each of its keys. Pure.

Invariants
  CA1  An auction is given once, when event time has passed its `expires` by the time allowed for
       events out of order, or at the end; with the highest bid of at least its reserve that was
       made in its time, if there is one.
  CA2  A bid that comes before its auction is kept until no auction on time could claim it.
Left out: two auctions of one id, which the generator never sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

Event = dict[str, Any]

_START, _EXPIRES, _BEST, _AUCTION = range(4)


class Won(NamedTuple):
    """An auction that has ended, and the price it went for."""

    auction: Event
    price: int


class ClosingAuctions:
    """Auctions that are open, and bids that may come too early."""

    def __init__(self, lateness_ms: int) -> None:
        """Allow events to be so much earlier than the latest one."""
        self._lateness_ms = lateness_ms
        self._latest = -(1 << 63)
        #: By id: beginning, end, best price so far (at first one below the reserve), the auction.
        self._open: dict[int, list[Any]] = {}
        #: (expires, id) of those that are open.
        self._ends: list[tuple[int, int]] = []
        #: (time, price) of bids on auctions that are not open, by auction.
        self._early: dict[int, list[tuple[int, int]]] = {}
        #: (time, auction) of the same, as they came.
        self._came: deque[tuple[int, int]] = deque()

    def take(self, events: Iterable[Event]) -> list[Won]:
        """Take events, and return the auctions that have ended (CA1)."""
        opened, latest = self._open, self._latest
        for event in events:
            time = event["date_time"]
            if time > latest:
                latest = time
            if event["kind"] == "bid":
                found = opened.get(event["auction"])
                if found is None:
                    self._early.setdefault(event["auction"], []).append((time, event["price"]))
                    self._came.append((time, event["auction"]))
                elif event["price"] > found[_BEST] and found[_START] <= time < found[_EXPIRES]:
                    found[_BEST] = event["price"]
            else:
                self._begin(event)
        self._latest = latest
        watermark = latest - self._lateness_ms
        while self._came and self._came[0][0] < watermark:
            _, key = self._came.popleft()
            left = [bid for bid in self._early.pop(key, ()) if bid[0] >= watermark]
            if left:
                self._early[key] = left
        return list(self._closed(watermark))

    def end(self) -> list[Won]:
        """Nothing more comes: return all others."""
        return list(self._closed(None))

    def _begin(self, auction: Event) -> None:
        """Open an auction, and offer it the bids that came before it (CA2)."""
        key, start, expires = auction["id"], auction["date_time"], auction["expires"]
        best = auction["reserve"] - 1
        for time, price in self._early.pop(key, ()):
            if price > best and start <= time < expires:
                best = price
        self._open[key] = [start, expires, best, auction]
        heappush(self._ends, (expires, key))

    def _closed(self, watermark: int | None) -> Iterator[Won]:
        ends = self._ends
        while ends and (watermark is None or ends[0][0] <= watermark):
            _, key = heappop(ends)
            _, _, best, auction = self._open.pop(key)
            if best >= auction["reserve"]:
                yield Won(auction, best)
