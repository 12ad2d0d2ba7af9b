"""Quix Streams' side of the NEXMark bench; run with the interpreter of its own environment.

Flow: `python -m service.bench.nexmark.quixstreams_side QUERY SERVERS INPUT OUTPUT GROUP COUNT DIR`
reads COUNT records of JSON from a topic, runs the query, writes its rows to another as JSON.

Its defaults but for the beginning of the topic as the place to begin at: at least once, its own
JSON on both sides, keys passed on as they are. q0, q1 and q2 are here: they look at one record at a
time. Its windows are of one key in one partition and close by that partition's time, its joins keep
the last row or those of an interval; so q3 and q5 to q8, whose rules are about all partitions or
all rows, cannot be said exactly, and neither can q4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from quixstreams import Application

Event = dict[str, Any]

_THOUSANDTHS = 908
_MODULUS = 123
#: It has read everything when nothing has come for so long; its clock stops with its last result.
_SILENCE_S = 5.0


def _in_euros(bid: Event) -> Event:
    thousandths = bid["price"] * _THOUSANDTHS
    price = f"{thousandths // 1000}.{thousandths % 1000:03d}"
    return {
        "auction": bid["auction"],
        "bidder": bid["bidder"],
        "price": price,
        "date_time": bid["date_time"],
        "extra": bid["extra"],
    }


def _q0(bids: Any) -> Any:
    return bids


def _q1(bids: Any) -> Any:
    return bids.apply(_in_euros)


def _q2(bids: Any) -> Any:
    chosen = bids.filter(lambda bid: bid["auction"] % _MODULUS == 0)
    return chosen.apply(lambda bid: {"auction": bid["auction"], "price": bid["price"]})


_QUERIES: dict[str, Callable[[Any], Any]] = {"q0": _q0, "q1": _q1, "q2": _q2}


def main() -> None:
    """Run once."""
    query, servers, source, target, group, count, folder = sys.argv[1:8]
    app = Application(
        broker_address=servers,
        consumer_group=group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        state_dir=folder,
        loglevel="WARNING",
    )
    read = app.topic(source, value_deserializer="json")
    written = app.topic(target, value_serializer="json")
    _QUERIES[query](app.dataframe(read)).to_topic(written)
    # It counts what comes out, which is not what goes in where there is a filter.
    app.run(count=int(count), timeout=_SILENCE_S, collect=False)


if __name__ == "__main__":
    main()
