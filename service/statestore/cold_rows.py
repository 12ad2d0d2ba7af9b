"""What the slot's database has of one vertex: values under keys, and which of them memory lacks.

Flow: `TieredTable`, `ColdTier` -> [ColdRows] -> SlotDatabase.

A row is *resident*, in memory, or *away*, in the database alone. What the database has of a
resident row may be older; only the row in memory counts. What a value means is the store's to say.

Invariants
  CR1  The away rows of each bin are counted exactly, and the filter passes each of their keys.
  CR2  The database has under this vertex's number no key that the store does not have.
  CR3  Where keys come and go the filter is made anew, so that it does not grow for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import bins_of
from service.statestore.away_filter import AwayFilter
from service.statestore.hosted import KeptRows, StoredValues
from service.statestore.slot_database import SlotDatabase

Int64s = NDArray[np.int64]

#: The filter is made anew when more keys than this, and half of those in it, have gone.
_GONE_LEAST = 1 << 16


class ColdRows:
    """The entries of the vertex that has this `number` in the database."""

    def __init__(self, bin_bits: int, slot: SlotDatabase, number: int) -> None:
        """Begin with none."""
        self.slot = slot
        self._number = number
        self._bin_bits = bin_bits
        bins = 1 << bin_bits
        #: Away rows of each bin, to be read, and of all (CR1).
        self.away: Int64s = np.zeros(bins, dtype=np.int64)
        self.total = 0
        #: Greatest version of what each bin has in the database, and whether it has anything.
        self.newest: Int64s = np.zeros(bins, dtype=np.int64)
        self._stored = np.zeros(bins, dtype=np.bool_)
        self.filter = AwayFilter()
        #: Keys deleted that are in the filter.
        self._gone = 0
        #: Rows that came back and that left so far.
        self.recalled = 0
        self.evicted = 0

    def ask(self, keys: Int64s) -> tuple[Int64s, list[bytes]]:
        """Which of these keys, none of them resident, are away: their places, and their values.

        Raises:
            StateError: RocksDB cannot read.

        Cost: one multi-get for the keys that the filter passes, 2 to 4 us each.
        """
        maybe = np.flatnonzero(self.filter.may_hold(keys))
        asked = keys[maybe]
        return self.slot.values(self._number, bins_of(asked, self._bin_bits), asked, maybe)

    def bin_values(self, bin_id: int) -> tuple[Int64s, list[bytes]]:
        """Keys and values of all the bin has in the database, older ones of resident rows too.

        Raises:
            StateCorrupt: an entry is no row.
            StateError: RocksDB cannot read.
        """
        return self.slot.bin_values(self._number, bin_id)

    def require_count(self, bin_id: int, found: int) -> None:
        """Compare how many away rows were `found` in a bin with how many went there.

        Raises:
            StateCorrupt: they differ.
        """
        if found != self.away[bin_id]:
            raise StateCorrupt(
                f"{self.slot.path} holds {found} rows of bin {bin_id}, "
                f"{self.away[bin_id]} went there; start the job again to go on from its last "
                "checkpoint"
            )

    def dressed(self, rows: KeptRows) -> KeptRows:
        """Rows as the database is to have them; here as they are."""
        return rows

    def put(self, rows: KeptRows) -> None:
        """Write rows over what there is of their keys."""
        if not len(rows):
            return
        rows = self.dressed(rows)
        bins = bins_of(rows.keys, self._bin_bits)
        self.slot.put(self._number, bins, rows.keys, rows.values)
        self.note_stored(rows.keys, rows.versions)
        if self._gone > max(_GONE_LEAST, self.filter.count // 2):
            self._make_filter()

    def _make_filter(self) -> None:
        """Make the filter of the keys that the database has now (CR3).

        Cost: 0.5 us for each row there, once for half as many that have gone.
        """
        self.filter, self._gone = AwayFilter(), 0
        for bin_id in np.flatnonzero(self._stored).tolist():
            self.filter.enter(np.ascontiguousarray(self.bin_values(bin_id)[0]))

    def note_stored(self, keys: Int64s, versions: Int64s) -> None:
        """Note rows that the database has, or gets with the checkpoint that is being written."""
        if not len(keys):
            return
        bins = bins_of(keys, self._bin_bits)
        self.filter.enter(np.ascontiguousarray(keys))
        np.maximum.at(self.newest, bins, versions)
        self._stored[bins] = True

    def left(self, keys: Int64s) -> None:
        """Note that rows which the database has are no longer resident."""
        np.add.at(self.away, bins_of(keys, self._bin_bits), 1)
        self.total += len(keys)
        self.evicted += len(keys)

    def came_back(self, keys: Int64s) -> None:
        """Note that away rows are resident, or are no more."""
        np.subtract.at(self.away, bins_of(keys, self._bin_bits), 1)
        self.total -= len(keys)
        self.recalled += len(keys)

    def delete(self, keys: Int64s) -> None:
        """Delete what the database has of these keys, none of which is away (CR2)."""
        stored = keys[self.filter.may_hold(keys)]
        if len(stored):
            self.slot.delete(self._number, bins_of(stored, self._bin_bits), stored)
            self._gone += len(stored)

    def forget(self, bin_id: int) -> None:
        """Delete what the database has of the bin."""
        if self._stored[bin_id]:
            self.slot.delete_bin(self._number, bin_id)
        self.total -= int(self.away[bin_id])
        self.away[bin_id] = self.newest[bin_id] = 0
        self._stored[bin_id] = False
        if not self._stored.any():
            self.filter.clear()
            self._gone = 0

    def clear(self) -> None:
        """Forget every bin."""
        for bin_id in np.flatnonzero(self._stored).tolist():
            self.forget(bin_id)

    def restored(self, away: Int64s, newest: Int64s, known: AwayFilter) -> None:
        """Take what a checkpoint brought into the database as away."""
        self.away[:], self.newest[:] = away, newest
        self.total = int(away.sum())
        self._stored[:] = away > 0
        self.filter, self._gone = known, 0


def joined(parts: Sequence[KeptRows]) -> KeptRows:
    """Several parts, at least one, as one."""
    if len(parts) == 1:
        return parts[0]
    values: StoredValues = np.concatenate([part.values for part in parts])
    return KeptRows(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.versions for part in parts]),
        values,
    )
