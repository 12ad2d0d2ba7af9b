"""A store whose rows do not all fit into memory: hot rows there, all others in the slot's database.

Flow: a batch's keys -> [ColdTier.make_room, recall] -> the store's `Residents` have all of them ->
the program runs -> [unmark]; where the slot's budget is used up, rows go: changed ones to the
database, unchanged ones just so. `TieredTable` is the same for rows of numbers, by kernels.

The clock's hand goes from bin to bin: rows of a bin that no batch has asked for since it last came
by leave together, the others lose their mark. What is brought back by a batch is marked only if it
is asked for again: one touch does not make a row hot.

Invariants
  CT1  A store with a tier gives what it gives without one: whatever it says of rows holds of
       resident and away rows together.
  CT2  A resident row that has not changed is in the database as it is here.
  CT3  Between `make_room` and the end of the batch no row of the store leaves.
Cost: none worth measuring while no row is away; then a set or an index is asked for each key.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import bins_of
from service.statestore.away_filter import AwayFilter
from service.statestore.cold_rows import ColdRows, joined
from service.statestore.hosted import KeptRows, StoredValues
from service.statestore.slot_database import SlotDatabase

Int64s = NDArray[np.int64]

NO_KEYS: Int64s = np.empty(0, dtype=np.int64)
#: Rows that leave are written in parts of about so many bytes.
_WRITE_BYTES = 4 << 20
#: The hand comes by about so many at once.
_ROWS_AT_ONCE = 64


class Residents(Protocol):
    """The rows of a store that are in memory, as its tier takes them out and puts them back.

    A store's values are those of its checkpoints.
    """

    bin_bits: int

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that they take of the budget; where objects are kept, an estimate."""
        ...

    @property
    def largest_region_bytes(self) -> int:
        """Bytes of the largest region that may double."""
        ...

    def per_bin(self) -> Int64s:
        """How many there are in each bin."""
        ...

    def keys_of(self, bin_id: int) -> Int64s:
        """Their keys in a bin."""
        ...

    def absent(self, keys: Int64s) -> Int64s:
        """Those of `keys` that are not here, each once."""
        ...

    def let_go(self, bins: Int64s) -> tuple[Int64s, KeptRows] | None:
        """Take out the rows of these bins that have no mark, and the marks of the others.

        Returns:
            Keys of all that left, and what is to be written of those that have changed (CT2); None
            if none left.

        Raises:
            StateError: an object cannot be encoded; nothing left.
        """
        ...

    def take_changed(self, bins: Int64s) -> KeptRows:
        """The rows of these bins that have changed, which count as unchanged from now on."""
        ...

    def take_back(self, keys: Int64s, values: list[bytes]) -> None:
        """Add rows that the database had, as unchanged and without marks.

        Raises:
            StateCorrupt: a value cannot be read.
        """
        ...

    def unmark(self, keys: Int64s) -> None:
        """Take the marks of these keys, as far as they are here."""
        ...


