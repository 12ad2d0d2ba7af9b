"""A crash before or behind any step on the disk leaves every earlier checkpoint whole.

Of a worker that keeps its state in memory, and of one that keeps it in a database between two
batches, whose checkpoints share files with it and with one another. The steps are the calls that
change the file system; RocksDB's own are one step each. Cannot show: what a disk loses that was not
synced.
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
from service.statestore.slot_database import LIVE, TABLES_FILE, SlotDatabase
from service.statestore.tiers import back_stores, read_tiered, write_tiered
from service.statestore.vertex_store import VertexStore

BITS = 2
STEPS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (Path, "rename"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (Path, "write_bytes"),
    (shutil, "rmtree"),
    (_rocks, "write_checkpoint_folder"),
    (_rocks.LiveDatabase, "ingest"),
    (_rocks.LiveDatabase, "checkpoint"),
)


class Crash(BaseException):
    """The process is gone: nobody may catch it and tidy up."""


def stores() -> dict[str, VertexStore]:
    return {"v": VertexStore("v", AggregateProgram("k", {"n": Count()}, {}), BITS)}


class Slot:
    """A worker's state in one life, in memory or, with `tiers`, on disk between two batches."""

    def __init__(self, folder: Path, *, tiers: bool, begins_with: SlotFiles | None = None) -> None:
        self.folder = folder
        self.stores = stores()
        self.database = SlotDatabase(folder / LIVE, budget=0) if tiers else None
        if self.database is not None:
            back_stores(self.stores, self.database)
        if begins_with is not None:
            if self.database is not None:
                read_tiered(folder, begins_with, self.stores, self.database)
            else:
                read_checkpoint(folder, begins_with, self.stores)

    def checkpoint(self, cut: int, rows: int, kept: list[SlotFiles]) -> SlotFiles:
        """What a worker does at a cut: remove what is no longer needed, write, describe."""
        for first in range(0, rows, 4):
            keys = np.arange(first, min(first + 4, rows), dtype=np.int64)
            self.stores["v"].apply(keys, {}, cut)
        remove_checkpoints(self.folder, kept)
        remove_descriptions(self.folder)
        bins = range(1 << BITS)
        if self.database is not None:
            files = write_tiered(self.folder, cut, self.stores, bins, self.database)
        else:
            files = write_checkpoint(self.folder, cut, self.stores, bins)
        write_description(self.folder, files)
        return files

    @property
    def rows(self) -> int:
        """How many there are, in memory and away."""
        return self.stores["v"].row_count

    def close(self) -> None:
        """Let go of the database, which locks its folder."""
        if self.database is not None:
            self.database.close()


def left_by(folder: Path, target: Path) -> Path:
    """A copy of what there is at this moment: a database that is closed tidies up."""

    def copied(source: str, copy: str) -> str:
        try:
            return shutil.copy2(source, copy)
        except FileNotFoundError:
            # RocksDB's own thread removes files that nothing refers to any more, a moment later
            # than the crash or not.
            assert LIVE in Path(source).parts, "nobody removes files of checkpoints meanwhile"
            return copy

    return Path(shutil.copytree(folder, target, copy_function=copied))


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


@pytest.mark.parametrize("tiers", [False, True])
@pytest.mark.parametrize("behind", [False, True])
def test_a_crash_at_any_step_leaves_the_checkpoints_before_whole(tmp_path, behind, tiers):
    step = 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        life = Slot(folder, tiers=tiers)
        garbage = life.checkpoint(1, 5, [])
        older = life.checkpoint(2, 10, [garbage])
        newer = None
        with pytest.MonkeyPatch.context() as patched:
            crashing_at(patched, step, behind=behind)
            with suppress(Crash):
                newer = life.checkpoint(3, 20, [older])
        left = left_by(folder, tmp_path / f"{step}-left")
        life.close()
        if newer is not None:
            break
        # The manifest was not changed, so the job goes on from the one before.
        assert rows_of(left, older) == 10
        described = find_checkpoints(left, 2)
        assert [verify_checkpoint(part) for part in described] == [10]
        for part in all_checkpoints(left):
            if part.files.cut == 3:
                assert verify_checkpoint(part) == 20, "a description comes after what it is of"
        # And the next one is written as if nothing had been.
        life = Slot(left, tiers=tiers, begins_with=older)
        assert life.rows == 10
        after = life.checkpoint(4, 30, [older])
        life.close()
        assert rows_of(left, older) == 10
        assert rows_of(left, after) == 30
        assert sorted(path.name for path in left.iterdir()) == [
            "cut-2",
            "cut-4",
            "files.cut-2.json",
            "files.cut-4.json",
        ]
    assert rows_of(folder, newer) == 20
    assert (TABLES_FILE in [file.name for file in newer.files]) == tiers
    assert step > 10, "there are steps to crash at"


def test_a_folder_without_a_checkpoint_has_no_newest_one(tmp_path):
    (tmp_path / ".partial").mkdir()
    with pytest.raises(UsageError, match="no checkpoint in"):
        find_checkpoints(tmp_path)
