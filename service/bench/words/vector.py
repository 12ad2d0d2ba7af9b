"""Counts in arrays, for dense keys: the original's `vec`.

Flow: S, or the operator of `vec-native` -> [VectorStore] -> (key, running count) of every record.

A key's place is computed, never looked for: the store hashes the key, whose encoding (`keys`) has
put the bin on top and the slot below. All bins lie one after the other in one stretch of address
space; a bin that leaves gives its pages back.

Invariants
  VV1  The count of (bin, slot) stands at bin * slots + slot, in every process.
  VV2  A bin that is not here has no count other than zero.
  VV3  The output has a row for each row of the input, in its order, as the original's has.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numba import njit, types
from numpy.typing import NDArray

from service.bench.words.vector_copying import VectorCopier
from service.errors import FormatMismatch, StateCorrupt, UsageError
from service.hashing import KEYS, mix64
from service.statestore.changes import ChangedKeys
from service.statestore.chunk import BinAssembler, encode_bin
from service.statestore.columns import Rows
from service.statestore.copying import BinCopier, copy_of
from service.statestore.hosted import StoredValues

Int64s = NDArray[np.int64]
_OUT = types.Array(types.int64, 1, "C")
_MAP_NORESERVE = 0x4000
_PAGE = mmap.PAGESIZE


@njit(
    types.boolean(KEYS, types.int64, types.int64, _OUT, _OUT, _OUT),
    cache=True,
    nogil=True,
)
def _count(
    keys: Int64s, bin_bits: int, slots: int, counts: Int64s, rows: Int64s, out: Int64s
) -> bool:
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(bin_bits)
    bound = counts.shape[0]
    for row in range(keys.shape[0]):
        hashed = mix64(np.uint64(keys[row]))
        bin_ = np.int64((hashed >> np.uint64(1)) >> np.uint64(63 - bin_bits))
        slot = np.int64(hashed & mask)
        place = bin_ * slots + slot
        if slot < 0 or slot >= slots or place >= bound:
            return False
        counts[place] += 1
        out[row] = counts[place]
        rows[bin_] += counts[place] == 1
    return True


class VectorStore:
    """Counts of dense keys in 2**bin_bits bins; a `HostedStore`."""

    #: Each bin leaves on its own.
    groups: None = None

    def __init__(self, vertex: str, key: str, bin_bits: int, domain: int) -> None:
        """Take address space for all keys below `domain`; memory comes as keys do.

        Raises:
            UsageError: the system grants no such address space.
        """
        self.vertex = vertex
        self.bin_bits = bin_bits
        self._key = key
        #: Told the keys of a batch, while bins are copied.
        self.changes: ChangedKeys | None = None
        self._changed = 0
        #: Counts of a bin: as many as its keys, rounded up to a power of two like the original's.
        self.slots = 1 << max(0, (max(0, domain - 1) >> bin_bits).bit_length())
        nbytes = max(_PAGE, 8 * self.slots << bin_bits)
        try:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            self._memory = mmap.mmap(-1, nbytes, flags=flags)
        except OSError as error:
            raise UsageError(f"no {nbytes:,} bytes for a vector of counts: {error}") from error
        self._counts = np.frombuffer(self._memory, np.int64, self.slots << bin_bits)
        #: Keys of each bin that were counted.
        self._rows = np.zeros(1 << bin_bits, dtype=np.int64)
        self.copier: BinCopier = VectorCopier(self)

    @property
    def bins(self) -> int:
        """Number of bins."""
        return 1 << self.bin_bits

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """What is kept for a key."""
        return (("count", "int64"),)

    @property
    def row_count(self) -> int:
        """Keys that were counted."""
        return int(self._rows.sum())

    @property
    def total_nbytes(self) -> int:
        """Bytes of the counts of all bins that have some."""
        return int(np.count_nonzero(self._rows)) * 8 * self.slots

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """Count each key (VV3).

        Raises:
            StateCorrupt: a key is not of this store's domain.
        """
        keys = rows.column(self._key)
        if self.changes is not None:
            self.changes.note(keys.to_numpy())
        out = np.empty(rows.num_rows, dtype=np.int64)
        if not _count(keys.to_numpy(), self.bin_bits, self.slots, self._counts, self._rows, out):
            raise StateCorrupt("a key is not of the domain that the vector was made for")
        self._changed += 1
        return pa.RecordBatch.from_arrays([keys, pa.array(out)], names=[self._key, "count"])

    def change_mark(self) -> int:
        """How often the counts have changed: by a batch, or by a bin that was installed."""
        return self._changed

    def extract(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's counts; the key of a row is its slot."""
        counts = self.counts_of(bin_id)
        slots = np.flatnonzero(counts)
        rows = Rows(slots, np.zeros(len(slots), dtype=np.int64), {"count": counts[slots]})
        return encode_bin(bin_id, cut, rows, (), {"vertex": self.vertex, "slots": str(self.slots)})

    def give_up(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's counts, which are forgotten with the last."""
        yield from self.extract(bin_id, cut=cut)
        self.delete(bin_id)

    def assembler(self, bin_id: int) -> BinAssembler:
        """An assembler for chunks of the bin."""
        return BinAssembler(bin_id)

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """Replace the bin's counts.

        Raises:
            FormatMismatch: they are of another vertex or another domain.
        """
        found = assembler.metadata
        if (found.get("vertex"), found.get("slots")) != (self.vertex, str(self.slots)):
            raise FormatMismatch(f"bin {bin_id} came with {found}")
        if copy_of(found) is not None:
            self.copier.adopt(bin_id, assembler)
            self._rows[bin_id] = np.count_nonzero(self.counts_of(bin_id))
            return
        self.copier.replaced(bin_id)
        rows = assembler.rows()
        self.delete(bin_id)
        self.counts_of(bin_id)[rows.keys] = rows.columns["count"]
        self._rows[bin_id] = len(rows)
        self._changed += 1

    def delete(self, bin_id: int) -> None:
        """Forget the bin's counts and give whole pages of it back."""
        self.copier.end(bin_id)
        self._rows[bin_id] = 0
        first, last = bin_id * self.slots * 8, (bin_id + 1) * self.slots * 8
        start, end = -(-first // _PAGE) * _PAGE, last // _PAGE * _PAGE
        if start < end:
            # A private page that is given back reads as zeros.
            self._memory.madvise(mmap.MADV_DONTNEED, start, end - start)
            self._counts[first // 8 : start // 8] = 0
            self._counts[end // 8 : last // 8] = 0
        else:
            self.counts_of(bin_id)[:] = 0

    def expect(self, bins: int) -> None:
        """Memory is found as it is needed."""

    def rest(self) -> None:
        """Nothing is kept."""

    def clear(self) -> None:
        """Forget everything."""
        for number in range(self.bins):
            self.delete(number)

    def rows(self, bin_id: int) -> int:
        """Keys of the bin that were counted."""
        return int(self._rows[bin_id])

    def rows_per_bin(self) -> Int64s:
        """The same of every bin."""
        return self._rows.copy()

    def nbytes(self, bin_id: int) -> int:
        """Bytes of the bin's counts."""
        return 8 * self.slots if self._rows[bin_id] else 0

    def timers(self, bin_id: int) -> tuple[bytes, ...]:
        """There are none."""
        return ()

    def set_timers(self, bin_id: int, timers: Sequence[bytes]) -> None:
        """Take none."""
        assert not timers, "a vector of counts has no timers"

    @property
    def stored_bytes(self) -> int | None:
        """A checkpoint would keep a count."""
        return 8

    def stored_rows(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """Places of these bins' counts, and the counts as bytes."""
        places = [
            number * self.slots + np.flatnonzero(self.counts_of(number)) for number in bins.tolist()
        ]
        every: Int64s = np.concatenate(places) if places else np.empty(0, dtype=np.int64)
        return every, np.ascontiguousarray(self._counts[every]).view("V8")

    def load_rows(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Set counts that `stored_rows` gave."""
        self._counts[keys] = np.frombuffer(b"".join(values), dtype="<i8")
        self._rows += np.bincount(keys // self.slots, minlength=self.bins)

    def counted(self) -> tuple[Int64s, Int64s]:
        """All dense keys that were counted, and their counts."""
        places = np.flatnonzero(self._counts)
        bins, slots = np.divmod(places, self.slots)
        keys: Int64s = slots << self.bin_bits | bins
        return keys, self._counts[places]

    def counts_of(self, bin_id: int) -> Int64s:
        """The bin's counts, writable."""
        return self._counts[bin_id * self.slots : (bin_id + 1) * self.slots]
