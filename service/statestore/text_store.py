"""State under keys that are text or bytes: a store of any kind under ids, and the keys of these.

Flow: S applies batches whose column KEY_ID holds the keys' hashes -> [TextKeyedStore] puts ids in
their place -> the store within, which knows integers only -> its output, ids become keys again.

Invariants
  TS1  A key's state and its text are in the same bin, chunks and entry: they come and go together.
  TS2  What is outside sees keys, and never an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import StateError, UserFunctionError
from service.statestore.chunk import BinAssembler
from service.statestore.cold_tier import ColdTier, Residents
from service.statestore.columns import KEY_ID, numbers_of
from service.statestore.hosted import HostedStore, StoredValues
from service.statestore.object_store import ObjectStore
from service.statestore.row_kinds import KEY_OF
from service.statestore.slot_database import SlotDatabase
from service.statestore.stored_windows import StoredWindows, windows_of
from service.statestore.text_keys import TextKeys
from service.statestore.text_values import TextResidents, split, with_texts
from service.statestore.tiered_table import TieredTable
from service.statestore.whole_copying import WholeBins


class KeyedStore(HostedStore, Protocol):
    """A store that takes the keys of its bins along, and whose rows may leave memory."""

    def extract(self, bin_id: int, *, cut: int, keys: bytes = b"") -> Iterator[bytes]:
        """Chunks of the bin's state, with `keys` among them."""
        ...

    def residents(self) -> Residents:
        """The rows in memory, for a tier."""
        ...

    def reach(self, versions: NDArray[np.int64]) -> None:
        """Bring the change counter to where rows that came from elsewhere are."""
        ...


