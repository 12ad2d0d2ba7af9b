"""Stores of every kind under a budget give what the same stores give without one.

Two workers share the bins, each with a database and a budget far below what a few rows take, so
that rows leave before nearly every batch, or one that holds all, and rows leave at will. Batches,
moves of every kind, deletions and checkpoints come in any order; a store without a budget that has
all bins is the model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.hashing import bins_of
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.frozen import Freezing
from service.statestore.slot_database import SlotDatabase
from service.statestore.tiers import back_stores, read_tiered, write_tiered
from tests.fakes.kinds import STORES, Kind

#: (key, value); a value of 0 makes a map forget the key.
BATCHES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=60)
BINS = st.integers(0, 7)


class Worker:
    """A store and its database."""

    def __init__(self, path, kind, bits, budget):
        self.store = kind.build(bits)
        self.database = SlotDatabase(path, budget)
        back_stores({"v": self.store}, self.database)


class ColdAgainstMemory(RuleBasedStateMachine):
    """`owner[bin]` is the worker that has it; `model` has all bins."""

    @initialize(
        name=st.sampled_from(sorted(STORES)),
        texts=st.booleans(),
        weak=st.booleans(),
        bits=st.integers(0, 3),
        budget=st.sampled_from([0, 8_000, 1 << 22]),
    )
    def make(self, name, texts, weak, bits, budget):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.kind = Kind(name, texts=texts, weak=texts and weak)
        self.bits, self.budget = bits, budget
        self.made = self.copies = 0
        self.workers = [self.fresh(), self.fresh()]
        self.owner = [bin_id % 2 for bin_id in range(1 << bits)]
        #: Bin -> number of its copy under way.
        self.copied = {}
        self.model = self.kind.build(bits)

    def teardown(self):
        if hasattr(self, "folder"):
            for worker in self.workers:
                worker.database.close()
            self.folder.cleanup()

    def fresh(self):
        self.made += 1
        return Worker(self.path / f"live-{self.made}", self.kind, self.bits, self.budget)

    def owned(self, number):
        return [bin_id for bin_id, owner in enumerate(self.owner) if owner == number]

    @rule(pairs=BATCHES)
    def change(self, pairs):
        self.apply(pairs)

    def apply(self, pairs):
        expected = self.model.apply_rows(self.kind.batch(pairs), (1,)).to_pylist()
        found = []
        hashes = np.array(self.kind.hashes(pairs), dtype=np.int64)
        bins = bins_of(hashes, self.bits).tolist()
        for number, worker in enumerate(self.workers):
            own = [pair for pair, each in zip(pairs, bins) if self.owner[each] == number]
            found += worker.store.apply_rows(self.kind.batch(own), (1,)).to_pylist()
        assert sorted(map(repr, found)) == sorted(map(repr, expected))

    @rule(pairs=BATCHES, number=st.integers(0, 1), nbytes=st.integers(1, 6_000))
    def let_some_go_between_batches(self, pairs, number, nbytes):
        self.apply(pairs)
        self.workers[number].store.tier.shrink(nbytes)
        self.apply(pairs[::2])

    @rule(choice=BINS)
    def begin_a_copy(self, choice):
        bin_id = choice % len(self.owner)
        if bin_id not in self.copied:
            self.copies += 1
            self.copied[bin_id] = self.copies
            self.workers[self.owner[bin_id]].store.copier.begin(bin_id)

    @rule(choice=BINS, nbytes=st.integers(1, 900), again=st.booleans())
    def tell_of_a_copy(self, choice, nbytes, again):
        for bin_id, number in self.copied.items():
            copier = self.workers[self.owner[bin_id]].store.copier
            if again:
                copier.next_round(bin_id)
            if piece := copier.next_piece(bin_id, nbytes):
                self.workers[1 - self.owner[bin_id]].store.copier.stage(bin_id, number, piece)

    @rule(choice=BINS, gives_up=st.booleans())
    def move(self, choice, gives_up):
        bin_id = choice % len(self.owner)
        source = self.workers[self.owner[bin_id]].store
        target = self.workers[1 - self.owner[bin_id]].store
        number = self.copied.pop(bin_id, None)
        if number is not None:
            chunks = source.copier.leave(bin_id, number, 7)
        else:
            chunks = (source.give_up if gives_up else source.extract)(bin_id, cut=7)
        assembler = target.assembler(bin_id)
        for chunk in chunks:
            assembler.feed(chunk)
        if number is None and not gives_up:
            source.delete(bin_id)
        target.install(bin_id, assembler)
        self.owner[bin_id] = 1 - self.owner[bin_id]
        assert source.rows(bin_id) == 0
        assert not source.copier.is_copied(bin_id)
        assert target.copier.staged(bin_id) is None

    @rule(choice=BINS)
    def delete(self, choice):
        bin_id = choice % len(self.owner)
        self.end_copies()
        self.workers[self.owner[bin_id]].store.delete(bin_id)
        self.model.delete(bin_id)

    def end_copies(self):
        for bin_id in self.copied:
            self.workers[self.owner[bin_id]].store.copier.end(bin_id)
            self.workers[1 - self.owner[bin_id]].store.copier.drop(bin_id)
        self.copied.clear()

    @rule(number=st.integers(0, 1), again=st.booleans())
    def write_a_checkpoint_and_go_on_from_it(self, number, again):
        self.end_copies()
        worker = self.workers[number]
        for _ in range(1 + again):
            files = write_tiered(
                self.path, 7, {"v": worker.store}, self.owned(number), worker.database
            )
        worker.database.close()
        self.workers[number] = other = self.fresh()
        read_tiered(self.path, files, {"v": other.store}, other.database)

    @rule(number=st.integers(0, 1))
    def a_worker_without_a_budget_reads_what_one_with_a_budget_wrote_and_back(self, number):
        self.end_copies()
        worker, plain = self.workers[number], {"v": self.kind.build(self.bits)}
        owned = self.owned(number)
        files = write_tiered(self.path, 8, {"v": worker.store}, owned, worker.database)
        read_checkpoint(self.path, files, plain)
        assert self.kind.content(plain["v"], owned) == self.kind.content(self.model, owned)
        files = write_checkpoint(self.path, 9, plain, owned)
        worker.database.close()
        self.workers[number] = other = self.fresh()
        read_tiered(self.path, files, {"v": other.store}, other.database)

    @rule(number=st.integers(0, 1))
    def copies_for_a_checkpoint_have_all_rows(self, number):
        store, owned = self.workers[number].store, self.owned(number)
        freezing = Freezing(store)
        assert freezing.copy(owned) == sum(map(self.model.rows, owned))
        assert self.kind.content(freezing.finish(), owned) == self.kind.content(self.model, owned)

    @invariant()
    def the_counts_agree(self):
        if not hasattr(self, "model"):
            return
        counts = [self.workers[owner].store.rows(bin_id) for bin_id, owner in enumerate(self.owner)]
        assert counts == self.model.rows_per_bin().tolist()
        for number, worker in enumerate(self.workers):
            per_bin = worker.store.rows_per_bin()
            assert per_bin[self.owned(number)].tolist() == [
                counts[bin_id] for bin_id in self.owned(number)
            ]
            assert worker.store.row_count == int(per_bin.sum())


TestColdAgainstMemory = ColdAgainstMemory.TestCase
TestColdAgainstMemory.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
