"""Texts of the keys of windows of which some entries are on disk.

Flow: an entry that goes to disk -> [EntryRows] puts its key's text in front of it, as a checkpoint
has it; one that comes from there loses it again. What a key's text is, where memory lacks it, is
read beside its home (`window_homes`).

A text is in memory while its home is, and for the batch that names it. It comes back for that
batch, or to be given with a window; for no other entry of its key.

Invariants
  WY1  The text of a key that has an entry is in memory, or on disk beside its home, resident or
       away: a text never changes, so an older copy of the entry will do.
  WY2  While held, no text leaves: between that a batch names a key and that its entries are known.
  WY3  Where a key is displaced (`text_keys`), the texts of keys that had entries stay in memory.
Cost: of texts that memory lacks a reading of their homes, 2 to 4 us each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateCorrupt
from service.hashing import bins_of
from service.statestore.cold_rows import ColdRows
from service.statestore.hosted import KeptRows
from service.statestore.row_heap import Extracted
from service.statestore.slot_database import SlotDatabase
from service.statestore.text_keys import TextKeys
from service.statestore.text_values import joined_texts, no_texts, split, with_texts
from service.statestore.tiered_table import TieredTable
from service.statestore.window_homes import Homes
from service.statestore.window_store import WindowStore

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Texts that are given are read by so many at once.
_AT_ONCE = 4096
#: Cells of a stored entry: its version, and then its key.
KEY_CELL = 1


class EntryRows(ColdRows):
    """What the database has of entries: as a checkpoint keeps them, texts in front."""

    def __init__(self, texts: WindowTexts, bin_bits: int, slot: SlotDatabase, number: int) -> None:
        """Begin with none."""
        super().__init__(bin_bits, slot, number)
        self._texts = texts

    def dressed(self, rows: KeptRows) -> KeptRows:
        """As `ColdRows.dressed`: with texts."""
        return self._texts.dressed(rows)

    def ask(self, keys: Int64s) -> tuple[Int64s, list[bytes]]:
        """As `ColdRows.ask`, without texts."""
        places, values = super().ask(keys)
        return places, self._texts.bare(keys[places], values)[1]

    def ask_texts(self, keys: Int64s) -> tuple[Int64s, Extracted]:
        """The places of those of these entries that the database has, and the texts of these."""
        places, values = super().ask(keys)
        return places, self._texts.bare(keys[places], values)[0]

    def bin_values(self, bin_id: int) -> tuple[Int64s, list[bytes]]:
        """As `ColdRows.bin_values`, without texts."""
        keys, values = super().bin_values(bin_id)
        return keys, self._texts.bare(keys, values)[1]

    def left(self, keys: Int64s) -> None:
        """As `ColdRows.left`; texts whose homes these are leave with them."""
        super().left(keys)
        self._texts.doubt(keys)

    def forget(self, bin_id: int) -> None:
        """As `ColdRows.forget`; what the bin had is nobody's home any more."""
        super().forget(bin_id)
        self._texts.homes.delete(bin_id)

    def clear(self) -> None:
        """Forget every bin."""
        super().clear()
        self._texts.homes.clear()


