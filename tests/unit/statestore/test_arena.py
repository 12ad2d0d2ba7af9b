"""The arena table: slots, versions, bins, growth and memory, by example.

Cannot catch: interleavings that nobody thought of; the property test drives random ones.
"""

from __future__ import annotations

import gc
import mmap
import threading
from pathlib import Path

import numpy as np
import pytest

from service.errors import FormatMismatch, StateCorrupt, StateError
from service.hashing import bins_of
from service.statestore import _layout
from service.statestore._memory import RESERVED_BYTES
from service.statestore.arena import KeyedTable
from service.statestore.columns import ColumnSpec, Rows, no_rows

COLUMNS = (ColumnSpec("n", "int64", 5), ColumnSpec("x", "float64", -0.5))
EXTREMES = np.array([0, -1, 1, -(2**63), 2**63 - 1], dtype=np.int64)


def rows_of(keys, version=3, columns=COLUMNS):
    keys = np.asarray(keys, dtype=np.int64)
    return Rows(
        keys,
        np.full(len(keys), version, dtype=np.int64),
        {spec.name: keys.astype(spec.dtype) for spec in columns},
    )


def keys_of_bin(bin_id, bin_bits, count):
    keys = np.arange(count << bin_bits << 1, dtype=np.int64)
    return keys[bins_of(keys, bin_bits) == bin_id][:count]


def content(table):
    rows = table.extract_bins(np.arange(table.bins))
    return {
        key: (version, n, x)
        for key, version, n, x in zip(
            rows.keys.tolist(),
            rows.versions.tolist(),
            rows.columns["n"].tolist(),
            rows.columns["x"].tolist(),
        )
    }


def test_a_new_key_starts_with_the_initial_values_and_version_zero():
    table = KeyedTable(3, COLUMNS)
    slots = table.upsert(np.array([9, 4, 9]))
    assert slots[0] == slots[2]
    assert table.column("n")[slots].tolist() == [5, 5, 5]
    assert table.column("x")[slots].tolist() == [-0.5, -0.5, -0.5]
    assert content(table) == {9: (0, 5, -0.5), 4: (0, 5, -0.5)}


def test_keys_at_the_ends_of_the_range_and_zero_are_keys_like_others():
    table = KeyedTable(0, COLUMNS)
    assert table.lookup(EXTREMES).tolist() == [-1] * 5
    slots = table.upsert(EXTREMES)
    assert len(set(slots.tolist())) == 5
    assert table.lookup(EXTREMES).tolist() == slots.tolist()


def test_looking_up_an_absent_key_inserts_nothing():
    table = KeyedTable(2, COLUMNS)
    table.upsert(np.array([1]))
    assert table.lookup(np.array([2, 1])).tolist()[0] == -1
    assert table.row_count == 1


def test_values_written_through_a_column_are_found_again_after_growth():
    table = KeyedTable(1, COLUMNS)
    slots = table.upsert(np.arange(100))
    table.column("n")[slots] = np.arange(100) * 2
    table.upsert(np.arange(100, 50_000))
    slots = table.lookup(np.arange(100))
    assert table.column("n")[slots].tolist() == list(range(0, 200, 2))


def test_slots_of_one_batch_are_right_though_bins_double_within_it():
    table = KeyedTable(0, COLUMNS)
    keys = np.arange(5_000) % 2_500
    assert table.upsert(keys).tolist() == table.lookup(keys).tolist()


def test_only_rows_of_a_later_version_are_extracted_since_an_epoch():
    table = KeyedTable(0, COLUMNS)
    slots = table.upsert(np.array([1, 2, 3]))
    table.mark_changed(slots[:2], 10)
    table.mark_changed(slots[:1], 11)
    assert sorted(table.extract(0).keys.tolist()) == [1, 2, 3]
    assert sorted(table.extract(0, since=9).keys.tolist()) == [1, 2]
    assert table.extract(0, since=10).keys.tolist() == [1]
    assert len(table.extract(0, since=11)) == 0


def test_version_zero_is_an_epoch_like_others():
    table = KeyedTable(0, COLUMNS)
    table.mark_changed(table.upsert(np.array([1])), 0)
    assert table.extract(0).versions.tolist() == [0]


