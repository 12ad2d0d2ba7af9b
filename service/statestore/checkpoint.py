"""A slot's state on disk as of one cut, and the list of files that proves it whole.

Flow: a plain stop at a cut -> [write_checkpoint] -> SlotFiles, which the job's manifest keeps; a
start -> manifest -> [read_checkpoint] -> stores filled, or an error that names the file.

In the slot's folder every checkpoint is a folder of its own, `cut-<epoch>`, which is a RocksDB
database. It gets that name only when all of it is on disk; until then, and for what is needed on
the way, names begin with a dot.

Invariants
  P1  A checkpoint folder never changes after it has got its name, and no other one is touched by
      writing a new one: a crash at any step leaves all earlier checkpoints as they were.
  P2  SlotFiles lists every file with its length and digest; read_checkpoint compares all of them
      before RocksDB sees one.
  P3  After read_checkpoint the stores hold exactly what write_checkpoint saw, or, if it raised,
      nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec
import xxhash

from service.errors import FormatMismatch, StateCorrupt, StateError
from service.statestore import _entries, _rocks
from service.statestore.columns import require_same_columns
from service.statestore.hosted import HostedStore, WrittenStore
from service.statestore.stored_windows import StoredWindows, windows_of

CHECKPOINT_FORMAT = 1

_PARTIAL = ".partial"
_WORK = ".work"
_DIGEST_READ_BYTES = 1 << 20


class StoredFile(msgspec.Struct, frozen=True):
    """One file of a checkpoint: its plain name, its length in bytes, its xxh3-128 in hex."""

    name: str
    bytes: int
    digest: str


class StoredVertex(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a checkpoint holds of one vertex; its number in the entries is its place in the list."""

    vertex: str
    #: (name, type) of each state column.
    columns: tuple[tuple[str, str], ...]
    rows: int
    timers: int
    #: How it keeps windows, if it does; checkpoints of earlier versions do not say.
    windows: StoredWindows | None = None

    @classmethod
    def of(cls, name: str, store: WrittenStore, bins: Sequence[int]) -> Self:
        """What of `store` is written of these bins."""
        rows = sum(store.rows(bin_id) for bin_id in bins)
        timers = sum(len(store.timers(bin_id)) for bin_id in bins)
        return cls(name, store.columns, rows, timers, windows_of(store))


class SlotFiles(msgspec.Struct, frozen=True):
    """The checkpoint of one slot, as the job's manifest keeps it."""

    format: int
    #: Epoch that the state is of: everything below it, nothing at or above it.
    cut: int
    #: Number of bins of the job.
    bins: int
    #: Name of the checkpoint's folder in the slot's folder.
    directory: str
    files: tuple[StoredFile, ...]
    vertices: tuple[StoredVertex, ...]

    @property
    def rows(self) -> int:
        """Rows of all vertices."""
        return sum(vertex.rows for vertex in self.vertices)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)


def write_checkpoint(
    folder: Path, cut: int, stores: Mapping[str, WrittenStore], bins: Sequence[int]
) -> SlotFiles:
    """Write the state of the slot's `bins` as of `cut`.

    Args:
        folder: the slot's own folder; made if missing.
        cut: the epoch that the stores are of; the caller sees to it that they are.
        stores: vertex -> store, at least one, all with the same number of bins.
        bins: the bins that the slot owns, each once; none is allowed.

    Returns:
        What `read_checkpoint` needs. All of it is on disk, names included.

    Raises:
        StateError: the disk or RocksDB refused; earlier checkpoints are as they were (P1).

    Cost: about 0.7 us per row, with the GIL held for most of it.
    """
    names = sorted(stores)
    numbered = [stores[name] for name in names]
    counts = {store.bins for store in numbered}
    assert len(counts) == 1, "all vertices of a job have the same bins"
    assert len(names) <= _entries.VERTICES_MAX, "vertices fit into their number"
    assert len(set(bins)) == len(bins), "each bin once"
    pieces = _entries.entries_of(numbered, bins)
    return write_entries(
        folder,
        cut,
        counts.pop(),
        pieces,
        lambda: [StoredVertex.of(name, store, bins) for name, store in zip(names, numbered)],
    )


def write_entries(
    folder: Path,
    cut: int,
    bins: int,
    pieces: Iterable[_rocks.Piece],
    vertices: Callable[[], Sequence[StoredVertex]],
) -> SlotFiles:
    """Write entries as the checkpoint of the slot as of `cut`.

    Args:
        folder: the slot's own folder; made if missing.
        cut: the epoch that the entries are of.
        bins: number of bins of the job.
        pieces: all entries, in the order of their keys (N1 of `_entries`).
        vertices: what was written of each vertex; asked once the entries are.

    Raises:
        StateError: the disk or RocksDB refused; earlier checkpoints are as they were (P1).
    """

    def make(partial: Path) -> None:
        _rocks.write_checkpoint_folder(folder / _WORK, partial, pieces)

    return write_folder(folder, cut, bins, make, vertices)


