"""The rows of a slot that memory has no room for, and the budget that says how many those are.

Flow: TieredTables of the slot <-> [SlotDatabase] <-> RocksDB, one database for all vertices, whose
entries are those of a checkpoint (`_entries`).

Invariants
  SD1  What the tables and RocksDB take together stays near the budget: before a batch is applied
       the tables give back what is beyond it.
  SD2  The folder is worth nothing after the process: it is removed when the next one begins.
Cost of `make_room` where there is room: some comparisons.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt, StateError
from service.statestore._entries import ENTRY_KEY, SIGN_BIT
from service.statestore._rocks import ENTRIES_PER_PIECE, LiveDatabase, LiveMemory, Piece
from service.statestore.checkpoint import StoredFile
from service.statestore.hosted import StoredValues

Int64s = NDArray[np.int64]
Bins = NDArray[np.int32]

#: Of the budget, the part that is RocksDB's, and bounds of it.
_ROCKS_PART = 8
_ROCKS_LEAST = 1 << 20
_ROCKS_MOST = 512 << 20
#: From so many rows on a sorted file is cheaper than a write batch.
INGEST_FROM = 1 << 15
#: Deleted ranges between two flushes: in the write buffer each of them slows every reading down.
_RANGES_PER_FLUSH = 256
#: Evictions between two looks at which table makes least of its memory.
_BALANCE_EVERY = 64
_RANGE = struct.Struct(">IH")
_TABLE_SUFFIX = ".sst"
#: Name of the database's folder in the slot's folder.
LIVE = ".live"
#: The file of a checkpoint that `tiers` reads, and RocksDB does not.
TABLES_FILE = "tables"


class Shrinkable(Protocol):
    """What the budget asks of a table."""

    @property
    def recalled(self) -> int:
        """Rows that came back so far."""
        ...

    @property
    def evicted(self) -> int:
        """Rows that left so far."""
        ...

    @property
    def resident_bytes(self) -> int:
        """Bytes that the table takes of the budget."""
        ...

    @property
    def away_count(self) -> int:
        """Rows that are in the database alone."""
        ...

    @property
    def largest_region_bytes(self) -> int:
        """Bytes of the largest region."""
        ...

    def evict_full(self) -> int:
        """Evict from bins that are about to double; how many rows."""
        ...

    def shrink(self, nbytes: int) -> int:
        """Give regions back; how many bytes."""
        ...


def rocks_share(budget: int) -> int:
    """Bytes of the budget that RocksDB gets: an eighth, at least 1 MiB, at most 512 MiB."""
    return min(max(budget // _ROCKS_PART, _ROCKS_LEAST), _ROCKS_MOST)


@cache
def process_memory() -> LiveMemory:
    """What all slots of this process share, whatever their budgets (D4 of `_rocks`)."""
    return LiveMemory()


class SlotDatabase:
    """One RocksDB database, and the tables whose rows it keeps."""

    def __init__(self, path: Path, budget: int) -> None:
        """Open an empty database in the folder `path`, what was there being removed (SD2).

        Args:
            path: a folder of its own.
            budget: bytes for all tables and RocksDB.

        Raises:
            StateError: the folder cannot be made, or RocksDB refused.
        """
        self.path = path
        self.budget = budget
        self.memory = process_memory()
        self._share = rocks_share(budget)
        self.tables: list[Shrinkable] = []
        #: Keys asked for, of which `recalled` of the tables were there.
        self.asked = 0
        self._ranges = 0
        self._evictions = 0
        #: Rows recalled by each table as of the last balance.
        self._seen: dict[int, int] = {}
        #: (bin, vertex number or number of its timers) of entries that no table answers for: a
        #: checkpoint writes them anew as a whole.
        self.whole: set[tuple[int, int]] = set()
        #: Files that never change, by name, as the last checkpoint described them.
        self.known: dict[str, StoredFile] = {}
        self.memory.join(self._share)
        try:
            self._live = self._opened(None)
        except StateError:
            self.memory.leave(self._share)
            raise
        self._limit = self._tables_share()

    def begin_with(self, checkpoint: Path) -> None:
        """Let the entries of a checkpoint folder, which stays as it is, be what is in the database.

        Raises:
            StateError: the disk or RocksDB refused.
        """
        self._live.close()
        self._live = self._opened(checkpoint)
        self._limit = self._tables_share()

    def _opened(self, checkpoint: Path | None) -> LiveDatabase:
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
            for file in () if checkpoint is None else checkpoint.iterdir():
                target = self.path / file.name
                # Tables never change. The few others do, so they are copied.
                if file.suffix == _TABLE_SUFFIX:
                    target.hardlink_to(file)
                elif file.name != TABLES_FILE:
                    shutil.copyfile(file, target)
        except OSError as error:
            raise StateError(f"{self.path} cannot be prepared: {error}") from error
        return LiveDatabase(self.path, self.memory, self._share)

    def checkpoint(
        self, target: Path, pieces: Iterable[Piece], whole: set[tuple[int, int]]
    ) -> None:
        """Make `target` a folder of all entries, `pieces` being those that changed.

        Args:
            target: folder to make.
            pieces: entries in strictly ascending order; after this they are in the database.
            whole: what of them is there as a whole; what was so before is deleted first.

        Raises:
            StateError: the disk or RocksDB refused; the database is of no use then.
        """
        for bin_id, number in self.whole:
            self._live.delete_range(*_range_of(number, bin_id))
        self.whole = whole
        self._live.ingest(pieces)
        self._live.checkpoint(target)

    def read_whole(self) -> Iterator[Piece]:
        """The entries that are there as a whole."""
        for bin_id, number in sorted(self.whole):
            yield from self._live.scan(*_range_of(number, bin_id))

    def close(self) -> None:
        """Let go of the database and its part of the process's memory, and remove it (SD2)."""
        self._live.close()
        self.memory.leave(self._share)
        shutil.rmtree(self.path, ignore_errors=True)

    # Budget ---------------------------------------------------------------------------------------

    @property
    def resident_bytes(self) -> int:
        """Bytes of all tables in memory."""
        return sum(table.resident_bytes for table in self.tables)

    def rocksdb_bytes(self) -> dict[str, float]:
        """Bytes that RocksDB takes: the block cache, write buffers in it, tables outside it.

        The first two are the process's, of all slots in it; the third is this slot's.
        """
        return {
            "block_cache": self.memory.cache_bytes,
            "write_buffers": self.memory.buffer_bytes,
            "table_readers": self._live.table_reader_bytes(),
        }

    def make_room(self, table: Shrinkable) -> None:
        """See to it that `table` may take a batch (SD1).

        Raises:
            StateError: the database cannot be written.
        """
        limit = self._limit
        used = self.resident_bytes
        # A bin that doubles has its old region beside the new one for a while.
        headroom = 2 * table.largest_region_bytes + limit // 32
        if used + headroom <= limit:
            return
        evicted = table.evict_full()
        self._evictions += evicted > 0
        self._limit = self._tables_share()
        over = self.resident_bytes - limit
        if over > 0:
            self._shrink(over)
        elif self._evictions >= _BALANCE_EVERY:
            self._evictions = 0
            self._balance(table)

    def _tables_share(self) -> int:
        """Bytes for the tables: what RocksDB leaves of the budget, at least half of it.

        Indexes and filters of files on disk are outside the block cache: there, files would push
        one another's out, and each reading bring megabytes back. A thirty-second is what the
        allocator keeps of regions that came and went.
        """
        rocks = self._share + self._live.table_reader_bytes() + self.budget // 32
        return max(self.budget - rocks, self.budget // 2)

    def _shrink(self, over: int) -> None:
        """Take `over` bytes from the tables, the largest first."""
        for table in sorted(self.tables, key=lambda each: -each.resident_bytes):
            over -= table.shrink(over)
            if over <= 0:
                return

    def _balance(self, table: Shrinkable) -> None:
        """Take a region from the table that recalls least for its memory, if that is not `table`.

        A table that nobody asks would keep its memory for ever.
        """
        if len(self.tables) == 1:
            return
        rates = {}
        for number, each in enumerate(self.tables):
            recalled = each.recalled - self._seen.get(number, 0)
            self._seen[number] = each.recalled
            rates[number] = (recalled + 1) / (each.resident_bytes + 1)
        coldest = min(rates, key=lambda number: rates[number])
        if 2 * rates[coldest] < rates[self.tables.index(table)]:
            self.tables[coldest].shrink(1)

    # Rows -----------------------------------------------------------------------------------------

    def values(
        self, number: int, bins: Bins, keys: Int64s, places: Int64s
    ) -> tuple[Int64s, list[bytes]]:
        """Read rows by one multi-get.

        Args:
            number: the vertex's.
            bins: bin of each key.
            keys: what to read.
            places: what to call each key in the answer.

        Returns:
            The places of the keys that are there, and what is kept of each.

        Raises:
            StateError: RocksDB cannot read.
        """
        if not len(keys):
            return np.empty(0, dtype=np.int64), []
        entries, order = _sorted_entries(number, bins, keys)
        found = self._live.get(entries)
        self.asked += len(keys)
        there = np.fromiter((value is not None for value in found), np.bool_, len(found))
        return places[order[there]], [value for value in found if value is not None]

    def put(self, number: int, bins: Bins, keys: Int64s, values: StoredValues) -> None:
        """Write rows: many by a sorted file, few by a write batch."""
        entries, order = _sorted_entries(number, bins, keys)
        stored: list[bytes] = values[order].tolist()
        if len(entries) < INGEST_FROM:
            self._live.write(entries, stored)
            return
        steps = range(0, len(entries), ENTRIES_PER_PIECE)
        ends = [start + ENTRIES_PER_PIECE for start in steps]
        self._live.ingest((entries[a:b], stored[a:b]) for a, b in zip(steps, ends, strict=True))

    def delete(self, number: int, bins: Bins, keys: Int64s) -> None:
        """Delete rows, there or not."""
        entries, _ = _sorted_entries(number, bins, keys)
        self._live.delete(entries)

    def delete_bin(self, number: int, bin_id: int) -> None:
        """Delete all rows of the vertex in the bin."""
        self._live.delete_range(*_range_of(number, bin_id))
        self._ranges += 1
        if self._ranges >= _RANGES_PER_FLUSH:
            self._ranges = 0
            self._live.flush()

    def read_bin(self, number: int, bin_id: int, width: int) -> tuple[Int64s, Int64s]:
        """Keys of all rows of the vertex in the bin, and a line of `width` cells for each.

        Raises:
            StateCorrupt: an entry is no row.
            StateError: RocksDB cannot read.
        """
        keys, values = self.bin_values(number, bin_id)
        return keys, self.cells(values, width)

    def bin_values(self, number: int, bin_id: int) -> tuple[Int64s, list[bytes]]:
        """Keys of all rows of the vertex in the bin, and what is kept of each; raises as above."""
        keys: list[bytes] = []
        values: list[bytes] = []
        for piece_keys, piece_values in self._live.scan(*_range_of(number, bin_id)):
            keys += piece_keys
            values += piece_values
        if set(map(len, keys)) - {ENTRY_KEY.itemsize}:
            raise StateCorrupt(
                f"an entry of bin {bin_id} in {self.path} has a key of another length"
            )
        entries = np.frombuffer(b"".join(keys), dtype=ENTRY_KEY)
        return (entries["key"].astype(np.uint64) ^ SIGN_BIT).view(np.int64), values

    def cells(self, values: list[bytes], width: int) -> Int64s:
        """Rows of `width` cells, a line for each.

        Raises:
            StateCorrupt: a row has another length.
        """
        if set(map(len, values)) - {8 * width}:
            raise StateCorrupt(
                f"a row in {self.path} has another length than {8 * width} bytes; start the job "
                "again to go on from its last checkpoint"
            )
        return np.frombuffer(b"".join(values), dtype="<i8").reshape(len(values), width)


def _range_of(number: int, bin_id: int) -> tuple[bytes, bytes]:
    return _RANGE.pack(bin_id, number), _RANGE.pack(bin_id, number + 1)


def _sorted_entries(number: int, bins: Bins, keys: Int64s) -> tuple[list[bytes], Int64s]:
    """Entry keys in their order, and the place of each among `keys`."""
    order = np.lexsort((keys, bins))
    entries = np.empty(len(keys), dtype=ENTRY_KEY)
    entries["bin"] = bins[order]
    entries["vertex"] = number
    entries["key"] = keys[order].view(np.uint64) ^ SIGN_BIT
    found: list[bytes] = entries.view(f"V{ENTRY_KEY.itemsize}").tolist()
    return found, order
