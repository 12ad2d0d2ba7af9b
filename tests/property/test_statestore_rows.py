"""Typed rows: what is read is what was written, against lists in a dict, through moves and growth.

The machine changes a table and a model by the same calls; after each the table must hold what the
model holds, bin by bin, in order.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.hashing import bins_of
from service.statestore.row_format import RowFormat
from service.statestore.row_table import RowTable
from tests.fakes.typed_rows import arrays_of, schemas

BITS = 2
RESERVED = 1 << 26


@given(st.data(), schemas(), st.integers(0, 20))
def test_what_is_decoded_is_what_was_encoded(data, schema, rows):
    arrays = data.draw(arrays_of(schema, rows))
    form = RowFormat(schema)
    records = form.encode(arrays, rows)
    order = data.draw(st.lists(st.integers(0, rows - 1))) if rows else []
    addresses = records.bounds[np.array(order, dtype=np.int64)]
    decoded = form.decode(records.cells, addresses)
    assert len(records) == rows
    for given_array, array in zip(arrays, decoded, strict=True):
        array.validate(full=True)
        assert array.type == given_array.type
        assert array.to_pylist() == given_array.take(pa.array(order, pa.int64())).to_pylist()


FORMS = (
    RowFormat(pa.schema([("n", pa.int32()), ("text", pa.string()), ("flag", pa.bool_())])),
    RowFormat(pa.schema([("pair", pa.list_(pa.float64(), 2)), ("raw", pa.binary())])),
)
ROWS = (
    st.tuples(
        st.none() | st.integers(-9, 9), st.none() | st.text("abc", max_size=30), st.booleans()
    ),
    st.tuples(st.none() | st.tuples(st.just(0.5), st.none()).map(list), st.binary(max_size=30)),
)
KEYS = st.integers(-6, 6)
BATCH = st.integers(0, 1).flatmap(
    lambda group: st.tuples(
        st.just(group), st.lists(st.tuples(KEYS, ROWS[group]), min_size=1, max_size=30)
    )
)


def records_of(group, rows):
    schema = FORMS[group].schema
    columns = [
        pa.array([row[place] for row in rows], field.type) for place, field in enumerate(schema)
    ]
    return FORMS[group].encode(columns, len(rows))


def int64s(values):
    return np.array(values, dtype=np.int64)


class Rows(RuleBasedStateMachine):
    """A table of two groups of rows, beside a dict of lists."""

    def __init__(self):
        super().__init__()
        self.table = RowTable(BITS, FORMS, reserved_bytes=RESERVED)
        self.model = {}
        self.version = 0

    def change(self, method, batch, apply):
        group, rows = batch
        self.version += 1
        keys = int64s([key for key, _ in rows])
        getattr(self.table, method)(
            keys, records_of(group, [row for _, row in rows]), self.version, group
        )
        for key, row in rows:
            apply(self.model.setdefault((group, key), []), row)

    @rule(batch=BATCH)
    def add(self, batch):
        self.change("add", batch, list.append)

    @rule(rows=st.lists(st.tuples(KEYS, *ROWS), min_size=1, max_size=20))
    def add_each(self, rows):
        self.version += 1
        keys, *groups = zip(*rows)
        records = [records_of(group, each) for group, each in enumerate(groups)]
        self.table.add_each(int64s(keys), records, self.version)
        for key, *each in rows:
            for group, row in enumerate(each):
                self.model.setdefault((group, key), []).append(row)

    @rule(batch=BATCH)
    def put(self, batch):
        def replace(kept, row):
            kept[:] = [row]

        self.change("put", batch, replace)

    @rule(batch=BATCH)
    def put_absent(self, batch):
        def keep(kept, row):
            if not kept:
                kept.append(row)

        self.change("put_absent", batch, keep)

    @rule(
        keys=st.lists(KEYS, unique=True),
        groups=st.sampled_from([(0,), (1,), (0, 1), (1, 0)]),
        data=st.data(),
    )
    def retain(self, keys, groups, data):
        self.version += 1
        chosen, kept = [], {}
        for group in groups:
            found = self.table.find(int64s(keys), group)
            keep = data.draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
            chosen.append((found, np.array(keep, dtype=np.bool_)))
            kept[group] = iter(keep)
        if len(chosen) == 1:
            self.table.retain(*chosen[0], self.version)
        else:
            self.table.retain_each(chosen, self.version)
        for group in groups:
            for key in keys:
                rows = self.model.get((group, key), [])
                rows[:] = [row for row in rows if next(kept[group])]

    @rule(keys=st.lists(KEYS, unique=True))
    def remove(self, keys):
        self.version += 1
        self.table.remove(int64s(keys), self.version)
        for key in keys:
            for group in range(2):
                self.model.pop((group, key), None)

    @rule(bin_id=st.integers(0, 2**BITS - 1))
    def move_to_another_table_and_back(self, bin_id):
        moved = self.table.extract(int64s([bin_id]))
        other = RowTable(BITS, FORMS, reserved_bytes=RESERVED)
        other.install(bin_id, moved)
        self.table.delete(bin_id)
        assert self.table.keys(bin_id) == 0
        assert self.table.bin_nbytes(bin_id) == 0
        self.table.install(bin_id, other.extract(int64s([bin_id])))

    @rule()
    def store_and_load(self):
        rows = self.table.extract(np.arange(2**BITS))
        self.table.clear()
        assert self.table.nbytes == 0
        self.table.append(rows)

    @invariant()
    def holds_what_the_model_holds(self):
        keys = list(range(-6, 7))
        for group in range(2):
            found = self.table.find(int64s(keys), group)
            arrays = self.table.read(group, found.addresses)
            rows = list(zip(*(array.to_pylist() for array in arrays), strict=True))
            expected = [row for key in keys for row in self.model.get((group, key), [])]
            assert rows == expected
            counts = [len(self.model.get((group, key), [])) for key in keys]
            assert found.positions.tolist() == np.repeat(range(len(keys)), counts).tolist()

    @invariant()
    def counts_keys_with_rows(self):
        live = {key for (_, key), rows in self.model.items() if rows}
        bins = bins_of(int64s(sorted(live)), BITS)
        expected = np.bincount(bins, minlength=2**BITS)
        assert self.table.keys_per_bin().tolist() == expected.tolist()
        assert self.table.key_count == len(live)
        extracted = self.table.extract(np.arange(2**BITS))
        assert sorted(extracted.keys.tolist()) == sorted(live)


TestRows = Rows.TestCase
TestRows.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(
    st.lists(st.tuples(st.integers(0, 1), KEYS, st.integers(0, 99))), st.lists(st.integers(0, 40))
)
def test_rows_meet_those_of_the_other_side_that_came_before(rows, cuts):
    form = RowFormat(pa.schema([("n", pa.int64())]))
    table = RowTable(BITS, (form, form), reserved_bytes=RESERVED)
    found, expected = [], []
    seen = {}
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    for start, end in pairwise(bounds):
        batch = rows[start:end]
        sides = tuple(
            form.encode(
                [pa.array([n for s, _, n in batch if s == side], pa.int64())],
                sum(s == side for s, _, _ in batch),
            )
            for side in range(2)
        )
        keys, groups = int64s([key for _, key, _ in batch]), int64s([side for side, _, _ in batch])
        pairs = table.meet(keys, groups, sides, 1)
        added, met = (table.read(0, each)[0].to_pylist() for each in (pairs.added, pairs.met))
        found += [(rows[start + row], a, m) for row, a, m in zip(pairs.rows, added, met)]
    for row in rows:
        side, key, n = row
        expected += [(row, n, other) for other in seen.get((1 - side, key), [])]
        seen.setdefault((side, key), []).append(n)
    assert found == expected
