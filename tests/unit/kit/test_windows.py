"""Windows in a whole job: exact wherever bins are, whatever is late, after a stop and a crash.

Cannot catch: what depends on Kafka; the kit has no broker.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import megaphone as mp
from megaphone.testing import Cluster
from tests.fakes.windows import windows_of

Row = dict[str, Any]


def job(*, text: bool = False, lateness: str = "0s", window: object = None) -> mp.Flow:
    flow = mp.Flow("windows")
    rows = flow.source(
        "rows",
        mp.KafkaSource(["rows"], record="row", fields=["name" if text else "key", "time", "v"]),
        watermarks=mp.Watermarks("time", out_of_orderness="5ms"),
    )
    keyed = rows.key_by("name" if text else "key")
    windows = keyed.window(window or mp.sliding("10ms", every="4ms"), allowed_lateness=lateness)
    counts = windows.aggregate("counts", n=mp.count(), total=mp.total("v"))
    if not text:
        counts.sink("counted", mp.KafkaSink("counted", key="key", schema=1))
    busiest = counts.window(mp.given()).top("busiest", by="n")
    busiest.sink("out", mp.KafkaSink("out", key="window_start", schema=1))
    counts.late("late").sink("too late", mp.KafkaSink("late", key="time", schema=2))
    total = rows.window(mp.tumbling("10ms")).aggregate("all", n=mp.count())
    total.sink("all out", mp.KafkaSink("all", key="window_start", schema=3))
    total.late("late of all").sink("all late", mp.KafkaSink("all-late", key="time", schema=2))
    return flow


def shuffled(seed: int, count: int, *, keys: int = 20, by: int = 5) -> list[Row]:
    """Rows at most `by` out of order."""
    random = np.random.default_rng(seed)
    times = np.arange(count) // 3
    order = np.argsort(times + random.uniform(0, by, count), kind="stable")
    chosen = random.integers(0, keys, count)
    return [
        {"key": int(chosen[n]), "name": f"key {chosen[n]}", "time": int(times[n]), "v": int(n)}
        for n in order
    ]


def sliding(rows: list[Row], until: int, key: str = "key") -> Counter[tuple[Any, ...]]:
    """(key, start, end, rows, sum) of the windows that are closed."""
    counts: Counter[tuple[Any, ...]] = Counter()
    totals: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        for start, end in windows_of(row["time"], 10, 4):
            if end <= until:
                counts[row[key], start, end] += 1
                totals[row[key], start, end] += row["v"]
    return Counter({(*which, n, totals[which]): 1 for which, n in counts.items()})


def busiest(counted: Counter[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    most: dict[tuple[int, int], int] = {}
    for _, start, end, n, _ in counted:
        most[start, end] = max(n, most.get((start, end), 0))
    return Counter({row: 1 for row in counted if row[3] == most[row[1], row[2]]})


def in_tens(rows: list[Row], until: int) -> Counter[tuple[int, int, int]]:
    counts = Counter(row["time"] // 10 * 10 for row in rows)
    return Counter({(s, s + 10, n): 1 for s, n in counts.items() if s + 10 <= until})


def told(cluster: Cluster, sink: str) -> Counter[tuple[Any, ...]]:
    names = ("key", "name", "window_start", "window_end", "n", "total")
    return Counter(
        tuple(row[name] for name in names if name in row) for row in cluster.output(sink)
    )


def reached(rows: list[Row]) -> int:
    return max(row["time"] for row in rows) - 5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("text", [False, True])
def test_moves_change_nothing(seed: int, text: bool) -> None:
    rows = shuffled(seed, 600)
    fields = ("name" if text else "key", "time", "v")
    sent = [{name: row[name] for name in fields} for row in rows]
    with Cluster(job(text=text), workers=2, gateways=1, schedule=seed) as cluster:
        for part in range(0, 600, 100):
            cluster.send("rows", sent[part : part + 100], partition=0)
            if part == 200:
                cluster.move(range(8), to=1, strategy="fluid", wait=False)
            if part == 300:
                cluster.advance(30_000)
            if part == 400:
                cluster.move(range(4, 12), to=0, strategy="batched", batch=3, wait=False)
        cluster.finish()
        expected = sliding(rows, reached(rows), fields[0])
        if not text:
            assert told(cluster, "counted") == expected
        assert told(cluster, "out") == busiest(expected)
        assert told(cluster, "all out") == in_tens(rows, reached(rows))
        assert cluster.output("too late") == []


def test_late_rows_of_a_top_are_all_told_where_they_are_asked_for() -> None:
    flow = mp.Flow("best")
    rows = flow.source(
        "rows",
        mp.KafkaSource(["rows"], record="row", fields=["key", "time", "v"]),
        watermarks=mp.Watermarks("time", out_of_orderness="5ms"),
    )
    best = rows.key_by("key").window(mp.tumbling("10ms")).top("best", by="v")
    best.sink("out", mp.KafkaSink("out", key="key", schema=1))
    best.late("late").sink("too late", mp.KafkaSink("late", key="time", schema=2))
    with Cluster(flow, workers=2, gateways=1) as cluster:
        for each in ([(1, 3, 5), (1, 4, 7)], [(1, 50, 1)], [(1, 5, 1), (1, 6, 9), (2, 7, 3)]):
            named = [dict(zip(("key", "time", "v"), row)) for row in each]
            cluster.send("rows", named, partition=0)
            cluster.advance(30_000)
        cluster.finish()
        assert [(row["key"], row["v"]) for row in cluster.output("out")] == [(1, 7)]
        assert sorted(row["time"] for row in cluster.output("too late")) == [5, 6, 7]


@pytest.mark.parametrize("crash", [False, True])
def test_windows_survive_a_stop_and_a_crash(crash: bool) -> None:
    rows = shuffled(7, 400)
    sent = [{name: row[name] for name in ("key", "time", "v")} for row in rows]
    with Cluster(job(), workers=2) as cluster:
        cluster.send("rows", sent[:200])
        if crash:
            cluster.checkpoint()
            cluster.crash()
        else:
            cluster.stop()
        cluster.restart()
        cluster.send("rows", sent[200:])
        expected = sliding(rows, reached(rows))
        assert told(cluster, "counted") == expected
        assert told(cluster, "out") == busiest(expected)


def test_late_rows_leave_by_a_stream_of_their_own_as_they_were_given() -> None:
    row = {"key": 1, "time": 3, "v": 7}
    with Cluster(job(window=mp.tumbling("10ms"), lateness="3ms")) as cluster:
        cluster.send("rows", [row, {**row, "time": 15}])
        assert told(cluster, "counted") == Counter([(1, 0, 10, 1, 7)])
        cluster.send("rows", [{**row, "time": 4, "v": 1}])
        # Within the lateness, so it is given again; windows of all rows allow none.
        assert told(cluster, "counted") == Counter([(1, 0, 10, 1, 7), (1, 0, 10, 2, 8)])
        window = {"window_start": 0, "window_end": 10}
        assert cluster.output("all late") == [{**row, "time": 4, "v": 1, **window}]
        cluster.send("rows", [{**row, "time": 18}])
        cluster.send("rows", [{**row, "time": 5}])
        assert cluster.output("too late") == [{**row, "time": 5}]
