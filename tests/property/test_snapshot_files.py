"""Snapshot files: what is exported is imported, and no damaged byte, cut or swap goes unnoticed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import FormatMismatch, StateCorrupt
from service.state_files import SlotCheckpoint
from service.state_snapshots import export_bins, list_snapshot, replace_bins
from service.statestore.aggregate import AggregateProgram, Count, Min
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.snapshot import Snapshot
from service.statestore.vertex_store import VertexStore
from tests.fakes.timers import entries_at

BITS = 2
BINS = range(1 << BITS)
PROGRAM = AggregateProgram("k", {"n": Count(), "lo": Min("x")}, {"x": "float64"})
KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40)
TIMERS = st.dictionaries(
    st.sampled_from(list(BINS)), st.lists(st.integers(-9, 9), min_size=1, max_size=3)
)


def stored(folder: Path, keys: list[int], timers: dict[int, list[int]]) -> SlotCheckpoint:
    store = VertexStore("v", PROGRAM, BITS)
    numbers = np.array(keys, dtype=np.int64)
    store.apply(numbers, {"x": numbers / 3}, 7)
    for bin_id, times in timers.items():
        store.set_timers(bin_id, entries_at(times, bin_id, BITS))
    return SlotCheckpoint("worker-0", folder, write_checkpoint(folder, 5, {"v": store}, BINS))


def content(part: SlotCheckpoint) -> list[object]:
    store = VertexStore("v", PROGRAM, BITS)
    read_checkpoint(part.folder, part.files, {"v": store})
    found: list[object] = []
    for bin_id in BINS:
        rows = store.table.extract(bin_id)
        order = np.argsort(rows.keys)
        columns = [values[order].tolist() for values in rows.columns.values()]
        found.append((rows.keys[order].tolist(), columns, store.timers(bin_id)))
    return found


@settings(max_examples=15)
@given(KEYS, TIMERS, KEYS, TIMERS, st.sets(st.sampled_from(list(BINS)), min_size=1))
def test_bins_imported_are_those_exported_and_the_others_stay(keys, timers, old, old_timers, bins):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = stored(folder / "source", keys, timers)
        target = stored(folder / "target", old, old_timers)
        export_bins([source], folder / "s.snapshot", bins=bins)
        files = replace_bins(target, Snapshot(folder / "s.snapshot"), bins)
        after = content(SlotCheckpoint("worker-0", target.folder, files))
        theirs, ours = content(source), content(target)
        assert after == [(theirs if bin_id in bins else ours)[bin_id] for bin_id in BINS]


@pytest.fixture
def snapshot(tmp_path) -> Path:
    part = stored(tmp_path / "source", list(range(5)), {1: [3, 4]})
    export_bins([part], tmp_path / "s.snapshot")
    return tmp_path / "s.snapshot"


def refused(path: Path, error: type[Exception] = StateCorrupt) -> None:
    """Whoever reads it is told the file's name."""
    with pytest.raises(error, match=r"s\.snapshot"):
        Snapshot(path).verify()


def test_any_flipped_bit_is_refused(snapshot):
    good = snapshot.read_bytes()
    list_snapshot(Snapshot(snapshot))
    Snapshot(snapshot).verify()
    for position in range(len(good)):
        bit = 1 << position % 8
        snapshot.write_bytes(good[:position] + bytes([good[position] ^ bit]) + good[position + 1 :])
        refused(snapshot)


def test_any_cut_off_end_and_any_byte_too_many_is_refused(snapshot):
    good = snapshot.read_bytes()
    for length in range(0, len(good), 3):
        snapshot.write_bytes(good[:length])
        refused(snapshot)
    snapshot.write_bytes(good + b"\0")
    refused(snapshot)


def test_a_missing_or_a_swapped_chunk_is_refused(snapshot):
    good = snapshot.read_bytes()
    first = Snapshot(snapshot).contents.vertices[0].bins[0]
    head, chunks, rest = good[:40], [], good[40 + sum(first.chunks) :]
    start = 40
    for length in first.chunks:
        chunks.append(good[start : start + length])
        start += length
    for kept in (chunks[1:], chunks[:-1], [*reversed(chunks)], [chunks[0], *chunks]):
        snapshot.write_bytes(head + b"".join(kept) + rest)
        refused(snapshot)


def resealed(good: bytes, **changed: object) -> bytes:
    """The file with other contents, its digests right."""
    offset, length = (int.from_bytes(good[at : at + 8], "little") for at in (-40, -32))
    contents = msgspec.json.decode(good[offset : offset + length]) | changed
    body = msgspec.json.encode(contents)
    sizes = offset.to_bytes(8, "little") + len(body).to_bytes(8, "little")
    return good[:offset] + body + sizes + xxhash.xxh3_128_digest(body) + good[-8:]


def test_another_format_and_contents_of_another_file_are_told_from_damage(snapshot):
    good = snapshot.read_bytes()
    assert resealed(good) == good
    snapshot.write_bytes(resealed(good, chunk_format=9))
    refused(snapshot, FormatMismatch)
    for wrong in ({"bins": 8}, {"cut": 6}, {"format": 2}):
        snapshot.write_bytes(resealed(good, **wrong))
        refused(snapshot)
    head = good[:8] + b"\2\0" + good[10:24]
    snapshot.write_bytes(head + xxhash.xxh3_128_digest(head) + good[40:])
    refused(snapshot, FormatMismatch)


def test_contents_that_say_other_rows_than_the_chunks_are_refused(snapshot):
    good = snapshot.read_bytes()
    vertices = msgspec.to_builtins(Snapshot(snapshot).contents.vertices)
    bins = vertices[0]["bins"] = list(vertices[0]["bins"])
    whole = [dict(each) for each in bins]
    for name, wrong in (("rows", 99), ("digest", "00"), ("bin", 3), ("chunks", [5])):
        bins[0] = whole[0] | {name: wrong}
        snapshot.write_bytes(resealed(good, vertices=vertices))
        refused(snapshot)
