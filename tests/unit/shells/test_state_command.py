"""`megaphone state` at the command line: what it prints, its exit statuses, its contracts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import megaphone as mp
from megaphone.testing import Cluster
from service.cli import app
from service.errors import StateCorrupt, UsageError
from service.ids import Role, Slot
from service.migration.records import MemberState, decode_manifest
from service.state_cli import parse_bins
from service.state_import import is_up, slots_of, wanted_bins, with_files
from service.statestore.snapshot import Snapshot
from tests.unit.kit.flows import bids, counting
from tests.unit.migration.controller_world import member

CONTRACTS = Path(__file__).parents[3] / "docs" / "contracts"


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["state", *map(str, arguments)])


def fits(contract: str, text: str) -> dict[str, object]:
    schema = json.loads((CONTRACTS / f"{contract}.schema.json").read_text("utf-8"))
    document: dict[str, object] = json.loads(text)
    Draft202012Validator(schema).validate(document)
    return document


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The state of an app with two workers, written by the engine while it ran."""
    with Cluster(counting(), workers=2, bins=4) as cluster:
        monkeypatch.setattr(cluster._broker, "state_dir", lambda: tmp_path / "app")
        cluster.send("bids", bids(*range(20)))
        cluster.checkpoint()
    return tmp_path / "app"


def test_ls_prints_a_table_or_the_contracts_document(folder):
    text = invoke("ls", folder, "--by-bin")
    assert text.exit_code == 0, text.output
    for word in ("worker-0", "worker-1", "stats", "bids: int64", "bin 3"):
        assert word in " ".join(text.output.split())
    document = fits("state", invoke("ls", folder, "--output", "json").output)
    parts = document["parts"]
    assert isinstance(parts, list)
    assert sum(part["vertices"][0]["rows"] for part in parts) == 20
    (one,) = fits("state", invoke("ls", folder / "worker-1", "--output", "json").output)["parts"]
    assert one["slot"] == "worker-1"


def test_get_prints_a_key_of_any_worker_or_fails(folder):
    found = invoke("get", folder, "stats", "7")
    assert found.exit_code == 0
    assert fits("state-value", found.output)["value"] == {"bids": 1, "top": 1}
    for_people = invoke("get", folder, "stats", "7", "--output", "text").output.splitlines()
    assert {'vertex: "stats"', "key: 7", 'value: {"bids":1,"top":1}'} <= set(for_people)
    absent = invoke("get", folder, "stats", "-7")
    assert absent.exit_code == 1
    assert "keeps nothing of vertex 'stats' for key -7" in absent.output


def test_get_takes_a_text_and_prints_the_open_windows_of_a_key(tmp_path, monkeypatch):
    flow = mp.Flow("windows")
    source = mp.KafkaSource(["rows"], record="row", fields=["name", "time"])
    rows = flow.source("rows", source, watermarks=mp.Watermarks("time"))
    windows = rows.key_by("name").window(mp.tumbling("10ms"), allowed_lateness="10ms")
    counts = windows.aggregate("counts", n=mp.count())
    counts.sink("out", mp.KafkaSink("out", key="window_end", schema=1))
    with Cluster(flow, workers=2, bins=4) as cluster:
        monkeypatch.setattr(cluster._broker, "state_dir", lambda: tmp_path / "app")
        for time in (2, 5, 13):
            cluster.send("rows", [{"name": "ada", "time": time}])
            cluster.settle()
        cluster.checkpoint()
    found = invoke("get", tmp_path / "app", "counts", "ada")
    assert found.exit_code == 0, found.output
    document = fits("state-value", found.output)
    assert document["key"] == "ada"
    assert document["windows"] == [
        {"start": 0, "end": 10, "given": True, "value": {"n": 2}},
        {"start": 10, "end": 20, "given": False, "value": {"n": 1}},
    ]
    for_people = invoke("get", tmp_path / "app", "counts", "ada", "--output", "text").output
    assert for_people.splitlines()[-2:] == [
        'window 0 to 10, given: {"n":2}',
        'window 10 to 20: {"n":1}',
    ]
    absent = invoke("get", tmp_path / "app", "counts", "eve")
    assert absent.exit_code == 1
    assert "keeps nothing of vertex 'counts' for key eve" in absent.output