def test_extracted_rows_are_copies():
    table = KeyedTable(0, COLUMNS)
    slots = table.upsert(np.array([1]))
    rows = table.extract(0)
    table.column("n")[slots] = 77
    assert rows.columns["n"].tolist() == [5]


def test_deleting_a_bin_leaves_the_others_and_gives_its_memory_to_them():
    table = KeyedTable(4, COLUMNS)
    table.upsert(np.arange(10_000))
    high_water = table._arena.space[_layout.HIGH_WATER]
    kept = table.rows(1)
    for _ in range(20):
        gone = table.extract(0)
        table.delete(0)
        assert table.rows(0) == 0
        assert table.bin_nbytes(0) == 0
        assert table.lookup(gone.keys).tolist() == [-1] * len(gone)
        table.install(0, gone)
    assert table.rows(1) == kept
    assert table.row_count == 10_000
    assert table._arena.space[_layout.HIGH_WATER] <= high_water + 2 * table.bin_nbytes(0)


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * mmap.PAGESIZE


def test_memory_of_a_deleted_bin_goes_back_to_the_system():
    table = KeyedTable(1, COLUMNS)
    table.upsert(np.arange(1_500_000))
    taken, before = table.bin_nbytes(0), resident_bytes()
    assert taken >= 32 << 20
    gone = table.extract(0)
    table.delete(0)
    assert resident_bytes() < before + 4 * 8 * len(gone) - 0.8 * taken
    table.install(0, gone)
    assert sorted(table.extract(0).keys.tolist()) == sorted(gone.keys.tolist())
    assert table.row_count == 1_500_000


def test_memory_of_a_deleted_bin_may_stay_for_bins_to_come_but_not_for_long():
    table = KeyedTable(1, COLUMNS)
    table.upsert(np.arange(1_500_000))
    taken = table.bin_nbytes(0)
    table.keeper.most_bytes = taken + 1
    gone = table.extract(0)
    before = resident_bytes()
    for _ in range(3):
        table.delete(0)
        assert resident_bytes() > before - 0.2 * taken
        table.install(0, gone)
        assert resident_bytes() < before + 0.2 * taken + 4 * 8 * len(gone)
    table.delete(0)
    for _ in range(9):
        table.keeper.rest()
    assert resident_bytes() > before - 0.2 * taken
    table.keeper.rest()
    assert resident_bytes() < before - 0.8 * taken + 4 * 8 * len(gone)
    table.install(0, gone)
    table.keeper.most_bytes = taken
    kept = resident_bytes()
    table.delete(0)
    assert resident_bytes() < kept - 0.8 * taken, "more than may stay goes at once"
    assert table.row_count == 1_500_000 - len(gone)


def await_found():
    """Wait until memory that tables expect to need was found."""
    for thread in threading.enumerate():
        if thread.name == "finds-memory":
            thread.join()


def expecting_table():
    """A table of four bins, two of which have rows, that may have memory for one more at hand."""
    table = KeyedTable(2, COLUMNS)
    for bin_id in (0, 1):
        table.install(bin_id, rows_of(keys_of_bin(bin_id, 2, 250_000)))
    coming = rows_of(keys_of_bin(2, 2, 250_000))
    table.keeper.most_bytes = table.nbytes // 2
    return table, coming


def test_memory_for_bins_to_come_is_there_before_they_come():
    table, coming = expecting_table()
    size, before = table.nbytes // 2, resident_bytes()
    assert size >= 8 << 20
    table.keeper.expect(1)
    await_found()
    found = resident_bytes()
    assert size * 0.8 < found - before < size * 1.2
    table.keeper.expect(1)
    await_found()
    assert resident_bytes() < found + 0.1 * size, "what was found is not found twice"
    expected = content(table) | {key: (3, key, float(key)) for key in coming.keys.tolist()}
    table.install(2, coming)
    assert content(table) == expected


def test_no_more_memory_is_found_than_may_stay():
    table, _ = expecting_table()
    before = resident_bytes()
    table.keeper.expect(1000)
    await_found()
    assert resident_bytes() < before + 1.2 * table.keeper.most_bytes


