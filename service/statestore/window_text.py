"""Windows whose keys are text or bytes.

Flow: S -> [TextWindowStore], a `TimedTextStore`: keys become ids -> `WindowStore`, which keeps an
entry for each key and pane, under an id of its own. With a budget entries leave and come back each
for itself, and texts as `window_texts` says.

Invariants
  WX1  In a checkpoint each entry has its key's text beside it; the text of a bin's mark is that of
       any key of the bin, or none.
  WX2  With a budget a store gives what it gives without one; no text of a key whose entries are all
       on disk is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.hashing import bins_of
from service.statestore.chunk import BinAssembler
from service.statestore.columns import KEY_ID, numbers_of
from service.statestore.hosted import StoredValues
from service.statestore.slot_database import SlotDatabase
from service.statestore.text_values import joined_texts, no_texts, split, with_texts
from service.statestore.tiered_table import TieredTable
from service.statestore.timed import NEVER, TimedRows, joined_rows
from service.statestore.timed_text import TimedTextStore
from service.statestore.window_store import WindowStore
from service.statestore.window_texts import KEY_CELL, WindowTexts

Int64s = NDArray[np.int64]


class TextWindowStore(TimedTextStore):
    """Aggregates of windows of keys that are text or bytes."""

    def __init__(self, inner: WindowStore, key: str, kind: pa.DataType) -> None:
        """Keep entries in `inner`, for keys in the column `key` of type `kind`."""
        super().__init__(inner, key, kind)
        self._entries = inner
        #: Which texts memory has, where there is a database.
        self._away: WindowTexts | None = None

    def back_with(self, slot: SlotDatabase, number: int) -> None:
        """As `TextKeyedStore.back_with`: entries for themselves, and texts with their homes."""
        assert not self.row_count, "rows are not carried over"
        self._away = WindowTexts(self._entries, self.keys, slot, number)

    @property
    def tier(self) -> TieredTable | None:
        """The entries, where they have a database behind them."""
        return self._entries.tier

    # Rows and watermarks ------------------------------------------------------------------------

    def apply_at(
        self, rows: pa.RecordBatch, time: tuple[int, ...], watermark: int, ahead: int = NEVER
    ) -> TimedRows:
        """As `TimedTextStore.apply_at`."""
        with self._held():
            return super().apply_at(rows, time, watermark, ahead)

    def fire(
        self, watermark: int, time: tuple[int, ...], bins: frozenset[int] | None = None
    ) -> pa.RecordBatch:
        """As `TimedTextStore.fire`: what is given has its texts before entries are forgotten."""
        told = [self._with_keys(given) for given in self._entries.firing(watermark, time, bins)]
        self._forget(self._entries.fired)
        return joined_rows(told)

    def _held(self) -> AbstractContextManager[None]:
        return nullcontext() if self._away is None else self._away.held()

    def _named(self, rows: pa.RecordBatch) -> tuple[Int64s, pa.RecordBatch, list[Int64s]]:
        if self._away is None:
            return super()._named(rows)
        place = rows.schema.get_field_index(KEY_ID)
        hashes = numbers_of(rows, KEY_ID).view(np.int64)
        ids = self.keys.resolve(rows.column(self._key.name), hashes, self._away.recall)
        return ids, rows.set_column(place, rows.schema.field(place), pa.array(ids)), []

    def _texts(self, ids: Int64s) -> pa.Array:
        return super()._texts(ids) if self._away is None else self._away.texts(ids)

    def _forget(self, ids: Int64s) -> None:
        if self._away is None:
            super()._forget(ids)
        else:
            # Keys of windows that are over have gone with them.
            self._away.forget_unused(ids)

    # Bins that leave and come -------------------------------------------------------------------

    def extract(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """As `TextKeyedStore.extract`; all texts of the bin come back for it."""
        with self._held():
            if self._away is not None:
                self._away.recall_bin(bin_id)
            return super().extract(bin_id, cut=cut)

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """As `TextKeyedStore.install`."""
        with self._held():
            super().install(bin_id, assembler)

    def stored_rows(self, bins: Int64s) -> tuple[Int64s, StoredValues]:
        """Ids of the entries of these bins; of each its key and what is kept (WX1)."""
        ids, values = self._entries.stored_rows(bins)
        owners = self._owners(ids, values.tolist())
        texts = self.keys.table.extract(bins) if self._away is None else self._away.of_bins(bins)
        lone = ~np.isin(owners, texts.keys)
        if lone.any():
            # Of a mark alone in its bin there is no text: a key without cells stands for it.
            texts = joined_texts(texts, no_texts(np.unique(owners[lone])))
        return ids, with_texts(owners, values, texts)

    def load_rows(self, keys: Int64s, values: Sequence[bytes]) -> None:
        """Add entries that are not there, from what `stored_rows` gave.

        Raises:
            StateCorrupt: a value is not whole, or an entry is there already.
        """
        texts, kept = split(self.vertex, self._entries.stored_bytes, keys, values)
        owners = self._owners(keys, kept)
        # What stands beside a mark may be the text of another key than it is here taken for.
        entries = np.flatnonzero(~self._entries.are_marks(keys))
        first = np.zeros(len(owners), dtype=np.bool_)
        first[entries[np.unique(owners[entries], return_index=True)[1]]] = True
        first &= np.isin(owners, self.keys.absent(owners))
        with self._held():
            self.keys.append(replace(texts, keys=owners).part(first))
            self._entries.load_rows(keys, kept)

    def _owners(self, ids: Int64s, kept: Sequence[bytes]) -> Int64s:
        """The key's id of each entry; for a mark that of some entry of its bin."""
        if not len(kept):
            return ids[:0].copy()
        cells = np.frombuffer(b"".join(kept), dtype="<i8").reshape(len(kept), -1)
        owners = cells[:, KEY_CELL].astype(np.int64)
        marks = self._entries.are_marks(ids)
        if marks.any():
            bins = bins_of(ids, self.bin_bits)
            found, first = np.unique(bins[~marks], return_index=True)
            of_bin = dict(zip(found.tolist(), owners[~marks][first].tolist(), strict=True))
            own = zip(bins[marks].tolist(), ids[marks].tolist(), strict=True)
            owners[marks] = [of_bin.get(number, mark) for number, mark in own]
        return owners
