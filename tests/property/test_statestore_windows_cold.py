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

from service.errors import StateCorrupt, StateError
from service.hashing import bins_of
from service.state_files import SlotCheckpoint, value_in
from service.statestore import cold_rows, cold_windows, tiered_table, window_homes, window_texts
from service.statestore._window_kernels import mark_of
from service.statestore.aggregate import AggregateProgram, Count, Max, Mean, Min, Sum
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.columns import KEY_ID, numbers_of
from service.statestore.distinct_values import ValueLines
from service.statestore.panes import Panes
from service.statestore.row_kinds import split_text
from service.statestore.slot_database import SlotDatabase
from service.statestore.text_keys import key_hashes
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
    _same,
    played,
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
        patched.setattr(window_texts, "_AT_ONCE", 3)
        patched.setattr(window_homes, "_BINS_AT_ONCE", 3)
        yield


class Windows(Kind):
    """A kind of windows of integer keys, or of texts.

    With few bits of hashes entries share ids, and with few hashes texts do.
    """

    def __init__(
        self, name: str, hash_bits: int = 64, *, texts: bool = False, hashes: int = 0
    ) -> None:
        self.name, self.texts, self.hash_bits, self.hashes = name, texts, hash_bits, hashes
        key, cut, self.counted = CASES[name]
        self.key = KEY_ID if texts else key
        self.given = isinstance(cut, int)
        self.grouped = self.key != START
        self.panes = Panes.given(cut) if isinstance(cut, int) else Panes.of(*cut)

    def build(self) -> Any:
        entries = self._entries()
        return TextWindowStore(entries, "key", pa.string()) if self.texts else entries

    def _entries(self) -> WindowStore:
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
        keys = pa.array([key for _, key, _, _ in rows], pa.int64())
        # Some fit into a cell or two, others into none.
        texts = pa.array([f"key {key} " + "\u20ac" * (key % 40) for key in keys.to_pylist()])
        ids = key_hashes(texts.cast(pa.string()))
        made = {
            "key": texts.cast(pa.string()) if self.texts else keys,
            KEY_ID: pa.array(ids % self.hashes if self.hashes else ids),
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

    def content(self, store: Any, bins: list[int]) -> dict[object, Any]:
        """What a checkpoint keeps of each entry, but for versions; a mark may have any text."""
        if not self.texts:
            return super().content(store, bins)
        marks = np.empty(BINS, dtype=np.int64)
        mark_of(np.arange(BINS), BITS, marks)
        keys, values = store.stored_rows(np.array(bins, dtype=np.int64))
        found: dict[object, Any] = {}
        for key, value in zip(keys.tolist(), map(bytes, values.tolist()), strict=True):
            text, rest = split_text(value)
            assert key not in found
            assert text or key in marks
            found[key] = (b"" if key in marks else text, rest[8:])
        return found


#: Windows of texts have keys.
TEXT_CASES = [name for name in CASES if CASES[name][0] != START]


def tier_of(store: Any) -> TieredTable:
    assert isinstance(store.tier, TieredTable)
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
    both_ways(Windows(name, hash_bits), steps, budget, leaving)


@pytest.mark.parametrize("name", TEXT_CASES)
@settings(max_examples=15, deadline=None)
@given(
    steps=STEPS,
    budget=st.sampled_from([0, 8_000, 1 << 22]),
    leaving=st.sampled_from([0, 300, 1 << 20]),
    hash_bits=st.sampled_from([64, 10]),
)
def test_a_budget_changes_nothing_of_windows_of_texts(
    name: str, steps: Any, budget: int, leaving: int, hash_bits: int
) -> None:
    both_ways(Windows(name, hash_bits, texts=True), steps, budget, leaving)


@pytest.mark.parametrize("name", ["tumbling", "sliding, late", "given, late", "distinct"])
@settings(max_examples=15, deadline=None)
@given(
    steps=STEPS,
    leaving=st.sampled_from([0, 300, 1 << 20]),
    hashes=st.sampled_from([1, 3]),
)
def test_texts_of_one_hash_are_told_apart_on_disk(
    name: str, steps: Any, leaving: int, hashes: int
) -> None:
    """Without checkpoints, behind which a displaced key is not found where others have gone."""
    steps = [
        (*step[:2], step[2].replace("store", "move").replace("load", "copied"), step[3])
        for step in steps
    ]
    both_ways(Windows(name, texts=True, hashes=hashes), steps, 0, leaving)


def both_ways(kind: Windows, steps: Any, budget: int, leaving: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Pair(kind, Path(folder) / "model", None)
        cold = Pair(kind, Path(folder) / "cold", budget)
        try:
            play(kind, model, cold, steps, leaving)
        finally:
            cold.close()


def play(kind: Windows, model: Pair, cold: Pair, steps: Any, leaving: int) -> None:
    for _ in played(kind, model, cold, steps, leaving):
        for number, (store, plain) in enumerate(zip(cold.stores, model.stores, strict=True)):
            owned = cold.owned(number)
            assert kind.content(store, owned) == kind.content(plain, owned)
            assert store.rows_per_bin().tolist() == plain.rows_per_bin().tolist()
            if kind.texts:
                has_what_it_needs(store)
    for store, plain in zip(cold.stores, model.stores, strict=True):
        assert store.row_count == plain.row_count == 0
        assert store.tier.away_count == 0
        if kind.texts:
            has_what_it_needs(store)
            assert kind.hashes or store.keys.table.key_count == 0


def has_what_it_needs(store: TextWindowStore) -> None:
    """Keys that have entries have homes, and texts are here with these or, displaced, for ever."""
    away, tier = store._away, tier_of(store)
    assert away is not None
    ids, values = store.inner.stored_rows(np.arange(BINS))
    cells = np.frombuffer(b"".join(map(bytes, values.tolist())), dtype="<i8")
    owners = cells.reshape(len(ids), store.inner.stored_bytes // 8)[
        ~store._entries.are_marks(ids), 1
    ]
    entries = ids[~store._entries.are_marks(ids)]
    assert set(away.homes.keys_of(np.arange(BINS)).tolist()) == set(owners.tolist())
    homes, there = away.homes.of(owners)
    assert there.all()
    assert set(homes.tolist()) <= set(entries.tolist())
    here = store.keys.table.extract(np.arange(BINS)).keys
    at, known = away.homes.of(here)
    assert store.keys.displaced or known.all()
    assert tier.resident(at).all()


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


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("name", ["tumbling", "sliding, late", "given", "distinct texts"])
def test_a_watermark_that_makes_everything_due_brings_nothing_back(
    name: str, texts: bool, tmp_path: Path
) -> None:
    # Of each text memory has where it is on disk.
    kind, budget = Windows(name, texts=texts), 320_000 if texts else 120_000
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


@pytest.mark.parametrize("name", ["tumbling", "distinct, given"])
def test_no_text_of_a_key_on_disk_stays_in_memory(name: str, tmp_path: Path) -> None:
    kind = Windows(name, texts=True)
    cold, plain = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": cold}, database)
    batch = kind.batch([(0, key, 3, 1) for key in range(1_000)])
    for store in (cold, plain):
        store.apply_at(batch, (1,), NEVER)
    tier, away = tier_of(cold), cold._away
    # What was just named is known by its text.
    assert cold.keys.table.key_count == away.homes.count == 1_000
    let_all_go(tier)
    assert (cold.keys.table.key_count, away.homes.count) == (0, 1_000)
    ids = cold_windows.ID_BYTES * tier.away_count
    assert database.resident_bytes == ids + tier.filter.nbytes + away.homes.nbytes
    assert 40_000 <= away.homes.nbytes <= 80_000
    # One key comes back, for a row in another window, and goes with its entries.
    for store in (cold, plain):
        store.apply_at(kind.batch([(0, 7, 13, 1)]), (2,), NEVER)
    assert cold.keys.table.key_count == 1
    let_all_go(tier)
    assert cold.keys.table.key_count == 0
    for watermark, keys in ((19, 1), (ALL, 0)):
        _same([cold.fire(watermark, (3,))], [plain.fire(watermark, (3,))])
        assert cold.row_count == plain.row_count
        assert away.homes.count == keys
        assert cold.keys.table.key_count == 0
    assert database.resident_bytes == tier.filter.nbytes
    database.close()


def test_an_entry_that_the_disk_has_lost_is_told(tmp_path: Path) -> None:
    kind = Windows("tumbling", texts=True)
    cold = kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": cold}, database)
    batch = kind.batch([(0, 7, 3, 1)])
    cold.apply_at(batch, (1,), NEVER)
    let_all_go(tier_of(cold))
    for bin_id in range(BINS):
        database.delete_bin(0, bin_id)
    with pytest.raises(StateCorrupt, match="lacks 1 entries of vertex 'counts'; start the job"):
        cold.apply_at(batch, (2,), NEVER)
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


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("tables", [False, True])
def test_a_worker_with_a_budget_and_one_without_go_on_from_one_another(
    tables: bool, texts: bool, tmp_path: Path
) -> None:
    kind, bins = Windows("sliding, late", texts=texts), list(range(BINS))
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


def test_open_windows_of_a_text_are_read_from_what_a_budget_has_written(tmp_path: Path) -> None:
    kind, bins = Windows("sliding, late", texts=True), list(range(BINS))
    cold, plain = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"counts": cold}, database)
    batch = kind.batch([(0, key, key + step, 1) for key in range(40) for step in (0, 6)])
    for store in (cold, plain):
        store.apply_at(batch, (1,), NEVER)
        # Bins have given windows, and remember it.
        assert store.fire(25, (1,)).num_rows > 0
    let_all_go(tier_of(cold))
    written = write_tiered(tmp_path / "cold", 1, {"counts": cold}, bins, database)
    whole = write_checkpoint(tmp_path / "plain", 1, {"counts": plain}, bins)
    found = 0
    for key in set(batch.column("key").to_pylist()):
        one, other = (
            value_in([SlotCheckpoint("slot-0", tmp_path / name, files)], "counts", key)
            for name, files in (("cold", written), ("plain", whole))
        )
        assert one == other
        found += one is not None
    assert found > 20
    database.close()
