"""Sessions in a whole job: exact wherever bins are, whatever is late, after a stop and a crash.

Cannot catch: what depends on Kafka; `tests/integration/test_event_time.py` has a broker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import megaphone as mp
from megaphone.testing import Cluster
from tests.fakes.sessions import Numbered, Result, Sessions, best
from tests.fakes.windows import Row

GAP, OUT_OF_ORDER, BINS = 6, 5, 16
BOUNDS = ("window_start", "window_end")
NAMES = ("key", "name", *BOUNDS, "n", "different", "total", "values", "time", "v")
#: Sinks, and the vertices that write them.
SINKS = ("counted", "best", "folded")


def joined(before: str, value: int) -> str:
    return f"{before} {value}".strip()


def both(earlier: str, later: str) -> str:
    return f"{earlier} {later}"


def job(*, grouped: bool = True, text: bool = False, lateness: str = "0s") -> mp.Flow:
    """Every form of sessions of one stream, and the late rows of one of them."""
    flow = mp.Flow("sessions")
    key = "name" if text else "key"
    rows = flow.source(
        "rows",
        mp.KafkaSource(["rows"], record="row", fields=[key, "time", "v"]),
        watermarks=mp.Watermarks("time", out_of_orderness=f"{OUT_OF_ORDER}ms"),
    )
    stream = rows.key_by(key) if grouped else rows
    windows = stream.window(mp.session(gap=f"{GAP}ms"), allowed_lateness=lateness)
    counted = windows.aggregate(
        "counted", n=mp.count(), different=mp.distinct_count("v"), total=mp.total("v")
    )
    by_best = windows.top("best", by="v", n=2)
    folded = windows.fold(
        "folded", joined, merge=both, initial=str, value="v", schema={"values": pa.string()}
    )
    for number, (name, results) in enumerate(zip(SINKS, (counted, by_best, folded), strict=True)):
        own = "time" if name == "best" else "window_end"
        results.sink(f"{name} out", mp.KafkaSink(name, key=own, schema=1 + number))
        late = results.late(f"{name} late")
        late.sink(f"{name} late out", mp.KafkaSink(f"{name}-late", key="time", schema=9))
    return flow


def results_of(name: str, *, grouped: bool) -> Result:
    """What a session gives to a sink, as `told` lists it."""

    def result(rows: Numbered, start: int, end: int) -> list[tuple[Any, ...]]:
        own = (rows[0][1][0],) if grouped else ()
        values = [row[2] for _, row in rows]
        if name == "counted":
            return [(*own, start, end, len(values), len(set(values)), sum(values))]
        if name == "folded":
            return [(*own, start, end, in_order(values))]
        found = best([row for _, row in rows], 2, ties=True, lowest=False)
        return [(key, start, end, time, value) for key, time, value in found]

    return result


def in_order(values: Sequence[object]) -> str:
    """Values that a fold has seen: which rows are of one time, and so in order, is the job's."""
    return " ".join(sorted(map(str, values)))


def told(cluster: Cluster, sink: str) -> Counter[tuple[Any, ...]]:
    rows = cluster.output(f"{sink} out")
    for row in rows:
        if "values" in row:
            row["values"] = in_order(row["values"].split())
    return Counter(tuple(row[name] for name in NAMES if name in row) for row in rows)


def foretold(
    rows: Sequence[dict[str, Any]], until: int, name: str, *, grouped: bool = True, key: str = "key"
) -> Counter[tuple[Any, ...]]:
    """What sessions of rows none of which is late give up to a watermark."""
    sessions = Sessions(GAP, 0, results_of(name, grouped=grouped), grouped=grouped)
    for row in rows:
        again, late = sessions.apply([(row[key], row["time"], row["v"])], -1 << 40)
        assert not again, "nothing is closed yet"
        assert not late, "nothing is closed yet"
    return Counter(sessions.fire(-1 << 40, until))


