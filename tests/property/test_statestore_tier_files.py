"""Checkpoints of stores with a budget: no damaged byte goes unnoticed, and files are shared."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from service.errors import FormatMismatch, StateCorrupt
from service.hashing import bins_of
from service.statestore.aggregate import AggregateProgram, Count, Min
from service.statestore.object_store import ObjectStore
from service.statestore.slot_database import TABLES_FILE, SlotDatabase
from service.statestore.stateful_map import StatefulMap
from service.statestore.tiers import back_stores, read_tiered, write_tiered
from service.statestore.vertex_store import VertexStore
from tests.fakes.timers import entries_at

PROGRAM = AggregateProgram("k", {"n": Count(), "lo": Min("x")}, {"x": "float64"})
BITS = 2


def newest(state, value):
    return value, value


class Slot:
    """Stores of one vertex with rows on disk and one of Python objects, and their database."""

    def __init__(self, path, bin_bits=BITS):
        objects = StatefulMap("o", "k", newest, "k", pa.schema([("v", pa.int64())]))
        self.rows = VertexStore("r", PROGRAM, bin_bits)
        self.objects = ObjectStore("o", objects, bin_bits)
        self.stores = {"r": self.rows, "o": self.objects}
        self.database = SlotDatabase(path, budget=4_000)
        back_stores(self.stores, self.database)

    def change(self, keys, value):
        keys = np.asarray(keys, dtype=np.int64)
        self.rows.apply(keys, {"x": np.full(len(keys), value)}, self.rows.change_mark() + 1)
        self.objects.apply_rows(pa.record_batch({"k": keys}), (1,))

    def content(self):
        rows = self.rows.table.extract_bins(np.arange(self.rows.bins))
        columns = (column.tolist() for column in (rows.versions, *rows.columns.values()))
        objects = {key: self.objects.state(key) for key in range(2_000)}
        timers = [self.rows.timers(bin_id) for bin_id in range(self.rows.bins)]
        return dict(zip(rows.keys.tolist(), zip(*columns))), objects, timers

    def write(self, folder, cut=7):
        return write_tiered(folder, cut, self.stores, range(self.rows.bins), self.database)

    def read(self, folder, files):
        read_tiered(folder, files, self.stores, self.database)


@pytest.fixture
def slot(tmp_path):
    made = Slot(tmp_path / "one")
    made.change(range(300), 2.5)
    made.rows.set_timers(1, entries_at([1, 2], 1, BITS))
    made.change(range(100, 200), 1.5)
    yield made
    made.database.close()


@pytest.fixture
def other(tmp_path):
    made = Slot(tmp_path / "two")
    yield made
    made.database.close()


def nothing_is_loaded(slot):
    return slot.rows.row_count == slot.objects.row_count == 0 and not slot.rows.timers(1)


def test_rows_objects_and_timers_come_back(tmp_path, slot, other):
    assert slot.rows.table.away_count > 0
    other.read(tmp_path, slot.write(tmp_path))
    assert other.rows.table.away_count == 300, "no row was read before it was asked for"
    assert other.content() == slot.content()
    assert other.rows.change_mark() == slot.rows.change_mark()
    slot.change(range(250, 350), 0.5)
    other.change(range(250, 350), 0.5)
    assert other.content() == slot.content()


def test_a_flip_all_over_any_file_is_refused_and_loads_nothing(tmp_path, slot, other):
    files = slot.write(tmp_path)
    assert TABLES_FILE in {file.name for file in files.files}
    for stored in files.files:
        path = tmp_path / files.directory / stored.name
        good = path.read_bytes()
        for position in {*range(0, len(good), 97), *range(len(good))[-3:]}:
            path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            with pytest.raises(StateCorrupt, match=stored.name):
                other.read(tmp_path, files)
        path.write_bytes(good[:-1] or b"more")
        with pytest.raises(StateCorrupt, match=rf"{stored.name} has \d+ bytes"):
            other.read(tmp_path, files)
        path.unlink()
        with pytest.raises(StateCorrupt, match=f"{stored.name} is missing"):
            other.read(tmp_path, files)
        path.write_bytes(good)
    assert nothing_is_loaded(other)
    other.read(tmp_path, files)
    assert other.content() == slot.content()


def test_another_format_or_number_of_bins_is_refused(tmp_path, slot):
    files = slot.write(tmp_path)
    more = Slot(tmp_path / "more", bin_bits=BITS + 1)
    with pytest.raises(FormatMismatch, match="with 4 bins, this job has 8"):
        more.read(tmp_path, files)
    with pytest.raises(FormatMismatch, match="format 9"):
        more.read(tmp_path, msgspec.structs.replace(files, format=9))
    assert nothing_is_loaded(more)
    more.database.close()


@pytest.mark.parametrize("field", ["rows", "timers"])
def test_other_counts_than_the_manifest_says_are_refused_and_nothing_stays(
    tmp_path, slot, other, field
):
    files = slot.write(tmp_path)
    for place, vertex in enumerate(files.vertices):
        wrong = list(files.vertices)
        wrong[place] = msgspec.structs.replace(vertex, **{field: getattr(vertex, field) + 1})
        with pytest.raises(StateCorrupt, match=rf"of vertex '{vertex.vertex}', the manifest says"):
            other.read(tmp_path, msgspec.structs.replace(files, vertices=tuple(wrong)))
        assert nothing_is_loaded(other)


def test_a_later_checkpoint_shares_what_has_not_changed_and_leaves_the_first_as_it_was(
    tmp_path, slot, other
):
    # RocksDB would put files together between the two whenever it likes to.
    slot.database._live._database.compact_range(None, None)
    first = slot.write(tmp_path)
    content = slot.content()
    slot.change([5], 0.25)
    slot.rows.set_timers(1, [])
    second = slot.write(tmp_path, cut=9)
    linked = [file for file in second.files if file in first.files and file.name.endswith(".sst")]
    assert linked
    for file in linked:
        paths = [tmp_path / each.directory / file.name for each in (first, second)]
        assert paths[0].samefile(paths[1])
    other.read(tmp_path, second)
    assert other.content() == slot.content() != content
    again = Slot(tmp_path / "three")
    again.read(tmp_path, first)
    assert again.content() == content
    again.database.close()


def test_rows_that_the_database_lost_are_missed_when_the_bin_leaves(slot):
    table = slot.rows.table
    bin_id = int(np.argmax(table.rows_per_bin() - table.resident_per_bin()))
    keys, _ = slot.database.read_bin(1, bin_id, 3)
    away = keys[[slot_ < 0 for slot_ in super(type(table), table).lookup(keys)]][:1]
    slot.database.delete(1, bins_of(away, BITS), away)
    with pytest.raises(StateCorrupt, match=rf"rows of bin {bin_id}, \d+ went there"):
        list(slot.rows.extract(bin_id))
