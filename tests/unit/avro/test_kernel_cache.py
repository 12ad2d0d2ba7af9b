"""Kernels on disk: written once, shared by processes, never trusted more than the text at hand."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numba import types

from service.avro import kernel_cache
from service.avro.kernel_cache import load_kernel

_SIGNATURE = (types.Array(types.int64, 1, "C"),)
_SOURCE = "def kernel(out):\n    out[0] = 41\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(kernel_cache.FOLDER_VARIABLE, str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def _run(source: str = _SOURCE) -> int:
    out = np.zeros(1, dtype=np.int64)
    load_kernel("try", source, _SIGNATURE)(out)
    return int(out[0])


def test_the_text_and_the_machine_code_are_kept_under_the_digest(folder):
    assert _run() == 41
    (text,) = folder.glob("try_*.py")
    assert text.read_text() == _SOURCE
    assert list((folder / "__pycache__").glob(f"{text.stem}*.nbc"))
    assert not list(folder.glob("*.tmp"))
    assert folder.stat().st_mode & 0o077 == 0


def test_loading_again_neither_rewrites_nor_recompiles(folder):
    _run()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert _run() == 41
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_another_text_gets_another_file(folder):
    _run()
    assert _run(_SOURCE.replace("41", "42")) == 42
    assert len(list(folder.glob("try_*.py"))) == 2


def test_a_file_with_other_text_is_not_executed(folder):
    _run()
    (text,) = folder.glob("try_*.py")
    text.write_text("def kernel(out):\n    out[0] = 666\n")
    assert _run() == 41


def test_a_folder_others_may_write_is_not_used(folder):
    folder.mkdir()
    folder.chmod(0o777)
    assert _run() == 41
    assert not list(folder.iterdir())


def test_kernels_work_without_a_folder(folder):
    folder.write_text("a file where the folder should be")
    assert _run() == 41


def test_the_folder_follows_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(kernel_cache.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernel_cache.cache_folder() == tmp_path / "megaphone"


_PROGRAM = f"""
import numpy as np
from numba import types
from service.avro.kernel_cache import load_kernel
out = np.zeros(1, dtype=np.int64)
load_kernel("try", {_SOURCE!r}, (types.Array(types.int64, 1, "C"),))(out)
assert out[0] == 41
"""


def test_processes_that_start_at_once_share_one_file(folder):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([sys.executable, "-c", _PROGRAM], env=environment) for _ in range(3)
    ]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0]
    assert len(list(folder.glob("try_*.py"))) == 1
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb*")}
    assert _run() == 41
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb*")} == before