class ColdTier:
    """What a store has in the database, and which of its rows are there alone."""

    def __init__(self, residents: Residents, slot: SlotDatabase, number: int) -> None:
        """Keep rows of `residents` that the budget has no room for, as vertex `number`."""
        self.cold = ColdRows(residents.bin_bits, slot, number)
        self._residents = residents
        self._bins = 1 << residents.bin_bits
        self._hand = 0
        #: While memory is short: what the rows may take (`evict_full`).
        self._bound: int | None = None
        self._short = False
        #: Values that came and went, and their bytes.
        self._seen = 0
        self._seen_bytes = 0
        slot.tables.append(self)

    # What the budget asks -----------------------------------------------------------------------

    @property
    def recalled(self) -> int:
        """Rows recalled so far."""
        return self.cold.recalled

    @property
    def evicted(self) -> int:
        """Rows evicted so far."""
        return self.cold.evicted

    @property
    def away_count(self) -> int:
        """Rows that are away."""
        return self.cold.total

    @property
    def resident_bytes(self) -> int:
        """Bytes of the budget that the rows and the filter take."""
        return self._residents.nbytes + self.cold.filter.nbytes

    @property
    def largest_region_bytes(self) -> int:
        """Bytes of the largest region that may double."""
        return self._residents.largest_region_bytes

    def evict_full(self) -> int:
        """Let as much go as has come since memory became short; how many rows."""
        self._short = True
        if self._bound is None:
            self._bound = self.resident_bytes
        return self._evict(self._bound)

    def shrink(self, nbytes: int) -> int:
        """Let at least `nbytes` go, if there are so many; how many bytes."""
        before = self.resident_bytes
        self._evict(before - nbytes)
        self._bound = self.resident_bytes
        return before - self._bound

    def _evict(self, most: int) -> int:
        """Let the hand go round until the rows take no more than `most`; how many left."""
        evicted = 0
        parts: list[KeptRows] = []
        size = 0
        step = self._step()
        # Once round to take the marks, once more to let go.
        ahead = 2 * self._bins
        while ahead > 0 and self.resident_bytes > most:
            bins = np.arange(self._hand, min(self._hand + step, self._bins))
            self._hand = (self._hand + len(bins)) % self._bins
            ahead -= len(bins)
            left = self._residents.let_go(bins)
            if left is None:
                if not self._residents.count:
                    break
                continue
            keys, changed = left
            self.cold.left(keys)
            evicted += len(keys)
            if len(changed):
                parts.append(changed)
                size += self._see(changed.values.tolist())
            if size >= _WRITE_BYTES:
                self.cold.put(joined(parts))
                parts, size = [], 0
        if parts:
            self.cold.put(joined(parts))
        return evicted

    def _step(self) -> int:
        """Bins that the hand comes by at once, a power of two: some rows, for what a call costs."""
        step = 1
        while step < self._bins and self._residents.count * step < _ROWS_AT_ONCE * self._bins:
            step *= 2
        return step

    # What the store asks around a batch ---------------------------------------------------------

    def make_room(self) -> None:
        """See to it that a batch, or a bin, may come (SD1 of `slot_database`).

        Raises:
            StateError: the database cannot be written, or an object cannot be encoded.
        """
        self._short = False
        self.cold.slot.make_room(self)
        if not self._short:
            self._bound = None

    def recall(self, keys: Int64s) -> Int64s:
        """Bring those of `keys` back that are away, by one multi-get.

        Returns:
            Keys that were not resident, for `unmark`: what was away, and what is new.

        Raises:
            StateError: the database cannot be read.
            StateCorrupt: a value cannot be read.
        """
        if not self.cold.total:
            return NO_KEYS
        absent = self._residents.absent(keys)
        places, values = self.cold.ask(absent)
        self._come_back(absent[places], values)
        return absent

    def unmark(self, keys: Int64s) -> None:
        """Do not count the batch's touch of keys that came with it."""
        if len(keys):
            self._residents.unmark(keys)

    def _come_back(self, keys: Int64s, values: list[bytes]) -> None:
        if len(keys):
            self._residents.take_back(keys, values)
            self.cold.came_back(keys)
            self._see(values)

    def _see(self, values: list[bytes]) -> int:
        size = sum(map(len, values))
        self._seen += len(values)
        self._seen_bytes += size
        return size

    # Bins and keys ------------------------------------------------------------------------------

    def rows_per_bin(self) -> Int64s:
        """Rows of every bin, resident and away, a copy."""
        return self._residents.per_bin() + self.cold.away

    def resident_per_bin(self) -> Int64s:
        """Resident rows of every bin."""
        return self._residents.per_bin()

    def away(self, bin_id: int) -> int:
        """Rows of the bin that are away."""
        return int(self.cold.away[bin_id])

    def recall_bin(self, bin_id: int) -> None:
        """Bring all of a bin back; raises as `recall`."""
        if self.cold.away[bin_id]:
            self._come_back(*self.away_rows(bin_id))

    def away_rows(self, bin_id: int) -> tuple[Int64s, list[bytes]]:
        """Keys and values of the bin's away rows.

        Raises:
            StateCorrupt: the database holds others than went there.
            StateError: it cannot be read.
        """
        if not self.cold.away[bin_id]:
            return NO_KEYS, []
        keys, values = self.cold.bin_values(bin_id)
        away = ~np.isin(keys, self._residents.keys_of(bin_id))
        self.cold.require_count(bin_id, int(away.sum()))
        return keys[away], [values[place] for place in np.flatnonzero(away).tolist()]

    def with_away(
        self, bins: Int64s, keys: Int64s, values: StoredValues
    ) -> tuple[Int64s, StoredValues]:
        """Rows of these bins that memory has, bin by bin, and the away rows of each behind them.

        Args:
            bins: bins in the order of the rows.
            keys: of resident rows.
            values: of resident rows.
        """
        if not self.cold.away[bins].any():
            return keys, values
        found, counts = np.unique(bins_of(keys, self._residents.bin_bits), return_counts=True)
        count_of = dict(zip(found.tolist(), counts.tolist(), strict=True))
        all_keys: list[Int64s] = []
        kept: list[bytes] = []
        begin = 0
        for bin_id in bins.tolist():
            end = begin + count_of.get(bin_id, 0)
            away, of_away = self.away_rows(bin_id)
            all_keys += (keys[begin:end], away)
            kept += values[begin:end].tolist()
            kept += of_away
            begin = end
        objects = np.empty(len(kept), dtype=np.object_)
        objects[:] = kept
        return np.concatenate(all_keys), objects

    def peek(self, keys: Int64s) -> dict[int, bytes]:
        """Values of those of `keys` that are away, which stay so; by one multi-get."""
        if not self.cold.total:
            return {}
        absent = self._residents.absent(keys)
        places, values = self.cold.ask(absent)
        return dict(zip(absent[places].tolist(), values, strict=True))

    def require_new(self, keys: Int64s) -> None:
        """Refuse keys that are away.

        Raises:
            StateCorrupt: one is.
        """
        for key in self.peek(keys):
            raise StateCorrupt(f"key {key} comes twice")

    def remove(self, keys: Int64s) -> None:
        """Forget what the database has of these keys, resident or away."""
        if self.cold.total:
            absent = self._residents.absent(keys)
            places, _ = self.cold.ask(absent)
            self.cold.came_back(absent[places])
        self.cold.delete(np.unique(keys))

    def forget(self, bin_id: int) -> None:
        """Forget what the database has of the bin."""
        self.cold.forget(bin_id)

    def clear(self) -> None:
        """Forget all."""
        self.cold.clear()

    def away_nbytes(self, bin_id: int) -> int:
        """Bytes of the bin's away rows, estimated by the mean of the values that came and went."""
        return self.away(bin_id) * self._mean

    @property
    def total_away_nbytes(self) -> int:
        """Bytes of all away rows, estimated as above."""
        return self.cold.total * self._mean

    @property
    def _mean(self) -> int:
        return self._seen_bytes // max(1, self._seen)

    # Checkpoints --------------------------------------------------------------------------------

    def take_changed(self, bins: Int64s) -> tuple[Int64s, StoredValues]:
        """Keys of the resident rows that the database lacks, and what it is to keep of each.

        From now on they count as being there (CT2): the caller puts them there, or fails.
        """
        rows = self._residents.take_changed(bins)
        self.cold.note_stored(rows.keys, rows.versions)
        return rows.keys, rows.values

    def restored(self, away: Int64s, newest: Int64s, known: AwayFilter) -> None:
        """Take rows that the database has as away; the store is empty."""
        assert not self._residents.count, "only an empty store is restored"
        self.cold.restored(away, newest, known)
