"""The rows of a checkpoint, bin by bin, read and written without the stores they are of.

Flow: slot's folder + SlotFiles -> [contents] -> BinContent, ascending bins -> `megaphone state`;
BinContents -> [rewrite] -> another checkpoint of the slot.

Invariants
  CN1  Nothing is read before every file has its length and digest (P2 of `checkpoint`).
  CN2  Who reads all bins has as many rows and timers of each vertex as the list of files says, each
       in the bin that its key's hash says, or an error that names the folder.
  CN3  `rewrite` writes a new checkpoint and leaves the old one as it was (P1).
Cost: memory for one bin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import bin_bits_of, bins_of
from service.statestore import _rocks
from service.statestore._entries import ENTRY_KEY, SIGN_BIT, TIMERS_BIT
from service.statestore.checkpoint import (
    SlotFiles,
    StoredVertex,
    verified_directory,
    write_entries,
)


@dataclass(slots=True)
class StoredRows:
    """Rows of one vertex in one bin, as a checkpoint keeps them; `keys` ascend."""

    keys: NDArray[np.int64]
    values: list[bytes]
    timers: list[bytes] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of the entries, keys included, before RocksDB compresses them."""
        entries = len(self.values) + len(self.timers)
        return (
            entries * ENTRY_KEY.itemsize + sum(map(len, self.values)) + sum(map(len, self.timers))
        )


@dataclass(slots=True)
class BinContent:
    """One bin: its rows by the vertex's number in the list of files."""

    bin: int
    vertices: dict[int, StoredRows] = field(default_factory=dict)

    def of(self, vertex: int) -> StoredRows:
        """The rows of a vertex; none if it has none here."""
        found = self.vertices.get(vertex)
        if found is None:
            found = self.vertices[vertex] = StoredRows(np.empty(0, np.int64), [])
        return found


def contents(folder: Path, files: SlotFiles) -> Iterator[BinContent]:
    """All bins of a checkpoint that hold something, ascending (CN1, CN2).

    Raises:
        StateCorrupt: a file is damaged or missing, or holds other entries than listed.
        StateError: RocksDB cannot read it.

    Cost: about 1 us per row, and one read of all bytes.
    """
    directory = verified_directory(folder, files)
    rows, timers = [0] * len(files.vertices), [0] * len(files.vertices)
    for content in _bins(directory, files, None):
        for number, found in content.vertices.items():
            rows[number] += len(found.values)
            timers[number] += len(found.timers)
        yield content
    for stored, found_rows, found_timers in zip(files.vertices, rows, timers, strict=True):
        if (found_rows, found_timers) != (stored.rows, stored.timers):
            raise StateCorrupt(
                f"{directory} holds {found_rows} rows and {found_timers} timers of vertex "
                f"{stored.vertex!r}, the list of its files says {stored.rows} and {stored.timers}"
            )


def bin_content(folder: Path, files: SlotFiles, bin_id: int) -> BinContent:
    """One bin of a checkpoint; raises as `contents`.

    Cost: one read of all bytes, and the rows of the bin.
    """
    directory = verified_directory(folder, files)
    for content in _bins(directory, files, bin_id):
        if content.bin == bin_id:
            return content
        break
    return BinContent(bin_id)


def rewrite(
    folder: Path, files: SlotFiles, replaced: Iterable[BinContent], vertices: frozenset[int]
) -> SlotFiles:
    """A checkpoint in which some bins of some vertices are replaced (CN3).

    Args:
        folder: the slot's folder.
        files: the checkpoint to begin with.
        replaced: bins, ascending, with what each of `vertices` holds from now on.
        vertices: numbers of the vertices that are replaced in these bins.

    Raises:
        StateCorrupt: the old checkpoint is damaged.
        StateError: the disk or RocksDB refused; the old checkpoint is as it was.
    """
    counted = _Counted(files)
    merged = _merged(contents(folder, files), replaced, vertices)
    pieces = (piece for content in merged for piece in counted.pieces(content))
    return write_entries(folder, files.cut, files.bins, pieces, counted.vertices)