class TextKeyedStore:
    """A store whose keys are text or bytes."""

    #: Each bin leaves on its own.
    groups: None = None

    def __init__(self, inner: KeyedStore, key: str, kind: pa.DataType) -> None:
        """Keep state in `inner`, under ids, for keys in the column `key` of type `kind`."""
        self.inner = inner
        self.vertex = inner.vertex
        self.bin_bits = inner.bin_bits
        self.keys = TextKeys(inner.bin_bits, kind)
        self._key = pa.field(key, kind)
        self.copier = WholeBins(inner.bin_bits, self._give_up)
        #: What the database has, where there is one; the store within has none of its own.
        self._cold: ColdTier | None = None

    def back_with(self, slot: SlotDatabase, number: int) -> None:
        """Keep what the budget of `slot` has no room for there, text and all, as vertex `number`.

        Only while the store is empty.
        """
        assert not self.row_count, "rows are not carried over"
        inner = self.inner
        within = TextResidents(self.vertex, inner.residents(), self.keys, inner.stored_bytes)
        self._cold = ColdTier(within, slot, number)

    @property
    def tier(self) -> ColdTier | TieredTable | None:
        """The rows that may be in the database; None without one."""
        return self._cold

    def reach(self, versions: NDArray[np.int64]) -> None:
        """Bring the change counter to where rows that came from elsewhere are."""
        self.inner.reach(versions)

    @property
    def bins(self) -> int:
        """Number of bins, 2**bin_bits."""
        return self.inner.bins

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(name, type) of the key, and of what is kept for it."""
        return ((self._key.name, f"{KEY_OF}{self._key.type}"), *self.inner.columns)

    @property
    def windows(self) -> StoredWindows | None:
        """How the store within keeps windows, if it does."""
        return windows_of(self.inner)

    @property
    def row_count(self) -> int:
        """Keys of all bins."""
        return self.inner.row_count + (0 if self._cold is None else self._cold.away_count)

    @property
    def total_nbytes(self) -> int:
        """Bytes of all bins, keys included; of what is away an estimate."""
        away = 0 if self._cold is None else self._cold.total_away_nbytes
        return self.inner.total_nbytes + self.keys.table.nbytes + away

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """Change the state by a batch with keys and, in KEY_ID, their hashes; what it gives (TS2).

        Raises:
            StateError: as the store within, or a key has more than 128 MiB.
        """
        ids, named, absent = self._named(rows)
        try:
            outputs = self.inner.apply_rows(named, time)
        except UserFunctionError as error:
            if isinstance(error.key, int):
                (text,) = self.keys.texts(np.array([error.key])).to_pylist()
                raise error.of_key(text) from error.__cause__
            raise
        place = outputs.schema.get_field_index(KEY_ID)
        if place >= 0:
            found = self.keys.texts(numbers_of(outputs, KEY_ID).view(np.int64))
            outputs = outputs.set_column(place, self._key, found)
        self._finish(ids, absent)
        return outputs

    def _named(
        self, rows: pa.RecordBatch
    ) -> tuple[NDArray[np.int64], pa.RecordBatch, list[NDArray[np.int64]]]:
        """The id of each row, the rows with these in KEY_ID, and ids for `_unmark`.

        Under a budget there is room for them, and what is away of them has come back.
        """
        place = rows.schema.get_field_index(KEY_ID)
        hashes = numbers_of(rows, KEY_ID).view(np.int64)
        absent: list[NDArray[np.int64]] = []
        recall = None
        if self._cold is not None:
            self._cold.make_room()
            bring = self._cold.recall

            def recall(ids: NDArray[np.int64]) -> None:
                absent.append(bring(ids))

        ids = self.keys.resolve(rows.column(self._key.name), hashes, recall)
        return ids, rows.set_column(place, rows.schema.field(place), pa.array(ids)), absent

    def _unmark(self, absent: Sequence[NDArray[np.int64]]) -> None:
        """Do not count the batch's touch of keys that came with it."""
        if self._cold is not None:
            for each in absent:
                self._cold.unmark(each)

    def _finish(self, ids: NDArray[np.int64], absent: Sequence[NDArray[np.int64]]) -> None:
        """After a batch, forget keys whose state is gone, and the marks of those that came."""
        if isinstance(self.inner, ObjectStore):
            state = self.inner.state
            gone = [number for number in np.unique(ids).tolist() if state(number) is None]
            self.keys.forget(np.array(gone, dtype=np.int64))
            if gone and self._cold is not None:
                self._cold.cold.delete(np.array(gone, dtype=np.int64))
        self._unmark(absent)

    def change_mark(self) -> int:
        """The change counter of the store within."""
        return self.inner.change_mark()

    def extract(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's state and of its keys, as of `cut` (TS1)."""
        if self._cold is not None:
            self._cold.recall_bin(bin_id)
        return self.inner.extract(bin_id, cut=cut, keys=self.keys.pack(bin_id))

    def give_up(self, bin_id: int, *, cut: int) -> Iterator[bytes]:
        """Chunks of the bin's state and of its keys, copied at the call; the bin is forgotten."""
        return self._give_up(bin_id, cut)

    def assembler(self, bin_id: int) -> BinAssembler:
        """An assembler for chunks of the bin; feed it, then `install`."""
        return self.inner.assembler(bin_id)

    def install(self, bin_id: int, assembler: BinAssembler) -> None:
        """Replace the bin's state by what the complete assembler holds.

        Raises:
            StateError, StateCorrupt, FormatMismatch: as the store within; or the keys are damaged.
        """
        rows = self.keys.unpack(bin_id, assembler.other_keys())
        before = self.keys.table.extract(np.array([bin_id], dtype=np.int64))
        self.keys.install(bin_id, rows)
        try:
            self.inner.install(bin_id, assembler)
        except StateError:
            self.keys.install(bin_id, before)
            raise
        if self._cold is not None:
            self._cold.forget(bin_id)
            self._cold.make_room()

    def delete(self, bin_id: int) -> None:
        """Forget the bin's state and keys."""
        self.inner.delete(bin_id)
        self.keys.table.delete(bin_id)
        if self._cold is not None:
            self._cold.forget(bin_id)

    def expect(self, bins: int) -> None:
        """As `HostedStore.expect`."""
        self.inner.expect(bins)

    def rest(self) -> None:
        """As `HostedStore.rest`."""
        self.inner.rest()

    def clear(self) -> None:
        """Forget everything."""
        self.inner.clear()
        self.keys.table.clear()
        if self._cold is not None:
            self._cold.clear()

    def rows(self, bin_id: int) -> int:
        """Keys of the bin."""
        return self.inner.rows(bin_id) + (0 if self._cold is None else self._cold.away(bin_id))

    def rows_per_bin(self) -> NDArray[np.int64]:
        """Keys of every bin."""
        return self.inner.rows_per_bin() if self._cold is None else self._cold.rows_per_bin()

    def nbytes(self, bin_id: int) -> int:
        """Bytes that the bin takes, its keys included; of what is away an estimate."""
        away = 0 if self._cold is None else self._cold.away_nbytes(bin_id)
        return self.inner.nbytes(bin_id) + self.keys.table.bin_nbytes(bin_id) + away

    def timers(self, bin_id: int) -> tuple[bytes, ...]:
        """The bin's timer entries; their keys are ids."""
        return self.inner.timers(bin_id)

    def set_timers(self, bin_id: int, timers: Sequence[bytes]) -> None:
        """Replace the bin's timer entries."""
        self.inner.set_timers(bin_id, timers)

    @property
    def stored_bytes(self) -> None:
        """None: keys differ in length."""
        return None

    def stored_rows(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], StoredValues]:
        """Ids of these bins; of each the length and cells of its key, and what is kept (TS1)."""
        ids, values = self.inner.stored_rows(bins)
        joined = with_texts(ids, values, self.keys.table.extract(bins))
        return (ids, joined) if self._cold is None else self._cold.with_away(bins, ids, joined)

    def load_rows(self, keys: NDArray[np.int64], values: Sequence[bytes]) -> None:
        """Add ids that are not there, from what `stored_rows` gave.

        Raises:
            StateCorrupt: a value is not whole, or an id is there already.
        """
        if self._cold is not None:
            self._cold.require_new(keys)
        texts, kept = split(self.vertex, self.inner.stored_bytes, keys, values)
        self.keys.append(texts)
        self.inner.load_rows(keys, kept)
        if self._cold is not None:
            self._cold.make_room()

    def _give_up(self, bin_id: int, cut: int) -> Iterator[bytes]:
        chunks = self.extract(bin_id, cut=cut)
        self.delete(bin_id)
        return chunks
