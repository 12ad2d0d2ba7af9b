"""A vertex's store: what a move takes along, and what it refuses to take in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.errors import FormatMismatch, StateCorrupt, StateError
from service.statestore.aggregate import AggregateProgram, Count, Max, Sum
from service.statestore.chunk import encode_bin
from service.statestore.vertex_store import VertexStore
from tests.fakes.timers import entries_at

KEYS = np.arange(200, dtype=np.int64)


def program(**outputs):
    outputs = outputs or {"n": Count(), "top": Max("v")}
    return AggregateProgram("k", outputs, {"v": "int64"})


def store(vertex="stats", bin_bits=2, filled=True, **outputs):
    made = VertexStore(vertex, program(**outputs), bin_bits)
    if filled:
        made.apply(KEYS, {"v": KEYS * 7}, 3)
    return made


def moved(source, target, bin_id, **options):
    assembler = target.assembler(bin_id)
    for chunk in source.extract(bin_id, **options):
        assembler.feed(chunk)
    target.install(bin_id, assembler)
    return assembler


def content(vertex_store, bin_id):
    rows = vertex_store.table.extract(bin_id)
    order = np.argsort(rows.keys)
    columns = {name: values[order].tolist() for name, values in rows.columns.items()}
    return rows.keys[order].tolist(), rows.versions[order].tolist(), columns


def test_a_bin_moves_with_rows_versions_and_timers():
    source, target = store(), store(filled=False)
    timers = entries_at([1, 2], 1, source.bin_bits)
    source.set_timers(1, timers)
    assembler = moved(source, target, 1, cut=9)
    assert assembler.cut == 9
    assert content(target, 1) == content(source, 1)
    assert target.timers(1) == tuple(timers)
    assert target.rows(1) == source.rows(1) > 0
    assert target.rows(0) == 0


def test_a_bin_that_moved_goes_on_where_it_was():
    source, target = store(), store(filled=False)
    for bin_id in range(4):
        moved(source, target, bin_id)
        source.delete(bin_id)
    keys, outputs = target.apply(np.array([5, 5]), {"v": np.array([1, 2])}, 4)
    assert keys.tolist() == [5]
    assert {name: column.tolist() for name, column in outputs.items()} == {"n": [3], "top": [35]}
    assert source.table.row_count == 0


def test_installing_deletes_what_an_older_copy_of_the_bin_left():
    source, target = store(filled=False), store()
    target.set_timers(1, entries_at([3], 1, target.bin_bits))
    moved(source, target, 1)
    assert target.rows(1) == 0
    assert target.timers(1) == ()
    assert target.rows(0) > 0


def test_extraction_sees_no_change_after_the_call():
    source, target = store(), store(filled=False)
    before = content(source, 1)
    chunks = source.extract(1)
    source.apply(KEYS, {"v": KEYS * 100}, 4)
    source.delete(1)
    assembler = target.assembler(1)
    for chunk in chunks:
        assembler.feed(chunk)
    target.install(1, assembler)
    assert content(target, 1) == before


def test_changes_since_an_epoch_are_extracted_but_not_installed_as_a_whole_bin():
    source = store()
    changed, _, _ = content(source, 1)
    source.apply(np.array(changed[:2]), {"v": np.array([1, 1])}, 8)
    target = store()
    assembler = target.assembler(1)
    for chunk in source.extract(1, since=3):
        assembler.feed(chunk)
    assert sorted(assembler.rows().keys.tolist()) == changed[:2]
    with pytest.raises(FormatMismatch, match="since 3, 0 is needed"):
        target.install(1, assembler)


def batch(keys):
    return pa.record_batch({"k": pa.array(keys, pa.int64()), "v": pa.array(keys, pa.int64())})


def test_what_changes_after_a_mark_is_extracted_since_it_whatever_its_time():
    made = store(filled=False, bin_bits=0)
    made.apply_rows(batch(range(20)), (900,))
    mark = made.change_mark()
    made.apply_rows(batch([3, 4]), (100,))
    assert sorted(made.table.extract(0, mark).keys.tolist()) == [3, 4]
    assert len(made.table.extract(0, made.change_mark())) == 0


def test_rows_that_came_with_greater_versions_are_not_taken_for_later_changes():
    source, target = store(filled=False, bin_bits=0), store(filled=False, bin_bits=0)
    for _ in range(5):
        source.apply_rows(batch(range(20)), (1,))
    moved(source, target, 0)
    mark = target.change_mark()
    target.apply_rows(batch([7]), (1,))
    assert target.table.extract(0, mark).keys.tolist() == [7]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (store(vertex="other"), "vertex other, stats is needed"),
        (store(bin_bits=3), "bins 8, 4 is needed"),
        (store(n=Count(), total=Sum("v")), r"\(n: int64, total: int64\)"),
    ],
)
def test_state_of_another_job_is_refused_and_the_bin_stays(other, reason):
    target = store()
    before = content(target, 1)
    with pytest.raises(FormatMismatch, match=reason):
        moved(other, target, 1)
    assert content(target, 1) == before


def test_an_incomplete_snapshot_is_not_installed():
    source, target = store(), store()
    assembler = target.assembler(1)
    assembler.feed(next(source.extract(1)))
    with pytest.raises(StateError, match="not complete"):
        target.install(1, assembler)
    assert content(target, 1) == content(source, 1)


def test_a_snapshot_of_another_bin_is_not_installed():
    source, target = store(), store()
    assembler = target.assembler(2)
    for chunk in source.extract(2):
        assembler.feed(chunk)
    with pytest.raises(StateCorrupt, match="bin 2 came for bin 1"):
        target.install(1, assembler)


def test_a_snapshot_that_does_not_say_whose_it_is_is_not_installed():
    source, target = store(), store(filled=False)
    assembler = target.assembler(1)
    for chunk in encode_bin(1, 0, source.table.extract(1)):
        assembler.feed(chunk)
    with pytest.raises(FormatMismatch, match="vertex unnamed, stats is needed"):
        target.install(1, assembler)


def test_rows_of_another_bin_under_a_right_header_are_not_installed():
    source, target = store(), store(filled=False)
    metadata = {"vertex": "stats", "bins": "4", "since": "0"}
    assembler = target.assembler(1)
    for chunk in encode_bin(1, 0, source.table.extract(2), metadata=metadata):
        assembler.feed(chunk)
    with pytest.raises(StateCorrupt, match="of another bin of 4"):
        target.install(1, assembler)
    assert target.table.row_count == 0


def test_bytes_of_a_bin_count_rows_and_timers():
    made = store()
    before = made.nbytes(1)
    assert before >= made.rows(1) * 8 * 4
    made.set_timers(1, entries_at(range(5), 1, made.bin_bits))
    assert made.nbytes(1) >= before + 5 * 24
    made.clear()
    assert made.nbytes(1) == 0


def test_a_bin_that_leaves_chunk_by_chunk_is_whole_while_others_shrink():
    source, target = store(bin_bits=1, filled=False), store(bin_bits=1, filled=False)
    keys = np.arange(4_000, dtype=np.int64)
    source.apply(keys, {"v": keys * 7}, 3)
    before = content(source, 1)
    others = source.table.extract(0).keys
    assembler = target.assembler(1)
    chunks = source.give_up(1, cut=9)
    assembler.feed(next(chunks))
    turns = source.table.turns
    # Bin 0 gives most of its rows up, so that it moves into a smaller region.
    source.table.remove(others[10:])
    assert source.table.turns > turns
    for chunk in chunks:
        assembler.feed(chunk)
    target.install(1, assembler)
    assert content(target, 1)[0] == before[0]
    assert content(target, 1)[2] == before[2]
    assert (source.rows(0), source.rows(1)) == (10, 0)
