"""Objects of a vertex: moved, stored, refused, never of half a batch.

Cannot catch: an object that the codec gets wrong (tests/property/test_object_codec.py does).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.errors import FormatMismatch, StateCorrupt, StateError, UserFunctionError
from service.hashing import bins_of
from service.statestore.aggregate import AggregateProgram, Count
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.hosted import HostedStore
from service.statestore.object_rows import SAMPLE_ROWS, StateCodec
from service.statestore.object_store import ObjectStore
from service.statestore.stateful_map import StatefulMap
from service.statestore.vertex_store import VertexStore

BITS = 3
OUT = pa.schema([("out", pa.int64())])


def keep(seen: list[int] | None, value: int) -> tuple[list[int], int]:
    """All values so far, and how many."""
    seen = seen if seen is not None else []
    seen.append(value)
    return seen, len(seen)


def store_of(
    function: Callable[[Any, Any], tuple[Any, Any]] = keep,
    vertex: str = "seen",
    bits: int = BITS,
    codec: StateCodec | None = None,
) -> ObjectStore:
    program = StatefulMap(vertex, "key", function, "v", OUT)
    return (
        ObjectStore(vertex, program, bits, codec) if codec else ObjectStore(vertex, program, bits)
    )


def rows(*pairs: tuple[int, int]) -> pa.RecordBatch:
    keys, values = zip(*pairs, strict=True)
    return pa.RecordBatch.from_pydict(
        {"key": pa.array(keys, pa.int64()), "v": pa.array(values, pa.int64())}
    )


def bin_of(key: int, bits: int = BITS) -> int:
    return int(bins_of(np.array([key]), bits)[0])


def move(source: ObjectStore, target: ObjectStore, bin_id: int) -> None:
    assembler = target.assembler(bin_id)
    for chunk in source.extract(bin_id, cut=5):
        assembler.feed(chunk)
    target.install(bin_id, assembler)


def test_a_bin_goes_on_elsewhere_where_it_was() -> None:
    source, target = store_of(), store_of()
    source.apply_rows(rows(*((key, key * 10) for key in range(40)), (7, 1)), (1,))
    before = source.rows_per_bin()
    for bin_id in range(8):
        move(source, target, bin_id)
        source.delete(bin_id)
        assert source.rows(bin_id) == 0
    assert source.row_count == 0
    assert target.row_count == 40
    assert target.rows_per_bin().tolist() == before.tolist()
    assert target.state(7) == [70, 1]
    assert target.apply_rows(rows((7, 2), (3, 2)), (2,))["out"].to_pylist() == [3, 2]


def test_what_was_extracted_does_not_see_later_changes() -> None:
    source, target = store_of(), store_of()
    source.apply_rows(rows((1, 10)), (1,))
    chunks = source.extract(bin_of(1), cut=5)
    source.apply_rows(rows((1, 11)), (2,))
    assembler = target.assembler(bin_of(1))
    for chunk in chunks:
        assembler.feed(chunk)
    target.install(bin_of(1), assembler)
    assert target.state(1) == [10]
    assert source.state(1) == [10, 11]


def test_an_object_larger_than_a_chunk_goes_in_pieces() -> None:
    source, target = store_of(), store_of()
    source.apply_rows(rows((1, 0)), (1,))
    big = source.state(1)
    assert isinstance(big, list)
    big[:] = range(1 << 40, (1 << 40) + 400_000)
    chunks = list(source.extract(bin_of(1), cut=5))
    assert len(chunks) > 4
    assert max(map(len, chunks)) <= 1 << 20
    move(source, target, bin_of(1))
    assert target.state(1) == big


def test_an_install_replaces_the_bin_and_one_that_is_refused_leaves_it() -> None:
    source, target = store_of(), store_of()
    source.apply_rows(rows((1, 10)), (1,))
    mates = [key for key in range(200) if bin_of(key) == bin_of(1)][:3]
    target.apply_rows(rows(*((key, 0) for key in mates)), (1,))
    for other, said in (
        (store_of(vertex="other"), "has vertex other"),
        (store_of(bits=4), "has bins 16"),
        (store_of(codec=StateCodec("own", lambda _: b"", lambda _: 0)), "has object own"),
    ):
        other.apply_rows(rows((1, 10)), (1,))
        bin_id = bin_of(1, other.bin_bits)
        assembler = target.assembler(bin_id)
        for chunk in other.extract(bin_id, cut=5):
            assembler.feed(chunk)
        with pytest.raises(FormatMismatch, match=said):
            target.install(bin_id, assembler)
    assert target.rows(bin_of(1)) == 3
    move(source, target, bin_of(1))
    assert target.rows(bin_of(1)) == 1


def test_state_of_an_arena_is_no_state_of_objects() -> None:
    arena = VertexStore("seen", AggregateProgram("key", {"n": Count()}, {}), BITS)
    arena.apply(np.array([1]), {}, 1)
    target = store_of()
    assembler = target.assembler(bin_of(1))
    for chunk in arena.extract(bin_of(1)):
        assembler.feed(chunk)
    with pytest.raises(FormatMismatch, match="has object unnamed"):
        target.install(bin_of(1), assembler)


def test_a_state_that_does_not_decode_is_refused_with_its_key_and_nothing_changes() -> None:
    def refuse(_: bytes) -> object:
        raise ValueError("no such class")

    codec = StateCodec("own", lambda _: b"x", refuse)
    source, target = store_of(codec=codec), store_of(codec=codec)
    source.apply_rows(rows((1, 10)), (1,))
    with pytest.raises(StateCorrupt, match=r"'seen' for key 1 .*no such class"):
        move(source, target, bin_of(1))
    assert target.row_count == 0


def test_a_forgotten_key_is_gone_and_may_come_again() -> None:
    store = store_of(lambda state, value: (None if value < 0 else value, state))
    found = store.apply_rows(rows((1, 5), (1, 6), (1, -1), (1, 7), (2, 1), (2, -1)), (1,))
    assert found.to_pydict() == {"key": [1, 1, 2], "out": [5, 6, 1]}
    assert store.row_count == 1
    assert store.rows(bin_of(1)) == 1
    store.apply_rows(rows((1, -1), (3, -1)), (2,))
    assert store.row_count == 0
    assert store.rows_per_bin().sum() == 0
    assert list(store.extract(bin_of(1), cut=1))


def test_after_a_function_raised_no_state_is_given_out() -> None:
    def fail(state: int | None, value: int) -> tuple[int, int]:
        return (state or 0) + 1, 1 // value

    store = store_of(fail)
    store.apply_rows(rows((1, 1)), (1,))
    with pytest.raises(UserFunctionError, match=r"'seen' raised ZeroDivisionError for key 2"):
        store.apply_rows(rows((1, 1), (2, 0), (3, 1)), (7,))
    for attempt in (
        lambda: store.extract(bin_of(1), cut=5),
        lambda: store.stored_rows(np.arange(8)),
        lambda: store.apply_rows(rows((1, 1)), (8,)),
    ):
        with pytest.raises(StateError, match="half a batch, because a function of the flow raised"):
            attempt()


def test_a_state_that_cannot_be_encoded_is_found_at_its_first_batch() -> None:
    store = store_of(lambda state, value: (threading.Lock(), None))
    with pytest.raises(StateError, match=r"'seen' for key 4, a lock, cannot be encoded"):
        store.apply_rows(rows((1, 1), (4, 1)), (1,))


def test_a_state_that_hides_what_cannot_be_encoded_is_found_by_a_sample_or_when_it_moves() -> None:
    def hide(state: list[object] | None, value: int) -> tuple[list[object], None]:
        return ([] if state is None else [threading.Lock()]), None

    store = store_of(hide)
    store.apply_rows(rows((1, 1)), (1,))
    store.apply_rows(rows((1, 1)), (2,))
    with pytest.raises(StateError, match="for key 1, a list, cannot be encoded"):
        store.extract(bin_of(1), cut=5)
    with pytest.raises(StateError, match="for key 1, a list, cannot be encoded"):
        store.apply_rows(rows(*[(1, 1)] * SAMPLE_ROWS), (3,))


def test_sizes_are_estimated_from_encodings_seen() -> None:
    store = store_of(lambda state, value: (b"x" * value, None))
    assert store.total_nbytes == 0
    store.apply_rows(rows((1, 5_000), (2, 5_000)), (1,))
    assert 10_000 < store.total_nbytes < 11_000
    assert sum(map(store.nbytes, range(8))) == store.total_nbytes


def test_objects_and_arenas_share_a_checkpoint(tmp_path: Path) -> None:
    def made() -> tuple[dict[str, HostedStore], ObjectStore, VertexStore]:
        objects = store_of()
        arena = VertexStore("counts", AggregateProgram("key", {"n": Count()}, {}), BITS)
        return {"seen": objects, "counts": arena}, objects, arena

    stores, objects, arena = made()
    objects.apply_rows(rows(*((key, key) for key in (-5, 0, 3, 2**62)), (3, 4)), (1,))
    arena.apply(np.array([3, 3, 9]), {}, 1)
    owned = list(range(8))
    files = write_checkpoint(tmp_path, 10, stores, owned)
    assert files.rows == 6
    others, found, counts = made()
    read_checkpoint(tmp_path, files, others)
    assert found.row_count == 4
    assert found.state(3) == [3, 4]
    assert found.state(2**62) == [2**62]
    assert found.rows_per_bin().tolist() == objects.rows_per_bin().tolist()
    assert counts.row_count == 2
    other = {"seen": store_of(codec=StateCodec("own", lambda _: b"", lambda _: 0)), "counts": arena}
    with pytest.raises(
        FormatMismatch, match=r"object: objects1\) but this job keeps \(object: own"
    ):
        read_checkpoint(tmp_path, files, {**other, "counts": made()[2]})
    with pytest.raises(StateCorrupt, match="comes twice"):
        found.load_rows(np.array([3]), [b"\x01"])


def test_timers_are_refused_and_clearing_forgets_all() -> None:
    store = store_of()
    store.apply_rows(rows((1, 1)), (1,))
    assert store.timers(0) == ()
    store.set_timers(0, ())
    with pytest.raises(StateCorrupt, match="'seen' has no timers"):
        store.set_timers(0, [b"t"])
    store.clear()
    assert (store.row_count, store.rows(bin_of(1)), store.state(1)) == (0, 0, None)