def write_folder(
    folder: Path,
    cut: int,
    bins: int,
    make: Callable[[Path], None],
    vertices: Callable[[], Sequence[StoredVertex]],
    known: Mapping[str, StoredFile] | None = None,
) -> SlotFiles:
    """Let `make` fill a folder, given its path, and make it the checkpoint as of `cut` (P1).

    Args:
        folder: the slot's own folder; made if missing.
        cut: the epoch that the entries are of.
        bins: number of bins of the job.
        make: makes the folder and what is in it; whatever is left of it by a crash is removed.
        vertices: what was written of each vertex; asked once the entries are.
        known: files by their names, described before, that cannot have changed: not read again.

    Raises:
        StateError: the disk or RocksDB refused; earlier checkpoints are as they were (P1).
    """
    known = known or {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        partial = folder / _PARTIAL
        make(partial)
        files = tuple(
            known.get(path.name) or _store_file(path) for path in sorted(partial.iterdir())
        )
        _sync(partial)
        target = _free_name(folder, cut)
        partial.rename(target)
        _sync(folder)
    except OSError as error:
        raise StateError(f"no checkpoint could be written to {folder}: {error}") from error
    return SlotFiles(CHECKPOINT_FORMAT, cut, bins, target.name, files, tuple(vertices()))


def read_checkpoint(folder: Path, files: SlotFiles, stores: Mapping[str, HostedStore]) -> None:
    """Fill empty stores from a checkpoint (P3).

    Args:
        folder: the slot's folder.
        files: what `write_checkpoint` returned.
        stores: vertex -> empty store, the same vertices as were written.

    Raises:
        FormatMismatch: another format version, number of bins, set of vertices or columns.
        StateCorrupt: a file is missing, has another length or digest, or holds other entries than
            the list says; the text names it.
        StateError: RocksDB cannot read it.

    Cost: about 1 us per row, with the GIL held for most of it, and one read of all bytes.
    """
    require_same_job(files, stores)
    directory = verified_directory(folder, files)
    numbered = [stores[stored.vertex] for stored in files.vertices]
    assert not any(store.row_count for store in numbered), "stores to fill are empty"
    try:
        loader = _entries.EntryLoader(numbered)
        for piece in _rocks.scan(directory):
            loader.take(piece)
        for stored, rows, timers in zip(files.vertices, loader.rows, loader.timers):
            if (rows, timers) != (stored.rows, stored.timers):
                raise StateCorrupt(
                    f"{directory} holds {rows} rows and {timers} timers of vertex "
                    f"{stored.vertex!r}, the manifest says {stored.rows} and {stored.timers}"
                )
    except StateError:
        for store in numbered:
            store.clear()
        raise


def remove_checkpoints(folder: Path, keep: Collection[SlotFiles]) -> None:
    """Delete all checkpoints of the slot but those to `keep`, and what crashes left behind.

    Caller: only after the job's manifest that names the kept ones is on disk.
    """
    kept = {files.directory for files in keep}
    _remove_leftovers(folder)
    for path in folder.glob("cut-*"):
        if path.name not in kept:
            shutil.rmtree(path)


def require_same_job(files: SlotFiles, stores: Mapping[str, HostedStore]) -> None:
    """Refuse a checkpoint of another job.

    Raises:
        FormatMismatch: another format version, number of bins, set of vertices or columns.
    """
    where = f"the checkpoint {files.directory}"
    _require_format(files)
    written = {stored.vertex: stored for stored in files.vertices}
    if written.keys() != stores.keys():
        raise FormatMismatch(
            f"{where} holds the vertices {sorted(written)}, this flow has {sorted(stores)}; "
            "restore it with the flow that wrote it"
        )
    for name, store in stores.items():
        if store.bins != files.bins:
            raise FormatMismatch(
                f"{where} was written with {files.bins} bins, this job has {store.bins}; the "
                "number of bins is fixed for the life of the state"
            )
        require_same_columns(f"vertex {name!r} of {where}", store.columns, written[name].columns)


def verified_directory(folder: Path, files: SlotFiles) -> Path:
    """The checkpoint's folder, all of its listed files compared (P2).

    Raises:
        FormatMismatch: it has another format version.
        StateCorrupt: a file is missing or differs; the text names it.
        StateError: a file cannot be read.
    """
    _require_format(files)
    _require_plain(files.directory)
    directory = folder / files.directory
    for stored in files.files:
        _require_plain(stored.name)
        path = directory / stored.name
        try:
            found = path.stat().st_size
            if found != stored.bytes:
                raise StateCorrupt(f"{path} has {found} bytes, the manifest says {stored.bytes}")
            if _digest(path) != stored.digest:
                raise StateCorrupt(f"{path} does not match its digest in the manifest")
        except FileNotFoundError as error:
            raise StateCorrupt(f"{path} is missing, the manifest lists it") from error
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error}") from error
    return directory


def _require_format(files: SlotFiles) -> None:
    if files.format != CHECKPOINT_FORMAT:
        raise FormatMismatch(
            f"the checkpoint {files.directory} has format {files.format}, this version reads "
            f"{CHECKPOINT_FORMAT}; use the version that wrote it"
        )


def _require_plain(name: str) -> None:
    """Refuse a name that leads out of its folder."""
    if not name or name in (".", "..") or Path(name).name != name:
        raise StateCorrupt(f"the manifest names {name!r}, which is no plain file name")


def _store_file(path: Path) -> StoredFile:
    """Sync a file to disk and describe it."""
    _sync(path)
    return StoredFile(path.name, path.stat().st_size, _digest(path))


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_DIGEST_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Force a file's bytes, or a folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_name(folder: Path, cut: int) -> Path:
    """`cut-<epoch>`, or with an ordinal behind it where the slot stopped at this cut before."""
    target = folder / f"cut-{cut}"
    ordinal = 2
    while target.exists():
        target = folder / f"cut-{cut}-{ordinal}"
        ordinal += 1
    return target


def _remove_leftovers(folder: Path) -> None:
    for name in (_PARTIAL, _WORK):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
