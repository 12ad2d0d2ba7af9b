"""Checkpoints of a slot: whole round trips, and each way a folder can be wrong.

Cannot catch: a disk that lies about fsync.
"""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import pytest

from service.errors import FormatMismatch, StateCorrupt, StateError
from service.hashing import bins_of
from service.statestore import _entries, _rocks, checkpoint
from service.statestore.aggregate import AggregateProgram, Count, Max, Sum
from service.statestore.checkpoint import (
    SlotFiles,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from service.statestore.vertex_store import VertexStore
from tests.fakes.timers import entries_at

BITS = 4
STATS = AggregateProgram("k", {"n": Count(), "top": Max("x")}, {"x": "float64"})
TOTALS = AggregateProgram("k", {"total": Sum("v")}, {"v": "int64"})


def empty_stores(bin_bits=BITS):
    return {
        "stats": VertexStore("stats", STATS, bin_bits),
        "totals": VertexStore("totals", TOTALS, bin_bits),
    }


def filled_stores():
    stores = empty_stores()
    keys = np.random.default_rng(3).integers(-(2**63), 2**63 - 1, 500)
    keys[:4] = [0, -1, -(2**63), 2**63 - 1]
    stores["stats"].apply(keys, {"x": keys / 3}, 7)
    stores["totals"].apply(keys[::2], {"v": keys[::2] >> 8}, 8)
    stores["stats"].set_timers(3, entries_at([-5, 0, 7], 3, BITS))
    stores["totals"].set_timers(15, entries_at(range(200), 15, BITS))
    return stores


def content(stores):
    found = {}
    for name, store in stores.items():
        rows = store.table.extract_bins(np.arange(store.bins))
        order = np.argsort(rows.keys)
        found[name] = (
            rows.keys[order].tolist(),
            rows.versions[order].tolist(),
            {column: values[order].tolist() for column, values in rows.columns.items()},
            {bin_id: store.timers(bin_id) for bin_id in range(store.bins)},
        )
    return found


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "worker-0"
    return folder, write_checkpoint(folder, 77, filled_stores(), range(1 << BITS))


def file_named(folder, files, suffix):
    return folder / files.directory / next(f.name for f in files.files if f.name.endswith(suffix))


def test_a_slot_is_restored_from_what_was_written(written):
    folder, files = written
    stores = empty_stores()
    read_checkpoint(folder, files, stores)
    assert content(stores) == content(filled_stores())


def test_the_list_of_files_says_what_is_there_and_survives_json(written):
    folder, files = written
    assert msgspec.json.decode(msgspec.json.encode(files), type=SlotFiles) == files
    assert files.cut == 77
    assert files.bins == 16
    assert files.rows == 750
    assert [(v.vertex, v.rows, v.timers) for v in files.vertices] == [
        ("stats", 500, 3),
        ("totals", 250, 200),
    ]
    found = {path.name: path.stat().st_size for path in (folder / files.directory).iterdir()}
    assert {file.name: file.bytes for file in files.files} == found
    assert files.bytes == sum(found.values())


def test_a_slot_without_rows_and_a_slot_without_bins_are_restored(tmp_path):
    for name, stores, bins in (
        ("no rows", empty_stores(), range(16)),
        ("no bins", filled_stores(), ()),
    ):
        files = write_checkpoint(tmp_path / name, 1, stores, bins)
        assert files.rows == 0
        restored = empty_stores()
        read_checkpoint(tmp_path / name, files, restored)
        assert content(restored) == content(empty_stores())


def test_only_the_bins_asked_for_are_written(tmp_path):
    stores = filled_stores()
    files = write_checkpoint(tmp_path, 1, stores, [9, 2])
    restored = empty_stores()
    read_checkpoint(tmp_path, files, restored)
    assert [b for b in range(16) if restored["stats"].rows(b)] == [2, 9]
    assert restored["stats"].table.row_count == stores["stats"].rows(2) + stores["stats"].rows(9)


def test_a_checkpoint_can_be_copied_to_another_machine(written, tmp_path):
    folder, files = written
    shutil.copytree(folder, tmp_path / "elsewhere")
    shutil.rmtree(folder)
    stores = empty_stores()
    read_checkpoint(tmp_path / "elsewhere", files, stores)
    assert content(stores) == content(filled_stores())


def test_reading_changes_no_file_and_can_be_repeated(written):
    folder, files = written
    for _ in range(2):
        read_checkpoint(folder, files, empty_stores())
    found = {path.name for path in (folder / files.directory).iterdir()}
    assert found == {file.name for file in files.files}


def test_a_later_checkpoint_leaves_an_earlier_one_alone_even_at_the_same_cut(written):
    folder, first = written
    second = write_checkpoint(folder, 77, empty_stores(), range(16))
    assert first.directory != second.directory
    stores = empty_stores()
    read_checkpoint(folder, first, stores)
    assert content(stores) == content(filled_stores())


def test_leftovers_of_a_crash_do_not_hinder_the_next_checkpoint(written):
    folder, first = written
    (folder / ".work" / "database").mkdir(parents=True)
    (folder / ".partial").mkdir()
    (folder / ".partial" / "CURRENT").write_text("half")
    second = write_checkpoint(folder, 78, filled_stores(), range(16))
    for files in (first, second):
        read_checkpoint(folder, files, empty_stores())
    assert sorted(path.name for path in folder.iterdir()) == ["cut-77", "cut-78"]


def test_checkpoints_that_nobody_keeps_are_removed(written):
    folder, _ = written
    kept = write_checkpoint(folder, 80, filled_stores(), range(16))
    (folder / ".work").mkdir()
    remove_checkpoints(folder, [kept])
    assert [path.name for path in folder.iterdir()] == ["cut-80"]
    read_checkpoint(folder, kept, empty_stores())


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="no checkpoint could be written to .*file"):
        write_checkpoint(tmp_path / "file", 1, empty_stores(), ())


