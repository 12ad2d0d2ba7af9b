"""Timers of event time in a whole job: windows made by hand close once, exactly, wherever bins are.

Cannot catch: what depends on Kafka's partitions having ends; the kit's inputs end where nothing
more was sent.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import megaphone as mp
from megaphone.testing import Cluster
from service.statestore.process_program import KeyTimers

WIDTH = 10
Row = dict[str, int]


def on_row(counts: dict[int, int], time: int, timers: KeyTimers) -> tuple[dict[int, int], None]:
    end = (time // WIDTH + 1) * WIDTH
    counts[end] = counts.get(end, 0) + 1
    timers.set(end)
    return counts, None


def on_timer(
    counts: dict[int, int], timers: KeyTimers
) -> tuple[dict[int, int] | None, list[tuple[int, int]]]:
    count = counts.pop(timers.now)
    return counts or None, [(timers.now, count)]


def windows(stream: mp.Stream, name: str = "windows", **arguments: Any) -> mp.Stream:
    """Counts of each key in windows of 10 ms, by hand."""
    return stream.key_by("key").process(
        name,
        on_row,
        on_timer,
        value="time",
        initial=dict,
        schema={"end": pa.int64(), "count": pa.int64()},
        **arguments,
    )


def job(out_of_orderness: str = "5ms", idle_after: str | None = "10s") -> mp.Flow:
    flow = mp.Flow("windows")
    rows = flow.source(
        "rows",
        mp.KafkaSource(["rows"], record="row", fields=["key", "time"]),
        watermarks=mp.Watermarks("time", out_of_orderness=out_of_orderness, idle_after=idle_after),
    )
    counted = windows(rows)
    counted.sink("out", mp.KafkaSink("out", key="key", schema=1))
    counted.late("late").sink("too late", mp.KafkaSink("late", key="key", schema=2))
    return flow


def rows_at(*times: int, key: int = 1) -> list[Row]:
    return [{"key": key, "time": time} for time in times]


def shuffled(seed: int, count: int, *, keys: int = 20, by: int = 5) -> list[Row]:
    """Rows at most `by` out of order."""
    random = np.random.default_rng(seed)
    times = np.arange(count) // 3
    order = np.argsort(times + random.uniform(0, by, count), kind="stable")
    chosen = random.integers(0, keys, count)
    return [{"key": int(chosen[n]), "time": int(times[n])} for n in order]


def counts_of(rows: list[Row], *, until: int) -> Counter[tuple[int, int]]:
    ends = Counter((row["key"], (row["time"] // WIDTH + 1) * WIDTH) for row in rows)
    return Counter({which: count for which, count in ends.items() if which[1] <= until})


def told(cluster: Cluster, sink: str = "out") -> Counter[tuple[int, int]]:
    """What came out, each window once."""
    out = cluster.output(sink)
    found = Counter({(row["key"], row["end"]): row["count"] for row in out})
    assert len(found) == len(out), "a window closed twice"
    return found


def test_a_window_closes_when_the_watermark_passes_and_not_before() -> None:
    with Cluster(job()) as cluster:
        cluster.send("rows", rows_at(3, 1, 14))
        assert cluster.output("out") == []
        cluster.send("rows", rows_at(15, key=2))
        assert cluster.output("out") == [{"key": 1, "end": 10, "count": 2}]


def test_rows_below_the_watermark_of_the_epoch_before_are_late() -> None:
    with Cluster(job()) as cluster:
        # In one epoch: rows are judged by the watermark of the one before.
        cluster.send("rows", rows_at(40, 3))
        assert cluster.output("out") == [{"key": 1, "end": 10, "count": 1}]
        cluster.send("rows", rows_at(34, 35))
        assert cluster.output("too late") == [{"key": 1, "time": 34}]
        cluster.send("rows", rows_at(60))
        assert [row["end"] for row in cluster.output("out")] == [10, 40, 50]


@pytest.mark.parametrize("seed", range(6))
def test_moves_change_nothing(seed: int) -> None:
    rows = shuffled(seed, 900)
    with Cluster(job(), workers=2, gateways=1, schedule=seed) as cluster:
        for part in range(0, 900, 100):
            cluster.send("rows", rows[part : part + 100], partition=0)
            if part == 200:
                cluster.move(range(8), to=1, strategy="fluid", wait=False)
            if part == 500:
                cluster.advance(30_000)
            if part == 600:
                cluster.move(range(4, 12), to=0, strategy="batched", batch=3, wait=False)
        cluster.finish()
        reached = max(row["time"] for row in rows) - 5
        assert told(cluster) == counts_of(rows, until=reached)
        assert cluster.output("too late") == []


@pytest.mark.parametrize("crash", [False, True])
def test_timers_and_watermarks_survive_a_stop_and_a_crash(crash: bool) -> None:
    rows = shuffled(7, 600)
    with Cluster(job(), workers=2) as cluster:
        cluster.send("rows", rows[:300])
        if crash:
            cluster.checkpoint()
            cluster.crash()
        else:
            cluster.stop()
        cluster.restart()
        # What the rows before the restart said of event time still counts.
        cluster.send("rows", rows_at(0, key=99))
        assert cluster.output("too late") == [{"key": 99, "time": 0}]
        cluster.send("rows", rows[300:])
        reached = max(row["time"] for row in rows) - 5
        assert told(cluster) == counts_of(rows, until=reached)


def test_a_partition_that_is_behind_holds_the_watermark_back_until_it_is_idle() -> None:
    with Cluster(job(idle_after="2s"), gateways=2) as cluster:
        cluster.send("rows", rows_at(1, 50), partition=0)
        assert cluster.output("out") == []
        cluster.send("rows", rows_at(2, 12), partition=1)
        # 12 - 5 is the least.
        assert cluster.output("out") == []
        cluster.advance(1_000)
        cluster.send("rows", rows_at(51), partition=0)
        cluster.advance(900)
        assert cluster.output("out") == []
        cluster.advance(2_000)
        assert told(cluster) == {(1, 10): 2, (1, 20): 1}
        # It speaks again, and is late by now.
        cluster.send("rows", rows_at(20), partition=1)
        assert cluster.output("too late") == [{"key": 1, "time": 20}]


def test_a_partition_that_may_not_be_idle_holds_it_back_for_ever() -> None:
    with Cluster(job(idle_after=None), gateways=2) as cluster:
        cluster.send("rows", rows_at(1, 50), partition=0)
        cluster.advance(3_600_000)
        cluster.send("rows", rows_at(60), partition=0)
        assert cluster.output("out") == []


def test_windows_of_windows_are_never_late() -> None:
    flow = mp.Flow("two")
    rows = flow.source(
        "rows",
        mp.KafkaSource(["rows"], record="row", fields=["key", "time"]),
        watermarks=mp.Watermarks("time", out_of_orderness="5ms"),
    )

    def passing(_: Any, time: int, timers: KeyTimers) -> tuple[int, None]:
        timers.set(time)
        return time, None

    def given(_: Any, timers: KeyTimers) -> tuple[None, list[int]]:
        return None, [timers.now]

    first = rows.key_by("key").process(
        "first", passing, given, value="time", schema={"time": pa.int64()}
    )
    assert first.event_time == mp.EventTime("time", "ms")
    second = windows(first, "second")
    second.sink("out", mp.KafkaSink("out", key="key", schema=1))
    second.late("late").sink("too late", mp.KafkaSink("late", key="key", schema=2))
    given_rows = list({(row["key"], row["time"]): row for row in shuffled(3, 300)}.values())
    with Cluster(flow, workers=2, schedule=3) as cluster:
        for part in range(0, len(given_rows), 50):
            cluster.send("rows", given_rows[part : part + 50], partition=0)
        cluster.move(range(8), to=1)
        cluster.finish()
        assert cluster.output("too late") == []
        reached = max(row["time"] for row in given_rows) - 5
        assert told(cluster) == counts_of(given_rows, until=reached)


def test_the_end_of_all_input_closes_every_window(tmp_path: Path) -> None:
    flow, rows = mp.Flow("end"), shuffled(5, 500)
    source = mp.ListSource(rows)
    closed = mp.ListSink()
    stream = flow.source("rows", source, watermarks=mp.Watermarks("time", out_of_orderness="5ms"))
    windows(stream).sink("out", closed)
    mp.run_local(flow, workers=2)
    found = {(row["key"], row["end"]): row["count"] for row in closed.rows}
    assert found == counts_of(rows, until=1 << 40)
    assert len(closed.rows) == len(found)


def test_a_generator_of_the_users_own_says_how_far_event_time_is() -> None:
    flow = mp.Flow("own")
    marks = mp.Watermarks(
        "time", generator=lambda rows: max(rows["time"].to_pylist()) if rows.num_rows > 1 else None
    )
    source = mp.KafkaSource(["rows"], record="row", fields=["key", "time"])
    windows(flow.source("rows", source, watermarks=marks)).sink(
        "out", mp.KafkaSink("out", key="key", schema=1)
    )
    with Cluster(flow) as cluster:
        cluster.send("rows", rows_at(3))
        cluster.send("rows", rows_at(20))
        assert cluster.output("out") == []
        cluster.send("rows", rows_at(15, 11))
        assert told(cluster) == {(1, 10): 1}


def test_on_timer_may_not_set_a_timer_that_is_not_later() -> None:
    flow = mp.Flow("loop")
    source = mp.KafkaSource(["rows"], record="row", fields=["key", "time"])
    rows = flow.source("rows", source, watermarks=mp.Watermarks("time"))

    def again(_: Any, timers: KeyTimers) -> tuple[None, None]:
        timers.set(timers.now)
        return None, None

    rows.key_by("key").process(
        "again",
        lambda _, time, timers: (timers.set(time), None),
        again,
        value="time",
        schema={"n": pa.int64()},
    ).sink("out", mp.KafkaSink("out", key="key", schema=1))
    with (
        Cluster(flow) as cluster,
        pytest.raises(mp.UserFunctionError, match="must be later than its own"),
    ):
        cluster.send("rows", rows_at(5, key=8))


def test_keys_of_text_have_timers_and_late_rows_as_well() -> None:
    flow = mp.Flow("text")
    source = mp.KafkaSource(["rows"], record="row", fields=["key", "time", "more"])
    rows = flow.source("rows", source, watermarks=mp.Watermarks("time"))
    counted = windows(rows)
    sink = mp.ListSink()
    counted.inspect("look", lambda _, batch: sink.open(batch.schema).write(batch))
    counted.late("late").inspect("tardy", lambda _, batch: late.extend(batch.to_pylist()))
    late: list[dict[str, object]] = []
    with Cluster(flow, workers=2) as cluster:
        cluster.send("rows", [{"key": "a", "time": 3, "more": 1.5}], partition=0)
        cluster.move(range(8), to=1)
        cluster.send("rows", [{"key": "b", "time": 30, "more": 2.5}], partition=0)
        cluster.send("rows", [{"key": "a", "time": 4, "more": 3.5}], partition=0)
        assert sink.rows == [{"key": "a", "end": 10, "count": 1}]
        assert late == [{"key": "a", "time": 4, "more": 3.5}]


def test_two_sources_of_one_topic_keep_positions_and_watermarks_of_their_own() -> None:
    flow = mp.Flow("two")
    for name in ("odd", "even"):
        source = mp.KafkaSource(["rows"], record=name, fields=["key", "time"])
        rows = flow.source(name, source, watermarks=mp.Watermarks("time", idle_after=None))
        windows(rows, f"{name} windows").sink(
            f"{name} out", mp.KafkaSink(name, key="key", schema=1)
        )
    with Cluster(flow, workers=2) as cluster:
        cluster.send("odd", rows_at(1, 15))
        cluster.send("even", rows_at(2, 25, 31))
        cluster.stop()
        cluster.restart()
        cluster.send("odd", rows_at(21))
        assert told(cluster, "odd out") == {(1, 10): 1, (1, 20): 1}
        assert told(cluster, "even out") == {(1, 10): 1, (1, 30): 1}
