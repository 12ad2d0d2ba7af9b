"""Rows and timers as RocksDB entries: their keys, their values, their order.

Flow: stores -> [entries_of] -> sorted pieces for one file; pieces of a scan -> [EntryLoader] ->
rows appended to the stores.

An entry's key is bin u32 | vertex u16 | key u64, big endian, where the sign bit of the key is
inverted, so that bytes sort as numbers do: a bin is one range, and in it each vertex. A row's value
is what its store says: of an arena its version and its state columns, 8 bytes each, little endian;
of an object store the object, encoded. The timers of a vertex in a bin follow its rows' range:
their vertex has its highest bit set, and their key is their ordinal.

Invariants
  N1  Entries come in strictly ascending order, and each pair of a vertex and a key once.
  N2  A row is in the bin that its key's hash says; what is read is held to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import bins_of
from service.statestore._rocks import ENTRIES_PER_PIECE, Piece
from service.statestore.hosted import HostedStore, StoredValues

VERTICES_MAX = 1 << 15
TIMERS_BIT = np.uint16(1 << 15)
SIGN_BIT = np.uint64(1 << 63)
ENTRY_KEY = np.dtype([("bin", ">u4"), ("vertex", ">u2"), ("key", ">u8")])


class EntrySource(Protocol):
    """What has rows and timers to be written; every hosted store does."""

    bin_bits: int

    def rows_per_bin(self) -> NDArray[np.int64]:
        """At most so many rows of every bin."""
        ...

    def stored_rows(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """Keys of these bins, bin by bin, and what is to be written of each."""
        ...

    def timers(self, bin_id: int) -> tuple[bytes, ...]:
        """The bin's timer entries, in order."""
        ...


#: Arrays of entry keys with the values of as many entries, each value as a `void` or an object.
_Part = tuple[NDArray[np.void], StoredValues]


def entries_of(stores: Sequence[EntrySource], bins: Sequence[int]) -> Iterator[Piece]:
    """All rows and timers of the bins, in order (N1).

    Args:
        stores: the vertices, by their numbers.
        bins: bins to write, each once, in any order.

    Cost: memory for ENTRIES_PER_PIECE rows and for those of the largest bin.
    """
    for group in _groups(stores, np.sort(np.asarray(bins, dtype=np.int64))):
        parts = [
            part for number, store in enumerate(stores) for part in _parts(number, store, group)
        ]
        # The type is named, because joining would turn the bytes into the machine's own order.
        keys = np.concatenate([part_keys for part_keys, _ in parts], dtype=ENTRY_KEY)
        part_of = np.repeat(np.arange(len(parts)), [len(part_keys) for part_keys, _ in parts])
        index_in_part = np.concatenate([np.arange(len(part_keys)) for part_keys, _ in parts])
        order = np.lexsort((keys["key"], keys["vertex"], keys["bin"]))
        for start in range(0, len(order), ENTRIES_PER_PIECE):
            chosen = order[start : start + ENTRIES_PER_PIECE]
            values = np.empty(len(chosen), dtype=np.object_)
            for number, (_, part_values) in enumerate(parts):
                mine = part_of[chosen] == number
                values[mine] = part_values[index_in_part[chosen[mine]]].astype(np.object_)
            yield keys[chosen].view(f"V{ENTRY_KEY.itemsize}").tolist(), values.tolist()


def _groups(stores: Sequence[EntrySource], bins: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Consecutive bins with about ENTRIES_PER_PIECE rows together."""
    rows = sum((store.rows_per_bin()[bins] for store in stores), np.zeros(len(bins), np.int64))
    group_of = np.cumsum(rows) // ENTRIES_PER_PIECE
    for start, end in _runs(group_of):
        yield bins[start:end]


def _runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of equal values."""
    edges = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *edges.tolist(), len(values)] if len(values) else [0]
    yield from pairwise(bounds)


def _parts(number: int, store: EntrySource, bins: NDArray[np.int64]) -> Iterator[_Part]:
    """The vertex's rows, and its timers, as keys and values."""
    row_keys, values = store.stored_rows(bins)
    keys = np.empty(len(row_keys), dtype=ENTRY_KEY)
    keys["bin"] = bins_of(row_keys, store.bin_bits)
    keys["vertex"] = number
    keys["key"] = row_keys.view(np.uint64) ^ SIGN_BIT
    yield keys, values
    for bin_id in bins.tolist():
        timers = store.timers(bin_id)
        if timers:
            keys = np.empty(len(timers), dtype=ENTRY_KEY)
            keys["bin"] = bin_id
            keys["vertex"] = np.uint16(number) | TIMERS_BIT
            keys["key"] = np.arange(len(timers), dtype=np.uint64)
            entries = np.empty(len(timers), dtype=np.object_)
            entries[:] = timers
            yield keys, entries


class EntryLoader:
    """Takes the pieces of a scan, in order, into empty stores."""

    def __init__(self, stores: Sequence[HostedStore]) -> None:
        """Load into these `stores`, the vertices by their numbers."""
        self._stores = stores
        #: Rows and timers taken, by vertex number.
        self.rows = [0] * len(stores)
        self.timers = [0] * len(stores)

    def take(self, piece: Piece) -> None:
        """Append the rows and timers of the piece.

        Raises:
            StateCorrupt: an entry has another form than `entries_of` gives it, or a row is of
                another bin than its entry says (N2); earlier entries have been appended.
        """
        keys, values = piece
        if set(map(len, keys)) - {ENTRY_KEY.itemsize}:
            raise StateCorrupt("an entry of the checkpoint has a key of another length")
        entries = np.frombuffer(b"".join(keys), dtype=ENTRY_KEY)
        objects = np.empty(len(values), dtype=np.object_)
        objects[:] = values
        for vertex in np.unique(entries["vertex"]).tolist():
            number = vertex & ~int(TIMERS_BIT)
            if number >= len(self._stores):
                raise StateCorrupt(f"an entry of the checkpoint is of vertex number {number}")
            mine = entries["vertex"] == vertex
            whole = bool(mine.all())
            chosen = values if whole else objects[mine].tolist()
            if vertex == number:
                self._take_rows(number, entries[mine], chosen)
            else:
                self._take_timers(number, entries[mine], chosen)

    def _take_rows(self, number: int, entries: NDArray[np.void], values: list[bytes]) -> None:
        store = self._stores[number]
        if store.stored_bytes is not None and set(map(len, values)) != {store.stored_bytes}:
            raise StateCorrupt(
                f"a row of vertex {store.vertex!r} in the checkpoint has another length"
            )
        keys = (entries["key"].astype(np.uint64) ^ SIGN_BIT).view(np.int64)
        if np.any(bins_of(keys, store.bin_bits) != entries["bin"]):
            raise StateCorrupt(f"a row of vertex {store.vertex!r} is in another bin than its key's")
        store.load_rows(keys, values)
        self.rows[number] += len(values)

    def _take_timers(self, number: int, entries: NDArray[np.void], values: list[bytes]) -> None:
        store = self._stores[number]
        bins = entries["bin"].astype(np.int64)
        for start, end in _runs(bins):
            bin_id = int(bins[start])
            store.set_timers(bin_id, (*store.timers(bin_id), *values[start:end]))
        self.timers[number] += len(values)
