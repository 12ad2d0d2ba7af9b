"""The users' stateless operations, from a stream's method to what a sink is given.

Cannot catch: moving bins and delays of links; the simulation does that.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from service.dataflow.capturing import CapturedFrontier, CapturedRows, captures, replay
from service.dataflow.flow import Flow, Stream, count
from service.dataflow.flow_shape import roles_of
from service.dataflow.vertices import KafkaSink, KafkaSource
from service.dataflow.worker import WorkerLimits
from service.errors import GraphError, UserFunctionError
from service.ids import Role
from tests.fakes.small_job import SmallJob

SCHEMA = pa.schema([("a", pa.int64()), ("s", pa.string())])
FIRST = 10


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"a": v, "s": f"s{v}"} for v in values], schema=SCHEMA)


def begun() -> Stream:
    return Flow("job").source("in", KafkaSource(["events"], record="bid", fields=SCHEMA.names))


def out(stream: Stream, name: str = "out", key: str = "a") -> None:
    stream.sink(name, KafkaSink(name, key=key, schema=1))


def job(stream: Stream, **shape) -> SmallJob:
    return SmallJob(stream.flow, SCHEMA, **shape)


def run(stream: Stream, *batches: pa.RecordBatch, **shape) -> SmallJob:
    ran = job(stream, **shape)
    for batch in batches:
        ran.put(batch)
    ran.end()
    assert ran.complete
    return ran


# Functions and expressions --------------------------------------------------------------------


def test_expressions_of_both_kinds_work_in_a_job() -> None:
    large = begun().filter("large", pc.field("a") > 1).filter("not five", pl.col("a") != 5)
    made = large.with_columns("twice", twice=pl.col("a") * 2, more=pc.field("a") + 1)
    out(made.select("narrow", "a", "twice", upper=pl.col("s").str.to_uppercase()))
    assert made.columns == ("a", "s", "twice", "more")
    assert run(made, rows(1, 2, 5, 3)).rows() == [
        {"a": 2, "twice": 4, "upper": "S2"},
        {"a": 3, "twice": 6, "upper": "S3"},
    ]


def test_functions_of_frames_batches_and_records_work_in_a_job() -> None:
    stream = (
        begun()
        .map_frames("frames", lambda frame: frame.filter(pl.col("a") > 0), columns=["a", "s"])
        .flat_map("twice", lambda batch: [batch, batch])
        .map_rows("next", lambda r: {"a": r["a"] + 1, "s": r["s"]}, SCHEMA)
        .flat_map_rows("each", lambda r: [r] * (r["a"] % 2), SCHEMA)
        .filter_rows("small", lambda r: r["a"] < 10)
    )
    out(stream)
    assert run(stream, rows(0, 1, 2, 20)).rows() == [{"a": 3, "s": "s2"}] * 2


def test_a_flat_map_may_declare_what_it_gives() -> None:
    def numbers(batch: pa.RecordBatch):
        for value in batch.column("a").to_pylist():
            yield pa.RecordBatch.from_pydict({"n": list(range(value))})

    schema = pa.schema([("n", pa.int64())])
    stream = begun().flat_map("numbers", numbers, schema=schema)
    assert stream.columns == ("n",)
    out(stream, key="n")
    assert run(stream, rows(3, 1)).rows() == [{"n": n} for n in (0, 1, 2, 0)]


def read_else(parts: tuple[Stream, Stream]) -> Stream:
    parts[1].inspect("else", lambda epoch, batch: None)
    return parts[0]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda s: s.filter("w", pc.field("z") > 1), "'w' failed on an empty batch.*z"),
        (lambda s: s.filter("w", pl.col("z") > 1), "'w' failed on an empty batch.*z"),
        (lambda s: s.filter("w", pc.field("a")), "'w' failed.*must hold booleans, not int64"),
        (lambda s: s.filter("w", pl.col("s")), "'w' failed.*must hold booleans"),
        (lambda s: s.filter("w", lambda b: b["z"]), "'w' failed on an empty batch.*KeyError.*z"),
        (lambda s: s.select("w", x=pl.col("z")), "'w' failed on an empty batch.*z"),
        (lambda s: s.select("w", x=pl.col("a").sum()), "'w' failed.*one value for a whole batch"),
        (lambda s: s.with_columns("w", x=pc.field("a") + pc.field("s")), "'w' failed.*add"),
        (lambda s: s.with_columns("w", x=pl.col("a") - pl.col("s")), "'w' failed on an empty"),
        (lambda s: s.map_frames("w", lambda f: f.lazy()), "'w' failed.*not LazyFrame"),
        (lambda s: s.map_frames("w", lambda f: f["z"]), "'w' failed.*z"),
        (lambda s: s.flat_map("w", lambda b: []), "'w' gave no batch .* schema=..."),
        (
            lambda s: s.flat_map("w", lambda b: [1]),
            "'w' must return a pyarrow.RecordBatch, not int",
        ),
        (lambda s: s.flat_map("w", lambda b: [b, b.select(["a"])]), "'w' gave columns {'a': 'int6"),
        (lambda s: s.flat_map("w", lambda b: [b], schema=pa.schema([])), "'w' gave columns"),
        (lambda s: s.flat_map("w", lambda b: 1 // 0), "'w' failed.*ZeroDivisionError"),
        (lambda s: read_else(s.branch("w", pc.field("z") > 1)), "'w' failed on an empty batch.*z"),
        (lambda s: s.exchange("w", by="s"), "'w' needs an integer column 's'; the stream has"),
        (lambda s: s.delay("w", until=lambda e: e - 1), r"'w' put epoch \d+ off to \d+; it must"),
        (lambda s: s.delay("w", until=lambda e: -1), r"'w' put epoch \d+ off to -1"),
        (lambda s: s.delay("w", until=lambda e: e / 2), r"'w' put .* whole number"),
        (lambda s: s.delay("w", until=lambda e: 1 // 0), "delay 'w' failed on the epoch"),
        (
            lambda s: s.map_batches(
                "d", lambda b: b.set_column(1, "s", b["s"].dictionary_encode())
            ).broadcast("w"),
            "'w' cannot send the dictionary-encoded column 's'",
        ),
        (
            lambda s: s.map_batches("m", lambda b: b.select(["s"])).select("w", "a"),
            "'w' failed on an empty batch with columns .*'s'",
        ),
    ],
)
def test_what_is_wrong_is_an_error_before_anything_runs(wrong, text: str) -> None:
    stream = begun()
    wrong(stream).inspect("end", lambda epoch, batch: None)
    with pytest.raises(GraphError, match=text):
        job(stream)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda s: s.select("w", "z"), "'w' needs column 'z'; the stream has"),
        (lambda s: s.with_columns("w", x="z"), "'w' needs column 'z'"),
        (lambda s: s.exchange("w", by="z"), "'w' needs column 'z'"),
        (lambda s: s.select("in", "a"), "already has a vertex named 'in'"),
        (lambda s: s.filter("w", 7), "'w' needs a function of batches or"),
        (lambda s: s.delay("w"), "'w' needs either until=... or step=..."),
        (lambda s: s.delay("w", until=lambda e: e, step=1), "'w' needs either"),
        (lambda s: s.delay("w", step=0), "step is 0; it must be at least 1 us"),
        (lambda s: s.errors("w"), "'w': 'in' has no function that could raise"),
        (lambda s: s.branch("b", pl.col("a") > 0)[1].errors("w"), "'b.else' has no function"),
        (
            lambda s: s.select("e", error="a").map_batches("m", lambda b: b).errors("w"),
            "'w' adds a column 'error', but 'm' reads one of that name",
        ),
    ],
)
def test_what_is_wrong_where_it_is_written_is_refused_there(wrong, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        wrong(begun())


# Sides ----------------------------------------------------------------------------------------


def test_a_branch_parts_a_stream_in_two() -> None:
    even, odd = begun().branch("even", pl.col("a") % 2 == 0)
    out(even)
    out(odd, "odd")
    ran = run(even, rows(1, 2), rows(3, 4))
    assert [r["a"] for r in ran.rows()] == [2, 4]
    assert [r["a"] for r in ran.rows("odd")] == [1, 3]


def test_both_streams_of_a_branch_must_be_read() -> None:
    even, odd = begun().branch("even", pl.col("a") % 2 == 0)
    out(odd)
    with pytest.raises(GraphError, match="nothing reads 'even'"):
        even.flow.check()
    even, odd = begun().branch("even", pl.col("a") % 2 == 0)
    out(even)
    with pytest.raises(GraphError, match=r"nothing reads 'even\.else'"):
        odd.flow.check()


def test_errors_go_to_a_stream_of_their_own_and_the_job_goes_on() -> None:
    def picky(batch: pa.RecordBatch) -> pa.RecordBatch:
        if 0 in batch.column("a").to_pylist():
            raise KeyError("nought")
        return batch.select(["a"])

    good = begun().map_batches("picky", picky, columns=["a"])
    bad = good.errors("broken")
    assert bad.columns == ("a", "s", "error")
    out(good)
    out(bad, "bad")
    ran = run(good, rows(1), rows(2, 0), rows(3))
    assert [r["a"] for r in ran.rows()] == [1, 3]
    text = "'picky' at (10,): KeyError: 'nought'"
    assert ran.rows("bad") == [
        {"a": 2, "s": "s2", "error": text},
        {"a": 0, "s": "s0", "error": text},
    ]


def test_errors_of_a_branch_leave_beside_both_its_streams() -> None:
    def even(batch: pa.RecordBatch) -> pa.Array:
        if 0 in batch.column("a").to_pylist():
            raise KeyError("nought")
        return pc.equal(pc.bit_wise_and(batch["a"], 1), 0)

    taken, others = begun().branch("even", even)
    for stream, name in ((taken, "out"), (others, "odd"), (taken.errors("broken"), "bad")):
        out(stream, name)
    ran = run(taken, rows(1, 2), rows(0))
    assert [[r["a"] for r in ran.rows(name)] for name in ("out", "odd", "bad")] == [[2], [1], [0]]


def test_errors_of_records_are_those_records_only() -> None:
    inverse = begun().map_rows("inverse", lambda r: {"x": 6 // r["a"]}, {"x": pa.int64()})
    out(inverse, key="x")
    out(inverse.errors("free"), "bad")
    ran = run(inverse, rows(1, 0, 3))
    assert ran.rows() == [{"x": 6}, {"x": 2}]
    assert [(r["a"], r["s"]) for r in ran.rows("bad")] == [(0, "s0")]


def test_without_an_error_stream_the_job_ends() -> None:
    stream = begun().map_rows("inverse", lambda r: {"x": 6 // r["a"]}, {"x": pa.int64()})
    out(stream, key="x")
    with pytest.raises(UserFunctionError, match=r"'inverse' raised ZeroDivisionError.*\(10,\)"):
        run(stream, rows(0))


# Spreading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [None, WorkerLimits(data_window=4096, local_queue=2048)])
def test_an_exchange_brings_equal_values_together_and_loses_none(limits) -> None:
    stream = begun().exchange("by a", by="a")
    out(stream)
    given = [rows(*range(start, start + 40)) for start in range(0, 200, 10)]
    ran = run(stream, *given, workers=3, gateways=2, limits=limits)
    homes: dict[int, set[int]] = {}
    for worker in range(5):
        for record in ran.rows(at=worker):
            homes.setdefault(record["a"], set()).add(worker)
    assert all(len(found) == 1 for found in homes.values())
    assert set().union(*homes.values()) == {0, 1, 2}
    expected = Counter(v for batch in given for v in batch.column("a").to_pylist())
    assert Counter(r["a"] for r in ran.rows()) == expected


def test_a_broadcast_reaches_every_worker() -> None:
    stream = begun().broadcast("all")
    out(stream)
    ran = run(stream, rows(1, 2), rows(3), workers=3, gateways=1)
    assert [[r["a"] for r in ran.rows(at=peer)] for peer in range(4)] == [[1, 2, 3]] * 3 + [[]]


def test_behind_an_exchange_rows_are_in_workers() -> None:
    stream = begun()
    spread = stream.exchange("by a", by="a").filter("some", pl.col("a") > 0)
    out(spread)
    out(stream.broadcast("all"), "copy")
    roles = dict(
        zip([v.name for v in stream.flow.vertices], roles_of(stream.flow.vertices), strict=True)
    )
    assert roles["in"] == {Role.GATEWAY}
    assert {name for name, found in roles.items() if found == {Role.WORKER}} == {
        "by a",
        "some",
        "out",
        "all",
        "copy",
    }


@pytest.mark.parametrize("limits", [None, WorkerLimits(data_window=4096, local_queue=512)])
def test_exchange_broadcast_and_delay_work_in_a_loop(limits) -> None:
    def body(inside: Stream) -> tuple[Stream, Stream]:
        spread = inside.exchange("spread", by="a").delay("later", step=7)
        odd, even = spread.branch("odd", lambda b: pc.equal(pc.bit_wise_and(b["a"], 1), 1))
        halved = even.map_rows("halve", lambda r: {"a": r["a"] // 2, "s": r["s"]}, SCHEMA)
        return halved, odd

    leaving = begun().iterate("halving", body).broadcast("all")
    out(leaving)
    given = [rows(12, 7), rows(64, 5)] * 20
    ran = run(leaving, *given, workers=2, gateways=1, limits=limits)
    for peer in range(2):
        assert Counter((r["a"], r["s"]) for r in ran.rows(at=peer)) == Counter(
            [(3, "s12"), (7, "s7"), (1, "s64"), (5, "s5")] * 20
        )
    assert {time for time, _ in ran.timed()} == {(14,)}


def test_a_keyed_vertex_may_follow_an_exchange() -> None:
    keyed = begun().exchange("by a", by="a").key_by("a").aggregate("counts", n=count())
    out(keyed)
    ran = run(keyed, rows(1, 2, 1), workers=2, gateways=1)
    assert {r["a"]: r["n"] for r in ran.rows()} == {1: 2, 2: 1}


# Time -----------------------------------------------------------------------------------------


def test_a_delay_gathers_what_comes_until_its_time() -> None:
    stream = begun().delay("tens", step=10)
    out(stream)
    ran = job(stream)
    for epoch in (11, 15, 20, 21):
        ran.put(rows(epoch), epoch)
    assert [(time, [r["a"] for r in found]) for time, found in ran.timed()] == [
        ((20,), [11]),
        ((20,), [15]),
        ((20,), [20]),
    ]
    ran.end()
    assert ran.timed()[-1] == ((30,), rows(21).to_pylist())
    assert ran.complete


def test_a_probe_says_how_far_a_place_is() -> None:
    stream = begun()
    before = stream.probe()
    later = stream.delay("tens", step=10)
    behind = later.probe()
    out(later)
    assert (before.vertex, behind.vertex) == ("in", "tens")
    ran = job(stream)
    ran.put(rows(1), 23)
    ran.reach(25)
    assert (before.epoch(ran), behind.epoch(ran)) == (25, 25)
    assert before.passed(ran, 24)
    assert not before.passed(ran, 25)
    ran.put(rows(2), 26)
    ran.reach(40)
    # What waits at the delay holds nothing back but itself.
    assert behind.epoch(ran) == 40
    ran.end()
    assert behind.epoch(ran) is None
    assert behind.passed(ran, 1 << 59)


# Looking on -----------------------------------------------------------------------------------


def test_an_inspection_sees_what_passes_and_may_be_the_end() -> None:
    seen = []
    stream = begun()
    stream.inspect("look", lambda epoch, batch: seen.append((epoch, batch)))
    ran = run(stream, rows(1))
    assert seen == [(FIRST, rows(1))]
    assert ran.rows() == []


def test_a_capture_holds_what_passed_with_epochs_and_frontiers(tmp_path: Path) -> None:
    stream = begun().exchange("by a", by="a").capture("seen", tmp_path)
    out(stream)
    ran = job(stream, workers=2, gateways=1)
    for epoch in (11, 15, 20):
        ran.put(rows(*range(epoch)), epoch)
    ran.end()
    files = [list(replay(file)) for file in captures(tmp_path, "seen")]
    assert len(files) == 3
    found = Counter(
        (each.time, record["a"])
        for file in files
        for each in file
        if isinstance(each, CapturedRows)
        for record in each.rows.to_pylist()
    )
    assert found == Counter(
        (time, record["a"]) for time, records in ran.timed() for record in records
    )
    assert sum(found.values()) == 46
    for file in files:
        assert file[-1] == CapturedFrontier(())
        reached = (0,)
        for each in file:
            if isinstance(each, CapturedRows):
                assert each.time >= reached
            elif each.elements:
                assert each.elements[0] > reached
                (reached,) = each.elements
