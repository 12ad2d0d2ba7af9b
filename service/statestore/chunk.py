"""A bin's state as numbered chunks of at most 1 MiB, each with its digest.

Flow: extract -> Rows -> [encode_bin] -> chunks over a transport or into a file -> [BinAssembler] ->
install. Nothing is handed out before the last chunk has been checked.

A chunk, little endian:
    magic "MPBC" | format u8 | section u8 | 0 u16 | bin u32 | number u32 | cut i64 | body | xxh3-128
Sections come in this order: rows (one or more), heap (none or more), keys (none or more), timers
(none or more), end (one).
    rows    Arrow IPC record batch message of (key, version, state columns); the first, number 0, is
            preceded by the schema message, whose metadata is the snapshot's
    heap    bytes that the rows say the lengths of, cut anywhere
    keys    the same, of keys that are no integers
    timers  Arrow IPC record batch message of one binary column of opaque entries
    end     chunks u32 | timers u32 | rows u64 | xxh3-128 of the digests of all chunks before

Invariants
  S1  The digest of a chunk covers everything before it; magic and format are read first, so that
      another format is told from damage.
  S2  Chunk numbers rise by one from 0, and bin and cut are the same in all chunks.
  S3  `rows()` and `timers()` answer only after the end chunk agreed with all that came before.
  S4  The Arrow reader sees only bytes whose digest was right, and no compressed ones; what it gives
       lies within them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

import numpy as np
import pyarrow as pa
import xxhash

from service.arrow_messages import require_plain, second_message
from service.errors import FormatMismatch, StateCorrupt, StateError
from service.statestore.columns import Rows, Values, type_name

CHUNK_BYTES_MAX = 1 << 20
#: Format 1 had no heap and no keys; it is read as well.
CHUNK_FORMAT = 2
_FORMATS_READ = (1, CHUNK_FORMAT)

_MAGIC = b"MPBC"
_SECTION_ROWS = 1
_SECTION_TIMERS = 2
_SECTION_END = 3
_SECTION_HEAP = 4
_SECTION_KEYS = 5
#: Sections in the order in which they come.
_ORDER = (_SECTION_ROWS, _SECTION_HEAP, _SECTION_KEYS, _SECTION_TIMERS, _SECTION_END)
_HEADER = struct.Struct("<4sBBHIIq")
_END = struct.Struct("<IIQ16s")
_DIGEST_BYTES = 16
#: Room for header, digest, schema and batch messages beside the columns' own bytes.
_FRAME_BYTES_MAX = 16 << 10
_BODY_BYTES_MAX = CHUNK_BYTES_MAX - _FRAME_BYTES_MAX
#: Rows of about these bytes fit into one chunk.
PORTION_BYTES = _BODY_BYTES_MAX
_TIMERS = pa.schema([pa.field("timer", pa.binary(), nullable=False)])
#: Bytes that one timer entry costs beside its own: its offset.
_TIMER_OFFSET_BYTES = 4
_ARROW_TYPES = {"int64": pa.int64(), "float64": pa.float64()}


def encode_bin(
    bin_id: int,
    cut: int,
    rows: Rows,
    timers: Iterable[bytes] = (),
    metadata: Mapping[str, str] | None = None,
    *,
    heap: bytes | memoryview = b"",
    keys: bytes | memoryview = b"",
) -> Iterator[bytes]:
    """Chunks of the bin's state as of `cut`, in order.

    Args:
        bin_id: 0..2**20 - 1.
        cut: the epoch that the state is of.
        rows: zero or more rows.
        timers: opaque entries, each below CHUNK_BYTES_MAX less 16 KiB.
        metadata: facts about the snapshot, given back by `BinAssembler.metadata`; at most 8 KiB.
        heap: what the rows have beside their columns; not copied.
        keys: what the keys have beside their integers; not copied.

    Raises:
        StateError: a timer entry or the metadata is too large.
    """
    step = max(1, PORTION_BYTES // (8 * (2 + len(rows.columns))))
    portions = [rows.slice(start, step) for start in range(0, max(1, len(rows)), step)]
    return encode_portions(bin_id, cut, portions, timers, metadata, heap=heap, keys=keys)


def encode_portions(
    bin_id: int,
    cut: int,
    portions: Iterable[Rows],
    timers: Iterable[bytes] = (),
    metadata: Mapping[str, str] | None = None,
    before_end: Callable[[], None] | None = None,
    *,
    heap: bytes | memoryview = b"",
    keys: bytes | memoryview = b"",
) -> Iterator[bytes]:
    """As `encode_bin`, for rows that are made as they are asked for.

    Args:
        bin_id: 0..2**20 - 1.
        cut: the epoch that the state is of.
        portions: at least one, perhaps of no rows; each of PORTION_BYTES at most.
        timers: as there.
        metadata: as there.
        before_end: called when all but the end chunk was taken.
        heap: as there.
        keys: as there.

    Raises:
        StateError: as there.
    """
    numbered = _Writer(bin_id, cut)
    row_count = 0
    for number, rows in enumerate(portions):
        row_count += len(rows)
        yield numbered.chunk(_SECTION_ROWS, _row_body(rows, metadata or {}, number == 0))
    for section, content in ((_SECTION_HEAP, heap), (_SECTION_KEYS, keys)):
        view = memoryview(content)
        # A view of nothing cannot be cast.
        view = view.cast("B") if view.nbytes else memoryview(b"")
        for start in range(0, len(view), PORTION_BYTES):
            yield numbered.chunk(section, view[start : start + PORTION_BYTES])
    timer_count = 0
    for entries in _timer_groups(timers):
        timer_count += len(entries)
        batch = pa.record_batch([pa.array(entries, pa.binary())], schema=_TIMERS)
        yield numbered.chunk(_SECTION_TIMERS, batch.serialize())
    if before_end is not None:
        before_end()
    yield numbered.end(timer_count, row_count)


def bin_of_chunk(chunk: bytes) -> int:
    """The bin a chunk says it is of, so that its receiver finds the assembler; `feed` checks it.

    Raises:
        StateCorrupt: the chunk is shorter than a header.
    """
    if len(chunk) < _HEADER.size:
        raise StateCorrupt(f"a chunk of state has {len(chunk)} bytes; nothing was installed")
    bin: int = _HEADER.unpack_from(chunk)[4]
    return bin


class _Writer:
    """Numbers chunks and keeps the digest over all of them."""

    def __init__(self, bin_id: int, cut: int) -> None:
        self._bin = bin_id
        self._cut = cut
        self._number = 0
        self._digests = xxhash.xxh3_128()

    def chunk(self, section: int, body: bytes | memoryview | pa.Buffer) -> bytes:
        header = _HEADER.pack(_MAGIC, CHUNK_FORMAT, section, 0, self._bin, self._number, self._cut)
        digests = xxhash.xxh3_128(header)
        digests.update(body)
        digest = digests.digest()
        self._digests.update(digest)
        self._number += 1
        chunk = b"".join((header, body, digest))
        if len(chunk) > CHUNK_BYTES_MAX:
            raise StateError(
                f"chunk {self._number - 1} of bin {self._bin} has {len(chunk)} bytes, more than "
                f"{CHUNK_BYTES_MAX}; its metadata or number of columns is too large"
            )
        return chunk

    def end(self, timers: int, rows: int) -> bytes:
        return self.chunk(
            _SECTION_END, _END.pack(self._number, timers, rows, self._digests.digest())
        )


def _row_body(rows: Rows, metadata: Mapping[str, str], is_first: bool) -> bytes | pa.Buffer:
    named = {"key": rows.keys, "version": rows.versions, **rows.columns}
    kinds = tuple((name, type_name(values.dtype)) for name, values in named.items())
    schema = _schema(kinds).with_metadata(dict(metadata) or None)
    arrays = [pa.array(a) for a in (rows.keys, rows.versions, *rows.columns.values())]
    body = pa.record_batch(arrays, schema=schema).serialize()
    return b"".join((schema.serialize(), body)) if is_first else body


@cache
def _schema(columns: tuple[tuple[str, str], ...]) -> pa.Schema:
    """Of columns by (name, type), without metadata."""
    return pa.schema([pa.field(name, _ARROW_TYPES[kind], nullable=False) for name, kind in columns])


def _timer_groups(timers: Iterable[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    nbytes = 0
    for timer in timers:
        size = len(timer) + _TIMER_OFFSET_BYTES
        if size > _BODY_BYTES_MAX:
            raise StateError(f"a timer entry of {len(timer)} bytes does not fit into a chunk")
        if nbytes + size > _BODY_BYTES_MAX:
            yield group
            group, nbytes = [], 0
        group.append(timer)
        nbytes += size
    if group:
        yield group


class BinAssembler:
    """Takes the chunks of one bin in order, and gives its state once all were checked."""

    def __init__(self, bin_id: int) -> None:
        """Expect chunks of the bin."""
        self.bin = bin_id
        #: True after the end chunk (S3); feed takes no more chunks then.
        self.complete = False
        #: Epoch that the state is of; None before the first chunk.
        self.cut: int | None = None
        #: Bytes fed so far.
        self.nbytes = 0
        #: xxh3-128 over the digests of all chunks but the last; empty before completion.
        self.digest = b""
        self._number = 0
        #: Place of the last chunk's section in the order.
        self._place = 0
        self._digests = xxhash.xxh3_128()
        self._schema: pa.Schema | None = None
        self._batches: list[pa.RecordBatch] = []
        self._timers: list[bytes] = []
        self._content: dict[int, list[bytes | memoryview]] = {_SECTION_HEAP: [], _SECTION_KEYS: []}

    def feed(self, chunk: bytes) -> bool:
        """Take the next chunk; its bytes must not change afterwards.

        Returns:
            Whether it was the last one.

        Raises:
            StateCorrupt: it is damaged, of another bin or cut, or out of order; the assembler is as
                before and never becomes complete by a wrong chunk.
            FormatMismatch: it was written by another format version.
        """
        section, number, cut, body = self._open(chunk)
        self._require(number == self._number, f"chunk {number} came where {self._number} was due")
        self._require(self.cut in (None, cut), f"chunk {number} is of cut {cut}, not {self.cut}")
        place = _ORDER.index(section) if section in _ORDER else -1
        self._require(
            self._place <= place and (number > 0 or section == _SECTION_ROWS),
            f"chunk {number} is of section {section}, after section {_ORDER[self._place]}",
        )
        try:
            self._feed_body(section, number, body)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StateCorrupt(
                f"state of bin {self.bin}: the body of chunk {number} is not what its section says "
                f"({error}); nothing was installed"
            ) from error
        self.cut = cut
        self._place = place
        self._number += 1
        self._digests.update(chunk[-_DIGEST_BYTES:])
        self.nbytes += len(chunk)
        return self.complete

    def rows(self) -> Rows:
        """All rows. Raises StateError before completion (S3)."""
        self._require_complete()
        assert self._schema is not None, "S3: the first chunk of a complete bin has the schema"
        table = pa.Table.from_batches(self._batches, self._schema).combine_chunks()
        arrays: dict[str, Values] = {
            name: _values(table.column(name)) for name in self._schema.names
        }
        keys, versions = arrays.pop("key"), arrays.pop("version")
        return Rows(keys.view(np.int64), versions.view(np.int64), arrays)

    def timers(self) -> list[bytes]:
        """All timer entries, in the order given. Raises StateError before completion (S3)."""
        self._require_complete()
        return list(self._timers)

    def heap(self) -> bytes:
        """What the rows have beside their columns. Raises StateError before completion (S3)."""
        self._require_complete()
        return b"".join(self._content[_SECTION_HEAP])

    def other_keys(self) -> bytes:
        """What the keys have beside their integers. Raises StateError before completion (S3)."""
        self._require_complete()
        return b"".join(self._content[_SECTION_KEYS])

    @property
    def metadata(self) -> dict[str, str]:
        """What `encode_bin` was told about the snapshot. Raises StateError before completion."""
        self._require_complete()
        found = self._schema.metadata if self._schema is not None else None
        return {k.decode(): v.decode() for k, v in (found or {}).items()}

    def _open(self, chunk: bytes) -> tuple[int, int, int, memoryview]:
        """Check what one chunk says of itself (S1) and that it is of this bin."""
        self._require(not self.complete, "a chunk came after the end chunk")
        self._require(
            _HEADER.size + _DIGEST_BYTES <= len(chunk) <= CHUNK_BYTES_MAX,
            f"a chunk has {len(chunk)} bytes",
        )
        magic, version, section, _, found_bin, number, cut = _HEADER.unpack_from(chunk)
        self._require(magic == _MAGIC, "what came is no chunk of state")
        if version not in _FORMATS_READ:
            raise FormatMismatch(
                f"a chunk of bin {self.bin} has format {version}, this version reads {CHUNK_FORMAT}"
            )
        content = memoryview(chunk)[:-_DIGEST_BYTES]
        self._require(
            xxhash.xxh3_128_digest(content) == chunk[-_DIGEST_BYTES:],
            f"the chunk due as number {self._number} does not match its digest",
        )
        self._require(found_bin == self.bin, f"chunk {number} is of bin {found_bin}")
        return section, number, cut, content[_HEADER.size :]

    def _feed_body(self, section: int, number: int, body: memoryview) -> None:
        if section == _SECTION_ROWS:
            self._feed_rows(body)
        elif section == _SECTION_TIMERS:
            require_plain(body)
            batch = pa.ipc.read_record_batch(pa.py_buffer(body), _TIMERS)
            batch.validate(full=True)
            self._timers += batch.column(0).to_pylist()
        elif section in self._content:
            self._content[section].append(body)
        else:
            self._feed_end(number, body)

    def _feed_rows(self, body: memoryview) -> None:
        if self._schema is None:
            require_plain(body, second_message(body))
            reader = pa.ipc.open_stream(pa.py_buffer(body))
            schema = reader.schema
            expected = [("key", pa.int64()), ("version", pa.int64())]
            found = [(field.name, field.type) for field in schema][:2]
            self._require(found == expected, "the schema is not of state rows")
            batch = reader.read_next_batch()
            self._schema = schema
        else:
            require_plain(body)
            batch = pa.ipc.read_record_batch(pa.py_buffer(body), self._schema)
        batch.validate()
        self._batches.append(batch)

    def _feed_end(self, number: int, body: memoryview) -> None:
        self._require(len(body) == _END.size, "the end chunk has another length")
        chunks, timers, rows, digest = _END.unpack(body)
        found_rows = sum(batch.num_rows for batch in self._batches)
        self._require(chunks == number, f"the end chunk counts {chunks} chunks, {number} came")
        self._require(rows == found_rows, f"the end chunk counts {rows} rows, {found_rows} came")
        self._require(timers == len(self._timers), "the end chunk counts other timers than came")
        self._require(digest == self._digests.digest(), "the chunks do not match the final digest")
        self.digest = digest
        self.complete = True

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise StateCorrupt(f"state of bin {self.bin}: {otherwise}; nothing was installed")

    def _require_complete(self) -> None:
        if not self.complete:
            raise StateError(f"state of bin {self.bin} is not complete: {self._number} chunks came")


def _values(column: pa.ChunkedArray) -> Values:
    """The column as one numpy array."""
    array: Values = column.to_numpy()
    return array
