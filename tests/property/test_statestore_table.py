"""The arena table against a dictionary, over random runs of all its operations.

An oracle: the model shares no code with the table. Keys come from a small range, so that they
repeat, collide and fill bins; bins are few, so that regions double, move and are given back often.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.hashing import bins_of
from service.statestore.arena import KeyedTable
from service.statestore.columns import ColumnSpec, Rows

COLUMNS = (ColumnSpec("n", "int64", 3), ColumnSpec("x", "float64", 0.5))
KEYS = st.lists(
    st.one_of(st.integers(-60, 60), st.integers(-(2**63), 2**63 - 1)), min_size=0, max_size=120
)
EPOCHS = st.integers(0, 20)


class TableAgainstDictionary(RuleBasedStateMachine):
    """`rows` is the model: key -> [version, n, x]."""

    @initialize(bin_bits=st.integers(0, 5))
    def make(self, bin_bits):
        self.table = KeyedTable(bin_bits, COLUMNS)
        self.rows = {}

    def array(self, keys):
        return np.array(keys, dtype=np.int64)

    def bin(self, key):
        return int(bins_of(self.array([key]), self.table.bin_bits)[0])

    @rule(keys=KEYS, epoch=EPOCHS)
    def change(self, keys, epoch):
        touched = self.table.touch(self.array(keys))
        distinct = list(dict.fromkeys(keys))
        assert touched.keys.tolist() == distinct
        assert [distinct[p] for p in touched.positions] == keys
        for key in distinct:
            self.rows.setdefault(key, [0, 3, 0.5])
        assert touched.state[0].tolist() == [self.rows[key][1] for key in distinct]
        touched.state[0] += 1
        touched.state[1].view(np.float64)[:] *= 2
        self.table.store(touched, epoch)
        for key in distinct:
            _, n, x = self.rows[key]
            self.rows[key] = [epoch, n + 1, x * 2]

    @rule(keys=KEYS)
    def touch_and_undo(self, keys):
        touched = self.table.touch(self.array(keys))
        touched.state[:] = -1
        self.table.restore(touched)
        for key in keys:
            self.rows.setdefault(key, [0, 3, 0.5])

    @rule(keys=KEYS, epoch=EPOCHS)
    def write_through_slots(self, keys, epoch):
        slots = self.table.upsert(self.array(keys))
        self.table.column("n")[slots] = self.array(keys) >> 1
        self.table.mark_changed(slots, epoch)
        for key in keys:
            x = self.rows.setdefault(key, [0, 3, 0.5])[2]
            self.rows[key] = [epoch, key >> 1, x]

    @rule(keys=KEYS)
    def remove(self, keys):
        there = {key for key in keys if key in self.rows}
        assert self.table.remove(self.array(keys)) == len(there)
        for key in there:
            del self.rows[key]

    @rule(part=st.integers(0, 12), seed=st.integers(0, 3))
    def remove_most(self, part, seed):
        keys = [key for key in self.rows if (key ^ seed) % 13 != part]
        assert self.table.remove(self.array(keys)) == len(keys)
        self.rows = {key: row for key, row in self.rows.items() if key not in set(keys)}

    @rule(choice=st.integers(0, 31))
    def delete(self, choice):
        bin_id = choice % self.table.bins
        self.table.delete(bin_id)
        self.rows = {key: row for key, row in self.rows.items() if self.bin(key) != bin_id}

    @rule(choice=st.integers(0, 31), keys=KEYS, epoch=EPOCHS)
    def install(self, choice, keys, epoch):
        bin_id = choice % self.table.bins
        keys = [key for key in dict.fromkeys(keys) if self.bin(key) == bin_id]
        columns = {"n": self.array(keys) >> 1, "x": self.array(keys) / 2}
        self.table.install(bin_id, Rows(self.array(keys), np.full(len(keys), epoch), columns))
        self.rows = {key: row for key, row in self.rows.items() if self.bin(key) != bin_id}
        self.rows |= {key: [epoch, key >> 1, key / 2] for key in keys}

    @rule(since=EPOCHS, choice=st.integers(0, 31))
    def extract(self, since, choice):
        bin_id = choice % self.table.bins
        found = self.table.extract(bin_id, since)
        expected = {
            key: row
            for key, row in self.rows.items()
            if self.bin(key) == bin_id and (since == 0 or row[0] > since)
        }
        assert len(found) == len(expected)
        rows = zip(found.versions.tolist(), *(c.tolist() for c in found.columns.values()))
        assert {k: list(r) for k, r in zip(found.keys.tolist(), rows)} == expected

    @rule(keys=KEYS)
    def look_up(self, keys):
        slots = self.table.lookup(self.array(keys))
        assert [slot >= 0 for slot in slots.tolist()] == [key in self.rows for key in keys]
        present = slots >= 0
        assert self.table.column("x")[slots[present]].tolist() == [
            self.rows[key][2] for key in keys if key in self.rows
        ]

    @invariant()
    def the_counts_agree(self):
        assert self.table.row_count == len(self.rows)
        assert (self.table.nbytes == 0) or self.rows
        regions = sum(self.table.bin_nbytes(b) for b in range(self.table.bins))
        assert regions == self.table.nbytes
        for bin_id in range(self.table.bins):
            # The smallest region has 8 slots of 32 bytes; others are never almost empty.
            slots = self.table.bin_nbytes(bin_id) // 32
            assert slots <= max(8, 32 * self.table.rows(bin_id) + 8)


TestTableAgainstDictionary = TableAgainstDictionary.TestCase
