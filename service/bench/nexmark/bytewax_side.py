"""Bytewax's side of the NEXMark bench; run with the interpreter of its own environment.

Flow: `python -m service.bench.nexmark.bytewax_side QUERY EVENTS RESULTS` reads events from a file
of JSON lines, runs the query, writes its rows to another -> one JSON object on standard output:
nanoseconds of the dataflow's run.

Written as its users would, with what serves it best: events are dictionaries with the fields that
the query needs, and for windows their time as a datetime, made before the clock starts; the source
gives lists of many, made before, too; windows take events as they come and not sorted; one worker,
one thread, no recovery. What ends at an event's `expires` is no window of Bytewax's: q4 and q6 keep
auctions in `stateful_batch`, some hundred under one key, so that a key's event time goes on.
The clock runs from the start of the flow to its last result: neither the process's start nor
imports, nor the reading of the events, are in it.
"""

from __future__ import annotations

import gc
import json
import sys
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, run_main

from service.bench.nexmark.closing_auctions import ClosingAuctions, Event, Won
from service.clock import SystemClock

_BATCH = 10_000
#: Keys that the auctions of q4 and q6 are spread over.
_BUCKETS = [str(number) for number in range(16)]
_Q6_PRICES, _PRICE = 10, itemgetter(2)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
#: How much earlier than the latest event one may be; of windows more, as Bytewax's event time goes
#: on with the machine's clock, and a machine may halt.
_LATENESS_MS, _LATENESS = 1_000, timedelta(seconds=10)
_Q5, _Q5_EVERY, _Q7, _Q8 = 10 * _SECOND, 2 * _SECOND, 10 * _SECOND, 10 * _SECOND


def _q0(events: Stream[Event]) -> Stream[Event]:
    return events


def _q1(events: Stream[Event]) -> Stream[Event]:
    def in_euros(bid: Event) -> Event:
        thousandths = bid["price"] * 908
        return {**bid, "price": f"{thousandths // 1000}.{thousandths % 1000:03d}"}

    return op.map("euros", events, in_euros)


def _q2(events: Stream[Event]) -> Stream[Event]:
    return op.filter("chosen", events, lambda bid: bid["auction"] % 123 == 0)


def _q3(events: Stream[Event]) -> Stream[Event]:
    def wanted(event: Event) -> bool:
        if event["kind"] == "person":
            return event["state"] in ("OR", "ID", "CA")
        return bool(event["category"] == 10)

    def key(event: Event) -> str:
        return str(event["id"] if event["kind"] == "person" else event["seller"])

    def join(state: tuple[list[Event], list[int]] | None, event: Event) -> Any:
        persons, auctions = state or ([], [])
        if event["kind"] == "person":
            persons.append(event)
            pairs = [(event, auction) for auction in auctions]
        else:
            auctions.append(event["id"])
            pairs = [(person, event["id"]) for person in persons]
        rows = [
            {**{name: person[name] for name in ("name", "city", "state")}, "id": auction}
            for person, auction in pairs
        ]
        return (persons, auctions), rows

    keyed = op.key_on("key", op.filter("wanted", events, wanted), key)
    return op.key_rm("rows", op.stateful_flat_map("join", keyed, join))


def _clock() -> Any:
    return win.EventClock(lambda event: event["time"], wait_for_system_duration=_LATENESS)


