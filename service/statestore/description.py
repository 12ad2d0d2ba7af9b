"""What a checkpoint holds, written beside it, so that a folder is read without the job's topics.

Flow: write_checkpoint -> SlotFiles -> [write_description] -> `files.cut-<epoch>.json` in the slot's
folder -> [read_descriptions] -> `megaphone state`.

The first line is the SlotFiles as JSON, the second the xxh3-128 of the first, in hex.

Invariants
  DC1  A description that was damaged is refused by its name; none of it is used.
  DC2  A job goes on from its manifest and never from here: a description says what a folder holds
       and not what counts.
  DC3  A description appears whole or not at all, and after the checkpoint it is of.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import xxhash

from service.errors import StateCorrupt, StateError
from service.statestore.checkpoint import SlotFiles

_PREFIX, _SUFFIX = "files.", ".json"
_PARTIAL = ".files"


def write_description(folder: Path, files: SlotFiles) -> Path:
    """Describe a checkpoint that is on disk; returns the description's path (DC3).

    Raises:
        StateError: the disk refused.
    """
    path = folder / f"{_PREFIX}{files.directory}{_SUFFIX}"
    body = msgspec.json.encode(files)
    partial = folder / _PARTIAL
    try:
        with partial.open("wb") as file:
            file.write(body + b"\n" + xxhash.xxh3_128_hexdigest(body).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError as error:
        raise StateError(f"{path} could not be written: {error}") from error
    return path


def read_descriptions(folder: Path) -> list[SlotFiles]:
    """The checkpoints described in a slot's folder, newest cut first.

    Raises:
        StateCorrupt: a description was damaged (DC1).
        StateError: the folder cannot be read.
    """
    try:
        paths = sorted(folder.glob(f"{_PREFIX}cut-*{_SUFFIX}"))
        found = [_read(path) for path in paths]
    except OSError as error:
        raise StateError(f"{folder} cannot be read: {error}") from error
    return sorted(found, key=_age, reverse=True)


def remove_descriptions(folder: Path) -> None:
    """Delete descriptions whose checkpoint is gone.

    Raises:
        StateError: the disk refused.
    """
    try:
        for path in folder.glob(f"{_PREFIX}cut-*{_SUFFIX}"):
            directory = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            if not (folder / directory).is_dir():
                path.unlink()
    except OSError as error:
        raise StateError(f"descriptions in {folder} could not be removed: {error}") from error


def _age(files: SlotFiles) -> tuple[int, int, str]:
    """Orders checkpoints by cut; of one cut, `cut-7-10` is newer than `cut-7-2`."""
    return files.cut, len(files.directory), files.directory


def _read(path: Path) -> SlotFiles:
    lines = path.read_bytes().split(b"\n")
    if len(lines) != 3 or lines[2] or xxhash.xxh3_128_hexdigest(lines[0]).encode() != lines[1]:
        raise StateCorrupt(
            f"{path} does not match its digest; delete it, or copy it back, as a job does not need "
            "it"
        )
    try:
        files = msgspec.json.decode(lines[0], type=SlotFiles)
    except msgspec.DecodeError as error:
        raise StateCorrupt(f"{path} describes no checkpoint: {error}") from error
    if path.name != f"{_PREFIX}{files.directory}{_SUFFIX}":
        raise StateCorrupt(f"{path} describes {files.directory!r}, which its name does not say")
    return files
