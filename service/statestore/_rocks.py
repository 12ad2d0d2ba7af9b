"""The only file that speaks to RocksDB: checkpoint folders, and the database of a running slot.

Flow: sorted entries -> [write_checkpoint_folder] -> a folder of hard links; such a folder ->
[scan] -> its entries in order. Rows that memory has no room for <-> [LiveDatabase].

Invariants
  D1  raw_mode everywhere: bytes in, bytes out. The default mode would unpickle values.
  D2  No write-ahead log: what matters was synced as a sorted file before it was ingested.
  D3  A scan that ends early says nothing of it in RocksDB's own iterator, so callers verify the
      files' digests before and count the entries after.
  D4  All live databases of a process share one block cache, which their write buffers are charged
      to, as large as what each of them brought along together; a full write buffer is flushed and
      never stalls its writer.
  D5  What a multi-get reads stays out of the block cache. A key asked for becomes a resident row,
      and its neighbours in a block have nothing to do with it: caching a block costs more than
      reading it again (measured: a quarter of the worker's time), and memory beside.

rocksdict raises plain `Exception`; `_translated` turns just that class into StateError.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    ChecksumType,
    DBCompactionStyle,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    SstFileWriter,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from service.errors import StateError

#: Entries per list handed over: enough to make the calls around them free, and a few MiB.
ENTRIES_PER_PIECE = 1 << 16

#: Keys and values of as many entries, in key order.
Piece = tuple[list[bytes], list[bytes]]

_FORMAT_VERSION = 5


def write_checkpoint_folder(work: Path, target: Path, pieces: Iterable[Piece]) -> None:
    """Make `target` a RocksDB database that holds exactly the entries.

    Args:
        work: folder for the database in between, on the file system of `target`; must not exist,
            and is removed.
        target: folder to make; must not exist.
        pieces: entries in strictly ascending order of their keys, over all pieces; may be none.

    Raises:
        StateError: RocksDB refused, for lack of space, say. `work` and a part of `target` may stay.

    Cost: about 0.3 us per entry, with the GIL held.
    """
    work.mkdir(parents=True)
    with _translated(f"writing {target}"):
        options = _options()
        database = Rdict(str(work / "database"), options)
        try:
            database.set_write_options(_unlogged())
            sorted_file = work / "entries.sst"
            if _write_sorted_file(sorted_file, options, pieces):
                moved = IngestExternalFileOptions()
                moved.set_move_files(True)
                database.ingest_external_file([str(sorted_file)], moved)
            Checkpoint(database).create_checkpoint(str(target))
        finally:
            database.close()
    shutil.rmtree(work)


def _write_sorted_file(path: Path, options: Options, pieces: Iterable[Piece]) -> bool:
    """Write the entries, if there are any: RocksDB knows no empty file."""
    writer = SstFileWriter(options)
    written = False
    for keys, values in pieces:
        if not written and keys:
            writer.open(str(path))
            written = True
        for key, value in zip(keys, values):
            writer[key] = value
    if written:
        writer.finish()
    return written


def scan(folder: Path, start: bytes = b"") -> Iterator[Piece]:
    """Entries of a checkpoint folder from key `start` on, in order; it is not changed (D3).

    Raises:
        StateError: RocksDB cannot open or read it.

    Cost: about 0.4 us per entry, with the GIL held.
    """
    with _translated(f"reading {folder}"):
        database = Rdict(str(folder), _options(), access_type=AccessType.read_only())
    try:
        entries = iter(database.items(from_key=start or None))
        while True:
            keys: list[bytes] = []
            values: list[bytes] = []
            with _translated(f"reading {folder}"):
                for key, value in islice(entries, ENTRIES_PER_PIECE):
                    assert isinstance(key, bytes), "D1"
                    keys.append(key)
                    values.append(value)
            if not keys:
                return
            yield keys, values
    finally:
        database.close()


class LiveMemory:
    """The block cache and the write buffers that all live databases of a process share (D4)."""

    def __init__(self) -> None:
        """Serve no database yet."""
        self._cache = Cache(_WRITE_BUFFER_LEAST)
        self._buffers = WriteBufferManager.new_write_buffer_manager_with_cache(
            _WRITE_BUFFER_LEAST, False, self._cache
        )
        #: What the databases brought along, together.
        self.nbytes = 0
        self._lock = Lock()

    def join(self, nbytes: int) -> None:
        """Take about `nbytes` more, half of it for write buffers: a database comes."""
        self._resize(nbytes)

    def leave(self, nbytes: int) -> None:
        """Give back what one that goes had brought along."""
        self._resize(-nbytes)

    def _resize(self, by: int) -> None:
        with self._lock:
            self.nbytes += by
            self._cache.set_capacity(max(self.nbytes, _WRITE_BUFFER_LEAST))
            self._buffers.set_buffer_size(_buffers_of(self.nbytes))

    @property
    def cache_bytes(self) -> int:
        """Bytes in the block cache, the charge of the write buffers among them."""
        return self._cache.get_usage()

    @property
    def buffer_bytes(self) -> int:
        """Bytes in write buffers."""
        return self._buffers.get_usage()

    def options(self, share: int) -> Options:
        """Options of a database that takes its memory from here and brought `share` bytes along."""
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_max_background_jobs(2)
        # Rows are written once for each time they leave memory and read by multi-gets that pass
        # over most files by their filters: files may be many, and merging them is what costs.
        options.set_compaction_style(DBCompactionStyle.universal())
        options.set_level_zero_file_num_compaction_trigger(_FILES_MERGED)
        options.set_level_zero_slowdown_writes_trigger(_FILES_MOST)
        options.set_level_zero_stop_writes_trigger(2 * _FILES_MOST)
        options.set_write_buffer_manager(self._buffers)
        options.set_write_buffer_size(max(_buffers_of(share) // 2, 1 << 16))
        options.set_max_write_buffer_number(3)
        options.set_bytes_per_sync(1 << 20)
        options.set_keep_log_file_num(2)
        tables = _tables()
        tables.set_block_cache(self._cache)
        tables.set_bloom_filter(10, False)
        # Nearly every key asked for is there: the last level, which has most keys, needs no filter.
        options.set_optimize_filters_for_hits(True)
        options.set_block_based_table_factory(tables)
        return options


class LiveDatabase:
    """Entries on disk that change while the job runs; lost with the process, by design (D2)."""

    def __init__(self, path: Path, memory: LiveMemory, share: int) -> None:
        """Open the database at `path`, or make one; `share` as of `LiveMemory.options`.

        Raises:
            StateError: RocksDB refused.
        """
        self.path = path
        self.memory = memory
        self._options = memory.options(share)
        with _translated(f"opening {path}"):
            self._database = Rdict(str(path), self._options)
            self._database.set_read_options(_uncached())
        self._writing = _unlogged()

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        """The value of each key, None where there is none; one call for all of them.

        Cost: 2 to 4 us a key that is there, without the GIL while RocksDB reads.
        """
        with _translated(f"reading {self.path}"):
            found = self._database.get(keys)  # type: ignore[arg-type]  # the stub's list is invariant
            return cast(list[bytes | None], found)

    def write(self, keys: list[bytes], values: list[bytes]) -> None:
        """Put entries, in any order. Cost: about 2 us each, with the GIL held."""
        batch = WriteBatch(raw_mode=True)
        with _translated(f"writing {self.path}"):
            for key, value in zip(keys, values, strict=True):
                batch.put(key, value)
            self._database.write(batch, self._writing)

    def ingest(self, pieces: Iterable[Piece]) -> None:
        """Put entries that come in strictly ascending order, by way of one sorted file.

        Cost: about 0.3 us each, with the GIL held, and some milliseconds a call.
        """
        path = self.path / "ingested.sst"
        with _translated(f"writing {self.path}"):
            if _write_sorted_file(path, self._options, pieces):
                moved = IngestExternalFileOptions()
                moved.set_move_files(True)
                self._database.ingest_external_file([str(path)], moved)

    def delete(self, keys: list[bytes]) -> None:
        """Delete entries, there or not."""
        batch = WriteBatch(raw_mode=True)
        with _translated(f"writing {self.path}"):
            for key in keys:
                batch.delete(key)
            self._database.write(batch, self._writing)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete all entries from key `start` on, below `end`. Cost: 3 us."""
        with _translated(f"writing {self.path}"):
            self._database.delete_range(start, end, self._writing)

    def scan(self, start: bytes, end: bytes) -> Iterator[Piece]:
        """Entries from key `start` on, below `end`, in order; callers count them (D3).

        Nothing may be written meanwhile.

        Cost: about 0.5 us an entry, with the GIL held.
        """
        reading = ReadOptions()
        reading.set_iterate_upper_bound(end)
        reading.set_verify_checksums(True)
        with _translated(f"reading {self.path}"):
            at = self._database.iter(reading)
            at.seek(start)
        while True:
            keys: list[bytes] = []
            values: list[bytes] = []
            with _translated(f"reading {self.path}"):
                while at.valid() and len(keys) < ENTRIES_PER_PIECE:
                    keys.append(at.key())
                    values.append(at.value())
                    at.next()
                if not at.valid():
                    at.status()
            if not keys:
                return
            yield keys, values

    def checkpoint(self, target: Path) -> None:
        """Make `target`, which must not exist, a folder of hard links to the entries as of now."""
        with _translated(f"writing {target}"):
            self._database.flush()
            Checkpoint(self._database).create_checkpoint(str(target))

    def flush(self) -> None:
        """Begin to write the write buffers out."""
        with _translated(f"writing {self.path}"):
            self._database.flush(wait=False)

    def table_reader_bytes(self) -> int:
        """Bytes of open files' tables outside the block cache."""
        found = self._database.property_int_value("rocksdb.estimate-table-readers-mem")
        return found or 0

    def close(self) -> None:
        """Let go of the folder."""
        self._database.close()


