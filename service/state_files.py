"""What `megaphone state` finds in folders of checkpoints.

Flow: path -> [find_checkpoints] -> SlotCheckpoint per slot -> [list_checkpoint, value_in,
verify_checkpoint]; what concerns snapshot files is in `state_snapshots`.

Invariants
  SF1  Files are only read.
  SF2  Whatever is told of a checkpoint or snapshot was compared with its digests and counts first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from service.errors import UsageError
from service.hashing import bin_bits_of, bins_of
from service.ids import Role
from service.statestore.checkpoint import SlotFiles, StoredVertex
from service.statestore.contents import bin_content, contents
from service.statestore.description import read_descriptions
from service.statestore.stored_kinds import value_of


@dataclass(frozen=True, slots=True)
class SlotCheckpoint:
    """A slot's part of a checkpoint."""

    slot: str
    folder: Path
    files: SlotFiles

    @property
    def origin(self) -> str:
        """How a snapshot names it."""
        return f"{self.slot}/{self.files.directory}"


class BinListing(msgspec.Struct, frozen=True):
    """One bin of one vertex."""

    bin: int
    rows: int
    timers: int
    bytes: int


class VertexListing(msgspec.Struct, frozen=True):
    """One vertex in a checkpoint or snapshot; empty bins of a checkpoint are left out."""

    vertex: str
    columns: tuple[tuple[str, str], ...]
    rows: int
    timers: int
    bytes: int
    bins: tuple[BinListing, ...]


class PartListing(msgspec.Struct, frozen=True):
    """One slot's checkpoint, or a snapshot file."""

    #: Null for a snapshot.
    slot: str | None
    path: str
    format: int
    cut: int
    #: Bytes of the files on disk.
    bytes: int
    vertices: tuple[VertexListing, ...]


class Listing(msgspec.Struct, frozen=True):
    """The document of `megaphone state ls --output json`."""

    path: str
    kind: str
    #: Number of bins of the job.
    bins: int
    parts: tuple[PartListing, ...]


class Value(msgspec.Struct, frozen=True):
    """The document of `megaphone state get`: what is kept for one key."""

    vertex: str
    key: int
    bin: int
    #: Null in a snapshot.
    slot: str | None
    cut: int
    #: Columns by name, or the object.
    value: object


def find_checkpoints(path: Path, cut: int | None = None) -> list[SlotCheckpoint]:
    """The newest checkpoint in a worker's folder, or of all workers in an app's.

    Args:
        path: `<state-dir>/<app>/worker-<n>` or `<state-dir>/<app>`.
        cut: the one of this cut in place of the newest.

    Raises:
        UsageError: there is none.
        StateCorrupt: a description is damaged.
    """
    found = all_checkpoints(path)
    wanted = max(each.files.cut for each in found) if cut is None else cut
    chosen: dict[str, SlotCheckpoint] = {}
    for each in found:
        # The newest comes first where a slot stopped twice at one cut.
        if each.files.cut == wanted:
            chosen.setdefault(each.slot, each)
    if not chosen:
        cuts = ", ".join(sorted({str(each.files.cut) for each in found}))
        raise UsageError(f"no checkpoint at cut {wanted} in {path}; there are {cuts}")
    return list(chosen.values())


def all_checkpoints(path: Path) -> list[SlotCheckpoint]:
    """Every checkpoint described in a worker's or an app's folder, newest first in each slot.

    Raises:
        UsageError: there is none.
        StateCorrupt: a description is damaged.
    """
    folders = [path, *sorted(path.glob(f"{Role.WORKER}-*"))]
    found = [
        SlotCheckpoint(folder.resolve().name, folder, files)
        for folder in folders
        if folder.is_dir()
        for files in read_descriptions(folder)
    ]
    if not found:
        raise UsageError(
            f"no checkpoint in {path}; name a worker's folder, <state-dir>/<app>/worker-0, an "
            "app's folder, or a snapshot file. Checkpoints of earlier versions have no description "
            "beside them: let the job write another one"
        )
    return found


def list_checkpoint(path: Path, parts: Sequence[SlotCheckpoint]) -> Listing:
    """Vertices, bins, rows and bytes of a checkpoint (SF2); raises as `contents`."""
    return Listing(
        str(path),
        "checkpoint",
        parts[0].files.bins,
        tuple(
            PartListing(
                part.slot,
                str(part.folder / part.files.directory),
                part.files.format,
                part.files.cut,
                part.files.bytes,
                _vertices_of(part),
            )
            for part in parts
        ),
    )


def _vertices_of(part: SlotCheckpoint) -> tuple[VertexListing, ...]:
    bins: list[list[BinListing]] = [[] for _ in part.files.vertices]
    for content in contents(part.folder, part.files):
        for number, rows in sorted(content.vertices.items()):
            counts = len(rows.values), len(rows.timers), rows.nbytes
            bins[number].append(BinListing(content.bin, *counts))
    return tuple(
        VertexListing(
            stored.vertex,
            stored.columns,
            stored.rows,
            stored.timers,
            sum(each.bytes for each in of_vertex),
            tuple(of_vertex),
        )
        for stored, of_vertex in zip(part.files.vertices, bins, strict=True)
    )


def verify_checkpoint(part: SlotCheckpoint) -> int:
    """Compare every digest and count; returns the rows found. Raises as `contents`."""
    for _ in contents(part.folder, part.files):
        pass
    return part.files.rows


def value_in(parts: Sequence[SlotCheckpoint], vertex: str, key: int) -> Value | None:
    """What a checkpoint keeps for a key; None if nothing.

    Raises:
        UsageError: there is no such vertex, or the key is no int64.
        StateCorrupt, StateError: as `contents`.
    """
    for part in parts:
        number = number_of(vertex, part.files.vertices)
        bin_id = bin_of(key, part.files.bins)
        rows = bin_content(part.folder, part.files, bin_id).of(number)
        places = np.flatnonzero(rows.keys == key)
        if len(places):
            stored = part.files.vertices[number]
            value = value_of(stored, rows.values[int(places[0])])
            return Value(vertex, key, bin_id, part.slot, part.files.cut, value)
    return None


def number_of(vertex: str, stored: Sequence[StoredVertex]) -> int:
    """Place of a vertex in a list. Raises UsageError if it is not there."""
    names = [each.vertex for each in stored]
    if vertex not in names:
        raise UsageError(f"no vertex {vertex!r}; there are {', '.join(names) or 'none'}")
    return names.index(vertex)


def bin_of(key: int, bins: int) -> int:
    """The bin of a key. Raises UsageError if the key is no int64."""
    if not -(1 << 63) <= key < 1 << 63:
        raise UsageError(f"key {key} is no int64")
    return int(bins_of(np.array([key], np.int64), bin_bits_of(bins))[0])


def require_bins(named: Collection[int], bins: int) -> None:
    """Refuse bins that a job of so many does not have.

    Raises:
        UsageError: there is one.
    """
    unknown = sorted(each for each in named if not 0 <= each < bins)
    if unknown:
        raise UsageError(f"unknown bin {unknown[0]}; there are bins 0 to {bins - 1}")
