"""Tables with a budget: that it holds, that cold rows leave first, and who gives memory to whom.

That rows are right whatever leaves and comes back is for tests/property/test_statestore_tiers.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from service.statestore.aggregate import AggregateProgram, Count
from service.statestore.away_filter import AwayFilter
from service.statestore.slot_database import SlotDatabase
from service.statestore.tiers import back_stores
from service.statestore.vertex_store import VertexStore

BUDGET = 8 << 20
COUNTS = AggregateProgram("k", {"n": Count()}, {})


@pytest.fixture
def slot(tmp_path):
    made = SlotDatabase(tmp_path / "live", BUDGET)
    yield made
    made.close()


def stores(slot, *names, bin_bits=6):
    made = {name: VertexStore(name, COUNTS, bin_bits) for name in names}
    back_stores(made, slot)
    return made


def test_the_tables_stay_within_the_budget_and_no_row_is_lost(slot):
    (store,) = stores(slot, "counts").values()
    keys = np.arange(1_000_000)
    for start in range(0, len(keys), 10_000):
        store.apply(keys[start : start + 10_000], {}, 1)
        assert slot.resident_bytes <= BUDGET
    assert store.row_count == len(keys)
    assert store.table.away_count > 700_000
    _, outputs = store.apply(keys[:50_000], {}, 2)
    assert outputs["n"].tolist() == [2] * 50_000


def test_new_keys_are_known_to_be_absent_without_asking_the_disk(slot):
    (store,) = stores(slot, "counts").values()
    for start in range(0, 600_000, 10_000):
        store.apply(np.arange(start, start + 10_000), {}, 1)
    assert store.table.away_count > 200_000
    # Every key came once, so none was there to be found.
    assert slot.asked < 0.05 * 600_000
    assert store.table.recalled == 0


def test_rows_that_are_touched_again_and_again_stay(slot):
    (store,) = stores(slot, "counts").values()
    hot = np.arange(20_000)
    for start in range(20_000, 800_000, 10_000):
        store.apply(np.concatenate([hot, np.arange(start, start + 10_000)]), {}, 1)
    assert store.table.away_count > 300_000
    before = store.table.recalled
    store.apply(hot, {}, 2)
    assert store.table.recalled - before < 0.02 * len(hot)


def test_a_table_that_nobody_asks_gives_its_memory_to_one_that_needs_it(slot):
    made = stores(slot, "cold", "hot", bin_bits=4)
    for start in range(0, 150_000, 10_000):
        made["cold"].apply(np.arange(start, start + 10_000), {}, 1)
    held = made["cold"].table.resident_bytes
    assert held > BUDGET / 4
    random = np.random.default_rng(3)
    for _ in range(150):
        made["hot"].apply(random.integers(0, 400_000, 5_000), {}, 1)
    assert made["cold"].table.resident_bytes < 0.7 * held
    assert made["cold"].row_count == 150_000
    assert slot.resident_bytes <= BUDGET


def test_deleting_all_bins_empties_the_database_and_the_filter(slot):
    (store,) = stores(slot, "counts", bin_bits=2).values()
    for start in range(0, 400_000, 10_000):
        store.apply(np.arange(start, start + 10_000), {}, 1)
    assert store.table.filter.nbytes > 0
    for bin_id in range(4):
        store.delete(bin_id)
        assert not len(slot.read_bin(0, bin_id, 2)[0])
    assert store.row_count == store.table.filter.nbytes == store.table.resident_bytes == 0


def test_the_filter_passes_what_was_entered_and_little_else():
    known = AwayFilter()
    keys = np.arange(300_000) * 7
    for start in range(0, len(keys), 1_000):
        known.enter(keys[start : start + 1_500])
    assert known.may_hold(keys).all()
    others = keys + 1
    assert known.may_hold(others).mean() < 0.08
    assert known.nbytes < 8 * len(keys)
    again = AwayFilter(*known.parts)
    assert (again.may_hold(others) == known.may_hold(others)).all()
