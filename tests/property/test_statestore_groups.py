"""Bins that leave together arrive as they would one by one, or not at all.

Oracle: `extract` of each bin before it leaves. It cannot catch rows that `extract` loses as well;
that is what tests/property/test_statestore_arena.py is for.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from service.errors import FormatMismatch, StateCorrupt, StateError
from service.hashing import bins_of
from service.statestore.aggregate import AggregateProgram, Count, Max
from service.statestore.groups import BinGroups, is_group
from service.statestore.vertex_store import VertexStore

BITS = 3
CUT = 1_700_000_000_000_000


def store(vertex: str = "v", bits: int = BITS, column: str = "top") -> VertexStore:
    program = AggregateProgram("key", {"n": Count(), column: Max("x")}, {"x": "float64"})
    return VertexStore(vertex, program, bits)


def apply(to: VertexStore, keys: list[int]) -> None:
    numbers = np.array(keys, dtype=np.int64)
    to.apply_rows(pa.record_batch({"key": numbers, "x": numbers * 0.5}), (1,))


def content(of: VertexStore, bin_id: int) -> list[tuple[int, int, int, float]]:
    rows = of.table.extract(bin_id)
    return sorted(zip(rows.keys, rows.versions, *rows.columns.values(), strict=True))


def groups_of(of: VertexStore) -> BinGroups:
    assert of.groups is not None
    return of.groups


keys = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60)


@given(keys, keys, st.sets(st.integers(0, 7), min_size=1))
def test_bins_arrive_as_they_left_and_others_stay(
    here: list[int], there: list[int], moving: set[int]
) -> None:
    giver, taker = store(), store()
    apply(giver, here)
    # What the new owner may still have of a bin that it does not own goes.
    apply(taker, there)
    before = {bin_id: content(giver, bin_id) for bin_id in range(8)}
    others = {bin_id: content(taker, bin_id) for bin_id in range(8)}
    chunk = groups_of(giver).give_up(sorted(moving), cut=CUT)
    assert is_group(chunk)
    group = groups_of(taker).read(chunk)
    assert (group.cut, group.bins) == (CUT, sorted(moving))
    groups_of(taker).install(group)
    for bin_id in range(8):
        moved = bin_id in moving
        assert content(giver, bin_id) == ([] if moved else before[bin_id])
        assert content(taker, bin_id) == (before if moved else others)[bin_id]
    assert taker.change_mark() >= max((row[1] for at in moving for row in before[at]), default=0)
    apply(taker, here)
    assert taker.row_count >= len(set(here))


@given(st.data())
def test_any_damage_is_refused_and_nothing_installed(data: st.DataObject) -> None:
    giver, taker = store(), store()
    apply(giver, list(range(40)))
    chunk = bytearray(groups_of(giver).give_up([0, 3, 5], cut=CUT))
    place = data.draw(st.integers(0, len(chunk) - 1))
    if data.draw(st.booleans()):
        chunk = chunk[:place]
    else:
        chunk[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StateError):
        groups_of(taker).read(bytes(chunk))
    assert not taker.row_count


def changed(chunk: bytes, of: VertexStore, place: int, value: int) -> bytes:
    """The chunk with another key in a row, and a digest that fits."""
    group = groups_of(of).read(chunk)
    lines = group.lines.copy()
    lines[0, place] = value
    body = bytearray(chunk[:-16])
    at = bytes(body).rindex(group.lines.tobytes())
    body[at : at + lines.nbytes] = lines.tobytes()
    return bytes(body) + xxh3_128_digest(bytes(body))


def test_keys_of_other_bins_and_keys_that_come_twice_are_refused() -> None:
    giver, taker = store(), store()
    apply(giver, list(range(200)))
    chunk = groups_of(giver).give_up([1, 2], cut=CUT)
    group = groups_of(taker).read(chunk)
    foreign = next(key for key in range(200) if bins_of(np.array([key]), BITS)[0] == 7)
    for place, value in ((0, foreign), (1, int(group.lines[0, 0]))):
        with pytest.raises(StateCorrupt, match="of another bin|comes twice"):
            groups_of(taker).install(groups_of(taker).read(changed(chunk, taker, place, value)))
        assert not taker.row_count
    groups_of(taker).install(group)
    assert taker.row_count == len(group.lines[0])


@pytest.mark.parametrize("other", [store("w"), store(bits=4), store(column="least")])
def test_state_of_something_else_is_refused(other: VertexStore) -> None:
    giver = store()
    apply(giver, [1, 2, 3])
    with pytest.raises(FormatMismatch, match="is needed"):
        groups_of(other).read(groups_of(giver).give_up([0, 1], cut=CUT))


def copied(giver: VertexStore, taker: VertexStore, bins: set[int], number: int) -> None:
    """Copy `bins` in one round."""
    for bin_id in bins:
        giver.copier.begin(bin_id)
        while piece := giver.copier.next_piece(bin_id, 256):
            taker.copier.stage(bin_id, number, piece)


@given(keys, keys, keys, st.sets(st.integers(0, 7), min_size=1), st.integers(0, 500))
def test_what_is_left_of_copied_bins_completes_them_together(
    here: list[int], later: list[int], there: list[int], moving: set[int], nbytes: int
) -> None:
    giver, taker = store(), store()
    apply(giver, here)
    # What the new owner may still have of a bin, from a copy that was called off.
    apply(taker, there)
    copied(giver, taker, moving, 4)
    apply(giver, later)
    giver.table.remove(np.array(here[::3], dtype=np.int64))
    # A round of which a part is told.
    first = min(moving)
    giver.copier.next_round(first)
    if nbytes and (piece := giver.copier.next_piece(first, nbytes)):
        taker.copier.stage(first, 4, piece)
    before = {bin_id: content(giver, bin_id) for bin_id in range(8)}
    others = {bin_id: content(taker, bin_id) for bin_id in range(8)}
    together = groups_of(giver)
    assert all(together.nbytes_left(bin_id) is not None for bin_id in moving)
    group = groups_of(taker).read(together.leave(sorted(moving, reverse=True), 4, cut=CUT))
    assert (group.cut, group.bins, group.copy) == (CUT, sorted(moving), 4)
    groups_of(taker).install(group)
    for bin_id in range(8):
        moved = bin_id in moving
        assert content(giver, bin_id) == ([] if moved else before[bin_id])
        expected = (before if moved else others)[bin_id]
        # Versions are a store's own.
        assert [(k, *rest) for k, _, *rest in content(taker, bin_id)] == [
            (k, *rest) for k, _, *rest in expected
        ]
    assert not any(giver.copier.is_copied(bin_id) for bin_id in range(8))
    assert not taker.copier.staged_bins
    apply(giver, here)


def test_bins_that_were_told_less_or_have_other_rows_are_refused_together() -> None:
    giver, taker, deaf = store(), store(), store()
    apply(giver, list(range(200)))
    copied(giver, taker, {1, 2, 5}, 7)
    apply(giver, list(range(150, 250)))
    chunk = groups_of(giver).leave([1, 2, 5], 7, cut=CUT)
    with pytest.raises(StateCorrupt, match="bin 1 was told pieces of digest"):
        groups_of(deaf).install(groups_of(deaf).read(chunk))
    assert not deaf.row_count
    # A row too many in what is staged, under a digest that fits.
    extra = next(key for key in range(1_000, 2_000) if bins_of(np.array([key]), BITS)[0] == 2)
    apply(taker, [extra])
    with pytest.raises(StateCorrupt, match="bin 2 of 'v' has .* rows after its copy"):
        groups_of(taker).install(groups_of(taker).read(chunk))
    assert not taker.row_count
    assert not taker.copier.staged_bins


def test_a_bin_whose_first_round_is_not_through_leaves_on_its_own() -> None:
    giver = store()
    apply(giver, list(range(100)))
    alone = groups_of(giver)
    assert alone.nbytes_left(4) is None
    giver.copier.begin(4)
    assert giver.copier.next_piece(4, 64)
    assert alone.nbytes_left(4) is None
    while giver.copier.next_piece(4, 1 << 20):
        pass
    assert alone.nbytes_left(4) == 32
    apply(giver, giver.table.extract(4).keys[:2].tolist())
    assert alone.nbytes_left(4) == 32 + 2 * 32
    giver.pending.set(giver.table.extract(4).keys[:1], np.array([5]))
    assert alone.nbytes_left(4) is None


def test_a_bin_with_timers_or_a_copy_leaves_on_its_own() -> None:
    giver = store()
    apply(giver, list(range(100)))
    alone = groups_of(giver)
    assert alone.nbytes(3) == 16 + 32 * giver.rows(3)
    of_three = giver.table.extract(3).keys
    giver.pending.set(of_three[:1], of_three[:1] * 0 + 5)
    assert alone.nbytes(3) is None
    giver.copier.begin(4)
    assert alone.nbytes(4) is None
    assert alone.nbytes(5) is not None