def _windows(
    events: Stream[Event],
    windower: Any,
    every: timedelta,
    new: Callable[[], Any],
    fold: Callable[[Any, Event], Any],
    rows: Callable[[Any], Iterator[Event]],
) -> Stream[Event]:
    """Fold all events of each window, then make rows of it."""
    keyed = op.key_on("all", events, lambda _: "all")
    folded = win.fold_window(
        "windows", keyed, _clock(), windower, new, fold, _no_merging, ordered=False
    )

    def out(result: tuple[str, tuple[int, Any]]) -> list[Event]:
        _, (number, found) = result
        start = number * (every // timedelta(milliseconds=1))
        return [{**row, "window_start": start} for row in rows(found)]

    return op.flat_map("rows", folded.down, out)


def _no_merging(_left: Any, _right: Any) -> Any:
    raise AssertionError("only sessions merge")


def _q5(events: Stream[Event]) -> Stream[Event]:
    def count(counts: Counter[int], bid: Event) -> Counter[int]:
        counts[bid["auction"]] += 1
        return counts

    def hottest(counts: Counter[int]) -> Iterator[Event]:
        most = max(counts.values())
        for auction, num in counts.items():
            if num == most:
                yield {"auction": auction, "num": num}

    windower = win.SlidingWindower(length=_Q5, offset=_Q5_EVERY, align_to=_EPOCH)
    return _windows(events, windower, _Q5_EVERY, Counter, count, hottest)


def _q7(events: Stream[Event]) -> Stream[Event]:
    def keep(best: list[Event], bid: Event) -> list[Event]:
        if not best or bid["price"] > best[0]["price"]:
            return [bid]
        if bid["price"] == best[0]["price"]:
            best.append(bid)
        return best

    windower = win.TumblingWindower(length=_Q7, align_to=_EPOCH)
    return _windows(events, windower, _Q7, list, keep, iter)


def _q8(events: Stream[Event]) -> Stream[Event]:
    def keep(state: tuple[list[Event], set[int]], event: Event) -> Any:
        if event["kind"] == "person":
            state[0].append(event)
        else:
            state[1].add(event["seller"])
        return state

    def both(state: tuple[list[Event], set[int]]) -> Iterator[Event]:
        for person in state[0]:
            if person["id"] in state[1]:
                yield {"id": person["id"], "name": person["name"]}

    windower = win.TumblingWindower(length=_Q8, align_to=_EPOCH)
    return _windows(events, windower, _Q8, lambda: ([], set()), keep, both)


class _Closing(StatefulBatchLogic):  # type: ignore[misc]  # the peer's package has no types here
    """The auctions of one key."""

    def __init__(self) -> None:
        self._auctions = ClosingAuctions(_LATENESS_MS)

    def on_batch(self, values: list[Event]) -> tuple[list[Won], bool]:
        return self._auctions.take(values), self.RETAIN

    def on_eof(self) -> tuple[list[Won], bool]:
        return self._auctions.end(), self.RETAIN

    def snapshot(self) -> None:
        """Nothing is recovered."""


def _winning(events: Stream[Event]) -> Stream[Won]:
    def key(event: Event) -> str:
        auction: int = event["auction"] if event["kind"] == "bid" else event["id"]
        return _BUCKETS[auction % 16]

    return op.stateful_batch("winning", op.key_on("bucket", events, key), lambda _: _Closing())


class _Mean(StatefulBatchLogic):  # type: ignore[misc]  # Bytewax has no types here
    """The mean price of all auctions of a category."""

    def __init__(self) -> None:
        self._total = self._count = 0

    def on_batch(self, values: list[Won]) -> tuple[list[Event], bool]:
        self._total += sum(won.price for won in values)
        self._count += len(values)
        mean = self._total / self._count
        return [{"category": values[0].auction["category"], "avg": mean}], self.RETAIN

    def snapshot(self) -> None:
        """Nothing is recovered."""


class _LastMean(StatefulBatchLogic):  # type: ignore[misc]  # Bytewax has no types here
    """The mean price of a seller's last auctions."""

    def __init__(self) -> None:
        self._last: list[tuple[int, int, int]] = []

    def on_batch(self, values: list[Won]) -> tuple[list[Event], bool]:
        last = self._last
        for auction, price in values:
            insort(last, (auction["expires"], auction["id"], price))
        del last[:-_Q6_PRICES]
        mean = sum(map(_PRICE, last)) / len(last)
        return [{"seller": values[0].auction["seller"], "avg": mean}], self.RETAIN

    def snapshot(self) -> None:
        """Nothing is recovered."""


def _q4(events: Stream[Event]) -> Stream[Event]:
    def key(won: Won) -> str:
        return str(won.auction["category"])

    won = op.key_on("category", op.key_rm("won", _winning(events)), key)
    return op.key_rm("rows", op.stateful_batch("means", won, lambda _: _Mean()))


def _q6(events: Stream[Event]) -> Stream[Event]:
    def key(won: Won) -> str:
        return str(won.auction["seller"])

    won = op.key_on("seller", op.key_rm("won", _winning(events)), key)
    return op.key_rm("rows", op.stateful_batch("means", won, lambda _: _LastMean()))


_QUERIES: dict[str, Callable[[Stream[Event]], Stream[Event]]] = {
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


class _Lists(StatefulSourcePartition):  # type: ignore[misc]  # Bytewax has no types here
    def __init__(self, lists: Sequence[list[Event]]) -> None:
        self._lists = iter(lists)

    def next_batch(self) -> list[Event]:
        return next(self._lists)

    def snapshot(self) -> None:
        """Nothing is recovered."""


class _Prepared(FixedPartitionedSource):  # type: ignore[misc]  # Bytewax has no types here
    """Lists of events that are there; it looks at no event."""

    def __init__(self, lists: Sequence[list[Event]]) -> None:
        self._all = lists

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Lists:
        return _Lists(self._all)


def main() -> None:
    """Run once and tell."""
    query, events_path, results_path = sys.argv[1:4]
    events = [json.loads(line) for line in Path(events_path).read_text("utf-8").splitlines()]
    if query in ("q5", "q7", "q8"):
        for event in events:
            event["time"] = _EPOCH + timedelta(milliseconds=event["date_time"])
    rows: list[Event] = []
    clock = SystemClock()
    flow = Dataflow(query)
    lists = [events[start : start + _BATCH] for start in range(0, len(events), _BATCH)]
    stream = op.input("in", flow, _Prepared(lists))
    op.output("out", _QUERIES[query](stream), TestingSink(rows))
    gc.collect()
    gc.freeze()
    begun = clock.monotonic_ns()
    run_main(flow)
    took = clock.monotonic_ns() - begun
    with Path(results_path).open("w", encoding="utf-8") as out:
        for row in rows:
            row.pop("time", None)
            out.write(json.dumps(row) + "\n")
    sys.stdout.write(json.dumps({"took_ns": took}) + "\n")


if __name__ == "__main__":
    main()
