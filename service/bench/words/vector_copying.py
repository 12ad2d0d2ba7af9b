"""Pieces of bins of a vector of counts, so that its bins can be copied before they move.

Flow: `VectorStore` -> [VectorCopier]; see service/statestore/copying.py for the protocol.

A piece, little endian: first slot i64 | counts i64 each, for a run of slots; or
-1 i64 | n i64 | slots i64 each | counts i64 each, for slots that changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import KEYS, bins_of, mix64
from service.statestore.changes import ChangedKeys
from service.statestore.chunk import PORTION_BYTES, BinAssembler, encode_portions
from service.statestore.columns import Rows
from service.statestore.copying import BinCopier
from service.statestore.place import Place

Int64s = NDArray[np.int64]
_LISTED = -1


@njit(types.void(KEYS, types.int64, types.Array(types.int64, 1, "C")), cache=True, nogil=True)
def _slots(keys: Int64s, bin_bits: int, out: Int64s) -> None:
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(bin_bits)
    for row in range(keys.shape[0]):
        out[row] = np.int64(mix64(np.uint64(keys[row])) & mask)


class CountsOfBins(Protocol):
    """What the copier asks of the store."""

    vertex: str
    bin_bits: int
    slots: int
    #: Told the keys of a batch that changes their counts.
    changes: ChangedKeys | None

    def counts_of(self, bin_id: int) -> Int64s:
        """The counts of the bin, writable."""
        ...

    def delete(self, bin_id: int) -> None:
        """Forget the bin's counts."""
        ...


class VectorCopier(BinCopier):
    """Copies bins of one vector."""

    def __init__(self, store: CountsOfBins) -> None:
        """Copy bins of `store`."""
        super().__init__(store.bin_bits)
        self._store = store

    def _notes_go_to(self, changes: ChangedKeys | None) -> None:
        self._store.changes = changes

    def _all_keys(self, bin_id: int) -> Int64s | None:
        return None

    def _scan(self, bin_id: int, place: Place, nbytes: int) -> bytes:
        counts = self._store.counts_of(bin_id)[place.slot :][: max(1, nbytes // 8)]
        if not len(counts):
            return b""
        piece = np.concatenate([[place.slot], counts]).astype("<i8").tobytes()
        place.slot += len(counts)
        return piece

    def _read(self, keys: Int64s, nbytes: int) -> tuple[bytes, int]:
        some = keys[: max(1, nbytes // 16)]
        slots = self._slots_of(some)
        bin_id = int(bins_of(some[:1], self._bin_bits)[0])
        counts = self._store.counts_of(bin_id)[slots]
        piece = np.concatenate([[_LISTED, len(some)], slots, counts]).astype("<i8").tobytes()
        return piece, len(some)

    def _chunks_left(self, bin_id: int, number: int, cut: int) -> Iterator[bytes]:
        counts, copy = self._store.counts_of(bin_id), self._copies[bin_id]
        first = self._store.slots if copy.place is None else copy.place.slot
        slots = np.concatenate([self._slots_of(copy.keys), np.arange(first, self._store.slots)])
        metadata = {
            "vertex": self._store.vertex,
            "slots": str(self._store.slots),
            **self._told(bin_id, number),
            "total": str(int(counts.sum())),
        }

        def portions() -> Iterator[Rows]:
            step = PORTION_BYTES // 24
            for start in range(0, max(1, len(slots)), step):
                some = slots[start : start + step]
                yield Rows(some, np.zeros(len(some), dtype=np.int64), {"count": counts[some]})

        def forget() -> None:
            self.end(bin_id)
            self._store.delete(bin_id)

        return encode_portions(bin_id, cut, portions(), (), metadata, forget)

    def _write(self, bin_id: int, piece: bytes | memoryview) -> None:
        if len(piece) % 8 or len(piece) < 16:
            raise StateCorrupt(f"a piece of bin {bin_id} has {len(piece)} bytes")
        numbers = np.frombuffer(piece, dtype="<i8").astype(np.int64)
        first, rest = int(numbers[0]), numbers[1:]
        if first == _LISTED:
            count = int(rest[0])
            slots, counts = rest[1 : 1 + count], rest[1 + count :]
        else:
            slots, counts = np.arange(first, first + len(rest)), rest
        self._put(bin_id, slots, counts)

    def _complete(self, bin_id: int, assembler: BinAssembler) -> None:
        rows = assembler.rows()
        self._put(bin_id, rows.keys, rows.columns["count"].view(np.int64))
        found = str(int(self._store.counts_of(bin_id).sum()))
        if found != assembler.metadata.get("total"):
            raise StateCorrupt(
                f"bin {bin_id} counts {found} records after its copy was completed, its old owner "
                f"{assembler.metadata.get('total')}; nothing was installed"
            )

    def _forget_rows(self, bin_id: int) -> None:
        self._store.delete(bin_id)

    def _slots_of(self, keys: Int64s) -> Int64s:
        """Slots of travelling keys in their bins."""
        slots = np.empty(len(keys), dtype=np.int64)
        _slots(np.ascontiguousarray(keys), self._bin_bits, slots)
        return slots

    def _put(self, bin_id: int, slots: Int64s, counts: Int64s) -> None:
        """Set counts of a bin.

        Raises:
            StateCorrupt: a slot is not of the bin.
        """
        if len(slots) != len(counts) or (
            len(slots) and (slots.min() < 0 or slots.max() >= self._store.slots)
        ):
            raise StateCorrupt(f"what came of bin {bin_id} has slots that it has not")
        self._store.counts_of(bin_id)[slots] = counts