def test_memory_that_was_kept_needs_not_be_found():
    table, _ = expecting_table()
    table.keeper.most_bytes = table.nbytes
    table.delete(0)
    before = resident_bytes()
    table.keeper.expect(1)
    await_found()
    assert resident_bytes() < before + 0.1 * table.bin_nbytes(1)


def test_memory_that_was_found_in_vain_goes_back_to_the_system():
    table, coming = expecting_table()
    size, before = table.nbytes // 2, resident_bytes()
    table.keeper.expect(1)
    await_found()
    for _ in range(9):
        table.keeper.rest()
    assert resident_bytes() > before + 0.8 * size
    table.keeper.rest()
    assert resident_bytes() < before + 0.2 * size
    table.install(2, coming)
    assert table.rows(2) == len(coming)


def test_memory_for_bins_to_come_stays_as_others_leave():
    table, coming = expecting_table()
    table.keeper.expect(1)
    await_found()
    before, gone = resident_bytes(), table.bin_nbytes(0)
    table.delete(0)
    # More than may stay: what was released goes, and nothing else does.
    assert before - 1.2 * gone < resident_bytes() < before - 0.8 * gone
    table.install(2, coming)
    assert table.rows(2) == len(coming)


def test_a_table_without_rows_expects_nothing():
    table = KeyedTable(2, COLUMNS)
    table.keeper.most_bytes = 1 << 30
    before = resident_bytes()
    table.keeper.expect(4)
    await_found()
    assert resident_bytes() < before + (1 << 20)


def test_a_bin_that_loses_most_of_its_rows_moves_into_a_smaller_region():
    table = KeyedTable(0, COLUMNS)
    keys = np.arange(100_000)
    slots = table.upsert(keys)
    table.column("n")[slots] = keys * 3
    full = table.nbytes
    assert table.remove(keys[1_000:]) == 99_000
    assert table.nbytes <= full / 16
    assert content(table) == {key: (0, key * 3, -0.5) for key in range(1_000)}
    assert table.remove(keys) == 1_000
    assert table.nbytes == 0


def test_rows_that_come_and_go_at_the_edge_do_not_move_their_bin_each_time():
    table = KeyedTable(0, COLUMNS)
    table.upsert(np.arange(10_000))
    sizes = []
    for row in range(9_000):
        table.remove(np.array([row]))
        table.upsert(np.array([row]))
        table.remove(np.array([row]))
        sizes.append(table.nbytes)
    assert np.count_nonzero(np.diff(sizes)) <= 3


def test_removing_absent_keys_and_keys_twice_counts_each_row_once():
    table = KeyedTable(2, COLUMNS)
    table.upsert(np.array([1, 2, 3]))
    assert table.remove(np.array([2, 9, 2])) == 1
    assert table.remove(np.array([], dtype=np.int64)) == 0
    assert sorted(content(table)) == [1, 3]


def test_an_empty_table_takes_no_region_and_clearing_gives_all_back():
    table = KeyedTable(16, COLUMNS)
    assert table.nbytes == 0
    table.upsert(np.arange(1_000))
    assert table.nbytes > 0
    table.clear()
    assert table.nbytes == 0
    assert table.row_count == 0
    assert table._arena.space[_layout.TOP] == 1 << _layout.SMALLEST


def test_installing_replaces_all_rows_of_the_bin():
    table = KeyedTable(1, COLUMNS)
    keys = keys_of_bin(1, 1, 30)
    table.upsert(keys[:20])
    table.install(1, rows_of(keys[10:], version=8))
    assert content(table) == {key: (8, key, float(key)) for key in keys[10:].tolist()}


def test_installing_no_rows_empties_the_bin():
    table = KeyedTable(0, COLUMNS)
    table.upsert(np.arange(50))
    table.install(0, no_rows(COLUMNS))
    assert table.row_count == 0
    assert table.nbytes == 0


def test_a_bin_of_any_size_is_installed_below_its_load_limit():
    for count in (1, 3, 4, 6, 7, 100, 3_276, 3_277):
        table = KeyedTable(0, COLUMNS)
        table.install(0, rows_of(np.arange(count)))
        assert table.row_count == count
        assert sorted(table.extract(0).keys.tolist()) == list(range(count))


