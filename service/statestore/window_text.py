"""Windows whose keys are text or bytes.

Flow: S -> [TextWindowStore], a `TimedTextStore`: keys become ids -> `WindowStore`, which keeps an
entry for each key and pane, under an id of its own.

Invariants
  WX1  In a checkpoint each entry has its key's text beside it; the text of a bin's mark is that of
       any key of the bin, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import NotYetSupported
from service.hashing import bins_of
from service.statestore.hosted import StoredValues
from service.statestore.row_heap import Extracted
from service.statestore.slot_database import SlotDatabase
from service.statestore.text_values import split, with_texts
from service.statestore.timed_text import TimedTextStore
from service.statestore.window_store import WindowStore

Int64s = NDArray[np.int64]

#: Cells of a stored entry: its version, and then its key.
_KEY = 1


class TextWindowStore(TimedTextStore):
    """Aggregates of windows of keys that are text or bytes."""

    def __init__(self, inner: WindowStore, key: str, kind: pa.DataType) -> None:
        """Keep entries in `inner`, for keys in the column `key` of type `kind`."""
        super().__init__(inner, key, kind)
        self._entries = inner

    def back_with(self, slot: SlotDatabase, number: int) -> None:
        """Refuse a database: a key has several entries, and its text would have to stay here.

        Raises:
            NotYetSupported: always.
        """
        what = f"--state-memory for {self.vertex!r}, windows of keys that are text,"
        raise NotYetSupported(what, "leave the option out, or key by an integer")

    def stored_rows(self, bins: Int64s) -> tuple[Int64s, StoredValues]:
        """Ids of the entries of these bins; of each its key and what is kept (WX1)."""
        ids, values = self._entries.stored_rows(bins)
        owners = self._owners(ids, values.tolist())
        texts = self.keys.table.extract(bins)
        lone = ~np.isin(owners, texts.keys)
        if lone.any():
            # Of a mark alone in its bin there is no text: a key without cells stands for it.
            texts = _with_nothing(texts, np.unique(owners[lone]))
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
        self.keys.append(replace(texts, keys=owners).part(first))
        self._entries.load_rows(keys, kept)

    def _owners(self, ids: Int64s, kept: Sequence[bytes]) -> Int64s:
        """The key's id of each entry; for a mark that of some entry of its bin."""
        if not len(kept):
            return ids[:0].copy()
        cells = np.frombuffer(b"".join(kept), dtype="<i8").reshape(len(kept), -1)
        owners = cells[:, _KEY].astype(np.int64)
        marks = self._entries.are_marks(ids)
        if marks.any():
            bins = bins_of(ids, self.bin_bits)
            found, first = np.unique(bins[~marks], return_index=True)
            of_bin = dict(zip(found.tolist(), owners[~marks][first].tolist(), strict=True))
            own = zip(bins[marks].tolist(), ids[marks].tolist(), strict=True)
            owners[marks] = [of_bin.get(number, mark) for number, mark in own]
        return owners


def _with_nothing(texts: Extracted, ids: Int64s) -> Extracted:
    """Texts, and these ids with none."""
    ends = np.concatenate((texts.ends, np.full(len(ids), len(texts.cells), dtype=np.int64)))
    nothing = np.zeros_like(ids)
    return Extracted(
        np.concatenate((texts.keys, ids)),
        np.concatenate((texts.versions, nothing)),
        np.concatenate((texts.counts, nothing[None]), axis=1),
        ends,
        texts.cells,
    )
