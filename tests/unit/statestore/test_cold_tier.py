"""Stores of every kind under a budget: that it holds, who leaves, what is written and read.

That rows are right whatever leaves and comes back is for tests/property/test_statestore_cold.py.
"""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest

from service.errors import StateCorrupt, StateError, UserFunctionError
from service.statestore.object_store import ObjectStore
from service.statestore.slot_database import SlotDatabase
from service.statestore.stateful_map import StatefulMap
from service.statestore.tiers import back_stores, read_tiered, write_tiered
from tests.fakes.kinds import Kind

BUDGET = 6 << 20
BITS = 6
BATCH = 1_000
KINDS = [
    Kind(name, texts=texts, weak=False)
    for name, texts in (
        ("map", False),
        ("join", False),
        ("map", True),
        ("join", True),
        ("aggregate", True),
        ("distinct", True),
    )
]
every_kind = pytest.mark.parametrize(
    "kind", KINDS, ids=lambda kind: f"{kind.name}{' of texts' * kind.texts}"
)


class Counting(SlotDatabase):
    """A database that counts the rows written to it."""

    written = 0

    def put(self, number, bins, keys, values):
        """Count, and write."""
        self.written += len(keys)
        super().put(number, bins, keys, values)


@pytest.fixture
def slots(tmp_path):
    made = []

    def make(budget=BUDGET):
        made.append(Counting(tmp_path / f"live-{len(made)}", budget))
        return made[-1]

    yield make
    for slot in made:
        slot.close()


def backed(kind, slot, bits=BITS):
    store = kind.build(bits)
    back_stores({"v": store}, slot)
    return store


def apply(kind, store, keys, value=1):
    return store.apply_rows(kind.batch([(key, value) for key in keys]), (1,))


def fill(kind, store, slot, count):
    """Apply each of so many keys once."""
    for start in range(0, count, BATCH):
        apply(kind, store, range(start, start + BATCH))
        assert slot.resident_bytes <= slot.budget
    assert store.row_count == count


@every_kind
def test_memory_stays_within_the_budget_and_no_row_is_lost(kind, slots):
    slot = slots()
    store = backed(kind, slot)
    fill(kind, store, slot, 80_000)
    assert store.tier.away_count > 30_000
    # Every key came once, so none was there to be found.
    assert slot.asked < 0.06 * 80_000
    assert store.tier.recalled == 0
    memory = kind.build(BITS)
    apply(kind, memory, range(BATCH))
    expected = apply(kind, memory, range(BATCH), 2).to_pylist()
    assert apply(kind, store, range(BATCH), 2).to_pylist() == expected
    assert store.tier.recalled > 0.5 * BATCH
    assert slot.resident_bytes <= slot.budget


@every_kind
def test_rows_that_are_asked_for_again_and_again_stay(kind, slots):
    slot = slots()
    store = backed(kind, slot)
    hot = range(200)
    for start in range(BATCH, 80_000, BATCH):
        apply(kind, store, [*hot, *range(start, start + BATCH)])
    assert store.tier.away_count > 20_000
    before = store.tier.recalled
    apply(kind, store, hot)
    assert store.tier.recalled - before < 0.02 * len(hot)


@every_kind
def test_what_has_not_changed_leaves_unwritten_and_a_start_reads_nothing(kind, slots, tmp_path):
    slot = slots(0)
    store = backed(kind, slot)
    apply(kind, store, range(500))
    files = write_tiered(tmp_path, 7, {"v": store}, range(1 << BITS), slot)
    assert store.tier.shrink(1 << 30) > 0
    assert (store.tier.away_count, slot.written) == (500, 0)
    apply(kind, store, range(100))
    store.tier.shrink(1 << 30)
    assert slot.written == 100
    other_slot = slots(0)
    other = backed(kind, other_slot)
    read_tiered(tmp_path, files, {"v": other}, other_slot)
    assert (other.tier.away_count, other.row_count, other_slot.asked) == (500, 500, 0)
    memory = kind.build(BITS)
    apply(kind, memory, range(500))
    assert apply(kind, other, range(600)).equals(apply(kind, memory, range(600)))


@every_kind
def test_a_bin_that_left_or_was_deleted_is_gone_from_the_database(kind, slots):
    slot, target_slot = slots(0), slots(0)
    source, target = backed(kind, slot, 2), backed(kind, target_slot, 2)
    apply(kind, source, range(400))
    source.tier.shrink(1 << 30)
    rows = source.rows(1)
    assembler = target.assembler(1)
    for chunk in source.give_up(1, cut=5):
        assembler.feed(chunk)
    target.install(1, assembler)
    assert (target.rows(1), source.rows(1), source.row_count) == (rows, 0, 400 - rows)
    for bin_id in range(4):
        source.delete(bin_id)
        assert not len(slot.bin_values(0, bin_id)[0])
    assert source.row_count == source.tier.cold.filter.nbytes == source.tier.away_count == 0


@every_kind
def test_a_row_that_the_database_lost_is_missed_when_its_bin_leaves(kind, slots):
    slot = slots(0)
    store = backed(kind, slot, 2)
    apply(kind, store, range(100))
    store.tier.shrink(1 << 30)
    keys, _ = slot.bin_values(0, 1)
    slot.delete(0, np.ones(1, dtype=np.int32), keys[:1])
    with pytest.raises(StateCorrupt, match=rf"holds {len(keys) - 1} rows of bin 1, {len(keys)}"):
        list(store.extract(1, cut=5))


