"""State of every kind goes out as a snapshot and comes back, without the flow that it is of."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import megaphone as mp
from megaphone.testing import Cluster
from service.state_files import SlotCheckpoint, find_checkpoints, value_in
from service.state_snapshots import export_bins, list_snapshot, replace_bins
from service.statestore.contents import contents
from service.statestore.snapshot import Snapshot

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("small", pa.int8())])


def source(flow: mp.Flow, name: str, rows: int) -> mp.Stream:
    given = [{"id": n, "text": f"text {n}", "small": n % 100} for n in range(rows)]
    return flow.source(name, mp.ListSource([pa.Table.from_pylist(given, schema=SCHEMA)]))


def by_text(rows: int) -> mp.Flow:
    flow = mp.Flow("text")
    found = source(flow, "bids", rows).key_by("text").aggregate("state", n=mp.count())
    return found.sink("out", mp.ListSink())


def joined(rows: int) -> mp.Flow:
    flow = mp.Flow("joined")
    both = (
        source(flow, "bids", rows)
        .key_by("id")
        .join("state", source(flow, "asks", rows).key_by("id"))
    )
    return both.sink("out", mp.ListSink())


def narrow(rows: int) -> mp.Flow:
    flow = mp.Flow("narrow")
    found = source(flow, "bids", rows).key_by("id").aggregate("state", top=mp.highest("small"))
    return found.sink("out", mp.ListSink())


def seen(rows: int) -> mp.Flow:
    flow = mp.Flow("seen")
    return source(flow, "bids", rows).key_by("id").distinct("state").sink("out", mp.ListSink())


def checkpoint(flow: mp.Flow, folder: Path) -> list[SlotCheckpoint]:
    with Cluster(flow, workers=1, bins=4) as cluster, pytest.MonkeyPatch.context() as patched:
        patched.setattr(cluster._broker, "state_dir", lambda: folder)
        cluster.settle()
        cluster.checkpoint()
    return find_checkpoints(folder)


def stored(part: SlotCheckpoint) -> dict[tuple[int, int], bytes]:
    return {
        (number, int(key)): value
        for content in contents(part.folder, part.files)
        for number, rows in content.vertices.items()
        for key, value in zip(rows.keys, rows.values, strict=True)
    }


@pytest.mark.parametrize("make", [by_text, joined, narrow, seen])
def test_bins_of_any_kind_go_out_and_come_back(make, tmp_path):
    (full,) = checkpoint(make(20), tmp_path / "full")
    (part,) = checkpoint(make(5), tmp_path / "part")
    export_bins([full], tmp_path / "s.snapshot", bins=range(4))
    snapshot = Snapshot(tmp_path / "s.snapshot")
    listing = list_snapshot(snapshot)
    assert listing.parts[0].vertices[0].rows == 20
    files = replace_bins(part, snapshot, range(4))
    assert stored(SlotCheckpoint("worker-0", part.folder, files)) == stored(full)


def test_a_narrow_column_is_shown_in_its_type_and_a_join_by_its_sides(tmp_path):
    found = value_in(checkpoint(narrow(20), tmp_path / "n"), "state", "7")
    assert found is not None
    assert found.value == {"top": 7}
    found = value_in(checkpoint(joined(20), tmp_path / "j"), "state", "7")
    assert found is not None
    assert isinstance(found.value, list)
    assert [["text 7" in row.values() for row in side] for side in found.value] == [[True], [True]]
