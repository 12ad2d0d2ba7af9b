"""What the NEXMark bench plans and says of runs through Kafka, without a Kafka.

Claims: LD1, OL3, OL4, SU1, SU2, TK2; tests/integration/test_bench_nexmark.py makes small runs on
a real one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from service.bench.nexmark.backlog import BacklogRun, MovingRun
from service.bench.nexmark.beside_kafka import BesideKafka
from service.bench.nexmark.command import (
    Beside,
    EventOrder,
    Through,
    check,
    check_peer,
    document_of,
    kafka_matrix,
)
from service.bench.nexmark.jobs import JobOptions, moves, quarter_of
from service.bench.nexmark.kafka_figures import kafka_figures
from service.bench.nexmark.latencies import Latency, Timeline
from service.bench.nexmark.loads import Kind, Load, loads_of
from service.bench.nexmark.open_loop import LoopOptions, LoopRun, RateRun, rate_run
from service.bench.nexmark.report import page, table_of
from service.bench.nexmark.sustained import stairs_of, sustained
from service.bench.nexmark.through import (
    KafkaOptions,
    KafkaQuery,
    KafkaRuns,
    keeps_state,
)
from service.errors import UsageError
from service.migration.records import RequestState, StatusRecord
from service.migration.strategy import Strategy
from service.nexmark.forms import Format
from tests.tidy.source import ROOT

CONTRACT = json.loads((ROOT / "docs/contracts/bench.schema.json").read_text(encoding="utf-8"))
OPTIONS = KafkaOptions(
    queries=["q0", "q4"],
    events=1_000_000,
    check_events=20_000,
    groups=[1_000],
    migrations=["none", "batched"],
    load_groups=[1, 100],
    runs=2,
    load_runs=2,
    shares=[25, 50],
    rate_max=None,
    seconds=12,
    warm_up=4,
    step_seconds=3,
    format=Format.AVRO,
    peer_events=1_000,
)
BATCHED = Kind("batched")
JOB = JobOptions("q5", "app", "events", "out", 2)


def plan(name, at, duration_ms, moved=0):
    """What became of a move."""
    return StatusRecord(
        id=name, state=RequestState.COMPLETED, at=at, bytes=moved, duration_ms=duration_ms
    )


def test_a_quarter_of_the_bins_moves_away_and_back_in_many_waves():
    there, back = moves("a", "batched", JOB)
    moving = [number for number, _ in there["moves"]]
    assert len(set(moving)) == 256
    assert max(moving) < 512  # what worker 0 of two begins with
    assert {worker for _, worker in there["moves"]} == {1}
    assert [number for number, _ in back["moves"]] == moving
    assert {worker for _, worker in back["moves"]} == {0}
    assert (there["batch"], there["queue"], there["id"]) == (4, True, "a-there")
    assert "batch" not in moves("a", "fluid", JOB)[0]
    assert list(quarter_of(4, 2)) == [0]


def test_a_query_reads_the_topics_of_its_types():
    assert JOB.inputs == ["events-bid"]
    assert replace(JOB, query="q8").inputs == ["events-person", "events-auction"]
    assert replace(JOB, query="q4").inputs == ["events-auction", "events-bid"]
    assert [name for name in ("q0", "q1", "q2", "q3", "q8") if keeps_state(name)] == ["q3", "q8"]


def test_loads_are_shares_of_the_maximum():
    loads = loads_of(100_000, [25, 50])
    assert [(each.rate, each.label, each.capped) for each in loads] == [
        (25_000, "25 %", False),
        (50_000, "50 %", False),
    ]
    assert loads_of(0.5, [1])[0].rate == 1
    assert loads_of(4_000, [50], capped=True) == [Load(50, 2_000, capped=True)]
    assert loads_of(4_000, [50], capped=True)[0].label == "50 % of --rate-max"


def test_the_maximum_is_looked_for_up_to_the_backlog_rate_or_a_cap():
    assert stairs_of(45_000, None) == [25_000, 31_250, 39_062, 45_000]
    assert stairs_of(45_000, 31_250) == [25_000, 31_250]
    assert stairs_of(9_000, None) == [9_000]
    assert stairs_of(5e6, 4_000) == [4_000]
    assert stairs_of(0.2, None) == [1]
    every = stairs_of(5e6, None)
    assert every[-1] == 600_000
    assert all(1 < after / rate <= 1.2501 for rate, after in pairwise(every))


def test_a_rate_is_sustained_that_generator_and_results_keep_up_with():
    steady = Latency(100, 20.0, 60.0, 90.0)
    fine = RateRun(50_000, steady, None, [], 0.01)
    assert sustained([fine]) == 50_000
    assert sustained([fine, replace(fine, rate=70_000, late=0.011)]) == 50_000
    for slow in (None, replace(steady, p50=201.0), replace(steady, p99=1_001.0)):
        assert sustained([fine, replace(fine, rate=70_000, steady=slow)]) == 50_000
    # A stall in one step takes nothing from the next.
    assert sustained([replace(fine, late=0.5), replace(fine, rate=70_000)]) == 70_000
    assert sustained([replace(fine, late=0.5)]) == 0


def test_each_rate_has_its_time_behind_the_warm_up():
    loop = LoopOptions([10, 20], 12, 4, "batched")
    assert loop.steps == [(10, 4), (10, 12), (20, 12)]
    assert loop.spans(1_000) == [(4_001_000, 16_001_000), (16_001_000, 28_001_000)]


def test_what_is_due_while_bins_move_is_not_steady_at_any_rate():
    loop = LoopOptions([10, 20], 12, 4, "batched")
    due = np.arange(0, 28_000_000, 50_000)
    timeline = Timeline.of_values(due, due)
    # The second rate begins at 16 s; the plans of the first reach into it.
    plans = [
        plan("a", 10_000_000, 2_000, 5),
        plan("b", 14_000_000, 4_000, 6),
        plan("c", 22_000_000, 1_000),
        plan("d", 24_000_000, 500),
    ]
    progress = [
        {"t_us": 5_000_000, "events_per_second": 10, "late": 1},
        {"t_us": 15_000_000, "events_per_second": 10, "late": 0},
        {"t_us": 17_000_000, "events_per_second": 20, "late": 20},
    ]
    first, second = (rate_run(number, loop, 0, timeline, plans, progress) for number in range(2))
    # 5 s to 16 s without [10, 12] and [14, 18]: what begins before 10, in (12, 14).
    assert first.steady.count == 2 * (50 + 19)
    assert (first.steady.max, first.moving.max) == (13_950.0, 15_950.0)
    assert first.moving.count == 2 * (21 + 20)
    assert (first.moved_bytes, first.duration_ms, first.late) == (11, 4_000, 1 / 20)
    assert second.steady.max == 27_950.0
    # 18.1 s to 28 s without [22, 23] and [24, 24.5].
    assert second.steady.count == 2 * (99 - 11 - 6)
    assert (second.moving.count, second.moving.max) == (2 * (11 + 11 + 6), 24_550.0)
    assert second.late == 1.0
    quiet = rate_run(0, replace(loop, strategy=None), 0, timeline, [], progress)
    assert quiet.moving is None
    assert quiet.steady.count == 2 * 110


def test_out_of_order_the_bound_of_lateness_is_that_of_the_longest_group():
    loop = LoopOptions([3_000, 20_000], 12, 4, None)
    assert (loop.early_us, loop.late_ms(50)) == (0, 0)
    shuffled = replace(loop, group=100)
    assert shuffled.early_us == 33_334  # 100 events at 3,000 a second
    assert shuffled.late_ms(50) == 1_668  # 1,666.7 ms of event time, and what a floor takes


def test_out_of_order_loads_have_names_and_bounds_of_their_own():
    made = runs()
    made.queries[1].loops[Kind("fluid", 100)] = made.queries[1].loops[BATCHED]
    made.queries[1].loops[Kind("batched", 100)] = made.queries[1].loops[BATCHED]
    figures = {each.name: each for each in kafka_figures(made)}
    assert len(figures) == len(list(kafka_figures(made)))
    at = "q4: through Kafka, out of order, {}, at 50 %: moving max - stall"
    assert figures[at.format("batched")].bound == 150
    assert figures[at.format("fluid")].bound is None
    assert "out of order, fluid  50 %" in table_of(None, made)


def runs():
    """Runs of two queries, all within their bounds."""
    steady, moving = Latency(100, 10.0, 20.0, 30.0), Latency(50, 12.0, 25.0, 160.0)
    plans = [plan("t", 1, 2_000, 500), plan("b", 2, 3_000, 600)]
    still = [RateRun(rate, steady, None, [], 0.001) for rate in (40_000, 80_000)]
    moved = [RateRun(rate, steady, moving, plans, 0.001) for rate in (40_000, 80_000)]
    copying = KafkaQuery("q0", 1_000_000, 920_000)
    copying.backlogs = [BacklogRun(5.0, 920_000, []), BacklogRun(6.0, 920_000, [])]
    copying.moving = [MovingRun(1_000, "none", [], 0, 0)]
    copying.loops = {Kind(None): [LoopRun(still, 200_000_000, 15.0, 0)] * 2}
    copying.beside = [BesideKafka(20_000.0, 100_000.0)]
    stateful = KafkaQuery("q4", 1_000_000, 980_000)
    stateful.backlogs = [BacklogRun(2.0, 300, []), BacklogRun(4.0, 300, [])]
    stateful.moving = [MovingRun(1_000, "none", [], 0, 0), MovingRun(1_000, "batched", [], 77, 9)]
    stateful.loops = {BATCHED: [LoopRun(moved, 300_000_000, 15.0, 2)] * 2}
    for each in (copying, stateful):
        each.loads = loads_of(160_000, [25, 50])
        each.stairs = LoopRun([replace(still[0], rate=160_000)], 1, 0.0, 0)
    return KafkaRuns(OPTIONS, [copying, stateful], "quixstreams")


def test_figures_have_the_bounds_of_their_query_share_and_strategy():
    figures = {each.name: each for each in kafka_figures(runs())}
    assert len(figures) == len(list(kafka_figures(runs())))
    rate = figures["q0: through Kafka, backlog, 1 gateway + 1 worker"]
    assert (rate.bound, rate.met, rate.runs) == (150_000, True, 2)
    assert figures["q4: through Kafka, backlog, 1 gateway + 1 worker"].bound == 250_000
    bounded = {
        name.partition("batched, ")[2]: (each.bound, each.met)
        for name, each in figures.items()
        if name.startswith("q4: through Kafka, batched") and each.bound is not None
    }
    assert bounded == {
        "at 50 %: generator late": (0.01, True),
        "at 50 %: has steady windows": (1, True),
        "at 50 %: has moving windows": (1, True),
        "at 50 %: steady p99": (50, True),
        "at 50 %: moving p99 / steady p99": (1.5, True),
        "at 50 %: moving max - stall": (150, True),
    }
    held = figures["q4: through Kafka, maximum sustained, 1 gateway + 2 workers"]
    assert (held.median, held.bound) == (160_000, None)
    assert figures["q4: through Kafka, batched, at 25 %: moved"].median == 1_100
    assert figures["q4: through Kafka, batched, at 25 %: longer of the two moves"].median == 3_000
    assert figures["q4: through Kafka, batched: results of unknown events"].median == 2
    assert figures["q0: through Kafka, over quixstreams, same events"].median == 5
    assert figures["q4: through Kafka, batched: largest worker"].runs == 2
    assert all(each.met is not False for each in figures.values())


def test_under_a_cap_no_bound_at_half_the_maximum_is_judged():
    made = runs()
    made.queries[1].loads = loads_of(160_000, [25, 50], capped=True)
    names = {each.name: each for each in kafka_figures(made)}
    at = "q4: through Kafka, batched, at 50 % of --rate-max: steady p99"
    assert (names[at].median, names[at].bound) == (20, None)
    judged = [name for name, each in names.items() if each.bound is not None and "at " in name]
    assert [name for name in judged if name.startswith("q4")] == []
    assert [name for name in judged if name.startswith("q0")]
    assert "50 % of --rate-max" in table_of(None, made)


def test_a_rate_without_steady_or_moving_windows_misses_its_bounds():
    made = runs()
    (loops,) = made.queries[1].loops.values()
    for name, windows in (("steady", {"steady": None}), ("moving", {"moving": None})):
        none = LoopRun([loops[0].rates[0], replace(loops[0].rates[1], **windows)], 1, 15.0, 0)
        made.queries[1].loops = {BATCHED: [none]}
        missed = [each.name for each in kafka_figures(made) if each.met is False]
        assert missed == [f"q4: through Kafka, batched, at 50 %: has {name} windows"]


def test_a_missed_bound_and_a_wrong_row_are_said():
    made = runs()
    made.queries[0].backlogs[1] = BacklogRun(12.0, 1, ["q0: 3 rows missing, such as <a>"])
    slow = made.queries[1].loops[BATCHED][0].rates[1]
    late = replace(slow, moving=Latency(50, 12.0, 31.0, 166.0), late=0.02)
    made.queries[1].loops = {BATCHED: [LoopRun([slow, late], 1, 15.0, 0)]}
    missed = {each.name.partition(": ")[2] for each in kafka_figures(made) if each.met is False}
    assert missed == {
        "through Kafka, backlog, 1 gateway + 1 worker",
        "differences from the oracle, through Kafka, backlog",
        "through Kafka, batched, at 50 %: generator late",
        "through Kafka, batched, at 50 %: moving p99 / steady p99",
        "through Kafka, batched, at 50 %: moving max - stall",
    }
    document = document_of(None, {"stall_ms": 0.0}, made)
    assert document.exit_status == 3
    assert "3 rows missing, such as &lt;a&gt;" in page(document, None, made)


def test_document_table_and_page_say_what_was_measured():
    made = runs()
    document = document_of(None, {"stall_ms": 0.0}, made)
    Draft202012Validator(CONTRACT).validate(json.loads(document.json()))
    assert document.parameters["kafka_shares"] == "25 50"
    lines = [line.split() for line in table_of(None, made).splitlines()]
    assert [line[0] for line in lines] == ["query", "q0", "q0", "q4", "q4"]
    assert lines[1][1:8] == ["183,333", "160,000", "3", "of", "3", "none", "25"]
    load = "batched 50 % 80,000 0.10% 10.0 20.0 30.0 25.0 160.0 1,100 3,000 300"
    assert lines[4][1:] == load.split()
    assert lines[1][-2:] == ["20,000", "5.0"]
    assert "q4: through Kafka, batched, at 50 %: moving p99" in page(document, None, made)


def test_by_default_some_of_the_matrix_is_run_and_all_of_it_on_one_option():
    some = kafka_matrix(None, None, None, full=False)
    assert (some.groups, some.load_groups, some.migrations) == ([1_000], [1], ["batched"])
    every = kafka_matrix(None, None, None, full=True)
    assert (every.groups, every.load_groups) == ([1, 1_000], [1, 100])
    assert every.migrations == ["none", *map(str, Strategy)]
    asked = kafka_matrix([EventOrder.IN_ORDER], ["fluid"], [EventOrder.OUT_OF_ORDER], full=True)
    assert (asked.groups, asked.load_groups, asked.migrations) == ([1], [100], ["fluid"])


def test_what_there_is_not_is_refused():
    with pytest.raises(UsageError, match="no query 'q9'; there are: q0"):
        check(["q9"], [], ["q0"])
    with pytest.raises(UsageError, match="no migration 'some'; there are: none"):
        check([], ["some"], ["q0"])
    with pytest.raises(UsageError, match="add --through kafka"):
        check_peer(Beside.QUIXSTREAMS, Through.MEMORY)
    with pytest.raises(UsageError, match="add --through memory"):
        check_peer(Beside.BYTEWAX, Through.KAFKA)
    check_peer(Beside.QUIXSTREAMS, Through.BOTH)