def sent(seed: int, count: int, *, text: bool = False) -> list[dict[str, Any]]:
    """Rows of few keys and few values, a little out of order, with pauses in which sessions end."""
    random = np.random.default_rng(seed)
    steps = np.arange(count) // 3
    times = steps + (GAP + 2) * (steps // 10)
    keys, values = random.integers(0, 12, count), random.integers(0, 5, count)
    order = np.argsort(times + random.uniform(0, OUT_OF_ORDER, count), kind="stable")
    return [
        {
            **({"name": f"key {keys[n]}"} if text else {"key": int(keys[n])}),
            "time": int(times[n]),
            "v": int(values[n]),
        }
        for n in order
    ]


def reached(rows: Sequence[dict[str, Any]]) -> int:
    return max(row["time"] for row in rows) - OUT_OF_ORDER


def in_turn(cluster: Cluster, rows: list[dict[str, Any]]) -> None:
    """Send rows one by one, so that watermarks rise and sessions close between them."""
    for row in rows:
        cluster.send("rows", [row], partition=0)
        cluster.advance(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("grouped", "text"), [(True, False), (True, True), (False, False)], ids=["key", "text", "all"]
)
def test_moves_there_and_back_change_nothing(seed: int, grouped: bool, text: bool) -> None:
    rows = sent(seed, 240, text=text)
    flow = job(grouped=grouped, text=text)
    with Cluster(flow, workers=2, gateways=1, schedule=seed) as cluster:
        for part in range(0, 240, 40):
            in_turn(cluster, rows[part : part + 40])
            if part == 80:
                cluster.move(range(BINS), to=1, strategy="fluid", wait=False)
            if part == 160:
                cluster.move(range(BINS), to=0, strategy="batched", batch=5, wait=False)
        cluster.finish()
        for name in SINKS:
            expected = foretold(
                rows, reached(rows), name, grouped=grouped, key="name" if text else "key"
            )
            assert len(expected) > 5
            assert told(cluster, name) == expected
            assert cluster.output(f"{name} late out") == []


@pytest.mark.parametrize("grouped", [True, False], ids=["key", "all"])
@pytest.mark.parametrize("crash", [False, True], ids=["stop", "crash"])
def test_open_sessions_survive_a_stop_and_a_crash(crash: bool, grouped: bool) -> None:
    rows = sent(7, 200)
    with Cluster(job(grouped=grouped), workers=2, gateways=1) as cluster:
        in_turn(cluster, rows[:100])
        cluster.move(range(BINS // 2), to=1)
        if crash:
            cluster.checkpoint()
            cluster.crash()
        else:
            cluster.stop()
        cluster.restart()
        in_turn(cluster, rows[100:150])
        cluster.move(range(BINS // 2), to=0)
        in_turn(cluster, rows[150:])
        cluster.finish()
        for name in SINKS:
            assert told(cluster, name) == foretold(rows, reached(rows), name, grouped=grouped)


@pytest.mark.parametrize("grouped", [True, False], ids=["key", "all"])
def test_a_late_row_makes_a_closed_session_longer_or_is_told_as_it_was_given(grouped: bool) -> None:
    def row(time: int, value: int = 1) -> dict[str, int]:
        return {"key": 1, "time": time, "v": value}

    with Cluster(job(grouped=grouped, lateness="10ms"), workers=2, gateways=1) as cluster:
        own = (1,) if grouped else ()
        in_turn(cluster, [row(0), row(16)])
        assert told(cluster, "counted") == Counter([(*own, 0, 6, 1, 1, 1)])
        # W is 11: the session has ended and is not forgotten.
        in_turn(cluster, [row(3, 4)])
        again: Counter[tuple[Row | int, ...]] = Counter([(*own, 0, 6, 1, 1, 1)])
        assert told(cluster, "counted") == again + Counter([(*own, 0, 9, 2, 2, 5)])
        assert told(cluster, "folded")[(*own, 0, 9, "1 4")] == 1
        assert told(cluster, "best")[1, 0, 9, 3, 4] == 1
        # W is 35: what ended at 25 or before is forgotten, and so is what this would open.
        in_turn(cluster, [row(40), row(19, 9)])
        for name in SINKS:
            assert cluster.output(f"{name} late out") == [row(19, 9)]
