"""A bin copied while it changes, in pieces of any size between any batches, is the bin.

Cannot catch: what happens to frames on the way; tests/simulation/test_copies.py does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StateCorrupt
from service.hashing import bins_of
from service.statestore.aggregate import AggregateProgram, Count, Sum
from service.statestore.hosted import HostedStore
from service.statestore.object_store import ObjectStore
from service.statestore.stateful_map import StatefulMap
from service.statestore.vertex_store import VertexStore

BITS = 1
CUT = 99
OUT = pa.schema([("out", pa.int64())])


def last_and_count(state: tuple[int, int] | None, value: int) -> tuple[Any, int]:
    """Forgets the key at a nought."""
    count = 1 + (state[1] if state else 0)
    return (None if value == 0 else (value, count)), count


def table() -> VertexStore:
    program = AggregateProgram("key", {"n": Count(), "total": Sum("v")}, {"v": "int64"})
    return VertexStore("stats", program, BITS)


def objects() -> ObjectStore:
    return ObjectStore("seen", StatefulMap("seen", "key", last_and_count, "v", OUT), BITS)


def rows(pairs: list[tuple[int, int]]) -> pa.RecordBatch:
    keys, values = [key for key, _ in pairs], [value for _, value in pairs]
    return pa.record_batch({"key": pa.array(keys, pa.int64()), "v": pa.array(values, pa.int64())})


def content(store: HostedStore) -> dict[int, object]:
    keys, values = store.stored_rows(np.arange(1 << BITS))
    if isinstance(store, VertexStore):
        # Without versions, which are a store's own.
        return {int(key): bytes(value)[8:] for key, value in zip(keys, values, strict=True)}
    return {int(key): value for key, value in zip(keys, values, strict=True)}


def of_bin(store: HostedStore, bin_id: int) -> dict[int, object]:
    found = content(store)
    return {key: v for key, v in found.items() if bins_of(np.array([key]), BITS)[0] == bin_id}


BATCHES = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3)), max_size=60)
#: Keys that are removed.
REMOVALS = st.frozensets(st.integers(0, 80), max_size=20)
#: A batch, or a piece of so many bytes, or keys that go, or another round.
STEPS = st.lists(st.one_of(BATCHES, st.integers(1, 900), REMOVALS, st.none()), max_size=25)


@pytest.mark.parametrize("make", [table, objects])
@given(before=BATCHES, steps=STEPS)
def test_what_is_staged_and_completed_is_the_bin_as_it_leaves(
    make: Callable[[], HostedStore], before: list[tuple[int, int]], steps: list[Any]
) -> None:
    source, target = make(), make()
    source.apply_rows(rows(before), (1,))
    source.copier.begin(0)
    for number, step in enumerate(steps):
        if isinstance(step, list):
            source.apply_rows(rows(step), (2 + number,))
        elif isinstance(step, frozenset):
            if isinstance(source, VertexStore):
                source.table.remove(np.array(sorted(step), dtype=np.int64))
            else:
                source.apply_rows(rows([(key, 0) for key in step]), (2 + number,))
        elif step is None:
            source.copier.next_round(0)
        elif piece := source.copier.next_piece(0, step):
            target.copier.stage(0, 7, piece)
    expected, kept = of_bin(source, 0), of_bin(source, 1)
    assembler = target.assembler(0)
    for chunk in source.copier.leave(0, 7, CUT):
        assembler.feed(chunk)
    target.install(0, assembler)
    assert content(target) == expected
    assert target.rows(0) == len(expected)
    assert content(source) == kept
    assert not source.copier.is_copied(0)
    assert target.copier.staged_bins == 0


@pytest.mark.parametrize("make", [table, objects])
def test_a_round_tells_what_changed_since_the_one_before_and_nothing_else(
    make: Callable[[], HostedStore],
) -> None:
    source, target = make(), make()
    source.apply_rows(rows([(key, 1) for key in range(80)]), (1,))
    source.copier.begin(0)
    assert source.copier.changed(0) == 0
    while piece := source.copier.next_piece(0, 100):
        target.copier.stage(0, 1, piece)
    assert content(target) == of_bin(source, 0)
    some = [key for key in range(80) if bins_of(np.array([key]), BITS)[0] == 0][:3]
    source.apply_rows(rows([(key, 2) for key in (*some, *some, 500)]), (2,))
    changed = len({*some, *([500] if bins_of(np.array([500]), BITS)[0] == 0 else [])})
    assert source.copier.changed(0) == changed
    source.copier.next_round(0)
    assert source.copier.changed(0) == 0
    piece = source.copier.next_piece(0, 1 << 20)
    assert len(piece) < 300
    target.copier.stage(0, 1, piece)
    assert source.copier.next_piece(0, 1 << 20) == b""
    assert content(target) == of_bin(source, 0)


@pytest.mark.parametrize("make", [table, objects])
def test_a_bin_that_was_not_told_all_its_old_owner_told_is_refused_and_nothing_stays(
    make: Callable[[], HostedStore],
) -> None:
    source, target = make(), make()
    source.apply_rows(rows([(key, 1) for key in range(80)]), (1,))
    source.copier.begin(0)
    piece = source.copier.next_piece(0, 100)
    target.copier.stage(0, 1, piece)
    # A second piece that never arrives.
    assert source.copier.next_piece(0, 100)
    assembler = target.assembler(0)
    for chunk in source.copier.leave(0, 1, CUT):
        assembler.feed(chunk)
    with pytest.raises(StateCorrupt, match="was told pieces of digest"):
        target.install(0, assembler)
    assert target.row_count == 0


@pytest.mark.parametrize("make", [table, objects])
def test_a_piece_that_is_damaged_or_of_another_bin_is_refused(
    make: Callable[[], HostedStore],
) -> None:
    source, target = make(), make()
    source.apply_rows(rows([(key, 1) for key in range(80)]), (1,))
    source.copier.begin(0)
    piece = source.copier.next_piece(0, 500)
    for wrong in (piece[:5], piece[:-1], b"\xff" * 8 + piece[8:]):
        with pytest.raises(StateCorrupt):
            target.copier.stage(0, 1, wrong)
    with pytest.raises(StateCorrupt, match="another bin"):
        target.copier.stage(1, 1, piece)


@pytest.mark.parametrize("make", [table, objects])
def test_a_copy_that_ends_leaves_the_bin_and_a_dropped_one_leaves_nothing(
    make: Callable[[], HostedStore],
) -> None:
    source, target = make(), make()
    source.apply_rows(rows([(key, 1) for key in range(80)]), (1,))
    before = content(source)
    source.copier.begin(0)
    target.copier.stage(0, 1, source.copier.next_piece(0, 500))
    source.copier.end(0)
    source.copier.end(0)
    assert content(source) == before
    assert target.row_count > 0
    assert target.copier.staged(0) == 1
    target.copier.drop(0)
    target.copier.drop(0)
    assert target.row_count == 0
    assert target.copier.staged(0) is None


def test_a_bin_that_grows_between_pieces_is_gone_through_anew() -> None:
    source, target = table(), table()
    source.apply_rows(rows([(key, 1) for key in range(20)]), (1,))
    source.copier.begin(0)
    target.copier.stage(0, 1, source.copier.next_piece(0, 50))
    source.apply_rows(rows([(key, 1) for key in range(20, 400)]), (2,))
    told = 0
    while piece := source.copier.next_piece(0, 1 << 20):
        target.copier.stage(0, 1, piece)
        told += 1
    assert told == 1
    assert content(target) == of_bin(source, 0)


def test_the_first_piece_makes_room_for_the_whole_bin() -> None:
    source, target = table(), table()
    source.apply_rows(rows([(key, 1) for key in range(4_000)]), (1,))
    source.copier.begin(0)
    target.copier.stage(0, 1, source.copier.next_piece(0, 1_000))
    assert 0 < target.rows(0) < source.rows(0) / 10
    room = target.nbytes(0)
    while piece := source.copier.next_piece(0, 1_000):
        target.copier.stage(0, 1, piece)
    assert target.rows(0) == source.rows(0)
    assert target.nbytes(0) == room
    assert content(target) == of_bin(source, 0)


@pytest.mark.parametrize("room", [0, 1, (1 << 64) - 1])
def test_room_that_is_told_wrong_costs_nothing_but_time(room: int) -> None:
    source, target = table(), table()
    source.apply_rows(rows([(key, 1) for key in range(400)]), (1,))
    source.copier.begin(0)
    piece = source.copier.next_piece(0, 1 << 20)
    target.copier.stage(0, 1, piece[:8] + room.to_bytes(8, "little") + piece[16:])
    assert content(target) == of_bin(source, 0)
    assert target.nbytes(0) <= source.nbytes(0)


@pytest.mark.parametrize("make", [table, objects])
def test_a_bin_is_given_up_chunk_by_chunk_and_forgotten_with_the_last(
    make: Callable[[], HostedStore],
) -> None:
    source, target = make(), make()
    source.apply_rows(rows([(key, 1) for key in range(80)]), (1,))
    expected, kept = of_bin(source, 0), of_bin(source, 1)
    assembler = target.assembler(0)
    for chunk in source.give_up(0, cut=CUT):
        if assembler.feed(chunk):
            assert source.rows(0) == 0
    target.install(0, assembler)
    assert content(target) == expected
    assert content(source) == kept
