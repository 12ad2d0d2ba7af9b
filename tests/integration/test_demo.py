"""The main job as a person runs it: small, whole, and in the two ways it can go wrong.

Cannot catch: what only shows at the rates of docs/benchmarks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import psutil
import pytest

ROOT = Path(__file__).parents[2]
CONTRACT = json.loads((ROOT / "docs/contracts/summary.schema.json").read_text(encoding="utf-8"))
SMALL = ("--seconds", "9", "--rate", "3000", "--state-keys", "20000", "--bins", "64")
SMALL += ("--warm-up", "1")
#: A start on a loaded machine, the stream, the stop and the proof.
TIMEOUT_S = 150


@pytest.fixture
def demo(broker, tmp_path):
    """Starts a demo on the tests' broker; whatever is left of it is killed."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "demo", "--report-dir", str(tmp_path / "report"), *arguments],
            cwd=ROOT,
            env=os.environ | {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def family_in_stream(process):
    """All processes of a demo, once its stream flows."""
    for line in process.stdout:
        if line.startswith("stream") and "%" in line:
            return psutil.Process(process.pid).children(recursive=True)
    raise AssertionError(f"the stream never began: {process.stderr.read()}")


@pytest.mark.timeout(TIMEOUT_S)
def test_a_small_run_is_exact_moves_bins_and_keeps_its_contract(demo, tmp_path):
    process = demo(*SMALL)
    out, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, out + errors
    summary = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf-8"))
    jsonschema.validate(summary, CONTRACT)
    assert summary["results_exact"] is True
    assert summary["outputs_compared"] > 20_000
    assert summary["events_published"] == summary["events_processed"] == 27_000
    assert [(move["id"], move["bins"]) for move in summary["migrations"]] == [
        ("out", 16),
        ("back", 16),
    ]
    assert all(move["waves"] >= 16 and move["bytes"] > 0 for move in summary["migrations"])
    latency = summary["latency_ms"]
    # What the load and the warm-up made is compared, too, and not measured (U3).
    measured = latency["steady"]["count"] + latency["migrating"]["count"]
    assert summary["parameters"]["warm_up_seconds"] == 1
    assert 0 < summary["outputs_compared"] - 20_000 - measured < 3_000
    assert summary["machine"]["stall_ms"] > 0
    assert 0 < summary["proof"]["ownership_changes_seen"] <= 32
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "every result exact" in page
    assert "data:image/png;base64,iVBOR" in page
    assert "exact" in out


@pytest.mark.timeout(TIMEOUT_S)
def test_ctrl_c_leaves_nothing_behind(demo):
    process = demo(*SMALL)
    family = family_in_stream(process)
    assert len(family) >= 7
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


@pytest.mark.timeout(TIMEOUT_S)
def test_a_lost_worker_ends_the_run_with_its_name(demo, tmp_path):
    process = demo(*SMALL)
    family = family_in_stream(process)
    worker = next(each for each in family if each.cmdline()[1:4] == ["-m", "service", "worker"])
    worker.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "job ended with status 1" in errors
    assert "worker-" in errors
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert not (tmp_path / "report" / "summary.json").exists()
