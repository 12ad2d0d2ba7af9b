"""The document of a benchmark: medians, bounds, exit status, contract."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from service.bench.document import FIGURE_MISSED, BenchDocument, Figure
from tests.tidy.source import ROOT

CONTRACT = json.loads((ROOT / "docs/contracts/bench.schema.json").read_text(encoding="utf-8"))


def _document(*figures: Figure) -> BenchDocument:
    machine = {"cpu": "of a test", "cpus": 2, "stall_ms": 1.5}
    return BenchDocument("ingest", "abc1234", machine, {"records": 1000}, figures)


def test_a_figure_is_the_median_of_its_runs_between_their_ends():
    figure = Figure.of("rate", "records/s", [3.0, 1.0, 2.0, 10.0, 4.0])
    assert (figure.median, figure.min, figure.max, figure.runs) == (3.0, 1.0, 10.0, 5)
    assert (figure.bound, figure.met) == (None, None)


@pytest.mark.parametrize(
    ("values", "met"),
    [([0.6], True), ([0.59999], False), ([0.1, 0.7, 0.7], True), ([0.59, 0.59, 0.9], False)],
)
def test_a_bound_is_judged_on_the_median_before_it_is_rounded(values, met):
    assert Figure.of("ratio", "", values, at_least=0.6).met is met


@pytest.mark.parametrize(("values", "met"), [([30.0], True), ([30.001], False), ([1, 2, 99], True)])
def test_an_upper_bound_is_judged_likewise(values, met):
    assert Figure.of("latency", "ms", values, at_most=30.0).met is met


def test_a_missed_figure_ends_with_status_3_and_a_recorded_one_does_not():
    good = Figure.of("ratio", "", [0.7], at_least=0.6)
    bad = Figure.of("ratio", "", [0.5], at_least=0.6)
    recorded = Figure.of("rate", "records/s", [1.0])
    assert _document(good, recorded).exit_status == 0
    assert _document(good, bad).exit_status == FIGURE_MISSED == 3


def test_the_document_fits_its_contract_and_is_one_line():
    figures = [Figure.of("ratio", "", [0.7, 0.5], at_least=0.6), Figure.of("cost", "us", [12.3456])]
    text = _document(*figures).json()
    assert "\n" not in text
    Draft202012Validator(CONTRACT).validate(json.loads(text))


def test_the_text_says_what_was_held_to_which_bound():
    lines = _document(
        Figure.of("ratio", "", [0.5], at_least=0.6), Figure.of("rate", "records/s", [1_234_567.0])
    ).text()
    assert "bound 0.6  MISSED" in lines
    assert "1,235,000  (1,235,000 to 1,235,000) records/s" in lines
    assert "stall_ms 1.5" in lines
