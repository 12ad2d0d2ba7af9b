"""Stores with event time under a budget give what the same stores give without one, row by row.

Two workers share the bins, each with a database and a budget far below what a few rows take, or one
that holds all, and rows leave at will. Batches, watermarks, moves and checkpoints come in any
order; two stores without a budget that are driven alike are the model. Timers fire three at a time,
so that rows leave while a watermark is at work.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import megaphone as mp
from service.dataflow.event_time import EventTime
from service.dataflow.vertices import MapVertex
from service.hashing import bins_of
from service.migration.stateful import keyed_parts
from service.statestore import cold_rows, process_store, timed_row_store
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.columns import KEY_ID, numbers_of
from service.statestore.frozen import Freezing
from service.statestore.pairing import Interval
from service.statestore.row_kinds import split_text
from service.statestore.slot_database import SlotDatabase
from service.statestore.text_keys import key_hashes
from service.statestore.text_store import TextKeyedStore
from service.statestore.tiers import back_stores, read_tiered, write_tiered
from service.statestore.timed import ALL, NEVER
from service.statestore.timers import Timers
from tests.property import test_statestore_best_within as best_within
from tests.property import test_statestore_pairing as pairing

BITS = 2
BINS = 1 << BITS
#: (side, key, time, value).
Row = tuple[int, int, int, int]
ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 30), st.integers(0, 4)),
    max_size=14,
)
#: Rows, how much the watermark rises then, and what happens to the bins.
STEPS = st.lists(
    st.tuples(
        ROWS,
        st.integers(0, 9),
        st.sampled_from(["stay", "stay", "move", "copied", "store", "load", "freeze"]),
        st.integers(0, BINS - 1),
    ),
    max_size=8,
)


@pytest.fixture(autouse=True, scope="module")
def few_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for module in (process_store, timed_row_store):
            patched.setattr(module, "FIRED_AT_ONCE", 3)
        yield


def on_row(state: Any, value: int, timers: mp.KeyTimers) -> Any:
    """Sets timers, near and far, and cancels some; forgets the key now and then."""
    state = [*(state or []), value]
    for late in (value, 3 * value):
        timers.set(timers.now + late)
    if value == 2 and timers.pending:
        timers.cancel(timers.pending[-1])
    return (None if value == 4 else state), [(timers.now, len(state), len(timers.pending))]


def on_timer(state: Any, timers: mp.KeyTimers) -> Any:
    """Sets a timer that is perhaps due already, and one that is not."""
    known = state or []
    if len(known) % 3 == 1:
        timers.set(timers.now + 1)
        timers.set(timers.now + 40)
        known = [*known, -1]
    return (known if len(known) % 4 else None), [(timers.now, sum(known), len(timers.pending))]


SCHEMA = {"key": pa.int64(), "name": pa.string(), "time": pa.int64(), "v": pa.int64()}
OUT = {"now": pa.int64(), "n": pa.int64(), "pending": pa.int64()}
NUMBER = {"total": pa.int64()}
SLIDING = mp.sliding("10ms", every="4ms")
BUILDS: dict[str, Callable[[Any], mp.Stream]] = {
    "process": lambda keyed: keyed.process("v", on_row, on_timer, value="v", schema=OUT),
    "fold": lambda keyed: keyed.window(SLIDING, allowed_lateness="5ms").fold(
        "v", lambda before, value: before + value, initial=int, value="v", schema=NUMBER
    ),
    "top": lambda keyed: keyed.window(SLIDING, allowed_lateness="5ms").top("v", by="v", n=2),
    "sessions": lambda keyed: sessions(keyed).aggregate("v", n=mp.count(), total=mp.total("v")),
    "different": lambda keyed: sessions(keyed).aggregate(
        "v", n=mp.count(), of=mp.distinct_count("v")
    ),
    # Without ties: which of equal rows came first is kept on disk as well.
    "session top": lambda keyed: sessions(keyed).top("v", by="v", n=2, ties=False),
    "session fold": lambda keyed: sessions(keyed).fold(
        "v",
        lambda seen, value: f"{seen} {value}",
        merge=lambda earlier, later: f"({earlier} + {later})",
        initial=str,
        value="v",
        schema={"seen": pa.string()},
    ),
}
#: Of all rows together.
OF_ALL = {
    "sessions of all": "sessions",
    "different of all": "different",
    "session top of all": "session top",
    "session fold of all": "session fold",
    "fold of all": "fold",
}
#: What is kept of a key is an object, not rows.
OBJECTS = {"process", "fold", "session fold", "session fold of all", "fold of all"}
KINDS = [(name, texts) for name in (*BUILDS, "pairs", "semi", "best") for texts in (False, True)]
KINDS += [(name, False) for name in OF_ALL]


def sessions(stream: Any) -> Any:
    return stream.window(mp.session("6ms"), allowed_lateness="5ms")


class Kind:
    """A kind of store with event time, under numbers or text, and batches for it."""

    def __init__(self, name: str, *, texts: bool) -> None:
        self.name, self.texts = name, texts
        self.best = best_within.Case(texts=texts, floats=False, floor=False, outer=True)
        self.sided = name not in BUILDS and name not in OF_ALL
        #: The columns that the store is given, which is of keys, and what the flow adds before.
        self.columns: list[str] = []
        self.key = KEY_ID if texts else "k"
        self.prepared: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None
        self.build().clear()

    def build(self) -> Any:
        near = Interval(-3, 4)
        match self.name:
            case "pairs":
                return pairing.store_of(near, texts=self.texts, outer=True)
            case "semi":
                return pairing.semi_of(pairing.Windows(7, 3), texts=self.texts)
            case "best":
                return self.best.store()
        source = mp.KafkaSource(["rows"], "row", [*SCHEMA])
        rows = mp.Flow("f").source("rows", source, watermarks=mp.Watermarks("time"))
        schema = pa.schema([*SCHEMA.items()])
        if self.name in OF_ALL:
            stream = BUILDS[OF_ALL[self.name]](rows)
            before = stream.flow.vertices[-2]
            assert isinstance(before, MapVertex)
            self.prepared = before.function
            schema = self.prepared(pa.RecordBatch.from_pylist([], schema=schema)).schema
        else:
            stream = BUILDS[self.name](rows.key_by("name" if self.texts else "key"))
        parts = keyed_parts(stream.flow.vertices[-1], [schema], BITS, [EventTime("time", "ms")])
        self.columns, self.key = parts.columns, parts.key
        return parts.store

    def batch(self, rows: list[Row]) -> pa.RecordBatch:
        if self.name == "best":
            both = [
                (side, key, time, time + value, value) if side == 0 else (1, key, time, value, "x")
                for side, key, time, value in rows
            ]
            return self.best.batch(both)
        if self.sided:
            return pairing.batch_of([row[:3] for row in rows], self.texts, 0)
        keys = [key for _, key, _, _ in rows]
        names = pa.array([f"key {key}" for key in keys], pa.string())
        made = {
            "key": pa.array(keys, pa.int64()),
            "name": names,
            "time": pa.array([time for _, _, time, _ in rows], pa.int64()),
            "v": pa.array([value for *_, value in rows], pa.int64()),
            KEY_ID: pa.array(key_hashes(names)),
        }
        if self.prepared is None:
            return pa.record_batch({name: made[name] for name in self.columns})
        return self.prepared(pa.record_batch({name: made[name] for name in SCHEMA})).select(
            self.columns
        )

    def bins(self, rows: pa.RecordBatch) -> list[int]:
        return bins_of(numbers_of(rows, self.key).view(np.int64), BITS).tolist()

    def content(self, store: Any, bins: list[int]) -> dict[object, bytes]:
        """What a checkpoint keeps of each key, but for versions."""
        found: dict[object, bytes] = {}
        keys, values = store.stored_rows(np.array(bins, dtype=np.int64))
        for key, value in zip(keys.tolist(), map(bytes, values.tolist()), strict=True):
            text, rest = split_text(value) if self.texts else (key, value)
            assert text not in found
            found[text] = rest if self.name in OBJECTS else rest[8:]
        return found


class Pair:
    """Two stores that share the bins, with databases behind them or without."""

    def __init__(self, kind: Kind, folder: Path, budget: int | None) -> None:
        self.kind, self.folder, self.budget = kind, folder, budget
        self.made = self.number = 0
        self.databases: list[SlotDatabase | None] = []
        self.stores: list[Any] = []
        self.owner = [bin_id % 2 for bin_id in range(BINS)]
        for _ in range(2):
            store, database = self.fresh()
            self.stores.append(store)
            self.databases.append(database)

    def fresh(self) -> tuple[Any, SlotDatabase | None]:
        store, database = self.kind.build(), None
        if self.budget is not None:
            self.made += 1
            database = SlotDatabase(self.folder / f"live-{self.made}", self.budget)
            back_stores({store.vertex: store}, database)
        return store, database

    def close(self) -> None:
        for database in self.databases:
            if database is not None:
                database.close()

    def owned(self, number: int) -> list[int]:
        return [bin_id for bin_id, owner in enumerate(self.owner) if owner == number]

    def apply(self, rows: pa.RecordBatch, epoch: int, watermark: int) -> list[pa.RecordBatch]:
        given = []
        owners = [self.owner[bin_id] for bin_id in self.kind.bins(rows)]
        for number, store in enumerate(self.stores):
            mine = rows.filter(pa.array([owner == number for owner in owners], pa.bool_()))
            if mine.num_rows:
                told = store.apply_at(mine, (epoch,), watermark)
                given += [told.rows, *([] if told.late is None else [told.late])]
        return given

    def fire(self, epoch: int, watermark: int) -> list[pa.RecordBatch]:
        given = []
        for store in self.stores:
            if store.due(watermark):
                given.append(store.fire(watermark, (epoch,), frozenset(range(epoch % 3))))
                given.append(store.fire(watermark, (epoch,)))
        return given

    def let_some_go(self, nbytes: int) -> None:
        for store in self.stores:
            if self.budget is not None:
                store.tier.shrink(nbytes)

    def move(self, bin_id: int, how: str) -> None:
        source, target = self.stores[self.owner[bin_id]], self.stores[1 - self.owner[bin_id]]
        self.owner[bin_id] = 1 - self.owner[bin_id]
        self.number += 1
        if how == "copied":
            source.copier.begin(bin_id)
            while piece := source.copier.next_piece(bin_id, 200):
                target.copier.stage(bin_id, self.number, piece)
            chunks = source.copier.leave(bin_id, self.number, self.number)
        else:
            chunks = source.give_up(bin_id, cut=self.number)
        assembler = target.assembler(bin_id)
        for chunk in chunks:
            assembler.feed(chunk)
        target.install(bin_id, assembler)

    def restart(self, cut: int, *, tables: bool) -> None:
        """Write both and read them into new ones; `tables`: as one with a database does."""
        for number, store in enumerate(self.stores):
            again, database = self.fresh()
            owned, before = self.owned(number), self.databases[number]
            folder = self.folder / f"slot-{number}"
            stores = {store.vertex: store}
            if before is None or database is None or not tables:
                files = write_checkpoint(folder, cut, stores, owned)
                read_checkpoint(folder, files, {store.vertex: again})
            else:
                files = write_tiered(folder, cut, stores, owned, before)
                read_tiered(folder, files, {store.vertex: again}, database)
            if before is not None:
                before.close()
            self.stores[number], self.databases[number] = again, database


@pytest.mark.parametrize(("name", "texts"), KINDS)
@settings(max_examples=10, deadline=None)
@given(
    steps=STEPS,
    budget=st.sampled_from([0, 8_000, 1 << 22]),
    leaving=st.sampled_from([0, 300, 1 << 20]),
)
def test_a_budget_changes_nothing(
    name: str, texts: bool, steps: Any, budget: int, leaving: int
) -> None:
    kind = Kind(name, texts=texts)
    with tempfile.TemporaryDirectory() as folder:
        model = Pair(kind, Path(folder) / "model", None)
        cold = Pair(kind, Path(folder) / "cold", budget)
        try:
            _play(kind, model, cold, steps, leaving)
        finally:
            cold.close()


def played(kind: Kind, model: Pair, cold: Pair, steps: Any, leaving: int) -> Iterator[int]:
    """The same steps in both, held to give the same; the watermark behind each, to look further."""
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
        yield watermark
    _same(cold.fire(99, ALL), model.fire(99, ALL))


def _play(kind: Kind, model: Pair, cold: Pair, steps: Any, leaving: int) -> None:
    # Of a key with one timer for its last row earlier ones may go one firing later.
    exact = kind.name not in ("pairs", "best")
    for watermark in played(kind, model, cold, steps, leaving):
        for number, (store, plain) in enumerate(zip(cold.stores, model.stores, strict=True)):
            assert store.due(watermark) == plain.due(watermark) is False
            if not exact:
                continue
            owned = cold.owned(number)
            assert kind.content(store, owned) == kind.content(plain, owned)
            assert store.rows_per_bin().tolist() == plain.rows_per_bin().tolist()
            assert [store.timers(each) for each in owned] == [plain.timers(each) for each in owned]
    for store, plain in zip(cold.stores, model.stores, strict=True):
        assert store.row_count == plain.row_count
        if isinstance(store, TextKeyedStore) and not plain.row_count:
            assert not store.keys.table.key_count


def _freezes(kind: Kind, pair: Pair) -> None:
    for number, store in enumerate(pair.stores):
        owned, freezing = pair.owned(number), Freezing(store)
        freezing.copy(owned)
        assert kind.content(freezing.finish(), owned) == kind.content(store, owned)


def _same(found: list[pa.RecordBatch], expected: list[pa.RecordBatch]) -> None:
    assert [rows.to_pylist() for rows in found] == [rows.to_pylist() for rows in expected]
    for rows in found:
        rows.validate(full=True)


@pytest.mark.parametrize("name", [*BUILDS, "pairs", "best"])
def test_a_watermark_that_makes_everything_due_keeps_to_the_budget(
    name: str, tmp_path: Path
) -> None:
    kind, budget = Kind(name, texts=False), 120_000
    cold, plain = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", budget)
    back_stores({"v": cold}, database)
    for start in range(0, 1_500, 50):
        # Sides that do not meet, all of them open to the end.
        batch = kind.batch([(0, key, 30, 3) for key in range(start, start + 50)])
        given = [store.apply_at(batch, (1,), NEVER).rows for store in (cold, plain)]
        _same(given[:1], given[1:])
    assert cold.row_count == 1_500
    assert cold.tier.away_count
    found = []
    for part in cold.firing(ALL, (2,), None, cold.tier):
        found += part.to_pylist()
        assert database.resident_bytes <= budget
    assert found == plain.fire(ALL, (2,)).to_pylist()
    assert cold.row_count == plain.row_count
    database.close()


@pytest.mark.parametrize(
    ("name", "texts"), [each for each in KINDS if "session" in each[0] or "different" in each[0]]
)
def test_a_session_on_disk_says_which_rows_are_late(name: str, texts: bool, tmp_path: Path) -> None:
    """A row that opens what is forgotten is in time where it makes a session longer."""
    kind = Kind(name, texts=texts)
    cold, plain = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": cold}, database)
    first = kind.batch([(0, 1, 10, 3), (0, 1, 12, 4)])
    # At 17 what has ended at 12 is forgotten: [6, 12) is, but [10, 18) takes the row in.
    second = kind.batch([(0, 1, 6, 9)])
    for batch, watermark, recalled in ((first, NEVER, 0), (second, 17, 1)):
        given = [store.apply_at(batch, (1,), watermark) for store in (cold, plain)]
        _same([given[0].rows], [given[1].rows])
        assert given[0].late is given[1].late is None
        cold.tier.shrink(1 << 20)
        assert cold.tier.away_count == 1
        assert cold.tier.recalled == recalled
    found = cold.fire(18, (2,))
    _same([found], [plain.fire(18, (2,))])
    assert {(row["window_start"], row["window_end"]) for row in found.to_pylist()} == {(6, 18)}
    # And one that no session takes in is late.
    late = [store.apply_at(kind.batch([(0, 2, 0, 9)]), (3,), 17).late for store in (cold, plain)]
    assert late[0] is not None
    assert late[0].equals(late[1])
    database.close()


@pytest.mark.parametrize("texts", [False, True])
def test_the_filter_does_not_grow_with_keys_that_have_gone(texts: bool, tmp_path: Path) -> None:
    kind = Kind("sessions", texts=texts)
    cold, plain = kind.build(), kind.build()
    database = SlotDatabase(tmp_path / "live", 0)
    back_stores({"v": cold}, database)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cold_rows, "_GONE_LEAST", 64)
        largest = 0
        for number in range(40):
            keys = range(100 * number, 100 * number + 100)
            batch = kind.batch([(0, key, 30 * number, 3) for key in keys])
            for store in (cold, plain):
                store.apply_at(batch, (number,), 30 * number - 10)
            cold.tier.shrink(1 << 20)
            _same([cold.fire(30 * number, (number,))], [plain.fire(30 * number, (number,))])
            largest = max(largest, cold.tier.cold.filter.count)
    # Of 4,000 keys two hundred were there at once.
    assert cold.tier.evicted >= 4_000
    assert largest < 1_000
    assert kind.content(cold, list(range(BINS))) == kind.content(plain, list(range(BINS)))
    database.close()


def test_timers_are_taken_in_runs_of_whole_times_or_keys() -> None:
    store = Kind("process", texts=False).build()
    times = [1, 1, 2, 3, 3, 3, 3, 3, 4]
    store.pending.set(
        np.array([1, 2, 1, 1, 2, 2, 2, 3, 1]),
        np.array(times),
        np.array([0, 0, 0, 0, 0, 1, 2, 0, 0]),
    )
    due, runs = store.pending.pop(ALL), []
    while len(due):
        part, due = due.first(2)
        runs.append((part.times.tolist(), part.keys.tolist()))
    assert runs == [
        ([1, 1], [1, 2]),
        ([2], [1]),
        ([3, 3, 3, 3], [1, 2, 2, 2]),
        ([3, 4], [3, 1]),
    ]


def test_timers_set_twice_are_one() -> None:
    one = Timers.of(np.array([[1, 5], [7, 8], [0, 0]]))
    both = one.joined(Timers.of(np.array([[3, 1], [7, 7], [0, 0]])))
    assert list(zip(both.times.tolist(), both.keys.tolist(), strict=True)) == [
        (1, 7),
        (3, 7),
        (5, 8),
    ]
    nothing = np.empty((3, 0), dtype=np.int64)
    assert one.joined(Timers.of(nothing)) is one
