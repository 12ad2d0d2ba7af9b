"""The command line: what it refuses before it asks any broker.

Cannot catch: anything that happens after a broker has answered.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from loadgen.cli import app

BROKER = ["--bootstrap-servers", "localhost:1"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--load-only", "--live-only"], "exclude"),
        (["--shard", "2/2"], "shard 2/2"),
        (["--shard", "half"], "expected I/N"),
        (["--rate", "0"], "rate"),
        (["--state-keys", "-1"], "state-keys"),
    ],
)
def test_a_run_that_cannot_work_is_refused_with_its_reason(arguments, reason):
    result = CliRunner().invoke(app, ["run", *BROKER, *arguments])
    assert result.exit_code == 2
    assert reason in result.output


def test_a_knob_out_of_range_is_named():
    arguments = ["run", *BROKER, "--hot-auction-ratio", "0"]
    result = CliRunner().invoke(app, arguments)
    assert "hot_auction_ratio" in str(result.exception)


def test_a_report_of_no_measurement_is_refused(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"kind": "ready"}))
    result = CliRunner().invoke(app, ["report", str(tmp_path / "m.json")])
    assert "no final document" in str(result.exception)
