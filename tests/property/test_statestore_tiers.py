"""A table with a budget against a dictionary, over random runs of all its operations.

The budget is far below what a few rows take, so that rows leave before nearly every batch and come
back with the next one. The model knows nothing of memory and disk: whatever a table without a
budget gives, this one has to give. Checkpoints are written and read in between.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.hashing import bins_of
from service.statestore.aggregate import AggregateProgram, Count, Sum
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.columns import Rows
from service.statestore.slot_database import SlotDatabase
from service.statestore.tiers import back_stores, read_tiered, write_tiered
from service.statestore.vertex_store import VertexStore

KEYS = st.lists(
    st.one_of(st.integers(-60, 60), st.integers(-(2**63), 2**63 - 1)), min_size=0, max_size=120
)
PROGRAMS = {
    "a": AggregateProgram("k", {"n": Count(), "sum": Sum("v")}, {"v": "int64"}),
    "b": AggregateProgram("k", {"n": Count()}, {}),
}


class TieredAgainstDictionary(RuleBasedStateMachine):
    """`rows` is the model: key -> [version, n, sum] of vertex "a"; "b" counts the same keys."""

    @initialize(bin_bits=st.integers(0, 4), budget=st.sampled_from([0, 2_000, 20_000]))
    def make(self, bin_bits, budget):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.bin_bits, self.budget = bin_bits, budget
        self.databases = 0
        self.rows, self.counts, self.version = {}, {}, 0
        self.slot, self.stores = self.fresh()

    def fresh(self, budget=None):
        self.databases += 1
        stores = {name: VertexStore(name, each, self.bin_bits) for name, each in PROGRAMS.items()}
        slot = SlotDatabase(self.path / f"live-{self.databases}", budget or self.budget)
        back_stores(stores, slot)
        return slot, stores

    def teardown(self):
        if hasattr(self, "slot"):
            self.slot.close()
            self.folder.cleanup()

    @property
    def table(self):
        return self.stores["a"].table

    def array(self, keys):
        return np.array(keys, dtype=np.int64)

    def bin(self, key):
        return int(bins_of(self.array([key]), self.bin_bits)[0])

    @rule(keys=KEYS)
    def change(self, keys):
        self.version += 1
        values = self.array([key >> 40 for key in keys])
        for name in ("a", "b"):
            self.stores[name].apply(self.array(keys), {"v": values}, self.version)
        for key, value in zip(keys, values.tolist()):
            _, n, total = self.rows.get(key, (0, 0, 0))
            self.rows[key] = (self.version, n + 1, total + value)
            self.counts[key] = self.counts.get(key, 0) + 1

    @rule(keys=KEYS)
    def touch_and_undo(self, keys):
        touched = self.table.touch(self.array(keys))
        assert touched.state[0].tolist() == [
            self.rows.get(key, (0, 0, 0))[1] for key in dict.fromkeys(keys)
        ]
        touched.state[:] = -1
        self.table.restore(touched)
        for key in keys:
            self.rows.setdefault(key, (0, 0, 0))

    @rule(keys=KEYS)
    def look_up(self, keys):
        slots = self.table.lookup(self.array(keys))
        assert [slot >= 0 for slot in slots.tolist()] == [key in self.rows for key in keys]
        there = slots[slots >= 0]
        assert self.table.column("n")[there].tolist() == [
            self.rows[key][1] for key in keys if key in self.rows
        ]

    @rule(keys=KEYS, part=st.integers(0, 12))
    def remove(self, keys, part):
        keys = [*keys, *(key for key in self.rows if key % 13 == part)]
        there = {key for key in keys if key in self.rows}
        assert self.table.remove(self.array(keys)) == len(there)
        for key in there:
            del self.rows[key]

    @rule(choice=st.integers(0, 15))
    def delete(self, choice):
        bin_id = choice % self.table.bins
        self.table.delete(bin_id)
        self.rows = {key: row for key, row in self.rows.items() if self.bin(key) != bin_id}

    @rule(choice=st.integers(0, 15), keys=KEYS)
    def install(self, choice, keys):
        bin_id = choice % self.table.bins
        keys = [key for key in dict.fromkeys(keys) if self.bin(key) == bin_id]
        columns = {"n": self.array(keys) >> 1, "sum": self.array(keys) >> 2}
        versions = np.full(len(keys), self.version)
        self.table.install(bin_id, Rows(self.array(keys), versions, columns))
        self.rows = {key: row for key, row in self.rows.items() if self.bin(key) != bin_id}
        self.rows |= {key: (self.version, key >> 1, key >> 2) for key in keys}

    @rule(choice=st.integers(0, 15), before=st.integers(0, 5))
    def extract(self, choice, before):
        since, bin_id = max(self.version - before, 0), choice % self.table.bins
        found = self.table.extract(bin_id, since)
        assert self.as_dictionary(found) == {
            key: row
            for key, row in self.rows.items()
            if self.bin(key) == bin_id and (since == 0 or row[0] > since)
        }

    @rule(again=st.booleans())
    def write_a_checkpoint_and_go_on_from_it(self, again):
        for _ in range(1 + again):
            files = write_tiered(self.path, 7, self.stores, range(self.table.bins), self.slot)
        self.slot.close()
        self.slot, self.stores = self.fresh()
        read_tiered(self.path, files, self.stores, self.slot)

    @rule()
    def a_worker_without_a_budget_reads_what_one_with_a_budget_wrote_and_back(self):
        files = write_tiered(self.path, 8, self.stores, range(self.table.bins), self.slot)
        plain = {name: VertexStore(name, each, self.bin_bits) for name, each in PROGRAMS.items()}
        read_checkpoint(self.path, files, plain)
        everything = plain["a"].table.extract_bins(np.arange(self.table.bins))
        assert self.as_dictionary(everything) == self.rows
        files = write_checkpoint(self.path, 9, plain, range(self.table.bins))
        self.slot.close()
        self.slot, self.stores = self.fresh()
        read_tiered(self.path, files, self.stores, self.slot)

    def as_dictionary(self, rows):
        columns = (column.tolist() for column in rows.columns.values())
        found = dict(zip(rows.keys.tolist(), zip(rows.versions.tolist(), *columns)))
        assert len(found) == len(rows)
        return found

    @invariant()
    def the_counts_agree(self):
        if hasattr(self, "slot"):
            assert self.table.row_count == len(self.rows)
            per_bin = np.bincount(
                bins_of(self.array(list(self.rows)), self.bin_bits), minlength=self.table.bins
            )
            assert self.table.rows_per_bin().tolist() == per_bin.tolist()
            assert self.stores["b"].row_count == len(self.counts)

    @rule()
    def the_other_vertex_is_as_it_should_be(self):
        rows = self.stores["b"].table.extract_bins(np.arange(self.table.bins))
        assert dict(zip(rows.keys.tolist(), rows.columns["n"].tolist())) == self.counts


TestTieredAgainstDictionary = TieredAgainstDictionary.TestCase
TestTieredAgainstDictionary.settings = settings(max_examples=40, stateful_step_count=25)
