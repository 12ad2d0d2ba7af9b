"""A slot's stores with a database behind them: how they get it, are written, and come back.

Flow: empty stores -> [back_stores] -> rows beyond the budget are in the SlotDatabase; checkpoint ->
[write_tiered]: what changed since the last one as one sorted file, then hard links; start ->
[read_tiered]: hard links again, and no row is read before it is asked for.

What is written is a checkpoint like any other: a worker without a budget reads it with
`read_checkpoint`, and what such a worker wrote comes back here row by row. One file more lies in
it, `tables`, which says how many rows each bin has and which keys there may be.

Invariants
  TS1  A checkpoint holds what `write_checkpoint` would have written of the same stores.
  TS2  `read_tiered` leaves the stores as the checkpoint says, or, if it raises, empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt, StateError
from service.statestore import _entries
from service.statestore.away_filter import AwayFilter
from service.statestore.checkpoint import (
    SlotFiles,
    StoredVertex,
    read_checkpoint,
    require_same_job,
    verified_directory,
    write_folder,
)
from service.statestore.cold_rows import ColdRows
from service.statestore.cold_tier import ColdTier
from service.statestore.hosted import HostedStore, StoredValues
from service.statestore.object_store import ObjectStore
from service.statestore.process_store import ProcessStore
from service.statestore.row_kinds import split_text
from service.statestore.row_store import RowStore
from service.statestore.slot_database import TABLES_FILE, SlotDatabase
from service.statestore.text_store import TextKeyedStore
from service.statestore.timed_row_store import TimedRowStore
from service.statestore.vertex_store import VertexStore
from service.statestore.window_store import WindowStore

Int64s = NDArray[np.int64]
#: Stores that can have a database behind them.
Backed = VertexStore | ObjectStore | RowStore | TimedRowStore | TextKeyedStore

_TABLE_SUFFIX = ".sst"


class _StoredTable(msgspec.Struct, frozen=True):
    """What the entries of a tiered vertex do not say at a glance."""

    #: int64, little endian: rows of each bin, and the greatest version in it.
    rows: bytes
    newest: bytes
    #: Words of the filter's parts, and keys in the last one.
    parts: list[bytes]
    entered: int
    #: Whether a key that is text may have another id than its hash.
    displaced: bool = False


class _Tables(msgspec.Struct, frozen=True):
    """The file `tables`."""

    #: By the vertex's number.
    tables: dict[int, _StoredTable]
    #: (bin, number) of entries that are there as a whole.
    whole: list[tuple[int, int]]


class Tier(Protocol):
    """What a checkpoint asks of rows that are partly in the database."""

    @property
    def cold(self) -> ColdRows:
        """What the database has of them."""
        ...

    def rows_per_bin(self) -> Int64s:
        """Rows of every bin, resident and away."""
        ...

    def resident_per_bin(self) -> Int64s:
        """Resident rows of every bin."""
        ...

    def take_changed(self, bins: Int64s) -> tuple[Int64s, StoredValues]:
        """Resident rows that the database lacks; they count as being there from now on."""
        ...

    def restored(self, away: Int64s, newest: Int64s, known: AwayFilter) -> None:
        """Take rows that the database has as away."""
        ...


class _Changed:
    """Of a tiered vertex the rows that the database lacks, for `entries_of`."""

    def __init__(self, store: HostedStore, tier: Tier) -> None:
        self.bin_bits = store.bin_bits
        self._tier = tier
        self.timers = store.timers

    def rows_per_bin(self) -> Int64s:
        """Resident rows of every bin; at most those have changed."""
        return self._tier.resident_per_bin()

    def stored_rows(self, bins: Int64s) -> tuple[Int64s, StoredValues]:
        """The rows that have changed."""
        return self._tier.take_changed(bins)


def back_stores(stores: Mapping[str, HostedStore], slot: SlotDatabase) -> None:
    """Put `slot` behind all of the empty `stores` that can use it; others stay in memory."""
    for number, name in enumerate(sorted(stores)):
        store = stores[name]
        if isinstance(store, Backed):
            store.back_with(slot, number)


def write_tiered(
    folder: Path,
    cut: int,
    stores: Mapping[str, HostedStore],
    bins: Sequence[int],
    slot: SlotDatabase,
) -> SlotFiles:
    """As `write_checkpoint`, for stores that `back_stores` was given (TS1).

    Raises:
        StateError: the disk or RocksDB refused; earlier checkpoints are as they were, and the
            stores are of no use.

    Cost: that of the rows that changed since the last checkpoint; tables that were described then
    are not read again.
    """
    names = sorted(stores)
    numbered = [stores[name] for name in names]
    tiered = _tiered(numbered)
    sources = [
        _Changed(store, tiered[number]) if number in tiered else store
        for number, store in enumerate(numbered)
    ]
    owned = np.asarray(bins, dtype=np.int64)
    whole = _whole(numbered, tiered, owned)

    def make(partial: Path) -> None:
        slot.checkpoint(partial, _entries.entries_of(sources, bins), whole)
        tables = _Tables(
            {number: _described(numbered[number], tier, owned) for number, tier in tiered.items()},
            sorted(whole),
        )
        (partial / TABLES_FILE).write_bytes(msgspec.msgpack.encode(tables))

    def vertices() -> list[StoredVertex]:
        return [StoredVertex.of(name, store, bins) for name, store in zip(names, numbered)]

    files = write_folder(folder, cut, numbered[0].bins, make, vertices, slot.known)
    _know(slot, files)
    return files


def read_tiered(
    folder: Path, files: SlotFiles, stores: Mapping[str, HostedStore], slot: SlotDatabase
) -> None:
    """As `read_checkpoint`, for empty stores that `back_stores` was given (TS2).

    Raises:
        FormatMismatch, StateCorrupt, StateError: as `read_checkpoint`.

    Cost: one read of all bytes, for their digests; memory for the counts and the filters alone. Of
    objects with timers, and of entries of windows, one more read, and the timers or ids.
    """
    if all(file.name != TABLES_FILE for file in files.files):
        read_checkpoint(folder, files, stores)
        return
    require_same_job(files, stores)
    directory = verified_directory(folder, files)
    numbered = [stores[stored.vertex] for stored in files.vertices]
    assert not any(store.row_count for store in numbered), "stores to fill are empty"
    path = directory / TABLES_FILE
    try:
        found = msgspec.msgpack.decode(path.read_bytes(), type=_Tables)
    except msgspec.MsgspecError as error:
        raise StateCorrupt(f"{path} lists no tables: {error}") from error
    tiered = _tiered(numbered)
    if found.tables.keys() < tiered.keys():
        # An earlier version kept what has no table as a whole: all comes row by row.
        read_checkpoint(folder, files, stores)
        return
    if found.tables.keys() != tiered.keys():
        raise StateCorrupt(f"{path} has tables of other vertices than this flow")
    slot.begin_with(directory)
    slot.whole = set(found.whole)
    try:
        for number, tier in tiered.items():
            _restore(path, numbered[number], tier, found.tables[number])
        loader = _entries.EntryLoader(numbered)
        for piece in slot.read_whole():
            loader.take(piece)
        for number, stored in enumerate(files.vertices):
            rows = numbered[number].row_count if number in tiered else loader.rows[number]
            if (rows, loader.timers[number]) != (stored.rows, stored.timers):
                raise StateCorrupt(
                    f"{directory} holds {rows} rows and {loader.timers[number]} timers of vertex "
                    f"{stored.vertex!r}, the manifest says {stored.rows} and {stored.timers}"
                )
    except StateError:
        for store in numbered:
            store.clear()
        raise
    _know(slot, files)


def _tiered(numbered: Sequence[HostedStore]) -> dict[int, Tier]:
    found: dict[int, Tier] = {}
    for number, store in enumerate(numbered):
        if isinstance(store, Backed) and (tier := store.tier) is not None:
            found[number] = tier
    return found


def _whole(
    numbered: Sequence[HostedStore], tiered: Mapping[int, Tier], bins: NDArray[np.int64]
) -> set[tuple[int, int]]:
    """(bin, number) of what is written as a whole: rows of other stores, and all timers."""
    whole = set()
    for number, store in enumerate(numbered):
        counts = store.rows_per_bin()
        for bin_id in bins.tolist():
            if number not in tiered and counts[bin_id]:
                whole.add((bin_id, number))
            if store.timers(bin_id):
                whole.add((bin_id, number | int(_entries.TIMERS_BIT)))
    return whole


def _described(store: HostedStore, tier: Tier, bins: Int64s) -> _StoredTable:
    cold = tier.cold
    parts, entered = cold.filter.parts
    rows = np.zeros(len(cold.away), dtype="<i8")
    rows[bins] = tier.rows_per_bin()[bins]
    return _StoredTable(
        rows.tobytes(),
        cold.newest.astype("<i8").tobytes(),
        [part.astype("<u8").tobytes() for part in parts],
        entered,
        isinstance(store, TextKeyedStore) and store.keys.displaced,
    )


def _restore(path: Path, store: HostedStore, tier: Tier, stored: _StoredTable) -> None:
    if not len(stored.rows) == len(stored.newest) == 8 * store.bins:
        raise StateCorrupt(f"{path} has counts of another number of bins")
    newest = np.frombuffer(stored.newest, dtype="<i8").astype(np.int64)
    parts = [np.frombuffer(part, dtype="<u8").astype(np.uint64) for part in stored.parts]
    rows = np.frombuffer(stored.rows, dtype="<i8").astype(np.int64)
    tier.restored(rows, newest, AwayFilter(parts, stored.entered))
    assert isinstance(store, Backed), "others have no tier"
    store.reach(newest)
    if isinstance(store, TextKeyedStore):
        store.keys.displaced = stored.displaced
    within = store.inner if isinstance(store, TextKeyedStore) else store
    if isinstance(within, WindowStore):
        # Which entries a pane has, and what a bin has given, is in its entries and marks alone.
        for bin_id in np.flatnonzero(rows).tolist():
            keys, values = tier.cold.bin_values(bin_id)
            tier.cold.require_count(bin_id, len(keys))
            within.index_kept(keys, tier.cold.slot.cells(values, within.stored_bytes // 8))
        return
    if isinstance(within, ProcessStore):
        # Its timers are in its objects alone.
        assert isinstance(tier, ColdTier), "objects have one"
        for bin_id in np.flatnonzero(rows).tolist():
            keys, values = tier.away_rows(bin_id)
            if within is not store:
                values = [split_text(value)[1] for value in values]
            within.index_kept(keys, values)


def _know(slot: SlotDatabase, files: SlotFiles) -> None:
    slot.known = {file.name: file for file in files.files if file.name.endswith(_TABLE_SUFFIX)}
