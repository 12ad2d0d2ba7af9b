"""Checkpoints: whatever was written is read back, and no damaged byte goes unnoticed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import StateCorrupt
from service.statestore.aggregate import AggregateProgram, Count, Min
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.vertex_store import VertexStore
from tests.fakes.timers import entries_at

PROGRAMS = {
    "a": AggregateProgram("k", {"n": Count(), "lo": Min("x")}, {"x": "float64"}),
    "b": AggregateProgram("k", {"n": Count()}, {}),
}
ROWS = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats()), max_size=60)
TIMERS = st.dictionaries(
    st.integers(0, 7), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), max_size=4
)


def new_stores():
    return {name: VertexStore(name, program, 3) for name, program in PROGRAMS.items()}


def fill(stores, rows, timers, version):
    keys = np.array([key for key, _ in rows], dtype=np.int64)
    values = np.array([value for _, value in rows], dtype=np.float64)
    stores["a"].apply(keys, {"x": values}, version)
    stores["b"].apply(keys[::3], {}, version + 1)
    for bin_id, times in timers.items():
        stores["b"].set_timers(bin_id, entries_at(times, bin_id, 3))


def content(stores):
    found = {}
    for name, store in stores.items():
        rows = store.table.extract_bins(np.arange(8))
        order = np.argsort(rows.keys)
        arrays = (rows.keys, rows.versions, *rows.columns.values())
        timers = [store.timers(bin_id) for bin_id in range(8)]
        found[name] = ([array[order].tobytes() for array in arrays], timers)
    return found


@settings(max_examples=25)
@given(ROWS, TIMERS, st.integers(0, 2**60))
def test_what_is_read_is_what_was_written(rows, timers, version):
    with tempfile.TemporaryDirectory() as folder:
        stores, restored = new_stores(), new_stores()
        fill(stores, rows, timers, version)
        files = write_checkpoint(Path(folder), version, stores, range(8))
        read_checkpoint(Path(folder), files, restored)
        assert content(restored) == content(stores)


def test_a_flip_all_over_any_file_is_refused_and_loads_nothing(tmp_path):
    stores, target = new_stores(), new_stores()
    fill(stores, [(key, key / 2) for key in range(5)], {3: [5]}, 1)
    files = write_checkpoint(tmp_path, 1, stores, range(8))
    for stored in files.files:
        path = tmp_path / files.directory / stored.name
        good = path.read_bytes()
        for position in {*range(0, len(good), 17), *range(len(good))[-5:]}:
            path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            with pytest.raises(StateCorrupt, match=stored.name):
                read_checkpoint(tmp_path, files, target)
        path.write_bytes(good)
    assert content(target) == content(new_stores())
    read_checkpoint(tmp_path, files, target)
    assert content(target) == content(stores)
