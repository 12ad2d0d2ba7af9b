"""A program of objects that keeps what it was last given."""

from __future__ import annotations

import pyarrow as pa

from service.statestore.object_rows import Objects
from service.statestore.object_store import ObjectStore


class KeepLast:
    """Keeps the objects that a test puts for the keys of a batch."""

    key = "k"

    def __init__(self) -> None:
        self.given: dict[int, object] = {}

    def apply(
        self, objects: Objects, keys: list[int], rows: pa.RecordBatch, time: tuple[int, ...]
    ) -> pa.RecordBatch:
        """Put what was given."""
        for key in keys:
            if key not in objects.states:
                objects.came.append(key)
            objects.states[key] = self.given[key]
        return rows

    @staticmethod
    def put(store: ObjectStore, objects: dict[int, object]) -> None:
        """Let `store`, whose program this is, keep these."""
        program = store.program
        assert isinstance(program, KeepLast)
        program.given |= objects
        store.apply_rows(pa.record_batch({"k": pa.array(list(objects), pa.int64())}), (1,))
