"""A crash before or behind any step on the disk leaves every earlier checkpoint whole.

The steps are the calls that change the file system; RocksDB's own are one step each. Cannot show:
what a disk loses that was not synced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import UsageError
from service.state_files import all_checkpoints, find_checkpoints, verify_checkpoint
from service.statestore import _rocks
from service.statestore.aggregate import AggregateProgram, Count
from service.statestore.checkpoint import (
    SlotFiles,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from service.statestore.description import remove_descriptions, write_description
from service.statestore.vertex_store import VertexStore

BITS = 2
STEPS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (Path, "rename"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (shutil, "rmtree"),
    (_rocks, "write_checkpoint_folder"),
)


class Crash(BaseException):
    """The process is gone: nobody may catch it and tidy up."""


def stores(keys: range = range(0)) -> dict[str, VertexStore]:
    store = VertexStore("v", AggregateProgram("k", {"n": Count()}, {}), BITS)
    store.apply(np.array(keys, dtype=np.int64), {}, 1)
    return {"v": store}


def checkpoint(folder: Path, cut: int, rows: int, kept: list[SlotFiles]) -> SlotFiles:
    """What a worker does at a cut: remove what is no longer needed, write, describe."""
    remove_checkpoints(folder, kept)
    remove_descriptions(folder)
    files = write_checkpoint(folder, cut, stores(range(rows)), range(1 << BITS))
    write_description(folder, files)
    return files


def rows_of(folder: Path, files: SlotFiles) -> int:
    restored = stores()
    read_checkpoint(folder, files, restored)
    return restored["v"].row_count


def crashing_at(patched: pytest.MonkeyPatch, step: int, *, behind: bool) -> None:
    """Crash before or behind the step-th call that changes the file system."""
    left = step

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            # One step may take others within it.
            mine = left == 0
            if mine and not behind:
                raise Crash
            result = original(*arguments, **named)
            if mine:
                raise Crash
            return result

        return call

    for holder, name in STEPS:
        patched.setattr(holder, name, wrapped(getattr(holder, name)))


@pytest.mark.parametrize("behind", [False, True])
def test_a_crash_at_any_step_leaves_the_checkpoints_before_whole(tmp_path, behind):
    step = 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        garbage = checkpoint(folder, 1, 5, [])
        older = checkpoint(folder, 2, 10, [garbage])
        newer = None
        with pytest.MonkeyPatch.context() as patched:
            crashing_at(patched, step, behind=behind)
            with suppress(Crash):
                newer = checkpoint(folder, 3, 20, [older])
        if newer is not None:
            break
        # The manifest was not changed, so the job goes on from the one before.
        assert rows_of(folder, older) == 10
        described = find_checkpoints(folder, 2)
        assert [verify_checkpoint(part) for part in described] == [10]
        for part in all_checkpoints(folder):
            if part.files.cut == 3:
                assert verify_checkpoint(part) == 20, "a description comes after what it is of"
        # And the next one is written as if nothing had been.
        after = checkpoint(folder, 4, 30, [older])
        assert rows_of(folder, after) == 30
        assert sorted(path.name for path in folder.iterdir()) == [
            "cut-2",
            "cut-4",
            "files.cut-2.json",
            "files.cut-4.json",
        ]
    assert step > 10, "there are steps to crash at"


def test_a_folder_without_a_checkpoint_has_no_newest_one(tmp_path):
    (tmp_path / ".partial").mkdir()
    with pytest.raises(UsageError, match="no checkpoint in"):
        find_checkpoints(tmp_path)
