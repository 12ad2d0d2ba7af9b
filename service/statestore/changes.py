"""Which keys of followed bins have changed since somebody last asked.

Flow: a table or dict of state tells [ChangedKeys.note] every key that a batch may change; a
copier takes what was noted of a bin.

Invariants
  CK1  After `follow`, every key of the bin that was noted since it was last taken is given once.
  CK2  Bins that are not followed cost one look at a table of flags per key, and no memory.
Cost: about 60 ns a distinct key of a followed bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.hashing import bins_of
from service.statestore.arena import KeyedTable

#: Address space for noted keys; far above what the bins of one plan can hold.
_RESERVED_BYTES = 1 << 36


class ChangedKeys:
    """Noted keys of 2**bin_bits bins."""

    def __init__(self, bin_bits: int) -> None:
        """Follow nothing."""
        self._bin_bits = bin_bits
        self._followed = np.zeros(1 << bin_bits, dtype=np.bool_)
        # A table without state columns is a set of keys, grouped by bin.
        self._noted = KeyedTable(bin_bits, (), reserved_bytes=_RESERVED_BYTES)

    def follow(self, bin_id: int) -> None:
        """Note keys of the bin from now on."""
        self._followed[bin_id] = True

    def forget(self, bin_id: int) -> bool:
        """Note none of the bin any more; whether any bin is still followed."""
        self._followed[bin_id] = False
        self._noted.delete(bin_id)
        return bool(self._followed.any())

    def note(self, keys: NDArray[np.int64]) -> None:
        """Note those of `keys` whose bins are followed; keys may repeat."""
        followed = self._followed[bins_of(keys, self._bin_bits)]
        if followed.any():
            self._noted.upsert(keys if followed.all() else keys[followed])

    def count(self, bin_id: int) -> int:
        """How many keys of the bin are noted."""
        return self._noted.rows(bin_id)

    @property
    def total(self) -> int:
        """How many keys of all bins are noted."""
        return self._noted.row_count

    def counts(self) -> NDArray[np.int64]:
        """How many keys of each bin are noted."""
        return self._noted.rows_per_bin()

    def take_last(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
        """The noted keys of these bins, bin by bin, which are followed no longer (CK1).

        Returns:
            The keys, and whether any bin is still followed.
        """
        self._followed[bins] = False
        lines, _ = self._noted.take_out(bins)
        return lines[0], bool(self._followed.any())

    def take(self, bin_id: int) -> NDArray[np.int64]:
        """The noted keys of the bin, each once; they are noted no longer (CK1)."""
        keys = self._noted.extract(bin_id).keys
        self._noted.delete(bin_id)
        return keys
