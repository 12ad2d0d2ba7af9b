"""Folders of checkpoints and snapshot files: listed, read by key, exported, imported, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.errors import FormatMismatch, StateCorrupt, UsageError
from service.hashing import bins_of
from service.state_files import (
    SlotCheckpoint,
    all_checkpoints,
    find_checkpoints,
    list_checkpoint,
    value_in,
    verify_checkpoint,
)
from service.state_snapshots import (
    export_bins,
    list_snapshot,
    replace_bins,
    value_in_snapshot,
)
from service.statestore.aggregate import AggregateProgram, Count, Min
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.description import remove_descriptions, write_description
from service.statestore.object_store import ObjectStore
from service.statestore.snapshot import Snapshot
from service.statestore.vertex_store import VertexStore
from tests.fakes.objects import KeepLast
from tests.fakes.timers import entries_at

BITS = 3
BINS = 1 << BITS


def stores():
    counts = AggregateProgram("k", {"n": Count(), "lo": Min("x")}, {"x": "float64"})
    return {
        "counts": VertexStore("counts", counts, BITS),
        "objects": ObjectStore("objects", KeepLast(), BITS),
    }


def fill(made, keys, version=5):
    numbers = np.array(keys, dtype=np.int64)
    made["counts"].apply(numbers, {"x": numbers / 2}, version)
    KeepLast.put(made["objects"], {key: ("seen", {key}, key) for key in keys})
    made["counts"].set_timers(2, entries_at([9], 2, BITS))
    return made


def bin_of(key):
    return int(bins_of(np.array([key], np.int64), BITS)[0])


def written(folder, keys, bins=range(BINS), cut=100):
    folder.mkdir(parents=True, exist_ok=True)
    files = write_checkpoint(folder, cut, fill(stores(), keys), list(bins))
    write_description(folder, files)
    return SlotCheckpoint(folder.name, folder, files)


@pytest.fixture
def worker(tmp_path) -> Path:
    folder = tmp_path / "app" / "worker-0"
    written(folder, range(40))
    return folder


def test_a_folder_lists_vertices_bins_rows_and_bytes(worker):
    listing = list_checkpoint(worker, find_checkpoints(worker))
    (part,) = listing.parts
    assert (listing.kind, listing.bins, part.slot, part.cut) == (
        "checkpoint",
        BINS,
        "worker-0",
        100,
    )
    counts, objects = part.vertices
    assert (counts.vertex, counts.rows, counts.timers) == ("counts", 40, 1)
    assert counts.columns == (("n", "int64"), ("lo", "float64"))
    assert sum(each.rows for each in counts.bins) == 40
    # A key, and as a value the version and two columns; the timer has 24 bytes.
    assert counts.bytes == 40 * (14 + 24) + 14 + 24
    assert objects.rows == 40
    assert part.bytes == sum(path.stat().st_size for path in (worker / "cut-100").iterdir())


def test_a_key_has_its_columns_or_its_object(worker):
    parts = find_checkpoints(worker)
    found = value_in(parts, "counts", "7")
    assert found is not None
    assert (found.value, found.bin) == ({"n": 1, "lo": 3.5}, bin_of(7))
    found = value_in(parts, "objects", "-0")
    assert found is not None
    assert found.value == {"type": "tuple", "value": ["seen", {"type": "set", "value": [0]}, 0]}
    assert value_in(parts, "counts", "41") is None
    with pytest.raises(UsageError, match="no vertex 'others'; there are counts, objects"):
        value_in(parts, "others", "7")
    with pytest.raises(UsageError, match="no int64"):
        value_in(parts, "counts", str(1 << 63))


def test_the_workers_of_an_app_are_one_state(tmp_path):
    root = tmp_path / "app"
    keys = list(range(40))
    for worker, bins in enumerate((range(4), range(4, BINS))):
        mine = [key for key in keys if bin_of(key) in bins]
        written(root / f"worker-{worker}", mine, bins)
    parts = find_checkpoints(root)
    assert [part.slot for part in parts] == ["worker-0", "worker-1"]
    for key in keys:
        found = value_in(parts, "counts", str(key))
        assert found is not None
        assert found.slot == f"worker-{int(bin_of(key) >= 4)}"
    contents = export_bins(parts, tmp_path / "all.snapshot")
    assert [stored.rows for stored in contents.vertices] == [40, 40]
    assert [each.bin for each in contents.vertices[0].bins] == list(range(BINS))
    assert contents.origins == ("worker-0/cut-100", "worker-1/cut-100")


def test_the_newest_cut_is_meant_unless_another_is_named(worker):
    written(worker, range(50), cut=200)
    assert [part.files.cut for part in find_checkpoints(worker)] == [200]
    assert [part.files.cut for part in find_checkpoints(worker, 100)] == [100]
    assert [part.files.cut for part in all_checkpoints(worker)] == [200, 100]
    with pytest.raises(UsageError, match="no checkpoint at cut 300 .* there are 100, 200"):
        find_checkpoints(worker, 300)


def test_nothing_to_be_found_is_said(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint in .*; name a worker's folder"):
        find_checkpoints(tmp_path)


def test_descriptions_go_with_their_checkpoints(worker):
    written(worker, range(50), cut=200)
    for path in (worker / "cut-100").iterdir():
        path.unlink()
    (worker / "cut-100").rmdir()
    remove_descriptions(worker)
    assert [part.files.cut for part in all_checkpoints(worker)] == [200]


def test_a_damaged_description_is_named(worker):
    path = worker / "files.cut-100.json"
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        flipped = good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
        path.write_bytes(flipped)
        with pytest.raises(StateCorrupt, match=r"files\.cut-100\.json"):
            find_checkpoints(worker)
    path.write_bytes(good[:-10])
    with pytest.raises(StateCorrupt, match=r"files\.cut-100\.json"):
        find_checkpoints(worker)


@pytest.mark.parametrize("how", ["flip", "cut off", "gone"])
def test_a_damaged_file_of_a_checkpoint_is_named_whatever_is_asked(worker, tmp_path, how):
    (part,) = find_checkpoints(worker)
    snapshot = tmp_path / "out.snapshot"
    for stored in part.files.files:
        path = worker / "cut-100" / stored.name
        good = path.read_bytes()
        if not good and how != "gone":
            continue
        if how == "flip":
            path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        elif how == "cut off":
            path.write_bytes(good[:-1])
        else:
            path.unlink()
        for ask in (
            lambda: list_checkpoint(worker, [part]),
            lambda: value_in([part], "counts", "7"),
            lambda: verify_checkpoint(part),
            lambda: export_bins([part], snapshot),
        ):
            with pytest.raises(StateCorrupt, match=stored.name):
                ask()
        assert not list(tmp_path.glob("*snapshot*")), "nothing half-written is left"
        path.write_bytes(good)
    assert verify_checkpoint(part) == 80


def test_bins_and_vertices_may_be_chosen(worker, tmp_path):
    parts = find_checkpoints(worker)
    contents = export_bins(parts, tmp_path / "one.snapshot", ["counts"], {1, 6})
    (counts,) = contents.vertices
    assert [each.bin for each in counts.bins] == [1, 6]
    snapshot = Snapshot(tmp_path / "one.snapshot")
    key = next(key for key in range(40) if bin_of(key) == 6)
    found = value_in_snapshot(snapshot, "counts", str(key))
    assert found is not None
    assert found.value == {"n": 1, "lo": key / 2}
    other = next(key for key in range(40) if bin_of(key) == 2)
    with pytest.raises(UsageError, match="does not have bin 2"):
        value_in_snapshot(snapshot, "counts", str(other))
    for wrong in ({"vertices": ["nobody"]}, {"bins": {8}}):
        with pytest.raises(UsageError, match=r"no vertex|unknown bin"):
            export_bins(parts, tmp_path / "two.snapshot", **wrong)
    with pytest.raises(UsageError, match="exists already"):
        export_bins(parts, tmp_path / "one.snapshot")


def test_a_snapshot_lists_what_the_checkpoint_does(worker, tmp_path):
    parts = find_checkpoints(worker)
    export_bins(parts, tmp_path / "all.snapshot")
    (ours,) = list_checkpoint(worker, parts).parts
    (theirs,) = list_snapshot(Snapshot(tmp_path / "all.snapshot")).parts
    for one, other in zip(ours.vertices, theirs.vertices, strict=True):
        assert (one.vertex, one.columns, one.rows) == (other.vertex, other.columns, other.rows)
        assert one.timers == other.timers
        for mine, its in zip(one.bins, other.bins, strict=True):
            assert (mine.bin, mine.rows, mine.timers) == (its.bin, its.rows, its.timers)


def test_an_import_replaces_the_bins_named_and_nothing_else(worker, tmp_path):
    """Also what a bin had and the snapshot does not, and bins that are empty in the snapshot."""
    other = written(tmp_path / "other", range(30, 70), cut=900)
    export_bins([other], tmp_path / "other.snapshot")
    (part,) = find_checkpoints(worker)
    before = sorted((worker / "cut-100").iterdir())
    chosen = {0, 3, 5}
    files = replace_bins(part, Snapshot(tmp_path / "other.snapshot"), chosen)
    assert files.directory == "cut-100-2"
    assert sorted((worker / "cut-100").iterdir()) == before
    restored = stores()
    read_checkpoint(worker, files, restored)
    expected = fill(
        stores(),
        [key for key in range(40) if bin_of(key) not in chosen]
        + [key for key in range(30, 70) if bin_of(key) in chosen],
    )
    for name, store in restored.items():
        assert store.rows_per_bin().tolist() == expected[name].rows_per_bin().tolist()
        for bin_id in range(BINS):
            assert store.timers(bin_id) == expected[name].timers(bin_id)
            mine, its = (
                dict(zip(*map(list, each.stored_rows(np.array([bin_id]))), strict=True))
                for each in (store, expected[name])
            )
            assert mine == its


def test_what_does_not_fit_is_refused_before_anything_is_written(worker, tmp_path):
    (part,) = find_checkpoints(worker)
    export_bins([part], tmp_path / "some.snapshot", bins={1, 2})
    snapshot = Snapshot(tmp_path / "some.snapshot")
    with pytest.raises(UsageError, match="has no bins 3 of vertex"):
        replace_bins(part, snapshot, {1, 3})
    counts = AggregateProgram("k", {"n": Count()}, {})
    folder = tmp_path / "narrow"
    files = write_checkpoint(
        folder, 1, {"counts": VertexStore("counts", counts, BITS)}, range(BINS)
    )
    narrow = SlotCheckpoint("worker-0", folder, files)
    export_bins([part], tmp_path / "objects.snapshot", ["objects"], {1})
    with pytest.raises(FormatMismatch, match="holds vertex 'objects'"):
        replace_bins(narrow, Snapshot(tmp_path / "objects.snapshot"), {1})
    export_bins([part], tmp_path / "counts.snapshot", ["counts"], {1})
    with pytest.raises(FormatMismatch, match=r"has columns \(n: int64, lo: float64\)"):
        replace_bins(narrow, Snapshot(tmp_path / "counts.snapshot"), {1})
    wide = {"counts": VertexStore("counts", counts, BITS + 1)}
    folder = tmp_path / "wide"
    files = write_checkpoint(folder, 1, wide, range(2 * BINS))
    with pytest.raises(FormatMismatch, match="made with 8 bins, worker-0/cut-1 has 16"):
        replace_bins(SlotCheckpoint("worker-0", folder, files), snapshot, {1})
    assert [path.name for path in folder.iterdir()] == ["cut-1"]
    assert not (worker / "cut-100-2").exists()


def test_parts_of_different_cuts_make_no_snapshot(tmp_path):
    one = written(tmp_path / "a" / "worker-0", range(4), range(4), cut=1)
    two = written(tmp_path / "a" / "worker-1", range(4), range(4, 8), cut=2)
    with pytest.raises(FormatMismatch, match="different flows or cuts"):
        export_bins([one, two], tmp_path / "x.snapshot")
