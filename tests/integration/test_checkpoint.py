"""Checkpoints while a job goes on, on real processes and a real Kafka; state put in from a file.

The oracle is `demo.proof` over everything all runs read and wrote: results of a run that was killed
come again, so that outputs may be repeated and their order goes back, and nothing else.
Cannot catch: a machine that loses power, and what it had not written.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from service.control_topics import read_compacted
from service.migration.records import decode_manifest
from tests.integration.bids import LoadGenerator, faults, judge, publish, topics
from tests.integration.command import query
from tests.integration.job import ROOT, STATUS_CONTRACT, Job, contract

#: What "at least once" costs, and what the proof says of moves that it is not told of.
AGAIN = {"order", "oldest", "moved", "owner"}


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input and output topic of this test."""
    return topics(bootstrap_servers, unique_name("t"))


def megaphone(*arguments: object) -> str:
    """What a command prints; it must succeed."""
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(bootstrap_servers, app):
    """The manifests that are kept, oldest first."""
    found = read_compacted(bootstrap_servers, f"{app}.checkpoints", 10)
    return [decode_manifest(entry.value) for entry in found.values()]


def test_a_killed_job_goes_on_from_a_checkpoint_on_request(
    bootstrap_servers, app_name, names, tmp_path
):
    """Checkpoints by command and by request under load, one while bins move; then SIGKILL."""
    kafka = ["--bootstrap-servers", bootstrap_servers, "--app", app_name]
    with LoadGenerator(bootstrap_servers, names[0], 5_000) as load:
        with Job(
            bootstrap_servers, app_name, tmp_path, workers=2, gateways=2, arguments=query(names)
        ) as job:
            job.await_running()
            job.await_(lambda: job.total("megaphone_state_applied_rows_total") > 5_000, "rows")
            document = json.loads(megaphone("checkpoint", *kafka, "--output", "json"))
            STATUS_CONTRACT.validate(document)
            assert document["state"] == "completed"
            assert document["bytes"] > 0
            job.request(
                {"id": "move", "kind": "move", "moves": [[b, 1] for b in range(16)], "batch": 2},
                {"id": "second", "kind": "checkpoint"},
            )
            job.await_status("second", "completed")
            applied = job.total("megaphone_state_applied_rows_total")
            job.await_(
                lambda: job.total("megaphone_state_applied_rows_total") > applied + 5_000,
                "rows behind the cut",
            )
            assert len(job.lines("checkpoint.cut")) == 4
            assert job.lines("state.restored") == []
            job.processes()["worker-1"].kill()
            job.finish(status=1)
        events = load.stop()
    kept = manifests(bootstrap_servers, app_name)
    assert [manifest.cut for manifest in kept] == [
        line["cut"] for line in job.lines("checkpoint.written")
    ]
    listing = json.loads(megaphone("state", "ls", tmp_path / app_name, "--output", "json"))
    assert {part["cut"] for part in listing["parts"]} == {kept[-1].cut}
    with Job(
        bootstrap_servers,
        app_name,
        tmp_path,
        workers=2,
        gateways=2,
        arguments=[*query(names), "--until-end"],
    ) as job:
        job.finish()
        assert {line["cut"] for line in job.lines("state.restored")} == {kept[-1].cut}
        verdict = judge(bootstrap_servers, job, names, tmp_path / "proof", published=events)
    assert set(faults(verdict)) <= AGAIN, faults(verdict)


def test_a_schedule_writes_checkpoints_and_keeps_three(
    bootstrap_servers, app_name, names, tmp_path
):
    publish(bootstrap_servers, names[0], 2_000)
    arguments = [*query(names), "--local", "--checkpoint-every", "0.5"]
    with Job(bootstrap_servers, app_name, tmp_path, workers=2, arguments=arguments) as job:
        job.await_lines("checkpoint.written", 5)
        job.stop()
    kept = manifests(bootstrap_servers, app_name)
    assert len(kept) == 3
    assert [line["cut"] for line in job.lines("checkpoint.written")][-3:] == [
        manifest.cut for manifest in kept
    ]
    for slot in ("worker-0", "worker-1"):
        folder = tmp_path / app_name / slot
        cuts = {path.name for path in folder.iterdir() if path.is_dir()}
        assert cuts == {manifest.files[slot]["directory"] for manifest in kept}
        assert {path.name for path in folder.glob("files.*")} == {
            f"files.{cut}.json" for cut in cuts
        }


def test_bins_put_in_from_a_snapshot_are_what_the_job_goes_on_with(
    bootstrap_servers, app_name, names, tmp_path
):
    """Exported, lost, imported: the results are those of a job that kept its state."""
    publish(bootstrap_servers, names[0], 4_000)
    arguments = [*query(names), "--local", "--until-end"]
    state = tmp_path / "state"
    with Job(bootstrap_servers, app_name, state, workers=2, arguments=arguments) as job:
        job.finish()
    app = state / app_name
    megaphone("state", "export", app, tmp_path / "all.snapshot", "--bins", "0-63")
    before = megaphone("state", "ls", app, "--output", "json")
    said = megaphone(
        "state", "import", tmp_path / "all.snapshot", app, "--bootstrap-servers", bootstrap_servers
    )
    assert "worker-0: 32 bins replaced" in said
    after = megaphone("state", "ls", app, "--output", "json")
    rows = [[part["vertices"] for part in json.loads(text)["parts"]] for text in (before, after)]
    assert rows[0] == rows[1]
    megaphone("state", "verify", app)
    (manifest,) = manifests(bootstrap_servers, app_name)
    assert manifest.files["worker-0"]["directory"].endswith("-2")
    again = json.loads(
        megaphone(
            "state", "import", tmp_path / "all.snapshot", app, "--bins", "0,3,40",
            "--bootstrap-servers", bootstrap_servers, "--output", "json",
        )
    )  # fmt: skip
    contract("state-import").validate(again)
    assert again == {"bins": {"worker-0": 2, "worker-1": 1}, "manifest": manifest.name}
    publish(bootstrap_servers, names[0], 4_000, first=4_000)
    with Job(bootstrap_servers, app_name, state, workers=2, arguments=arguments) as job:
        job.finish()
        verdict = judge(bootstrap_servers, job, names, tmp_path / "proof", published=8_000)
    assert set(faults(verdict)) <= {"moved"}, faults(verdict)
