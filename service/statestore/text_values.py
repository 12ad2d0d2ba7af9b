"""What is kept of a key that is text, its text and its state as one, in memory and on disk.

Flow: TextKeyedStore.stored_rows -> [with_texts] -> entries -> [split] -> load_rows; ColdTier ->
[TextResidents] lets text and state go together, and takes them back together.

A value is the length of the text's cells, in bytes, u64; those cells; what the store within keeps.

Invariants
  TV1  A key that is away has neither text nor state in memory; one that has state has its text.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.statestore.cold_tier import Residents
from service.statestore.hosted import KeptRows, StoredValues
from service.statestore.row_heap import Extracted
from service.statestore.text_keys import TextKeys

Int64s = NDArray[np.int64]

_LENGTH = struct.Struct("<Q")


def with_texts(ids: Int64s, values: StoredValues, texts: Extracted) -> NDArray[np.object_]:
    """Values of these ids with their keys, which are among `texts`, in front."""
    order = np.argsort(texts.keys)
    places = order[np.searchsorted(texts.keys, ids, sorter=order)]
    begins = (texts.ends - np.diff(texts.ends, prepend=0))[places].tolist()
    cells = texts.cells.astype("<i8")
    joined = np.empty(len(ids), dtype=np.object_)
    joined[:] = [
        _LENGTH.pack(8 * (end - begin)) + cells[begin:end].tobytes() + bytes(value)
        for begin, end, value in zip(
            begins, texts.ends[places].tolist(), values.tolist(), strict=True
        )
    ]
    return joined


def no_texts(ids: Int64s) -> Extracted:
    """These ids, without texts."""
    nothing = np.zeros_like(ids)
    return Extracted(ids, nothing, nothing[None], nothing, np.empty(0, dtype=np.int64))


def joined_texts(first: Extracted, second: Extracted) -> Extracted:
    """Two parts, of different ids, as one."""
    return Extracted(
        np.concatenate((first.keys, second.keys)),
        np.concatenate((first.versions, second.versions)),
        np.concatenate((first.counts, second.counts), axis=1),
        np.concatenate((first.ends, second.ends + len(first.cells))),
        np.concatenate((first.cells, second.cells)),
    )


def split(
    vertex: str, stored_bytes: int | None, ids: Int64s, values: Sequence[bytes]
) -> tuple[Extracted, list[bytes]]:
    """The keys in values that `with_texts` gave, and what the store within keeps.

    Args:
        vertex: for what errors say.
        stored_bytes: the length of what is kept; None if lengths differ.
        ids: of the keys.
        values: as many.

    Raises:
        StateCorrupt: a value is not whole.
    """
    texts, kept = [], []
    size = _LENGTH.size
    for value in values:
        length = _LENGTH.unpack_from(value)[0] if len(value) >= size else -1
        if length < 0 or length % 8 or size + length > len(value):
            raise StateCorrupt(f"a key of vertex {vertex!r} is not whole")
        texts.append(value[size : size + length])
        kept.append(value[size + length :])
    if stored_bytes is not None and set(map(len, kept)) - {stored_bytes}:
        raise StateCorrupt(f"a row of vertex {vertex!r} has another length")
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) // 8)
    cells = np.frombuffer(b"".join(texts), dtype="<i8").astype(np.int64)
    ones = np.ones((1, len(ids)), dtype=np.int64)
    return Extracted(ids, np.zeros_like(ids), ones, ends, cells), kept


class TextResidents:
    """Resident rows of a store under text (`cold_tier.Residents`)."""

    def __init__(
        self, vertex: str, inner: Residents, keys: TextKeys, stored_bytes: int | None
    ) -> None:
        """Let rows of `inner` go with their `keys`."""
        self.bin_bits = inner.bin_bits
        self._vertex = vertex
        self._inner = inner
        self._keys = keys
        self._stored_bytes = stored_bytes

    @property
    def count(self) -> int:
        """Keys with state."""
        return self._inner.count

    @property
    def nbytes(self) -> int:
        """Bytes of state and texts."""
        return self._inner.nbytes + self._keys.table.nbytes

    @property
    def largest_region_bytes(self) -> int:
        """Bytes of the largest region of state."""
        return self._inner.largest_region_bytes

    def per_bin(self) -> Int64s:
        """Keys with state of every bin."""
        return self._inner.per_bin()

    def keys_of(self, bin_id: int) -> Int64s:
        """Ids with state of a bin."""
        return self._inner.keys_of(bin_id)

    def absent(self, keys: Int64s) -> Int64s:
        """Those of these ids whose text is not here, each once (TV1)."""
        return self._keys.absent(keys)

    def let_go(self, bins: Int64s) -> tuple[Int64s, KeptRows] | None:
        """Take out state and texts of the bins that have no mark, and the marks of the others."""
        left = self._inner.let_go(bins)
        if left is None:
            return None
        ids, changed = left
        texts = self._keys.take_out(bins, ids)
        values = with_texts(changed.keys, changed.values, texts)
        return ids, KeptRows(changed.keys, changed.versions, values)

    def take_changed(self, bins: Int64s) -> KeptRows:
        """State that has changed, and no longer has, with its texts."""
        changed = self._inner.take_changed(bins)
        values = with_texts(changed.keys, changed.values, self._keys.table.extract(bins))
        return KeptRows(changed.keys, changed.versions, values)

    def take_back(self, keys: Int64s, values: list[bytes]) -> None:
        """Add state and texts that the database had."""
        texts, kept = split(self._vertex, self._stored_bytes, keys, values)
        self._keys.append(texts)
        self._inner.take_back(keys, kept)

    def unmark(self, keys: Int64s) -> None:
        """Take the marks of these ids."""
        self._inner.unmark(keys)