#: A write buffer below this would be flushed for every few rows.
_WRITE_BUFFER_LEAST = 1 << 18
#: Sorted files from which on some are merged [measured: with 4, twice the time of threads behind].
_FILES_MERGED = 8
#: As many before writers wait: what comes while the largest are being merged.
_FILES_MOST = 64


def _buffers_of(nbytes: int) -> int:
    """Of so many bytes those for write buffers: one batch may be as large again."""
    return max(nbytes // 2, _WRITE_BUFFER_LEAST)


def _uncached() -> ReadOptions:
    """D5."""
    uncached = ReadOptions()
    uncached.fill_cache(False)  # type: ignore[call-arg]  # the stub forgets the argument
    return uncached


def _unlogged() -> WriteOptions:
    """D2."""
    unlogged = WriteOptions()
    # The stub calls this property a method.
    unlogged.disable_wal = True  # type: ignore[method-assign, assignment]
    return unlogged


def _options() -> Options:
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_background_jobs(2)
    options.set_block_based_table_factory(_tables())
    return options


def _tables() -> BlockBasedOptions:
    tables = BlockBasedOptions()
    tables.set_format_version(_FORMAT_VERSION)
    tables.set_checksum_type(ChecksumType.xxh3())
    return tables


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # rocksdict raises this very class; any other goes on as it is.
        if type(error) is not Exception:
            raise
        raise StateError(f"RocksDB failed while {doing}: {error}") from error
