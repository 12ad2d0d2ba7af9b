"""What a running job tells: `megaphone status`, /metrics, /healthz and /readyz.

Real processes and a real Kafka; the document is held against docs/contracts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

import pytest
from jsonschema import Draft202012Validator

from tests.integration.bids import publish, topics
from tests.integration.command import query
from tests.integration.job import ROOT, Job
from tests.integration.prometheus import promtool

CONTRACT = ROOT / "docs" / "contracts" / "status.schema.json"
EVENTS = 5_000
EVERYWHERE = {
    "megaphone_process_loop_age_seconds",
    "megaphone_process_resident_bytes",
    "megaphone_process_cpu_seconds_total",
    "megaphone_process_start_timestamp_seconds",
    "megaphone_process_state_info",
    "megaphone_process_build_info",
    "megaphone_transport_sent_frames_total",
    "megaphone_transport_sent_bytes_total",
    "megaphone_transport_received_frames_total",
    "megaphone_transport_received_bytes_total",
    "megaphone_transport_dropped_frames_total",
    "megaphone_transport_failed_handshakes_total",
    "megaphone_transport_ended_connections_total",
}
MEMBERS = EVERYWHERE | {
    "megaphone_dataflow_frontier_lag_seconds",
    "megaphone_dataflow_queued_bytes",
    "megaphone_dataflow_held_bytes",
    "megaphone_dataflow_credit_used_bytes",
    "megaphone_dataflow_credit_free_bytes",
    "megaphone_dataflow_progress_batches_total",
    "megaphone_dataflow_progress_bytes_total",
}
TOLD = {
    "controller": EVERYWHERE
    | {
        "megaphone_control_horizon_seconds",
        "megaphone_checkpoint_attempts_total",
        "megaphone_migration_active_plans",
        "megaphone_migration_pending_plans",
        "megaphone_migration_pending_bins",
        "megaphone_migration_wave_seconds_count",
    },
    "gateway-0": MEMBERS
    | {
        "megaphone_ingest_records_total",
        "megaphone_ingest_bytes_total",
        "megaphone_dataflow_latency_seconds_bucket",
        "megaphone_ingest_skipped_records_total",
        "megaphone_ingest_lag_records",
        "megaphone_ingest_paused_sources",
    },
    "worker-1": MEMBERS
    | {
        "megaphone_state_rows",
        "megaphone_state_bytes",
        "megaphone_state_applied_rows_total",
        "megaphone_migration_owned_bins",
        "megaphone_migration_received_bins_total",
        "megaphone_migration_received_bytes_total",
        "megaphone_egress_records_total",
        "megaphone_egress_bytes_total",
        "megaphone_egress_unacknowledged_batches",
    },
}


@pytest.fixture
def job(bootstrap_servers, app_name, unique_name, tmp_path):
    """A running job that has read all there is."""
    names = topics(bootstrap_servers, unique_name("t"))
    publish(bootstrap_servers, names[0], EVENTS)
    with Job(bootstrap_servers, app_name, tmp_path, workers=2, arguments=query(names)) as running:
        running.await_running()
        running.await_total("megaphone_ingest_records_total", EVENTS)
        yield running


def status(bootstrap_servers, app, *more):
    """What `megaphone status` prints."""
    command = [sys.executable, "-m", "service", "status", "--app", app, *more]
    command += ["--bootstrap-servers", bootstrap_servers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout


def get(url):
    """What is answered there, with status 200."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.status == 200, url
        return answer.read().decode()


def test_a_running_job_tells_how_it_is_and_a_stopped_one_that_it_stopped(job, bootstrap_servers):
    document = json.loads(status(bootstrap_servers, job.app, "--output", "json"))
    Draft202012Validator(json.loads(CONTRACT.read_text())).validate(document)
    assert document["app"] == job.app
    assert document["generation"] == 1
    assert document["owners"] == [0] * 32 + [1] * 32
    assert document["plan"] is None
    assert set(document["frontiers"]) == {"stats", "out"}
    assert {member["slot"]: member["state"] for member in document["members"]} == dict.fromkeys(
        ["controller", "gateway-0", "worker-0", "worker-1"], "running"
    )
    text = status(bootstrap_servers, job.app)
    assert "gateway-0" in text
    assert f"{EVENTS:,}" in text

    found = job.metrics()
    for slot, names in TOLD.items():
        told = {name.partition("{")[0] for name in found[slot]}
        assert told >= names, slot
    assert found["gateway-0"]["megaphone_ingest_lag_records"] == 0
    # Every record has come out at the other end, or was passed over, and took its time.
    assert found["gateway-0"]["megaphone_dataflow_latency_seconds_count"] == EVENTS
    assert found["gateway-0"]["megaphone_dataflow_latency_seconds_sum"] > 0
    assert found["worker-1"]["megaphone_migration_owned_bins"] == 32
    assert 0 <= found["controller"]["megaphone_control_horizon_seconds"] <= 1
    for slot, address in job.addresses().items():
        for path, said in (("healthz", "the loop turned"), ("readyz", "running")):
            assert get(f"http://{address}/{path}").startswith(said), slot
        # Prometheus' own tool, which knows its format and how metrics are to be named.
        checked = promtool("check", "metrics", given=get(f"http://{address}/metrics"))
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, ""), slot
    wrong = promtool("check", "metrics", given="# TYPE lag_ms_total gauge\nlag_ms_total 1\n")
    assert wrong.returncode != 0

    job.stop()
    document = json.loads(status(bootstrap_servers, job.app, "--output", "json"))
    Draft202012Validator(json.loads(CONTRACT.read_text())).validate(document)
    assert {member["state"] for member in document["members"]} == {"stopped"}
    assert document["frontiers"] == {"stats": None, "out": None}
