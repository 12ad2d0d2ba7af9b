"""The benchmark of state as its users call it: two processes at once, one document.

Cannot catch: a measurement that is wrong. That is for people, who compare docs/benchmarks.
"""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from service.bench.state import StateOptions, run_state, together
from service.bench.state_side import BATCH, SideOptions
from service.errors import MegaphoneError
from tests.tidy.source import ROOT

_CONTRACT = ROOT / "docs" / "contracts" / "bench.schema.json"


def test_two_workers_are_measured_at_once_and_each_counts_exactly(tmp_path):
    options = StateOptions(budget=4 << 20, runs=2, records=4 * BATCH)
    document = json.loads(run_state(options, tmp_path).json())
    Draft202012Validator(json.loads(_CONTRACT.read_text(encoding="utf-8"))).validate(document)
    assert document["parameters"]["workers"] == 2
    figures = {each["name"]: each for each in document["figures"]}
    assert figures["Zipf 0.99, each worker"]["runs"] == 2
    assert figures["rows on disk alone at the end, each worker"]["median"] > 20_000
    assert all(each["median"] > 0 for each in figures.values())
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_fails_ends_the_others_and_says_why(tmp_path):
    good = SideOptions(0, keys=1_000, runs=1, skewed=BATCH, uniform=BATCH)
    bad = SideOptions(0, keys=0, runs=1, skewed=BATCH, uniform=BATCH, worker=1)
    with pytest.raises(MegaphoneError, match=r"(?s)the measured process failed: .*Traceback"):
        together([good, bad], tmp_path)
    assert list(tmp_path.iterdir()) == []
