"""Where a benchmark ran, and of which commit."""

from __future__ import annotations

import subprocess

from service.bench.machine import commit, machine


def _git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


def test_the_machine_is_named_by_what_figures_depend_on():
    found = machine()
    assert found["cpu"]
    assert isinstance(found["cpus"], int)
    assert found["cpus"] >= 1
    assert isinstance(found["memory_gb"], float)
    assert {"kernel", "python", "librdkafka", "load_1m"} <= found.keys()


def test_the_commit_says_whether_files_differ_from_it(tmp_path):
    _git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-q", "-m", "first")
    clean = commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{clean}-dirty"


def test_without_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) == "unknown"
