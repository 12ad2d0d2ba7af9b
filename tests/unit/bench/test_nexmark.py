"""The NEXMark bench at a small size: exact runs, a document of the contract, a table, a page.

Claims: NM1, NR2; the figures themselves need a quiet machine.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator

from service.bench.nexmark import runs as suite
from service.bench.nexmark.command import document_of
from service.bench.nexmark.memory import MemoryOptions, run_query
from service.bench.nexmark.memory_figures import memory_figures
from service.bench.nexmark.oracle import differences, expected
from service.bench.nexmark.report import page, table_of
from service.bench.nexmark.runs import SuiteOptions, make_runs
from service.bench.nexmark.stream import StreamOptions, drawn
from tests.tidy.source import ROOT

CONTRACT = json.loads((ROOT / "docs/contracts/bench.schema.json").read_text(encoding="utf-8"))
OPTIONS = SuiteOptions(
    queries=["q1", "q3"],
    events=3_000,
    check_events=3_000,
    groups=[1, 70],
    migrations=["none", "batched"],
    runs=1,
    peer_events=1_000,
    shares=[50, 100],
    load_runs=1,
)


@pytest.fixture(scope="module")
def made():
    """Runs of two queries."""
    return make_runs(OPTIONS, None, None, lambda _: None)


def test_every_run_is_exact_and_state_has_moved(made):
    stateless, joined = made.queries
    assert [check.label for check in stateless.checks] == ["in order, none", "out of order, none"]
    assert [check.migration for check in joined.checks] == ["none", "batched", "none", "batched"]
    assert [check.wrong for query in made.queries for check in query.checks] == [[]] * 6
    assert [check.ran.moved_bins > 0 for check in joined.checks] == [False, True] * 2
    assert all(rate > 0 for query in made.queries for rate in query.rates)


def test_latency_memory_and_moves_are_figures_of_every_query(made):
    figures = {each.name: each for each in memory_figures(made)}
    assert len(figures) == len(list(memory_figures(made)))
    for name in ("q1: in memory, at 50 %", "q3: in memory, at 100 %"):
        share = float(name.rpartition("at ")[2].removesuffix(" %"))
        assert figures[f"{name}: of the maximum"].median == pytest.approx(share, rel=0.001)
        assert 0 < figures[f"{name}: steady p50"].median <= figures[f"{name}: steady max"].median
        assert figures[f"{name}: peak memory"].median > 1
    moving = made.queries[1].moving["batched"]
    assert [run.rate for run in moving] == [750]  # so that 3,000 events last four seconds
    assert figures["q3: in memory, batched: moved"].median > 0
    assert figures["q3: in memory, batched: longer of the two moves"].median > 0
    assert figures["q3: peak memory, in order, batched"].median > 1
    assert figures["q1: in memory, peak memory"].runs == OPTIONS.runs


def test_the_document_keeps_the_contract_and_says_what_is_wrong(made):
    document = document_of(made, {"stall_ms": 0.0})
    Draft202012Validator(CONTRACT).validate(json.loads(document.json()))
    text = table_of(made)
    rows = [line.split() for line in text.splitlines()[1:]]
    assert [row[0] for row in rows] == ["q1", "q1", "q3", "q3", "q3"]
    assert "4 of 4" in text
    assert rows[1][1:4] == ["none", "100", "%"]
    assert rows[4][1] == "batched"
    html = page(document, made)
    assert "q3: differences from the oracle, out of order, batched" in html
    assert "q3: in memory, batched: moving p99" in html
    first = replace(made.queries[0].checks[0], wrong=["q1: a row is <missing>"])
    worse = replace(made, queries=[replace(made.queries[0], checks=[first])])
    figures = {each.name: each.met for each in memory_figures(worse)}
    assert figures["q1: differences from the oracle, in order, none"] is False
    assert "a row is &lt;missing&gt;" in page(document, worse)


def test_events_out_of_order_are_those_in_order():
    ordered = drawn(StreamOptions(2_000)).recorded()
    shuffled = drawn(StreamOptions(2_000, group=80, batch=300)).recorded()
    for name in ("person", "auction", "bid"):
        rows, other = getattr(ordered, name), getattr(shuffled, name)
        assert rows.schema == other.schema
        assert rows["date_time"].to_pylist() == sorted(other["date_time"].to_pylist())
    assert shuffled.bid["date_time"].to_pylist() != ordered.bid["date_time"].to_pylist()


def test_a_lost_batch_would_be_noticed():
    stream = drawn(StreamOptions(2_000, batch=500))
    wanted = expected("q0", stream.recorded())
    ran = run_query(
        suite.query_flow("q0", stream), replace(stream, batches=stream.batches[1:]), MemoryOptions()
    )
    assert differences("q0", ran.rows, wanted)