def test_a_checkpoint_from_before_objects_had_a_budget_is_read_row_by_row(slots, tmp_path):
    kind = Kind("map", texts=False, weak=False)
    counts = Kind("aggregate", texts=False, weak=False)
    slot, other_slot = slots(0), slots(0)
    stores = {"a": counts.build(2), "v": kind.build(2)}
    stores["a"].back_with(slot, 0)
    for name, each in (("a", counts), ("v", kind)):
        apply(each, stores[name], range(300))
    files = write_tiered(tmp_path, 7, stores, range(4), slot)
    others = {"a": counts.build(2), "v": kind.build(2)}
    back_stores(others, other_slot)
    read_tiered(tmp_path, files, others, other_slot)
    assert others["v"].tier.away_count > 0
    for name, each in (("a", counts), ("v", kind)):
        assert others[name].row_count == 300
        again = [apply(each, some[name], range(300), 2) for some in (stores, others)]
        assert again[0].equals(again[1])


@pytest.mark.parametrize("texts", [False, True])
def test_a_key_that_is_forgotten_stays_forgotten_wherever_it_was(slots, texts):
    kind = Kind("map", texts=texts, weak=False)
    store = backed(kind, slots(), 2)
    apply(kind, store, range(200), 5)
    store.tier.shrink(1 << 30)
    # A value of 0 forgets the key.
    apply(kind, store, range(100), 0)
    assert store.row_count == 100
    assert apply(kind, store, range(100), 5)["out"].to_pylist() == [1_005] * 100
    assert store.row_count == sum(store.rows_per_bin()) == 200


@every_kind
def test_a_row_that_stays_while_others_leave_is_still_written_when_it_leaves(kind, slots):
    slot = slots()
    store, memory = backed(kind, slot, 0), kind.build(0)
    for each in (store, memory):
        apply(kind, each, range(100))
    store.tier.shrink(1 << 30)
    # Keys that are resident and asked for again are marked; those that come with them are not.
    for keys in (range(50), range(50), range(100)):
        for each in (store, memory):
            apply(kind, each, keys)
    store.tier.shrink(1)
    assert 0 < store.tier.away_count < 100
    store.tier.shrink(1 << 30)
    assert store.tier.away_count == 100
    assert apply(kind, store, range(100)).equals(apply(kind, memory, range(100)))


def test_a_staged_object_that_left_memory_is_written_over_by_the_next_round(slots):
    kind = Kind("map", texts=False, weak=False)
    source, target = backed(kind, slots(), 0), backed(kind, slots(), 0)
    apply(kind, source, range(50), 3)
    source.copier.begin(0)
    for value in (4, 5):
        while piece := source.copier.next_piece(0, 1 << 16):
            target.copier.stage(0, 1, piece)
        target.tier.shrink(1 << 30)
        assert (target.rows(0), target.tier.away_count) == (50, 50)
        apply(kind, source, range(0, 50, 2), value)
        source.copier.next_round(0)
    assembler = target.assembler(0)
    for chunk in source.copier.leave(0, 1, 7):
        assembler.feed(chunk)
    target.install(0, assembler)
    assert target.row_count == target.rows(0) == 50
    found = apply(kind, target, range(2), 1)["out"].to_pylist()
    assert found == [4_000 + 3 + 4 + 5 + 1, 2_000 + 3 + 1]


def objects(function):
    out = pa.schema([("out", pa.int64())])
    return ObjectStore("seen", StatefulMap("seen", "key", function, "v", out), 2)


def test_a_state_that_cannot_be_encoded_is_found_when_it_has_to_leave(slots):
    store = objects(lambda state, value: ([] if state is None else [threading.Lock()], None))
    slot = slots(0)
    back_stores({"seen": store}, slot)
    kind = Kind("map", texts=False, weak=False)
    apply(kind, store, [1])
    apply(kind, store, [1])
    with pytest.raises(StateError, match="for key 1, a list, cannot be encoded"):
        apply(kind, store, [2])


def test_of_half_a_batch_nothing_leaves(slots):
    store = objects(lambda state, value: (1 // value, value))
    slot = slots(0)
    back_stores({"seen": store}, slot)
    kind = Kind("map", texts=False, weak=False)
    with pytest.raises(UserFunctionError, match="ZeroDivisionError for key 1"):
        store.apply_rows(kind.batch([(0, 1), (1, 0)]), (1,))
    assert store.tier.shrink(1 << 30) == 0
    assert (slot.written, store.tier.away_count) == (0, 0)


def test_a_text_is_in_memory_only_with_its_state(slots):
    kind = Kind("aggregate", texts=True, weak=False)
    slot = slots(0)
    store = backed(kind, slot)
    apply(kind, store, range(5_000))
    store.tier.shrink(1 << 30)
    assert (store.tier.away_count, store.keys.table.key_count) == (5_000, 0)
    assert store.keys.table.nbytes == 0
    assert apply(kind, store, [7])["n"].to_pylist() == [2]
    assert store.keys.table.key_count == 1
