"""summary.json and the page, from a run made up of round numbers."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from demo import report
from demo.load import Generated, Measured, Stalls
from demo.observe import RequestStatus
from demo.options import Names, Options
from demo.proof import Finding, Verdict
from demo.run import Outcome
from demo.summary import summarised
from loadgen.histogram import Histogram
from loadgen.measure import window_document

CONTRACT = Path(__file__).parents[3] / "docs/contracts/summary.schema.json"
SECOND_US = 1_000_000
START_US = 1_790_000_000 * SECOND_US
WINDOW_US = 100_000
STEADY_US, MIGRATING_US = 10_000, 40_000


def measured_run():
    """30 s of results: 10 ms everywhere, 40 ms while bins move (10 to 11 s, 20 to 21 s)."""
    documents = []
    for number in range(300):
        start = START_US + number * WINDOW_US
        second = number // 10
        histogram = Histogram()
        latency = MIGRATING_US if second in (10, 20) else STEADY_US
        histogram.record(np.full(1_000, latency, dtype=np.int64))
        documents.append(window_document(start, histogram))
    return Measured(
        offsets={"0": 400, "1": 600},
        final={
            "kind": "final",
            "window_us": WINDOW_US,
            "count": 300_000,
            "unreadable": 0,
            "consumed": documents,
            "intended": documents,
        },
    )


def moved(name, second):
    at = START_US + second * SECOND_US
    return RequestStatus(name, "completed", None, at, 256, 5 << 20, 16, 999)


FINDING = Finding("total", "each total fits", 0)
OUTCOME = Outcome(
    generated=Generated(
        sent={"load": 1_000, "live": 1_500_000},
        schedule=(START_US, START_US + 30 * SECOND_US),
        summaries={
            "live": {
                "events": 1_500_000,
                "late": 1_500,
                "late_fraction": 0.001,
                "lateness_ms_max": 12.0,
            }
        },
    ),
    measured=measured_run(),
    stalls=Stalls(100, [(START_US + SECOND_US, 3_000), (START_US - SECOND_US, 90_000)]),
    migrations=[moved("out", 10), moved("back", 20)],
    verdict=Verdict(
        outputs_compared=301_000,
        bids=1_381_000,
        auctions=1_000,
        bids_counted=1_381_000,
        changes=512,
        changes_witnessed=512,
        findings=[FINDING],
    ),
    processed=1_501_000,
    state_rows=91_000,
    lag=[(START_US + second * SECOND_US, 100 + second) for second in range(30)],
)


@pytest.fixture
def summary():
    return summarised(Options(), Names("test"), OUTCOME, "4.1.1")


def test_the_summary_keeps_its_contract(summary):
    jsonschema.validate(
        json.loads(json.dumps(summary)), json.loads(CONTRACT.read_text(encoding="utf-8"))
    )


def test_the_loading_of_state_is_no_part_of_the_stream(summary):
    assert summary["events_published"] == summary["events_processed"] == 1_500_000
    assert summary["throughput_events_per_second"] == 50_000
    assert summary["results_exact"] is True


def test_latency_is_split_at_first_cut_and_completion(summary):
    steady, migrating = summary["latency_ms"]["steady"], summary["latency_ms"]["migrating"]
    assert (steady["count"], migrating["count"]) == (280_000, 20_000)
    assert steady["max"] == 10.0
    assert migrating["p99"] == pytest.approx(40.0, rel=0.02)
    assert summary["notes"] == []


def test_bounds_compare_with_what_was_measured_in_the_same_run(summary):
    bounds = {bound["name"]: bound for bound in summary["bounds"]}
    assert [bounds[name]["met"] for name in ("generator late", "lag growth", "steady p99")] == [
        True,
        True,
        True,
    ]
    assert bounds["lag growth"]["value"] == 1.0
    assert bounds["p99 while migrating"]["bound"] == pytest.approx(15.0, rel=0.02)
    assert not bounds["p99 while migrating"]["met"]
    assert bounds["max while migrating"]["bound"] == 103.0
    assert summary["sustained"]


def test_stalls_before_the_stream_do_not_count(summary):
    assert summary["machine"]["stall_ms"] == 3.0
    assert summary["machine"]["stall_ms_migrating"] == 0.0


def test_too_few_results_while_migrating_are_said():
    short = replace(
        OUTCOME, migrations=[RequestStatus("out", "completed", None, START_US, 1, 1, 1)]
    )
    notes = summarised(Options(), Names("test"), short, "4.1.1")["notes"]
    assert len(notes) == 1
    assert "10,000 are needed" in notes[0]


def test_the_page_holds_picture_and_numbers(summary, tmp_path):
    report.clear(tmp_path)
    report.write(tmp_path, summary, OUTCOME.measured.windows())
    page = (tmp_path / report.PAGE).read_text(encoding="utf-8")
    assert json.loads((tmp_path / report.SUMMARY).read_text(encoding="utf-8")) == summary
    assert (tmp_path / report.PICTURE).stat().st_size > 10_000
    for part in ("every result exact", "data:image/png;base64,", "301,000", "5.0 MiB", "missed"):
        assert part in page, part
    assert "$" not in page
    report.clear(tmp_path)
    assert not (tmp_path / report.SUMMARY).exists()


def test_an_inexact_run_is_shown_with_examples(tmp_path):
    finding = Finding("total", "each total fits", 3, ["auction 7, total <1>"])
    outcome = replace(OUTCOME, verdict=replace(OUTCOME.verdict, findings=[finding]))
    summary = summarised(Options(), Names("test"), outcome, "4.1.1")
    page = report.page(summary, b"")
    assert "not exact" in page
    assert "auction 7, total &lt;1&gt;" in page
    console = Console(file=io.StringIO(), width=100)
    report.print_closing(console, summary, tmp_path)
    text = console.file.getvalue()
    for part in ("NOT EXACT", "each total fits: 3 violations", "auction 7, total <1>"):
        assert part in text, part


def test_the_closing_table_names_the_report(summary, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    report.print_closing(console, summary, tmp_path)
    text = console.file.getvalue()
    for part in ("exact", "50,000/s", "move out", "16 waves", str(tmp_path / report.PAGE)):
        assert part in text, part


def test_results_without_a_latency_are_said():
    more = replace(OUTCOME, verdict=replace(OUTCOME.verdict, outputs_compared=301_007))
    notes = summarised(Options(), Names("test"), more, "4.1.1")["notes"]
    assert notes == ["the latency of 7 results was not measured"]
