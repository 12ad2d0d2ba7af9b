"""A snapshot file: bins of some vertices as numbered chunks, with a table of contents at the end.

Flow: bins of a checkpoint -> chunks -> [SnapshotWriter] -> file -> [Snapshot] -> chunks, checked ->
bins of another checkpoint, or one key's value for a person.

The file, little endian:
    head      magic "MPSNAP-S" | format u16 | 0 u16 | bins u32 | cut i64 | xxh3-128 of these
    chunks    of `service.statestore.chunk`, at most 1 MiB each: those of one bin of one vertex
              after the other, from number 0 to the end chunk, which has the final counts and digest
    contents  JSON, a `Contents`: versions, vertices with columns and rows, and of each bin the
              lengths of its chunks, their final digest and its rows
    tail      offset u64 and length u64 of the contents | their xxh3-128 | magic "MPSNAP-E"
Nothing else: chunks fill all between head and contents.

Invariants
  SN1  Every byte is under a digest or compared with one that is: whatever is flipped, cut off or
       missing is refused by the file's name, and nothing of the file is used.
  SN2  Format and number of bins are read first, so that another version is told from damage.
  SN3  A file gets its name when it is whole and on disk.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import xxhash

from service.errors import FormatMismatch, StateCorrupt, StateError, UsageError
from service.statestore.chunk import CHUNK_BYTES_MAX, CHUNK_FORMAT, BinAssembler
from service.statestore.stored_windows import StoredWindows

SNAPSHOT_FORMAT = 1

MAGIC = b"MPSNAP-S"
_MAGIC_END = b"MPSNAP-E"
_HEAD = struct.Struct("<8sHHIq")
_TAIL = struct.Struct("<QQ16s8s")
_DIGEST_BYTES = 16
_HEAD_BYTES = _HEAD.size + _DIGEST_BYTES


class SnapshotBin(msgspec.Struct, frozen=True):
    """One bin of one vertex."""

    bin: int
    rows: int
    #: Length of each chunk, in order.
    chunks: tuple[int, ...]
    #: Final digest of the end chunk, in hex.
    digest: str


class SnapshotVertex(msgspec.Struct, frozen=True, omit_defaults=True):
    """One vertex: what it keeps, and its bins in ascending order."""

    vertex: str
    #: (name, type) of each state column.
    columns: tuple[tuple[str, str], ...]
    bins: tuple[SnapshotBin, ...]
    #: As of `StoredVertex`.
    windows: StoredWindows | None = None

    @property
    def rows(self) -> int:
        """Rows of all its bins."""
        return sum(each.rows for each in self.bins)


class Contents(msgspec.Struct, frozen=True):
    """The table of contents."""

    format: int
    chunk_format: int
    #: Number of bins of the job.
    bins: int
    #: Epoch that the state is of.
    cut: int
    #: Checkpoints that it was taken from, `<slot>/cut-<epoch>`.
    origins: tuple[str, ...]
    vertices: tuple[SnapshotVertex, ...]


class SnapshotWriter:
    """Writes a snapshot file; use it in a `with` statement, and `finish` it at its end.

    Without `finish` no file is left.
    """

    def __init__(self, path: Path, *, bins: int, cut: int, origins: Sequence[str]) -> None:
        """Begin a file.

        Raises:
            UsageError: it exists, or its folder does not.
        """
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._contents = Contents(SNAPSHOT_FORMAT, CHUNK_FORMAT, bins, cut, tuple(origins), ())
        #: Vertex -> its columns and windows, and its bins so far.
        self._announced: dict[str, tuple[tuple[tuple[str, str], ...], StoredWindows | None]] = {}
        self._bins: dict[str, list[SnapshotBin]] = {}
        if path.exists():
            raise UsageError(f"{path} exists already; choose another name or delete it")
        try:
            self._file = self._partial.open("wb")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        head = _HEAD.pack(MAGIC, SNAPSHOT_FORMAT, 0, bins, cut)
        self._write(head + xxhash.xxh3_128_digest(head))

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no part of a file behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def vertex(
        self,
        name: str,
        columns: tuple[tuple[str, str], ...],
        windows: StoredWindows | None = None,
    ) -> None:
        """Announce a vertex; one without bins is in the contents, too."""
        self._announced[name] = columns, windows
        self._bins.setdefault(name, [])

    def add(self, vertex: str, bin_id: int, chunks: Iterable[bytes]) -> None:
        """Write the chunks of a bin of a vertex announced; bins of a vertex ascend.

        Raises:
            StateError: the disk refused.
        """
        assembler = BinAssembler(bin_id)
        lengths = []
        for chunk in chunks:
            assembler.feed(chunk)
            self._write(chunk)
            lengths.append(len(chunk))
        rows = len(assembler.rows())
        of_vertex = self._bins[vertex]
        assert not of_vertex or of_vertex[-1].bin < bin_id, "bins ascend"
        of_vertex.append(SnapshotBin(bin_id, rows, tuple(lengths), assembler.digest.hex()))

    def finish(self) -> Contents:
        """Write the contents and give the file its name (SN3).

        Raises:
            StateError: the disk refused.
        """
        vertices = tuple(
            SnapshotVertex(name, columns, tuple(self._bins[name]), windows)
            for name, (columns, windows) in self._announced.items()
        )
        contents = msgspec.structs.replace(self._contents, vertices=vertices)
        body = msgspec.json.encode(contents)
        digest = xxhash.xxh3_128_digest(body)
        self._write(body + _TAIL.pack(self._file.tell(), len(body), digest, _MAGIC_END))
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.rename(self._path)
        except OSError as error:
            raise StateError(f"{self._path} could not be written: {error}") from error
        return contents

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise StateError(f"{self._path} could not be written: {error}") from error


class Snapshot:
    """A snapshot file, its head and contents checked; chunks are checked as they are read."""

    def __init__(self, path: Path) -> None:
        """Read the contents.

        Raises:
            StateCorrupt: the file is damaged or cut off (SN1).
            FormatMismatch: it has another format (SN2).
            StateError: it cannot be read.
        """
        self.path = path
        head, body, start = self._ends()
        try:
            self.contents = msgspec.json.decode(body, type=Contents)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateCorrupt(f"{path} has no contents that can be read: {error}") from error
        _, version, _, bins, cut = head
        found = self.contents
        if (found.format, found.bins, found.cut) != (version, bins, cut):
            raise StateCorrupt(f"{path}: head and contents are not of one snapshot")
        if found.chunk_format != CHUNK_FORMAT:
            raise FormatMismatch(
                f"{path} has chunks of format {found.chunk_format}, this version reads "
                f"{CHUNK_FORMAT}; use the version that wrote it"
            )
        #: Where the chunks of each bin begin: {(vertex, bin): offset}.
        self._offsets: dict[tuple[str, int], tuple[int, SnapshotBin]] = {}
        self._place(start)

    def bin(self, vertex: str, bin_id: int) -> BinAssembler | None:
        """All of one bin of one vertex, every chunk checked; None if the file does not have it.

        Raises:
            StateCorrupt: a chunk is damaged, or the bin is not what the contents say (SN1).
            StateError: the file cannot be read.
        """
        placed = self._offsets.get((vertex, bin_id))
        if placed is None:
            return None
        offset, stored = placed
        assembler = BinAssembler(bin_id)
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                for length in stored.chunks:
                    assembler.feed(file.read(length))
        except (StateCorrupt, FormatMismatch) as error:
            # The contents say what format chunks have: one of another is a damaged one.
            raise StateCorrupt(f"{self.path}, vertex {vertex!r}: {error}") from error
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error}") from error
        whole = assembler.complete and assembler.cut == self.contents.cut
        if not whole or assembler.digest.hex() != stored.digest:
            raise StateCorrupt(
                f"{self.path}: bin {bin_id} of vertex {vertex!r} is not the one its contents name"
            )
        if len(assembler.rows()) != stored.rows:
            raise StateCorrupt(
                f"{self.path}: bin {bin_id} of vertex {vertex!r} has {len(assembler.rows())} rows, "
                f"the contents say {stored.rows}"
            )
        return assembler

    def verify(self) -> None:
        """Read every chunk; raises as `bin`."""
        for vertex, bin_id in self._offsets:
            self.bin(vertex, bin_id)

    def _ends(self) -> tuple[tuple[bytes, int, int, int, int], bytes, int]:
        """Head, contents as bytes and where they begin, each with its digest."""
        path = self.path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
                if len(head) < _HEAD.size or not head.startswith(MAGIC):
                    raise StateCorrupt(f"{path} is no snapshot: it begins otherwise than one")
                fields = _HEAD.unpack_from(head)
                if xxhash.xxh3_128_digest(head[: _HEAD.size]) != head[_HEAD.size :]:
                    raise StateCorrupt(f"{path}: its head does not match its digest")
                if fields[1] != SNAPSHOT_FORMAT:
                    raise FormatMismatch(
                        f"{path} has format {fields[1]}, this version reads {SNAPSHOT_FORMAT}; use "
                        "the version that wrote it"
                    )
                file.seek(max(_HEAD_BYTES, size - _TAIL.size))
                tail = file.read()
                if len(tail) != _TAIL.size or not tail.endswith(_MAGIC_END):
                    raise StateCorrupt(f"{path} is cut off: it ends otherwise than a snapshot")
                offset, length, digest, _ = _TAIL.unpack(tail)
                if offset + length + _TAIL.size != size or offset < _HEAD_BYTES:
                    raise StateCorrupt(
                        f"{path} has {size} bytes, {offset + length + _TAIL.size} are due"
                    )
                file.seek(offset)
                body = file.read(length)
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from error
        if xxhash.xxh3_128_digest(body) != digest:
            raise StateCorrupt(f"{path}: its contents do not match their digest")
        return fields, body, offset

    def _place(self, end: int) -> None:
        """Lay the bins of the contents out over the file; they fill all of it up to `end`."""
        offset = _HEAD_BYTES
        spans = []
        for vertex in self.contents.vertices:
            spans += [(vertex.vertex, each) for each in vertex.bins]
        # Written bin by bin, and in each vertex by vertex.
        order = {vertex.vertex: place for place, vertex in enumerate(self.contents.vertices)}
        for name, each in sorted(spans, key=lambda span: (span[1].bin, order[span[0]])):
            if not each.chunks or not all(0 < n <= CHUNK_BYTES_MAX for n in each.chunks):
                raise StateCorrupt(f"{self.path}: bin {each.bin} of {name!r} has no such chunks")
            self._offsets[name, each.bin] = offset, each
            offset += sum(each.chunks)
        if offset != end or len(self._offsets) != len(spans):
            raise StateCorrupt(
                f"{self.path} has {end - _HEAD_BYTES} bytes of chunks, its contents list "
                f"{offset - _HEAD_BYTES}"
            )
