"""Stores of every kind of keyed state, under numbers and under text, and batches for them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from service.statestore.aggregate import AggregateProgram, Count, Max
from service.statestore.columns import KEY_ID
from service.statestore.distinct import DistinctProgram
from service.statestore.join import SIDE, JoinProgram
from service.statestore.object_join import ObjectJoin
from service.statestore.object_store import ObjectStore
from service.statestore.row_format import RowFormat
from service.statestore.row_kinds import split_text
from service.statestore.row_store import RowStore
from service.statestore.stateful_map import StatefulMap
from service.statestore.text_keys import key_hashes
from service.statestore.text_store import TextKeyedStore
from service.statestore.vertex_store import VertexStore

KIND = pa.string()


def collected(state, value):
    """Keeps what it was given, in place; forgets the key at a nought."""
    state = [] if state is None else state
    state.append(value)
    return (None if value == 0 else state), len(state) * 1_000 + sum(state)


def text(state, value):
    """Keeps a text whose length varies much."""
    return "x" * (value * 40), len(state or "")


def mapped(function):
    out = pa.schema([("out", pa.int64())])
    return lambda key, bits: ObjectStore("v", StatefulMap("v", key, function, "v", out), bits)


def joined(make, program):
    def build(key, bits):
        out = pa.schema([(key, pa.int64()), ("l", pa.int64()), ("t", pa.string())])
        return make("v", program(key, ["l"], ["t"], out), bits)

    return build


def table(program):
    return lambda key, bits: VertexStore("v", program(key), bits)


STORES = {
    "map": mapped(collected),
    "map of texts": mapped(text),
    "join of objects": joined(ObjectStore, ObjectJoin),
    "join": joined(RowStore, JoinProgram),
    "aggregate": table(
        lambda key: AggregateProgram(key, {"n": Count(), "top": Max("v")}, {"v": pa.int64()})
    ),
    "distinct": table(lambda key: DistinctProgram(key, ["key", "v"])),
}
#: Their values begin with a version, which is a store's own.
VERSIONED = ("join", "aggregate", "distinct")


class Kind:
    """A kind of store, under numbers or text; `weak` hashes of text collide all the time."""

    def __init__(self, name, *, texts, weak):
        self.name, self.texts = name, texts
        # A key that is forgotten leaves a gap, behind which a displaced one is not found again
        # after a checkpoint. Hashes of 64 bits do not collide; here stores that forget do not.
        self.weak = weak and name != "map"

    def build(self, bits):
        make = STORES[self.name]
        return TextKeyedStore(make(KEY_ID, bits), "key", KIND) if self.texts else make("key", bits)

    def hashes(self, pairs):
        if self.weak:
            return [len(self.key(key)) % 3 for key, _ in pairs]
        if self.texts:
            return key_hashes(pa.array([self.key(key) for key, _ in pairs], KIND)).tolist()
        return [key for key, _ in pairs]

    def key(self, number):
        return f"{number} " * (1 + number % 9)

    def batch(self, pairs):
        values = [value for _, value in pairs]
        numbers = pa.array(values, pa.int64())
        hashes = pa.array(self.hashes(pairs), pa.int64())
        texts = pa.array([self.key(key) for key, _ in pairs], KIND)
        columns = {
            "key": texts if self.texts else hashes,
            "v": numbers,
            SIDE: pa.array([value % 2 for value in values], pa.int64()),
            "l": numbers,
            "t": pa.array(["y" * (value * 30) for value in values], pa.string()),
        }
        return pa.record_batch({**columns, KEY_ID: hashes} if self.texts else columns)

    def content(self, store, bins):
        """What a checkpoint keeps of each bin, by the keys themselves."""
        found = {}
        for bin_id in bins:
            keys, values = store.stored_rows(np.array([bin_id]))
            assert len(set(keys.tolist())) == len(keys)
            found[bin_id] = dict(map(self.plain, keys.tolist(), map(bytes, values.tolist())))
            assert len(found[bin_id]) == len(keys)
        return found

    def plain(self, key, value):
        if self.texts:
            cells, value = split_text(value)
            form, first = RowFormat(pa.schema([("key", KIND)])), np.zeros(1, dtype=np.int64)
            key = form.decode(np.frombuffer(cells, dtype=np.int64), first)[0][0].as_py()
        return key, value[8:] if self.name in VERSIONED else value