@pytest.mark.parametrize(
    ("rows", "error", "reason"),
    [
        (
            rows_of([*keys_of_bin(1, 1, 3), *keys_of_bin(0, 1, 1)]),
            StateCorrupt,
            "of another bin of 2",
        ),
        (rows_of(np.repeat(keys_of_bin(1, 1, 3), 2)), StateCorrupt, "comes twice"),
        (rows_of(keys_of_bin(1, 1, 3), version=-1), StateCorrupt, "negative version"),
        (rows_of(keys_of_bin(1, 1, 3), columns=COLUMNS[:1]), FormatMismatch, r"\(n: int64\) but"),
        (rows_of(keys_of_bin(1, 1, 3), columns=COLUMNS[::-1]), FormatMismatch, "but this job"),
    ],
)
def test_rows_that_may_not_be_installed_leave_the_bin_as_it_was(rows, error, reason):
    table = KeyedTable(1, COLUMNS)
    table.upsert(np.arange(100))
    before, nbytes = content(table), table.nbytes
    with pytest.raises(error, match=reason):
        table.install(1, rows)
    assert content(table) == before
    assert table.nbytes == nbytes


def test_appending_a_key_twice_is_refused():
    table = KeyedTable(1, COLUMNS)
    table.append(rows_of(np.arange(10)))
    with pytest.raises(StateCorrupt, match="key 7 comes twice"):
        table.append(rows_of([20, 7]))


def test_a_full_table_says_so_and_keeps_what_it_has():
    table = KeyedTable(0, COLUMNS, reserved_bytes=1 << 16)
    with pytest.raises(StateError, match="65536 bytes.*used up"):
        table.upsert(np.arange(10_000))
    rows = table.row_count
    assert rows > 100
    assert set(content(table).values()) == {(0, 5, -0.5)}
    with pytest.raises(StateError, match="used up"):
        table.install(0, rows_of(np.arange(10_000)))
    assert table.row_count == rows
    with pytest.raises(StateError, match="used up"):
        table.append(rows_of(np.arange(100_000, 120_000)))


def test_a_touch_that_is_undone_changes_neither_values_nor_versions():
    table = KeyedTable(1, COLUMNS)
    table.mark_changed(table.upsert(np.arange(10)), 4)
    before = content(table)
    touched = table.touch(np.arange(5, 8))
    touched.state[:] = 0
    table.restore(touched)
    assert content(table) == before


def test_a_table_without_state_columns_keeps_keys_and_versions():
    table = KeyedTable(2, ())
    table.store(table.touch(np.array([1, 2, 1])), 6)
    assert table.extract_bins(np.arange(4)).versions.tolist() == [6, 6]


def test_the_name_of_no_column_is_refused_with_those_there_are():
    with pytest.raises(StateError, match=r"'y'; there are \['n', 'x'\]"):
        KeyedTable(0, COLUMNS).column("y")


def test_bins_of_equal_size_double_one_after_the_other():
    table = KeyedTable(8, ())
    keys = np.arange(256 * 3_000)
    in_use = []
    for start in range(0, len(keys), 4_096):
        table.upsert(keys[start : start + 4_096])
        in_use.append(table.nbytes)
    # From the first bins of 1,024 slots to the last ones of 4,096, memory grows by what the batch
    # brings, not by what all bins together have.
    steps = np.diff(in_use[len(in_use) // 4 :])
    assert steps.max() < 0.06 * in_use[-1]


def test_many_bins_take_hardly_more_memory_than_few():
    few, many = KeyedTable(8, COLUMNS), KeyedTable(16, COLUMNS)
    keys = np.arange(1_000_000)
    few.upsert(keys)
    many.upsert(keys)
    assert many.nbytes < 1.3 * few.nbytes


def test_address_space_of_stores_let_go_is_found_again_before_less_is_taken():
    gc.disable()
    try:
        for _ in range(600):
            table = KeyedTable(2, [])
            in_a_circle = [table]
            in_a_circle.append(in_a_circle)
    finally:
        gc.enable()
    assert len(table._memory) == RESERVED_BYTES
