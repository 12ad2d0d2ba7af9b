"""A store with event time whose keys are text or bytes.

Flow: S -> [TimedTextStore]: keys become ids -> a `TimedStore` within, which knows integers only ->
what it gives, and what is late, ids become keys again. TS1 and TS2 of `text_store` hold.

Invariants
  TT1  A key is forgotten once its state is gone: keys that come and go leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.statestore.cold_tier import ColdTier
from service.statestore.columns import KEY_ID, numbers_of
from service.statestore.text_store import KeyedStore, TextKeyedStore
from service.statestore.timed import NEVER, TimedRows, TimedStore, joined_rows

Int64s = NDArray[np.int64]


@runtime_checkable
class TimedKeyedStore(TimedStore, KeyedStore, Protocol):
    """A store with event time that can stand under ids."""

    @property
    def fired(self) -> Int64s:
        """Keys whose state the last `fire` may have ended, repeated as they like."""
        ...

    def firing(
        self,
        watermark: int,
        time: tuple[int, ...],
        bins: frozenset[int] | None = None,
        tier: ColdTier | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """What `fire` gives in parts, at least one; of each `fired` says the keys.

        With a `tier`, which has the store's rows, a part is of keys that it has room for.
        """
        ...

    def unused(self, keys: Int64s) -> Int64s:
        """Those of `keys` that have no state, repeated as they are given."""
        ...


class TimedTextStore(TextKeyedStore):
    """A store with event time whose keys are text or bytes."""

    def __init__(self, inner: TimedKeyedStore, key: str, kind: pa.DataType) -> None:
        """Keep state in `inner`, under ids, for keys in the column `key` of type `kind`."""
        super().__init__(inner, key, kind)
        self._timed = inner

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """As `apply_at`, where no watermark is known."""
        return self.apply_at(rows, time, NEVER).rows

    def apply_at(
        self, rows: pa.RecordBatch, time: tuple[int, ...], watermark: int, ahead: int = NEVER
    ) -> TimedRows:
        """As `TimedStore.apply_at`, of rows with keys and, in KEY_ID, their hashes (TS2).

        Raises:
            StateError: as the store within, or a key has more than 128 MiB.
        """
        ids, named, absent = self._named(rows)
        given = self._timed.apply_at(named, time, watermark, ahead)
        late = None if given.late is None else self._with_keys(given.late)
        told = TimedRows(self._with_keys(given.rows), late)
        # Of rows that are late, or wait for nothing, nothing is kept.
        self._forget(ids)
        self._unmark(absent)
        return told

    def due(self, watermark: int) -> bool:
        """As `TimedStore.due`."""
        return self._timed.due(watermark)

    def fire(
        self, watermark: int, time: tuple[int, ...], bins: frozenset[int] | None = None
    ) -> pa.RecordBatch:
        """As `TimedStore.fire` (TS2)."""
        told = []
        for given in self._timed.firing(watermark, time, bins, self._cold):
            told.append(self._with_keys(given))
            self._forget(self._timed.fired)
        return joined_rows(told)

    def _with_keys(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows whose ids, if they have them, are keys again."""
        place = rows.schema.get_field_index(KEY_ID)
        if place < 0:
            return rows
        if self._key.name in rows.schema.names:
            # Rows as they were given.
            return rows.remove_column(place)
        texts = self._texts(numbers_of(rows, KEY_ID).view(np.int64))
        return rows.set_column(place, self._key, texts)

    def _texts(self, ids: Int64s) -> pa.Array:
        """The keys that have these ids."""
        return self.keys.texts(ids)

    def _forget(self, ids: Int64s) -> None:
        """Let keys without state go (TT1)."""
        unused = np.unique(self._timed.unused(ids))
        if len(unused):
            self.keys.forget(unused)
            if self._cold is not None:
                self._cold.cold.delete(unused)