def test_a_missing_file_is_named(written):
    folder, files = written
    path = file_named(folder, files, ".sst")
    path.unlink()
    refused(folder, files, StateCorrupt, f"{path.name} is missing")


def test_a_missing_folder_is_named(written):
    folder, files = written
    shutil.rmtree(folder / files.directory)
    refused(folder, files, StateCorrupt, "cut-77/.* is missing")


def test_a_truncated_file_is_named(written):
    folder, files = written
    path = file_named(folder, files, ".sst")
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, files, StateCorrupt, rf"{path.name} has \d+ bytes, the manifest says")


def test_a_flipped_bit_in_any_file_is_named(written):
    folder, files = written
    for stored in files.files:
        path = folder / files.directory / stored.name
        good = path.read_bytes()
        if not good:
            continue
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 4
        path.write_bytes(bad)
        refused(folder, files, StateCorrupt, f"{stored.name} does not match its digest")
        path.write_bytes(good)
    read_checkpoint(folder, files, empty_stores())


def refused(folder, files, error, reason, stores=None):
    stores = stores or empty_stores()
    with pytest.raises(error, match=reason):
        read_checkpoint(folder, files, stores)
    assert all(store.table.row_count == 0 for store in stores.values())


def test_another_format_version_is_refused(written):
    folder, files = written
    other = msgspec.structs.replace(files, format=checkpoint.CHECKPOINT_FORMAT + 1)
    refused(folder, other, FormatMismatch, "cut-77 has format 2, this version reads 1")


def test_another_number_of_bins_is_refused(written):
    folder, files = written
    refused(folder, files, FormatMismatch, "with 16 bins, this job has 32", empty_stores(5))


def test_another_set_of_vertices_is_refused(written):
    folder, files = written
    stores = {"stats": empty_stores()["stats"]}
    refused(folder, files, FormatMismatch, r"\['stats', 'totals'\], this flow has", stores)


def test_other_columns_are_refused(written):
    folder, files = written
    stores = empty_stores() | {"totals": VertexStore("totals", STATS, BITS)}
    refused(folder, files, FormatMismatch, "'totals' of the checkpoint cut-77 has columns", stores)


@pytest.mark.parametrize("field", ["rows", "timers"])
def test_another_count_than_the_manifest_says_is_refused_and_nothing_stays_loaded(written, field):
    folder, files = written
    stats, totals = files.vertices
    wrong = msgspec.structs.replace(totals, **{field: getattr(totals, field) + 1})
    other = msgspec.structs.replace(files, vertices=(stats, wrong))
    refused(folder, other, StateCorrupt, "holds 250 rows and 200 timers of vertex 'totals'")


@pytest.mark.parametrize("name", ["../cut-77", "", ".", "/etc"])
def test_a_manifest_that_leads_out_of_the_folder_is_refused(written, name):
    folder, files = written
    refused(folder, msgspec.structs.replace(files, directory=name), StateCorrupt, "no plain file")


def test_keys_sort_as_numbers_within_vertex_within_bin():
    stores = list(filled_stores().values())
    pieces = list(_entries.entries_of(stores, [15, 3, 0]))
    keys = [key for piece, _ in pieces for key in piece]
    assert keys == sorted(set(keys))
    assert {key[:4] for key in keys} == {bytes([0, 0, 0, b]) for b in (0, 3, 15)}
    smallest = next(key for key in keys if key[:6] == bytes(6))
    number = int.from_bytes(smallest[6:]) - 2**63
    assert number == stores[0].table.extract(0).keys.min()
    assert bins_of(np.array([number]), BITS).tolist() == [0]


def test_more_rows_than_one_piece_holds_are_restored(tmp_path):
    stores = empty_stores()
    keys = np.arange(2 * _rocks.ENTRIES_PER_PIECE + 5)
    stores["totals"].apply(keys, {"v": keys}, 1)
    files = write_checkpoint(tmp_path, 1, stores, range(16))
    restored = empty_stores()
    read_checkpoint(tmp_path, files, restored)
    assert content(restored) == content(stores)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"short", bytes(24), "key of another length"),
        (bytes(5) + b"\2" + bytes(8), bytes(24), "vertex number 2"),
        (bytes(14), bytes(16), "'stats' in the checkpoint has another length"),
        (b"\0\0\0\5" + bytes(10), bytes(24), "another bin than its key's"),
    ],
)
def test_entries_of_another_form_are_refused(key, value, reason):
    loader = _entries.EntryLoader(list(empty_stores().values()))
    with pytest.raises(StateCorrupt, match=reason):
        loader.take(([key], [value]))


def test_a_folder_that_is_no_database_is_an_error_that_names_it(tmp_path):
    with pytest.raises(StateError, match="RocksDB failed while reading .*nowhere"):
        list(_rocks.scan(tmp_path / "nowhere"))