def _merged(
    old: Iterator[BinContent], new: Iterable[BinContent], vertices: frozenset[int]
) -> Iterator[BinContent]:
    """Bins of both, ascending; of those in both, `vertices` as the new one has them."""
    fresh = iter(new)
    before, after = next(old, None), next(fresh, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.bin < after.bin):
            assert before is not None, "one of the two is left"
            yield before
            before = next(old, None)
            continue
        if before is not None and before.bin == after.bin:
            for number, rows in before.vertices.items():
                if number not in vertices:
                    after.vertices[number] = rows
            before = next(old, None)
        yield after
        after = next(fresh, None)


class _Counted:
    """Entries of bins, counted on their way to the disk."""

    def __init__(self, files: SlotFiles) -> None:
        self._files = files
        self._rows = [0] * len(files.vertices)
        self._timers = [0] * len(files.vertices)

    def pieces(self, content: BinContent) -> Iterator[_rocks.Piece]:
        """The bin's entries in the order of their keys: rows of all vertices, then timers."""
        numbers = sorted(content.vertices)
        for number in numbers:
            found = content.vertices[number]
            order = np.argsort(found.keys)
            keys = _entry_keys(content.bin, number, found.keys[order].view(np.uint64) ^ SIGN_BIT)
            yield keys, [found.values[place] for place in order.tolist()]
            self._rows[number] += len(found.values)
        for number in numbers:
            timers = content.vertices[number].timers
            ordinals = np.arange(len(timers), dtype=np.uint64)
            yield _entry_keys(content.bin, number | int(TIMERS_BIT), ordinals), timers
            self._timers[number] += len(timers)

    def vertices(self) -> list[StoredVertex]:
        """What was counted, once all is written."""
        return [
            msgspec.structs.replace(stored, rows=rows, timers=timers)
            for stored, rows, timers in zip(
                self._files.vertices, self._rows, self._timers, strict=True
            )
        ]


def _entry_keys(bin_id: int, vertex: int, last: NDArray[np.uint64]) -> list[bytes]:
    keys = np.empty(len(last), dtype=ENTRY_KEY)
    keys["bin"], keys["vertex"], keys["key"] = bin_id, vertex, last
    listed: list[bytes] = keys.view(f"V{ENTRY_KEY.itemsize}").tolist()
    return listed


def _bins(directory: Path, files: SlotFiles, first: int | None) -> Iterator[BinContent]:
    """Bins from `first` on, each checked and whole."""
    bits = bin_bits_of(files.bins)
    start = b"" if first is None else first.to_bytes(4, "big")
    current: BinContent | None = None
    for keys, values in _rocks.scan(directory, start):
        if set(map(len, keys)) - {ENTRY_KEY.itemsize}:
            raise StateCorrupt(f"{directory} holds an entry with a key of another length")
        entries = np.frombuffer(b"".join(keys), dtype=ENTRY_KEY)
        places = entries["bin"].astype(np.int64) << 16 | entries["vertex"]
        edges = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
        for begin, end in pairwise(edges):
            bin_id, vertex = divmod(int(places[begin]), 1 << 16)
            if current is None or current.bin != bin_id:
                if current is not None:
                    yield current
                current = BinContent(bin_id)
            number = vertex & ~int(TIMERS_BIT)
            if number >= len(files.vertices):
                raise StateCorrupt(f"{directory} holds an entry of vertex number {number}")
            found = current.of(number)
            if vertex != number:
                found.timers += values[begin:end]
                continue
            of_rows = (entries["key"][begin:end].astype(np.uint64) ^ SIGN_BIT).view(np.int64)
            if np.any(bins_of(np.ascontiguousarray(of_rows), bits) != bin_id):
                raise StateCorrupt(
                    f"{directory} holds a row of vertex {files.vertices[number].vertex!r} in bin "
                    f"{bin_id} that is of another bin"
                )
            found.keys = np.concatenate((found.keys, of_rows))
            found.values += values[begin:end]
    if current is not None:
        yield current
