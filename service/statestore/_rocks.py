"""The only file that speaks to RocksDB: one sorted file in, a checkpoint folder out, and back.

Flow: sorted entries -> [write_checkpoint_folder] -> a folder of hard links; such a folder ->
[scan] -> its entries in order.

Invariants
  D1  raw_mode everywhere: bytes in, bytes out. The default mode would unpickle values.
  D2  No write-ahead log: what matters was synced as a sorted file before it was ingested.
  D3  A scan that ends early says nothing of it in RocksDB's own iterator, so callers verify the
      files' digests before and count the entries after.

rocksdict raises plain `Exception`; `_translated` turns just that class into StateError.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Checkpoint,
    ChecksumType,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    SstFileWriter,
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
            unlogged = WriteOptions()
            # The stub calls this property a method.
            unlogged.disable_wal = True  # type: ignore[method-assign, assignment]
            database.set_write_options(unlogged)
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


def _options() -> Options:
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_background_jobs(2)
    tables = BlockBasedOptions()
    tables.set_format_version(_FORMAT_VERSION)
    tables.set_checksum_type(ChecksumType.xxh3())
    options.set_block_based_table_factory(tables)
    return options


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # rocksdict raises this very class; any other goes on as it is.
        if type(error) is not Exception:
            raise
        raise StateError(f"RocksDB failed while {doing}: {error}") from error
