"""Keys that are text or bytes, as the integers that tables know: one id for each, in its bin.

Flow: F hashes the keys of a batch -> S: [TextKeys.resolve] -> ids, under which a table keeps its
state; what leaves is given its text back by [texts]; with a bin go its keys: [pack] -> [unpack].

A key's id is its hash, unless another key of the bin has that; then it is the next number of the
same bin that is free. Keys are compared in full, so two keys never share an id. Which of two keys
with one hash was given the other number depends on who came first, and moves with the bin.

Invariants
  TK1  Two keys have one id exactly if they are the same bytes; a key keeps its id for ever.
  TK2  The bin of an id is that of the key's hash.
  TK3  From a key's hash to its id every number of the bin is taken: so it is found again.
Cost: a lookup and a comparison a row, 0.1 to 0.3 us; about 170 bytes a key beside its text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import KEYS, hash_texts, mix64
from service.statestore import _row_cells
from service.statestore.row_format import RowFormat, is_text, texts_of
from service.statestore.row_heap import Extracted
from service.statestore.row_table import RowTable

Int64s = NDArray[np.int64]

_LENGTHS = struct.Struct("<QQ")
#: Keys never change, and all of a bin's go with it.
_VERSION = 0


def key_hashes(keys: pa.Array) -> Int64s:
    """The hash of each key, which says its bin as an integer key does itself."""
    offsets, data = texts_of(keys)
    return hash_texts(data, offsets)


class TextKeys:
    """Keys of one vertex that are of type `kind`, text or bytes, in 2**bin_bits bins."""

    def __init__(self, bin_bits: int, kind: pa.DataType) -> None:
        """Know no key."""
        assert is_text(kind), "keys are text or bytes"
        self.kind = kind
        self.bin_bits = bin_bits
        self._form = RowFormat(pa.schema([("key", kind)]))
        self.table = RowTable(bin_bits, [self._form])
        #: Whether some key has, or had, another id than its hash (TK3).
        self.displaced = False

    def resolve(
        self,
        keys: pa.Array,
        hashes: Int64s,
        recall: Callable[[Int64s], None] | None = None,
    ) -> Int64s:
        """The id of each key, those that are new among them (TK1).

        Args:
            keys: n texts, no nulls.
            hashes: what `key_hashes` gives for them.
            recall: brings the keys that have these ids, if any have, from where they are to here.

        Raises:
            StateError: the table is full, or a key has more than 128 MiB.
        """
        offsets, data = texts_of(keys)
        ids = hashes.copy()
        waiting = np.arange(len(keys))
        while len(waiting):
            if recall is not None:
                recall(ids[waiting])
            found = self._compared(ids[waiting], data, offsets, waiting)
            others = waiting[found == _row_cells.OTHER]
            if len(others):
                ids[others] = _next_ids(ids[others], self.bin_bits)
                self.displaced = True
            absent = waiting[found == _row_cells.ABSENT]
            if len(absent):
                records = self._form.encode([keys.take(pa.array(absent))], len(absent))
                self.table.put_absent(ids[absent], records, _VERSION)
            # A key that was absent is compared again: another one of the batch may have its id now.
            waiting = waiting[found != _row_cells.SAME]
        return ids

    def texts(self, ids: Int64s) -> pa.Array:
        """The keys that have these ids, repeated as they like."""
        found = self.table.find(ids)
        assert len(found) == len(ids), "every id is of a key"
        return self.table.read(0, found.addresses)[0]

    def forget(self, ids: Int64s) -> None:
        """Let keys go whose state is gone; not while one is displaced and could be lost (TK3)."""
        if not self.displaced:
            self.table.remove(ids, _VERSION)

    def let_go(self, ids: Int64s) -> None:
        """Let the texts of distinct ids go, which are kept elsewhere."""
        self.table.remove(ids, _VERSION)

    def absent(self, ids: Int64s) -> Int64s:
        """Those of `ids` that no key here has, each once."""
        distinct = np.unique(ids)
        return distinct[self.table.index.lookup(distinct) < 0]

    def take_out(self, bins: Int64s, ids: Int64s) -> Extracted:
        """Let the keys of these ids of the bins go; all that the bins had."""
        rows = self.table.extract(bins)
        for bin_id in bins.tolist():
            self.table.delete(bin_id)
        stay = ~np.isin(rows.keys, ids)
        if stay.any():
            self.table.append(rows.part(stay))
        return rows

    def pack(self, bin_id: int) -> bytes:
        """The bin's keys and their ids, as bytes."""
        rows = self.table.extract(np.array([bin_id], dtype=np.int64))
        parts = (rows.keys, rows.versions, rows.ends, rows.cells)
        lengths = _LENGTHS.pack(len(rows), len(rows.cells))
        return lengths + b"".join(part.astype("<i8").tobytes() for part in parts)

    def unpack(self, bin_id: int, packed: bytes) -> Extracted:
        """The rows of what `pack` gave, for `install`.

        Raises:
            StateCorrupt: it is something else.
        """
        size = _LENGTHS.size
        if len(packed) < size:
            raise StateCorrupt(f"state of bin {bin_id} lacks its keys")
        keys, cells = _LENGTHS.unpack_from(packed)
        if len(packed) != size + 8 * (3 * keys + cells):
            raise StateCorrupt(f"the keys of bin {bin_id} have {len(packed)} bytes")
        numbers = np.frombuffer(packed, dtype="<i8", offset=size).astype(np.int64)
        ids, versions, ends = numbers[: 3 * keys].reshape(3, keys)
        return Extracted(ids, versions, np.ones((1, keys), np.int64), ends, numbers[3 * keys :])

    def install(self, bin_id: int, rows: Extracted) -> None:
        """Replace the bin's keys; raises as `RowTable.install`."""
        self.table.install(bin_id, rows)
        self._note_displaced(rows.keys)

    def append(self, rows: Extracted) -> None:
        """Add keys of any bins; raises as `RowTable.append`."""
        self.table.append(rows)
        self._note_displaced(rows.keys)

    def _compared(
        self, ids: Int64s, data: NDArray[np.uint8], offsets: Int64s, rows: Int64s
    ) -> NDArray[np.uint8]:
        """Whether the keys under `ids` are those of the batch's `rows`."""
        found = self.table.find(ids)
        addresses = np.full(len(ids), -1, dtype=np.int64)
        addresses[found.positions] = found.addresses
        (place,) = self._form.text_places
        cells = self.table.cells
        out = np.empty(len(ids), dtype=np.uint8)
        _row_cells.compare_texts(
            cells, cells.view(np.uint8), addresses, place, data, offsets, rows, out
        )
        return out

    def _note_displaced(self, ids: Int64s) -> None:
        if len(ids) and not self.displaced:
            self.displaced = bool(np.any(key_hashes(self.texts(ids)) != ids))


@njit(KEYS.dtype[::1](KEYS, KEYS.dtype), cache=True, nogil=True)
def _next_ids(ids: Int64s, bin_bits: int) -> Int64s:
    """The next number of the same bin, for each."""
    shift = np.uint64(63 - bin_bits)
    out = np.empty(ids.shape[0], dtype=np.int64)
    for row in range(ids.shape[0]):
        bin_id = (mix64(np.uint64(ids[row])) >> np.uint64(1)) >> shift
        following = ids[row] + 1
        while (mix64(np.uint64(following)) >> np.uint64(1)) >> shift != bin_id:
            following += 1
        out[row] = following
    return out
