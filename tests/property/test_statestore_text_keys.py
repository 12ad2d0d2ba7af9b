"""State under text gives what state under numbers gives, with bins that move and are stored.

The hashes that F would send are replaced by few numbers, so that keys collide all the time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import StateCorrupt, UserFunctionError
from service.hashing import bins_of
from service.statestore.aggregate import AggregateProgram, Count, Max
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.columns import KEY_ID
from service.statestore.distinct import DistinctProgram
from service.statestore.join import SIDE, JoinProgram
from service.statestore.object_store import ObjectStore
from service.statestore.row_store import RowStore
from service.statestore.stateful_map import StatefulMap
from service.statestore.text_keys import TextKeys, key_hashes
from service.statestore.text_store import TextKeyedStore
from service.statestore.vertex_store import VertexStore

BITS = 1
TEXTS = st.text("ab€", max_size=9)
OUT = pa.schema([(KEY_ID, pa.int64()), ("l", pa.int64()), ("r", pa.int64())])


def second(state, value):
    """Forgets a key at every third row of it."""
    seen = (state or 0) + 1
    return (None if seen == 3 else seen), seen * 1_000 + value


def vertex_store(program):
    return VertexStore("v", program, BITS)


STORES = {
    "aggregate": lambda: vertex_store(
        AggregateProgram(KEY_ID, {"n": Count(), "top": Max("v")}, {"v": pa.int64()})
    ),
    "distinct": lambda: vertex_store(DistinctProgram(KEY_ID, ["key", "v"])),
    "join": lambda: RowStore("v", JoinProgram(KEY_ID, ["l"], ["r"], OUT), BITS),
    "map": lambda: ObjectStore(
        "v",
        StatefulMap("v", KEY_ID, second, "v", pa.schema([("out", pa.int64())])),
        BITS,
    ),
}


def batch_of(keys, values, ids):
    numbers = pa.array(values, pa.int64())
    return pa.record_batch(
        {
            "key": keys,
            "v": numbers,
            SIDE: pa.array([value % 2 for value in values], pa.int64()),
            "l": numbers,
            "r": numbers,
            KEY_ID: pa.array(ids, pa.int64()),
        }
    )


def weak(text):
    return len(text) % 3


def moved(source, target):
    for bin_id in range(1 << BITS):
        assembler = target.assembler(bin_id)
        for chunk in list(source.extract(bin_id, cut=7)):
            assembler.feed(chunk)
        source.delete(bin_id)
        target.install(bin_id, assembler)
    assert source.row_count == 0
    return target


def stored(source, target):
    with tempfile.TemporaryDirectory() as folder:
        files = write_checkpoint(Path(folder), 9, {"v": source}, range(1 << BITS))
        read_checkpoint(Path(folder), files, {"v": target})
    return target


@settings(deadline=None)
@given(
    st.sampled_from(list(STORES)),
    st.booleans(),
    st.lists(
        st.tuples(
            st.lists(st.tuples(TEXTS, st.integers(0, 99))),
            st.sampled_from([moved, stored, None]),
        ),
        max_size=5,
    ),
)
def test_keys_that_are_text_give_what_numbers_give(name, collide, batches):
    kind = pa.string()
    store, plain = TextKeyedStore(STORES[name](), "key", kind), STORES[name]()
    numbers = {}
    for rows, step in batches:
        for text, _ in rows:
            numbers.setdefault(text, len(numbers))
        keys = pa.array([text for text, _ in rows], kind)
        values = [value for _, value in rows]
        hashes = [weak(text) for text, _ in rows] if collide else key_hashes(keys)
        found = store.apply_rows(batch_of(keys, values, hashes), (1,))
        expected = plain.apply_rows(batch_of(keys, values, [numbers[t] for t, _ in rows]), (1,))
        place = expected.schema.get_field_index(KEY_ID)
        if place >= 0:
            texts = pa.array([list(numbers)[n] for n in expected[KEY_ID].to_pylist()], kind)
            expected = expected.set_column(place, "key", texts)
        assert found.to_pydict() == expected.to_pydict()
        assert found.schema.names == expected.schema.names
        assert store.row_count == plain.row_count
        if step is not None:
            store = step(store, TextKeyedStore(STORES[name](), "key", kind))
    assert sum(store.rows_per_bin()) == store.row_count


@given(st.lists(st.lists(TEXTS)), st.sampled_from([pa.string(), pa.binary(), pa.large_string()]))
def test_a_key_has_one_id_in_the_bin_of_its_hash(batches, kind):
    table = TextKeys(BITS, kind)
    given_ids = {}
    for texts in batches:
        keys = pa.array(texts, pa.string()).cast(kind)
        hashes = np.array([weak(text) for text in texts], dtype=np.int64)
        ids = table.resolve(keys, hashes)
        for text, number in zip(texts, ids.tolist(), strict=True):
            assert given_ids.setdefault(text, number) == number
        assert bins_of(ids, BITS).tolist() == bins_of(hashes, BITS).tolist()
        assert table.texts(ids).equals(keys)
        # What a bin takes along is all that its new owner needs.
        other = TextKeys(BITS, kind)
        for bin_id in range(1 << BITS):
            other.install(bin_id, other.unpack(bin_id, table.pack(bin_id)))
        table = other
    assert len(set(given_ids.values())) == len(given_ids)


def test_equal_texts_have_equal_hashes_in_every_type():
    texts = ["", "a", "eight by", "eight bytes and more", "€" * 9]
    kinds = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    first, *others = (key_hashes(pa.array(texts).cast(kind)).tolist() for kind in kinds)
    assert all(other == first for other in others)
    assert len(set(first)) == len(texts)
    assert key_hashes(pa.array(["x", *texts]).slice(1)).tolist() == first
    assert first == [_hash(text.encode()) for text in texts]


def _mix(number):
    number = (number + 0x9E3779B97F4A7C15) % 2**64
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
    return number ^ number >> 31


def _hash(text):
    """The hash as it is written down: it says bins, so it is the same for ever (H1)."""
    hashed = _mix(len(text))
    for start in range(0, len(text), 8):
        hashed = _mix(hashed ^ int.from_bytes(text[start : start + 8], "little"))
    return hashed - 2**64 if hashed >= 2**63 else hashed


def test_keys_whose_state_is_forgotten_are_forgotten():
    store = TextKeyedStore(STORES["map"](), "key", pa.string())
    keys = pa.array([f"key {number}" for number in range(1_000)])
    for _ in range(3):
        store.apply_rows(batch_of(keys, [1] * 1_000, key_hashes(keys)), (1,))
    assert (store.row_count, store.keys.table.key_count, store.keys.table.nbytes) == (0, 0, 0)


def test_a_function_that_raises_is_told_with_the_key_itself():
    def fails(_state, value):
        return 1 // value, 1

    inner = ObjectStore(
        "v", StatefulMap("v", KEY_ID, fails, "v", pa.schema([("o", pa.int64())])), 1
    )
    store = TextKeyedStore(inner, "key", pa.string())
    keys = pa.array(["good", "bad"])
    with pytest.raises(UserFunctionError, match="ZeroDivisionError for key 'bad'"):
        store.apply_rows(batch_of(keys, [1, 0], key_hashes(keys)), (1,))


def test_damaged_keys_are_refused_and_leave_the_bin_as_it_was():
    keys = pa.array([f"key {number}" for number in range(50)])
    table = TextKeys(BITS, pa.string())
    table.resolve(keys, key_hashes(keys))
    packed = table.pack(1)
    for wrong, text in (
        (b"", "lacks its keys"),
        (packed[:-8], "have .* bytes"),
        (packed[:16] + packed[16:24] * 2 + packed[32:], "comes twice"),
    ):
        with pytest.raises(StateCorrupt, match=text):
            table.install(1, table.unpack(1, wrong))
    assert table.pack(1) == packed
    store = TextKeyedStore(STORES["aggregate"](), "key", pa.string())
    store.apply_rows(batch_of(keys, [1] * 50, key_hashes(keys)), (1,))
    ids, values = store.stored_rows(np.arange(2))
    for wrong in (b"", values[0][:-1], b"\xff" * 8 + values[0][8:]):
        with pytest.raises(StateCorrupt):
            TextKeyedStore(STORES["aggregate"](), "key", pa.string()).load_rows(ids[:1], [wrong])
