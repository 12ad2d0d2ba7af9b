"""The dataflow benchmark as its users call it: one document, whatever the figures are.

Cannot catch: a measurement that is wrong. That is for people, who compare docs/benchmarks.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from tests.tidy.source import ROOT

_CONTRACT = ROOT / "docs" / "contracts" / "bench.schema.json"
_COMMAND = [sys.executable, "-m", "service", "bench", "dataflow", "--output", "json"]


def _measured(*options: str) -> dict[str, dict]:
    """Figures by name; the document is what the contract says."""
    done = subprocess.run(
        [*_COMMAND, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    document = json.loads(done.stdout)
    Draft202012Validator(json.loads(_CONTRACT.read_text(encoding="utf-8"))).validate(document)
    assert document["bench"] == "dataflow"
    missed = any(figure["met"] is False for figure in document["figures"])
    assert (done.returncode == 3) is missed
    return {figure["name"]: figure for figure in document["figures"]}


@pytest.mark.parametrize(
    ("part", "held"),
    [
        ("barrier", {"barrier: a round of a loop, 2 processes, median": 400}),
        (
            "exchange",
            {
                "exchange of 8-byte records, 2 processes": 50e6,
                "exchange: bytes crossing over bare ZeroMQ": 0.3,
            },
        ),
        ("progress", {"progress: bytes if told every worker step over ours": 4}),
        ("row", {"row: one row through 10 operators": 300}),
    ],
)
def test_a_part_runs_in_real_processes_and_holds_its_figures(part, held) -> None:
    figures = _measured("--only", part, "--runs", "1", "--scale", "0.01")
    assert {name: figures[name]["bound"] for name in held} == held
    assert all(figure["median"] > 0 and figure["runs"] == 1 for figure in figures.values())


def test_stateful_map_is_measured_without_a_peer() -> None:
    figures = _measured("--only", "stateful-map", "--runs", "2", "--scale", "0.01")
    (figure,) = figures.values()
    assert (figure["unit"], figure["bound"], figure["runs"]) == ("records/s", None, 2)
    assert figure["median"] > 0


def test_a_part_that_there_is_not_is_a_usage_error() -> None:
    done = subprocess.run(
        [*_COMMAND, "--only", "everything"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
