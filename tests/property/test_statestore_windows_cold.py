"""Aggregates over windows under a budget give what they give without one, row by row.

Two stores that share the bins, with databases behind them, are driven as in
`test_statestore_timed_cold`; entries are read and forgotten three at a time, so that what a window
gives is put together of many parts. The model are the same stores without a budget, and what a
person finds row by row.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import NotYetSupported, StateError
from service.hashing import bins_of
from service.statestore import cold_rows, cold_windows, tiered_table
from service.statestore.aggregate import AggregateProgram, Count, Max, Mean, Min, Sum
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.columns import numbers_of
from service.statestore.distinct_values import ValueLines
from service.statestore.panes import Panes
from service.statestore.slot_database import SlotDatabase
from service.statestore.tiered_table import TieredTable
from service.statestore.tiers import back_stores, read_tiered, write_tiered
from service.statestore.timed import ALL, NEVER
from service.statestore.window_form import END, START, WindowForm
from service.statestore.window_store import WindowStore
from service.statestore.window_text import TextWindowStore
from tests.fakes.windows import Model, Slots
from tests.property import test_windows as windows
from tests.property.test_statestore_timed_cold import (
    BINS,
    BITS,
    STEPS,
    Kind,
    Pair,
    Row,
    _freezes,
    _same,
)

NUMBERS = {"n": Count(), "total": Sum("v"), "low": Min("v"), "top": Max("v"), "mean": Mean("part")}
KINDS = {"v": "int64", "part": "float64"}
VALUES = {"v": pa.int64(), "name": pa.string(), "part": pa.float64()}
#: Column of keys; size, every and lateness of windows, or the lateness of windows that rows name;
#: column of values that are told apart.
CASES: dict[str, tuple[str, tuple[int, int, int] | int, str]] = {
    "tumbling": ("key", (10, 10, 0), ""),
    "tumbling, late": ("key", (10, 10, 12), ""),
    "sliding": ("key", (10, 4, 0), ""),
    "sliding, late": ("key", (10, 4, 7), ""),
    "given": ("key", 0, ""),
    "given, late": ("key", 6, ""),
    "all": (START, 0, ""),
    "all, late": (START, 12, ""),
    "distinct": ("key", (10, 10, 0), "v"),
    "distinct texts": ("key", (10, 4, 0), "name"),
    "distinct parts, late": ("key", (10, 4, 7), "part"),
    "distinct, given": ("key", 6, "v"),
    "distinct, all": (START, 12, "name"),
}


@pytest.fixture(autouse=True, scope="module")
def few_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cold_windows, "_AT_ONCE", 3)
        patched.setattr(tiered_table, "_PEEKED_AT_ONCE", 3)
        yield


class Windows(Kind):
    """A kind of windows of integer keys; with few bits of hashes entries share ids."""

    def __init__(self, name: str, hash_bits: int = 64) -> None:
        self.name, self.texts, self.hash_bits = name, False, hash_bits
        self.key, cut, self.counted = CASES[name]
        self.given = isinstance(cut, int)
        self.grouped = self.key != START
        self.panes = Panes.given(cut) if isinstance(cut, int) else Panes.of(*cut)

    def build(self) -> WindowStore:
        values = None
        if self.counted:
            values = ValueLines("different", self.counted, VALUES[self.counted])
        # Of windows of all rows each row says which it is in, before it comes to the store.
        once = None if self.grouped else (Panes.of(10, 10), "time")
        time = None if self.given else "time"
        form = WindowForm(self.key, self.panes, time, once=once, values=values)
        program = AggregateProgram(self.key, NUMBERS, KINDS)
        outputs = [*NUMBERS, "different"] if values else None
        return WindowStore("counts", form, program, BITS, outputs=outputs, hash_bits=self.hash_bits)

    def batch(self, rows: list[Row]) -> pa.RecordBatch:
        starts = [time if self.grouped else time // 10 * 10 for _, _, time, _ in rows]
        # Windows with one end have several starts.
        ends = [(start + 11) // 10 * 10 for start in starts]
        numbers = [value for *_, value in rows]
        made = {
            "key": pa.array([key for _, key, _, _ in rows], pa.int64()),
            "time": pa.array([time for _, _, time, _ in rows], pa.int64()),
            START: pa.array(starts, pa.int64()),
            END: pa.array(ends, pa.int64()),
            "v": pa.array(numbers, pa.int64()),
            "name": pa.array([f"value {value}" for value in numbers], pa.string()),
            "part": pa.array([0.1 + value / 3 for value in numbers], pa.float64()),
        }
        return pa.record_batch(made)

    def bins(self, rows: pa.RecordBatch) -> list[int]:
        return bins_of(numbers_of(rows, self.key).view(np.int64), BITS).tolist()


def tier_of(store: WindowStore) -> TieredTable:
    assert store.tier is not None
    return store.tier


def let_all_go(tier: TieredTable) -> None:
    """Each shrinking takes half of the regions."""
    while tier.resident_per_bin().any():
        tier.shrink(1 << 30)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10, deadline=None)
@given(
    steps=STEPS,
    budget=st.sampled_from([0, 8_000, 1 << 22]),
    leaving=st.sampled_from([0, 300, 1 << 20]),
    hash_bits=st.sampled_from([64, 10]),
)
def test_a_budget_changes_nothing(
    name: str, steps: Any, budget: int, leaving: int, hash_bits: int
) -> None:
    kind = Windows(name, hash_bits)
    with tempfile.TemporaryDirectory() as folder:
        model = Pair(kind, Path(folder) / "model", None)
        cold = Pair(kind, Path(folder) / "cold", budget)
        try:
            play(kind, model, cold, steps, leaving)
        finally:
            cold.close()


def play(kind: Windows, model: Pair, cold: Pair, steps: Any, leaving: int) -> None:
    watermark = NEVER
    for epoch, (rows, rise, then, bin_id) in enumerate(steps):
        batch = kind.batch(rows)
        _same(cold.apply(batch, epoch, watermark), model.apply(batch, epoch, watermark))
        if leaving:
            cold.let_some_go(leaving)
        watermark = max(watermark, 0) + rise
        _same(cold.fire(epoch, watermark), model.fire(epoch, watermark))
        if leaving and epoch % 2:
            cold.let_some_go(leaving)
        for pair in (cold, model):
            match then:
                case "move" | "copied":
                    pair.move(bin_id, then)
                case "store" | "load":
                    pair.restart(epoch, tables=then == "store")
                case "freeze":
                    _freezes(kind, pair)
        for number, (store, plain) in enumerate(zip(cold.stores, model.stores, strict=True)):
            owned = cold.owned(number)
            assert kind.content(store, owned) == kind.content(plain, owned)
            assert store.rows_per_bin().tolist() == plain.rows_per_bin().tolist()
    _same(cold.fire(99, ALL), model.fire(99, ALL))
    for store, plain in zip(cold.stores, model.stores, strict=True):
        assert store.row_count == plain.row_count == 0
        assert store.tier.away_count == 0


@settings(max_examples=15, deadline=None)
@given(
    sizes=windows.SIZES,
    lateness=st.sampled_from([0, 3, 20]),
    steps=windows.STEPS,
    hash_bits=st.sampled_from([64, 10]),
    distinct=st.booleans(),
)
def test_a_budget_gives_what_a_person_finds(
    sizes: tuple[int, int], lateness: int, steps: Any, hash_bits: int, distinct: bool
) -> None:
    """Bins move in every way, those that are only copied and never owned among them."""
    model = Model(*sizes, lateness, distinct)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as databases:

        def make() -> WindowStore:
            store = windows.store_of(*sizes, lateness, hash_bits, distinct=distinct)
            path = Path(folder) / str(len(made))
            database = SlotDatabase(path, 0)
            databases.callback(database.close)
            back_stores({"v": store}, database)
            made.append(store)
            return store

        made: list[WindowStore] = []
        slots, watermark = Slots.of(make(), make()), NEVER
        for epoch, (rows, rise, moves, restart) in enumerate(steps):
            given, late = slots.apply(rows, epoch, watermark)
            expected, expected_late = model.apply(rows)
            assert (Counter(given), Counter(late)) == (Counter(expected), Counter(expected_late))
            for store in made[-2:]:
                let_all_go(tier_of(store))
            if rise:
                watermark = max(watermark, -30) + rise
                assert Counter(slots.fire(epoch, watermark)) == Counter(model.fire(watermark))
            for bin_id, how in moves:
                if how == "stage":
                    slots.stage(bin_id)
                else:
                    slots.move(bin_id, how)
            if restart == 0:
                slots.restart(make)
        assert Counter(slots.fire(99, ALL)) == Counter(model.fire(ALL))


def test_entries_forgotten_on_disk_while_their_bin_is_copied_are_told_as_gone(
    tmp_path: Path,
) -> None:
    kind = Windows("tumbling")
    pair = Pair(kind, tmp_path, 0)
    source, target = pair.stores
    rows: list[Row] = [(0, key, time, 1) for key in range(60) for time in (3, 13)]
    batch = kind.batch(rows)
    bins = np.array(kind.bins(batch))
    source.apply_at(batch.filter(pa.array(bins == 0)), (1,), NEVER)
    count = source.row_count
    let_all_go(source.tier)
    source.copier.begin(0)
    while piece := source.copier.next_piece(0, 200):
        target.copier.stage(0, 1, piece)
    assert target.row_count == count
    let_all_go(source.tier)
    # The first of two windows closes: half of the entries go, without being read back.
    assert source.fire(10, (2,)).num_rows == count // 2
    assert source.copier.changed(0) == count // 2
    assembler = target.assembler(0)
    for chunk in source.copier.leave(0, 1, 1):
        assembler.feed(chunk)
    target.install(0, assembler)
    assert source.row_count == 0
    assert target.row_count == count // 2
    found = target.fire(ALL, (3,))
    assert found.column(START).to_pylist() == [10] * (count // 2)
    assert target.row_count == target.tier.away_count == 0
    pair.close()


@pytest.mark.parametrize("name", ["tumbling", "sliding, late", "given", "distinct texts"])
def test_a_watermark_that_makes_everything_due_brings_nothing_back(
    name: str, tmp_path: Path
) -> None:
    kind, budget = Windows(name), 120_000
    cold, plain = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", budget)
    back_stores({"v": cold}, database)
    for start in range(0, 1_500, 50):
        batch = kind.batch([(0, key, 30, 3) for key in range(start, start + 50)])
        for store in (cold, plain):
            assert store.apply_at(batch, (1,), NEVER).rows.num_rows == 0
    tier = tier_of(cold)
    assert cold.row_count == plain.row_count >= 1_500
    assert tier.away_count > 500
    most, peek = [0], tier.peek

    def watched(keys: Any) -> Any:
        most.append(database.resident_bytes)
        return peek(keys)

    tier.peek = watched  # type: ignore[method-assign]  # to look at what is there while it reads
    before = database.resident_bytes
    found = cold.fire(ALL, (2,))
    assert len(most) > BINS
    assert max(most) <= before <= budget
    assert found.num_rows >= 1_500
    assert found.to_pylist() == plain.fire(ALL, (2,)).to_pylist()
    assert cold.row_count == plain.row_count == 0
    assert tier.away_count == 0
    assert [len(database.bin_values(0, bin_id)[0]) for bin_id in range(BINS)] == [0] * BINS
    database.close()


@pytest.mark.parametrize("distinct", ["", "v"])
def test_a_pane_that_closes_is_put_together_of_whole_bins(distinct: str, tmp_path: Path) -> None:
    name = "distinct" if distinct else "tumbling"
    cold, plain = Windows(name).build(), Windows(name).build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": cold}, database)
    # Keys from all sides, told in any order.
    keys = np.random.default_rng(7).permutation(200) - 100
    batch = Windows(name).batch([(0, key, 3, key % 3) for key in keys.tolist()])
    cold.apply_at(batch, (1,), NEVER)
    plain.apply_at(batch, (1,), NEVER)
    tier = tier_of(cold)
    let_all_go(tier)
    assert tier.away_count == 200
    found = cold.fire(10, (1,))
    assert found.column("key").to_pylist() == sorted(keys.tolist())
    assert found.to_pylist() == plain.fire(10, (1,)).to_pylist()
    assert found.schema == plain.schema
    database.close()


def test_the_budget_counts_the_ids_that_stay_in_memory(tmp_path: Path) -> None:
    kind = Windows("tumbling")
    cold = kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": cold}, database)
    cold.apply_at(kind.batch([(0, key, 3, 1) for key in range(1_000)]), (1,), NEVER)
    tier = tier_of(cold)
    let_all_go(tier)
    assert tier.away_count == 1_000
    assert database.resident_bytes == 1_000 * cold_windows.ID_BYTES + tier.filter.nbytes
    cold.fire(ALL, (2,))
    assert database.resident_bytes == tier.filter.nbytes
    database.close()


def test_the_filter_does_not_grow_with_windows_that_have_gone(tmp_path: Path) -> None:
    kind = Windows("tumbling")
    cold, plain = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": cold}, database)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cold_rows, "_GONE_LEAST", 64)
        tier, largest = tier_of(cold), 0
        for number in range(40):
            batch = kind.batch([(0, key, 10 * number, 3) for key in range(100)])
            for store in (cold, plain):
                store.apply_at(batch, (number,), 10 * number)
            let_all_go(tier)
            fired = [store.fire(10 * number, (number,)).to_pylist() for store in (cold, plain)]
            assert fired[0] == fired[1]
            largest = max(largest, tier.filter.count)
    # Of 4,000 entries two hundred were there at once.
    assert tier.evicted >= 4_000
    assert largest < 1_000
    database.close()


def test_a_batch_that_overflows_leaves_entries_that_were_away(tmp_path: Path) -> None:
    kind = Windows("tumbling")
    cold, plain = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": cold}, database)
    bins = list(range(BINS))
    for store in (cold, plain):
        store.apply_at(kind.batch([(0, 1, 3, (1 << 63) - 1), (0, 2, 3, 5)]), (1,), NEVER)
    tier = tier_of(cold)
    let_all_go(tier)
    assert tier.away_count == 2
    for store in (cold, plain):
        with pytest.raises(StateError, match="64-bit integer"):
            store.apply_at(kind.batch([(0, 1, 3, 7), (0, 2, 3, 7), (0, 9, 3, 7)]), (2,), NEVER)
    assert kind.content(cold, bins) == kind.content(plain, bins)
    assert cold.rows_per_bin().tolist() == plain.rows_per_bin().tolist()
    found = cold.fire(10, (3,))
    assert found.column("key").to_pylist() == [1, 2]
    assert found.to_pylist() == plain.fire(10, (3,)).to_pylist()
    database.close()


@pytest.mark.parametrize("tables", [False, True])
def test_a_worker_with_a_budget_and_one_without_go_on_from_one_another(
    tables: bool, tmp_path: Path
) -> None:
    kind, bins = Windows("sliding, late"), list(range(BINS))
    before, after = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": before if tables else after}, database)
    before.apply_at(kind.batch([(0, key, key, 1) for key in range(40)]), (1,), NEVER)
    assert before.fire(25, (1,)).num_rows > 0
    if tables:
        let_all_go(tier_of(before))
        files = write_tiered(tmp_path / "slot", 1, {"v": before}, bins, database)
        read_checkpoint(tmp_path / "slot", files, {"v": after})
    else:
        files = write_checkpoint(tmp_path / "slot", 1, {"v": before}, bins)
        read_tiered(tmp_path / "slot", files, {"v": after}, database)
    assert after.rows_per_bin().tolist() == before.rows_per_bin().tolist()
    more = kind.batch([(0, key, 22, 1) for key in range(30)])
    _same([after.apply_at(more, (2,), 25).rows], [before.apply_at(more, (2,), 25).rows])
    _same([after.fire(ALL, (3,))], [before.fire(ALL, (3,))])
    assert after.row_count == before.row_count == 0
    database.close()


def test_keys_that_are_text_are_refused_by_name() -> None:
    store = TextWindowStore(Windows("tumbling").build(), "key", pa.string())
    with pytest.raises(NotYetSupported, match="--state-memory for 'counts', windows of keys"):
        store.back_with(None, 0)  # type: ignore[arg-type]  # it is not looked at