class WindowTexts:
    """Texts of the keys of `entries`, in memory as far as they are needed."""

    def __init__(
        self, entries: WindowStore, keys: TextKeys, slot: SlotDatabase, number: int
    ) -> None:
        """Put `slot` behind the empty store `entries`, whose keys are ids of `keys`."""
        self.homes = Homes(keys.bin_bits)
        self._entries = entries
        self._keys = keys
        self._table: TieredTable = entries.back_with(slot, number, self)
        self._cold = EntryRows(self, keys.bin_bits, slot, number)
        self._table.cold = self._cold
        self._table.other_bytes = self._nbytes
        self._holds = 0
        #: Ids whose texts came back, and bins of which homes have left memory.
        self._brought: list[Int64s] = []
        self._doubtful: Flags = np.zeros(self._table.bins, dtype=np.bool_)

    def _nbytes(self) -> int:
        return self._keys.table.nbytes + self.homes.nbytes

    # Entries that are listed, and forgotten (`cold_windows.Watcher`) -----------------------------

    def entered(self, ids: Int64s, identity: Int64s) -> None:
        """Know entries, whose texts are in memory, or which are on disk (WY1)."""
        self.homes.enter(ids, np.ascontiguousarray(identity[0]), np.ascontiguousarray(identity[1]))

    def ending(self, first: int, of: Callable[[Int64s], Flags] | None) -> None:
        """Let keys go whose entries before pane `first`, all they have, are forgotten next."""
        gone = self.homes.ended(first, of)
        if self._keys.displaced:
            self._bring(self._lacked(gone))
        self._keys.forget(gone)
        self.homes.forget(gone)

    # Texts that come and go ----------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no text leave before the end (WY2)."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._settle()

    def doubt(self, ids: Int64s) -> None:
        """Look again, as soon as may be, which texts of the bins of these ids are needed."""
        self._doubtful[bins_of(ids, self._keys.bin_bits)] = True
        self._settle()

    def _settle(self) -> None:
        """Let texts go whose homes are on disk alone."""
        if self._holds:
            return
        if self._brought:
            ids = np.unique(np.concatenate(self._brought))
            self._brought.clear()
            self._keys.let_go(self._homeless(ids))
        if self._doubtful.any():
            bins = np.flatnonzero(self._doubtful)
            self._doubtful[:] = False
            gone = self._homeless(self._keys.table.extract(bins).keys)
            of = np.unique(bins_of(gone, self._keys.bin_bits))
            self._keys.take_out(of.astype(np.int64), gone)

    def _homeless(self, ids: Int64s) -> Int64s:
        """Those of these ids whose homes are on disk alone."""
        homes, goes = self.homes.of(ids)
        goes[goes] = ~self._table.resident(homes)
        return ids[goes]

    def recall(self, ids: Int64s) -> None:
        """Bring the texts of those of these ids that are of keys, while held (WY2)."""
        assert self._holds, "they would stay for ever"
        self._bring(self._lacked(ids))

    def forget_unused(self, ids: Int64s) -> None:
        """Let keys of these ids go that no entry has: of rows that were late for all windows."""
        distinct = np.unique(ids)
        self._keys.forget(distinct[~self.homes.of(distinct)[1]])

    def recall_bin(self, bin_id: int) -> None:
        """Bring all texts of a bin, while held."""
        self.recall(self.homes.keys_of(np.array([bin_id], dtype=np.int64)))

    def _bring(self, ids: Int64s) -> None:
        if len(ids):
            self._keys.append(self._read(ids))
            self._brought.append(ids)

    def _lacked(self, ids: Int64s) -> Int64s:
        """Those of these ids that are of keys whose texts memory lacks, each once."""
        absent = self._keys.absent(ids)
        return absent[self.homes.of(absent)[1]]

    def _read(self, ids: Int64s) -> Extracted:
        """Texts that memory lacks, of distinct keys.

        Raises:
            StateCorrupt: the database lacks a home.
        """
        homes, there = self.homes.of(ids)
        assert there.all(), "WY1"
        places, texts = self._cold.ask_texts(homes)
        if len(places) != len(ids):
            raise StateCorrupt(
                f"{self._cold.slot.path} lacks {len(ids) - len(places)} entries of vertex "
                f"{self._entries.vertex!r}; start the job again to go on from its last checkpoint"
            )
        return Extracted(ids[places], texts.versions, texts.counts, texts.ends, texts.cells)

    # Texts that are given ------------------------------------------------------------------------

    def texts(self, ids: Int64s) -> pa.Array:
        """The keys that have these ids; what memory lacks is read some thousand at a time."""
        lacked = np.isin(ids, self._lacked(ids))
        if not lacked.any():
            return self._keys.texts(ids)
        parts = []
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            read = np.unique(some[lacked[start : start + _AT_ONCE]])
            self._keys.table.append(self._read(read))
            parts.append(self._keys.texts(some))
            self._keys.let_go(read)
        return pa.concat_arrays(parts)

    def of_bins(self, bins: Int64s) -> Extracted:
        """The texts of all keys of these bins, those that are on disk among them."""
        found = self._keys.table.extract(bins)
        ids = self.homes.keys_of(bins)
        lacked = ids[~np.isin(ids, found.keys)]
        return joined_texts(found, self._read(lacked)) if len(lacked) else found

    def dressed(self, rows: KeptRows) -> KeptRows:
        """Entries with the texts of their keys in front; marks with none."""
        if not len(rows):
            return rows
        values = np.ascontiguousarray(rows.values)
        cells = values.view("<i8").reshape(len(values), -1)
        owners = cells[:, KEY_CELL].astype(np.int64)
        marks = self._entries.are_marks(rows.keys)
        texts = self._keys.table.extract(np.unique(bins_of(rows.keys, self._keys.bin_bits)))
        needed = np.unique(owners[~marks])
        lacked = needed[~np.isin(needed, texts.keys)]
        if len(lacked):
            texts = joined_texts(texts, self._read(lacked))
        dressed = np.empty(len(rows), dtype=np.object_)
        dressed[~marks] = with_texts(owners[~marks], rows.values[~marks], texts)
        own = rows.keys[marks]
        dressed[marks] = with_texts(own, rows.values[marks], no_texts(own))
        return KeptRows(rows.keys, rows.versions, dressed)

    def bare(self, ids: Int64s, values: list[bytes]) -> tuple[Extracted, list[bytes]]:
        """What `dressed` put together: texts under the ids of entries, and entries.

        Raises:
            StateCorrupt: a value is not whole.
        """
        return split(self._entries.vertex, self._entries.stored_bytes, ids, values)