def test_a_snapshot_is_exported_listed_read_and_verified(folder, tmp_path):
    target = tmp_path / "s.snapshot"
    exported = invoke("export", folder, target, "--bins", "0-1,3", "--vertex", "stats")
    assert exported.exit_code == 0, exported.output
    assert "3 bins" in exported.output
    again = fits(
        "state-export", invoke("export", folder, tmp_path / "again", "--output", "json").output
    )
    assert again["file"] == str(tmp_path / "again")
    assert (again["bins"], again["rows"]) == (4, 20)
    document = fits("state", invoke("ls", target, "--output", "json").output)
    assert document["kind"] == "snapshot"
    keys = [key for key in range(20) if invoke("get", target, "stats", key).exit_code == 0]
    listed = sum(part["vertices"][0]["rows"] for part in document["parts"])
    assert len(keys) == listed > 0
    assert f"{target}: whole, {listed} rows" in invoke("verify", target).output
    assert isinstance(invoke("export", target, tmp_path / "t").exception, UsageError)


def test_verify_looks_at_every_checkpoint_and_names_the_damaged_file(folder):
    whole = invoke("verify", folder)
    assert whole.exit_code == 0
    assert whole.output.count(": whole, ") == 2
    document = fits("state-verify", invoke("verify", folder, "--output", "json").output)
    assert document["damaged"] is None
    assert len(document["whole"]) == 2
    victim = next((folder / "worker-1").glob("cut-*/*.sst"))
    victim.write_bytes(victim.read_bytes()[:-1])
    damaged = invoke("verify", folder)
    assert isinstance(damaged.exception, StateCorrupt)
    assert victim.name in str(damaged.exception)
    told = invoke("verify", folder, "--output", "json")
    assert told.exit_code == 1
    document = fits("state-verify", told.output)
    assert victim.name in document["damaged"]
    assert [each["rows"] for each in document["whole"]]


@pytest.mark.parametrize(
    ("text", "bins"), [("3", {3}), ("0-2, 7", {0, 1, 2, 7}), ("5-5", {5}), ("4-3", set())]
)
def test_bins_are_named_singly_or_as_ranges(text, bins):
    assert parse_bins(text) == bins


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2"])
def test_other_names_of_bins_are_refused(text):
    with pytest.raises(UsageError, match="no bin and no range"):
        parse_bins(text)


def test_bins_are_imported_where_the_manifest_has_them(folder, tmp_path):
    with Cluster(counting(), workers=2, bins=4) as cluster:
        cluster.send("bids", bids(*range(20)))
        cluster.checkpoint()
        manifest = decode_manifest(cluster._broker.manifests[-1])
    assert slots_of(manifest, [0, 3], folder, None) == {"worker-0": {0}, "worker-1": {3}}
    with pytest.raises(UsageError, match=r"bin 0 is worker-0's by manifest .*, not worker-1's"):
        slots_of(manifest, [0], folder, "worker-1")
    with pytest.raises(UsageError, match="unknown bin 4; the job has bins 0 to 3"):
        slots_of(manifest, [4], folder, None)
    with pytest.raises(UsageError, match="is not here; import on the machine that has it"):
        slots_of(manifest, [0], tmp_path / "elsewhere", None)
    invoke("export", folder, tmp_path / "s.snapshot", "--bins", "1,2")
    snapshot = Snapshot(tmp_path / "s.snapshot")
    assert wanted_bins(snapshot, None) == {1, 2}
    with pytest.raises(UsageError, match="has no bin 0"):
        wanted_bins(snapshot, {0, 1})
    assert with_files(manifest, {}) == manifest


def test_a_job_is_up_while_a_process_of_it_beats():
    beats = member(str(Slot(Role.WORKER, 0)), state=MemberState.RUNNING)
    assert is_up(beats, 5, 10)
    assert not is_up(beats, 12, 10)
    assert not is_up(member("worker-0", state=MemberState.STOPPED), 5, 10)


def test_the_help_names_every_command():
    text = invoke("--help").output
    for command in ("ls", "get", "export", "import", "verify"):
        assert command in text
