"""RocksDB's memory is one for all slots of a process, bounded by their parts of it, and told.

Cannot catch: what RocksDB takes beside its cache and its write buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import StateError
from service.hashing import bins_of
from service.readings import tier_reading
from service.statestore import slot_database
from service.statestore._rocks import scan
from service.statestore.slot_database import SlotDatabase, process_memory, rocks_share

BITS = 3
MIB = 1 << 20


def values(first: int, count: int) -> np.ndarray:
    """Values of 1 KiB that do not compress."""
    random = np.random.default_rng(first)
    found = np.empty(count, dtype=np.object_)
    found[:] = [random.bytes(1024) for _ in range(count)]
    return found


def put(slot: SlotDatabase, first: int, count: int) -> None:
    keys = np.arange(first, first + count)
    slot.put(0, bins_of(keys, BITS), keys, values(first, count))


def read(slot: SlotDatabase, first: int, count: int) -> int:
    keys = np.arange(first, first + count)
    places, _ = slot.values(0, bins_of(keys, BITS), keys, keys)
    return len(places)


def told(slot: SlotDatabase) -> dict[str, float]:
    parts = tier_reading(slot)["megaphone_state_rocksdb_bytes"]
    assert isinstance(parts, dict)
    return parts


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[list[SlotDatabase]]:
    """Databases of unlike budgets."""
    made = [
        SlotDatabase(tmp_path / f"slot-{number}", budget)
        for number, budget in enumerate((16 * MIB, 48 * MIB, 48 * MIB))
    ]
    yield made
    for slot in made:
        slot.close()


def test_slots_of_any_budgets_bring_their_parts_to_one_memory(tmp_path: Path) -> None:
    memory, before = process_memory(), process_memory().nbytes
    small = SlotDatabase(tmp_path / "small", 16 * MIB)
    assert memory.nbytes - before == rocks_share(16 * MIB) == 2 * MIB
    large = SlotDatabase(tmp_path / "large", 80 * MIB)
    assert small.memory is large.memory is memory
    assert memory.nbytes - before == 12 * MIB
    for slot in (small, large):
        slot.close()
    assert memory.nbytes == before


def test_a_database_that_cannot_be_opened_takes_nothing(tmp_path: Path) -> None:
    before = process_memory().nbytes
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="cannot be prepared"):
        SlotDatabase(tmp_path / "file" / "below", 16 * MIB)
    assert process_memory().nbytes == before


def test_all_slots_tell_of_one_cache_and_what_they_read_stays_out_of_it(
    slots: list[SlotDatabase],
) -> None:
    small, large, other = slots
    put(small, 0, 512)
    wrote = told(other)
    assert wrote["write_buffers"] >= 256 * 1024
    assert wrote["block_cache"] >= wrote["write_buffers"]
    for slot in (small, large):
        parts = told(slot)
        assert (parts["block_cache"], parts["write_buffers"]) == (
            wrote["block_cache"],
            wrote["write_buffers"],
        )
        assert set(parts) == {"block_cache", "write_buffers", "table_readers"}
    # By way of files: what is read from write buffers never comes near the cache.
    put(large, 0, slot_database.INGEST_FROM // 4)
    large.checkpoint(large.path.with_name("c"), [], set())
    before = told(other)["block_cache"]
    assert read(large, 0, 2_048) == 2_048
    assert told(other)["block_cache"] == before, "D5"


def test_all_slots_together_keep_to_the_memory_of_the_process(
    slots: list[SlotDatabase],
) -> None:
    memory = process_memory()
    for slot in slots:
        # More than all of it, in each.
        for first in range(0, 24 * 1024, 4 * 1024):
            put(slot, first, 4 * 1024)
            assert memory.buffer_bytes <= memory.nbytes
        slot.checkpoint(slot.path.with_name(f"{slot.path.name}-c"), [], set())
    for slot in slots:
        for first in range(0, 24 * 1024, 1024):
            assert read(slot, first, 1024) == 1024
            assert memory.cache_bytes <= memory.nbytes + MIB


def test_a_checkpoint_of_merged_files_is_whole_to_whoever_opens_it(tmp_path: Path) -> None:
    """Live databases merge by size, checkpoints are opened with RocksDB's own way of merging."""
    slot, again = SlotDatabase(tmp_path / "a", 16 * MIB), SlotDatabase(tmp_path / "b", 16 * MIB)
    keys, step = np.arange(8 * 1024), 1024
    kept = np.flatnonzero(bins_of(keys, BITS) != 5).tolist()
    latest: dict[int, bytes] = {}
    try:
        # Far more than write buffers hold and than eight files of them, and each key twice.
        for drawn in range(0, 2 * len(keys), step):
            some, found = keys[drawn % len(keys) :][:step], values(drawn, step)
            slot.put(0, bins_of(some, BITS), some, found)
            latest.update(zip(some.tolist(), found.tolist(), strict=True))
        slot.delete_bin(0, 5)
        slot.checkpoint(tmp_path / "checkpoint", [], set())
        assert sum(len(piece) for piece, _ in scan(tmp_path / "checkpoint")) == len(kept)
        again.begin_with(tmp_path / "checkpoint")
        places, read_back = again.values(0, bins_of(keys, BITS), keys, keys)
    finally:
        slot.close()
        again.close()
    assert dict(zip(places.tolist(), read_back, strict=True)) == {key: latest[key] for key in kept}
