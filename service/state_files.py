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

from service.errors import UsageError
from service.hashing import bin_bits_of
from service.ids import Role
from service.statestore.checkpoint import SlotFiles, StoredVertex
from service.statestore.contents import bin_content, contents
from service.statestore.description import read_descriptions
from service.statestore.open_windows import OpenWindow
from service.statestore.stored_keys import kept_of, wanted_key


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
    #: An integer, or text; bytes as `object_json` has them.
    key: object
    bin: int
    #: Null in a snapshot.
    slot: str | None
    cut: int
    #: Columns by name, or the object; left out for windows.
    value: object = msgspec.UNSET
    #: The open windows of the key, by end and start; left out for other state.
    windows: tuple[OpenWindow, ...] | msgspec.UnsetType = msgspec.UNSET


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


def value_in(parts: Sequence[SlotCheckpoint], vertex: str, key: str) -> Value | None:
    """What a checkpoint keeps for the key that this text names; None if nothing.

    Raises:
        UsageError: there is no such vertex, or as `wanted_key` and `kept_of`.
        StateCorrupt, StateError: as `contents` and `kept_of`.
    """
    for part in parts:
        number = number_of(vertex, part.files.vertices)
        stored, bits = part.files.vertices[number], bin_bits_of(part.files.bins)
        wanted = wanted_key(stored, key)
        bin_id = wanted.bin(bits)
        rows = bin_content(part.folder, part.files, bin_id).of(number)
        kept = kept_of(stored, wanted, rows, bits)
        if kept is not None:
            return Value(
                vertex, wanted.shown, bin_id, part.slot, part.files.cut, kept.value, kept.windows
            )
    return None


def number_of(vertex: str, stored: Sequence[StoredVertex]) -> int:
    """Place of a vertex in a list. Raises UsageError if it is not there."""
    names = [each.vertex for each in stored]
    if vertex not in names:
        raise UsageError(f"no vertex {vertex!r}; there are {', '.join(names) or 'none'}")
    return names.index(vertex)


def require_bins(named: Collection[int], bins: int) -> None:
    """Refuse bins that a job of so many does not have.

    Raises:
        UsageError: there is one.
    """
    unknown = sorted(each for each in named if not 0 <= each < bins)
    if unknown:
        raise UsageError(f"unknown bin {unknown[0]}; there are bins 0 to {bins - 1}")
