"""Tables of typed rows: memory that follows the rows, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pytest

from service.errors import FormatMismatch, StateCorrupt, StateError, UsageError
from service.hashing import bins_of
from service.statestore.chunk import BinAssembler
from service.statestore.join import SIDE, JoinProgram
from service.statestore.row_format import RowFormat, is_typed
from service.statestore.row_heap import Extracted
from service.statestore.row_store import RowStore
from service.statestore.row_table import RowTable

BITS = 2
TEXTS = RowFormat(pa.schema([("n", pa.int64()), ("text", pa.string())]))
OUT = pa.schema([("k", pa.int64()), ("n", pa.int32()), ("text", pa.string())])
NAMES = ["join.0.n"], ["join.1.text"]


def encoded(numbers, texts):
    return TEXTS.encode([pa.array(numbers, pa.int64()), pa.array(texts, pa.string())], len(texts))


def table_of(keys, length=20):
    table = RowTable(BITS, [TEXTS], reserved_bytes=1 << 28)
    table.add(keys, encoded(keys, ["x" * length] * len(keys)), 1)
    return table


def test_rows_that_go_give_their_memory_back():
    keys = np.arange(20_000)
    table = table_of(keys)
    whole = table.nbytes
    found = table.find(keys)
    table.retain(found, np.arange(20_000) % 100 == 0, 2)
    assert table.key_count == 200
    assert 0 < table.nbytes <= whole // 16
    assert table.read(0, table.find(np.array([500])).addresses)[1].to_pylist() == ["x" * 20]
    table.remove(keys[::100], 3)
    assert table.nbytes == 0


def test_rows_that_are_put_again_and_again_take_no_memory_for_ever():
    keys = np.arange(1_000)
    table = table_of(keys)
    once = table.nbytes
    for turn in range(200):
        table.put(keys, encoded(keys, ["y" * (turn % 40)] * 1_000), turn)
    assert table.nbytes <= 8 * once
    assert table.read(0, table.find(keys).addresses)[1].to_pylist() == ["y" * 39] * 1_000


def test_a_row_of_the_same_size_is_put_in_the_place_of_the_one_before():
    keys = np.arange(1_000)
    table = table_of(keys)
    # Room is made for all of them before it is known that none is needed.
    table.put(keys, encoded(keys, ["y" * 20] * 1_000), 1)
    before = table.find(keys).addresses.tolist()
    table.put(keys, encoded(keys + 1, ["z" * 20] * 1_000), 2)
    assert table.find(keys).addresses.tolist() == before
    assert table.read(0, table.find(keys).addresses)[0].to_pylist() == (keys + 1).tolist()


def test_beyond_the_address_space_nothing_is_added():
    keys = np.arange(100)
    table = RowTable(0, [TEXTS], reserved_bytes=1 << 16)
    table.add(keys, encoded(keys, ["a"] * 100), 1)
    with pytest.raises(StateError, match="address space .* is used up"):
        table.add(keys, encoded(keys, ["a" * 1_000] * 100), 2)
    found = table.find(keys)
    assert found.positions.tolist() == keys.tolist()
    assert table.read(0, found.addresses)[1].to_pylist() == ["a"] * 100


def test_a_row_too_large_is_refused():
    with pytest.raises(StateError, match="a row to keep has .* bytes, more than 134217720"):
        encoded([1], ["a" * (1 << 27)])


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int64()),
        pa.struct([("a", pa.int64())]),
        pa.null(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.int8(), 0),
    ],
)
def test_types_that_rows_do_not_take_are_refused(kind):
    assert not is_typed(kind)
    with pytest.raises(UsageError, match="column 'c' of type .* cannot be kept as typed state"):
        RowFormat(pa.schema([("c", kind)]))


def changed(rows, **lines):
    values = {name: getattr(rows, name).copy() for name in ("keys", "versions", "counts", "ends")}
    values["cells"] = rows.cells.copy()
    for name, change in lines.items():
        change(values[name])
    return Extracted(**values)


def set_at(place, value):
    def change(array):
        array.reshape(-1)[place] = value

    return change


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ({"cells": set_at(0, 3)}, "not whole"),
        ({"cells": set_at(0, 1 << 40)}, "not whole"),
        ({"cells": set_at(0, -1)}, "not whole"),
        ({"cells": set_at(3, 5 << 32 | 1 << 20)}, "not whole"),
        ({"cells": set_at(3, 1 << 40 | 20)}, "not whole"),
        ({"cells": set_at(3, 0 << 32 | 20)}, "not whole"),
        ({"counts": set_at(0, 2)}, "not whole"),
        ({"counts": set_at(0, 0)}, "not whole"),
        ({"counts": set_at(0, -1)}, "not whole"),
        ({"ends": set_at(0, -8)}, "not whole"),
        ({"ends": set_at(1, 1 << 40)}, "not whole"),
        ({"ends": set_at(-1, 1)}, "not whole"),
        ({"versions": set_at(0, -1)}, "negative version"),
        ({"keys": set_at(0, -12345)}, "another bin|comes twice"),
    ],
)
def test_rows_from_outside_that_are_not_whole_are_refused_and_change_nothing(lines, text):
    keys = np.arange(50)
    keys = keys[bins_of(keys, BITS) == 1]
    source, target = table_of(keys), table_of(keys[:3], length=5)
    before = target.extract(np.array([1]))
    rows = source.extract(np.array([1]))
    if "keys" in lines and bins_of(np.array([-12345]), BITS)[0] == 1:
        rows.keys[1] = -12345
    with pytest.raises(StateCorrupt, match=text):
        target.install(1, changed(rows, **lines))
    after = target.extract(np.array([1]))
    for name in ("keys", "versions", "counts", "ends", "cells"):
        assert getattr(after, name).tolist() == getattr(before, name).tolist()
    target.install(1, rows)
    assert target.key_count == len(keys)


def tagged(rows):
    arrays = [
        pa.array([row[0] for row in rows], pa.int64()),
        pa.array([row[1] for row in rows], pa.int64()),
        pa.array([None if row[1] else row[2] for row in rows], pa.int32()),
        pa.array([row[2] if row[1] else None for row in rows], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(arrays, names=["k", SIDE, "join.0.n", "join.1.text"])


def store_of(out=OUT, vertex="j", bits=BITS):
    return RowStore(vertex, JoinProgram("k", *NAMES, out), bits)


def assembled(store, bin_id, since=0):
    assembler = BinAssembler(bin_id)
    for chunk in store.extract(bin_id, since, cut=5):
        assembler.feed(chunk)
    return assembler


def test_state_of_another_vertex_number_of_bins_or_columns_is_refused():
    wide = pa.schema([("k", pa.int64()), ("n", pa.int64()), ("text", pa.string())])
    rows = tagged([(key, key % 2, str(key) if key % 2 else key) for key in range(20)])
    store = store_of()
    store.apply_rows(rows, (1,))
    for other, text in (
        (store_of(vertex="other"), "has vertex j, other is needed"),
        (store_of(bits=3), "has bins 4, 8 is needed"),
        (store_of(out=wide), "has rows 0.join.0.n: row of int32; .* is needed"),
    ):
        with pytest.raises(FormatMismatch, match=text):
            other.install(1, assembled(store, 1))
    mark = store.change_mark()
    store.apply_rows(rows.slice(0, 3), (1,))
    with pytest.raises(FormatMismatch, match=f"has since {mark}, 0 is needed"):
        store_of().install(1, assembled(store, 1, since=mark))
    with pytest.raises(StateCorrupt, match="state of bin 1 came for bin 2"):
        store_of().install(2, assembled(store, 1))


def test_only_keys_changed_since_a_mark_are_extracted():
    store = store_of()
    store.apply_rows(tagged([(key, 0, key) for key in range(40)]), (1,))
    mark = store.change_mark()
    store.apply_rows(tagged([(7, 1, "seven"), (8, 1, "eight")]), (2,))
    found = [store.table.extract(np.array([bin_id]), mark) for bin_id in range(4)]
    assert sorted(key for rows in found for key in rows.keys.tolist()) == [7, 8]
    assert [rows.counts.tolist() for rows in found if len(rows) == 1] in (
        [[[1], [1]], [[1], [1]]],
        [],
    )


def test_stored_values_that_are_not_whole_are_refused():
    store = store_of()
    store.apply_rows(tagged([(1, 0, 5), (1, 1, "one")]), (1,))
    keys, values = store.stored_rows(np.arange(4))
    assert keys.tolist() == [1]
    assert struct.unpack_from("<qqq", values[0]) == (1, 1, 1)
    for wrong in (values[0][:-1], values[0][:8], values[0][:-8], values[0] + bytes(8)):
        with pytest.raises(StateCorrupt):
            store_of().load_rows(keys, [wrong])
    again = store_of()
    again.load_rows(keys, values.tolist())
    with pytest.raises(StateCorrupt, match="key 1 comes twice"):
        again.load_rows(keys, values.tolist())
    assert again.change_mark() == store.change_mark()
