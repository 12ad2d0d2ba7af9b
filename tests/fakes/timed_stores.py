"""Two stores with event time as S drives them: epochs, watermarks, and bins that move between them.

It checks on the way what every such store keeps: that results leave in the order of their times and
keys is the caller's to say, that nothing is left at the end is checked here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from hypothesis import strategies as st

from service.hashing import bins_of
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.columns import numbers_of
from service.statestore.timed import ALL, NEVER, PartsStore, TimedStore
from service.statestore.timed_text import TimedTextStore

BITS = 2
#: How much the watermark rises after an epoch, and what happens to the bins then.
STEPS = st.tuples(st.integers(0, 4), st.sampled_from(["stay", "move", "store"]))
#: Bins that go to and fro.
MOVING = st.sets(st.integers(0, (1 << BITS) - 1))


@dataclass
class Played:
    """What came of it: (number of the epoch, rows), in the order in which it came."""

    applied: list[tuple[int, pa.RecordBatch]] = field(default_factory=list)
    fired: list[tuple[int, pa.RecordBatch]] = field(default_factory=list)
    late: list[pa.RecordBatch] = field(default_factory=list)


def reached(before: int, rise: int) -> int:
    """The watermark after an epoch."""
    return max(before, 0) + rise


def moved(store: TimedStore, other: TimedStore, bin_id: int) -> None:
    assembler = other.assembler(bin_id)
    for chunk in list(store.give_up(bin_id, cut=7)):
        assembler.feed(chunk)
    other.install(bin_id, assembler)


def stored(store: TimedStore, other: TimedStore) -> TimedStore:
    with tempfile.TemporaryDirectory() as folder:
        files = write_checkpoint(Path(folder), 9, {store.vertex: store}, range(1 << BITS))
        read_checkpoint(Path(folder), files, {store.vertex: other})
    return other


def play(
    make: Callable[[], TimedStore],
    key: str,
    epochs: Sequence[tuple[pa.RecordBatch, tuple[int, str]]],
    moving: set[int],
) -> Played:
    """Give two stores these epochs, and the end of all time; then nothing may be left."""
    stores, homes, played, watermark = [make(), make()], [0] * (1 << BITS), Played(), NEVER
    for number, (rows, (rise, then)) in enumerate(epochs):
        bins = bins_of(numbers_of(rows, key), BITS) if rows.num_rows else []
        for home, store in enumerate(stores):
            here = pa.array([homes[bin_id] == home for bin_id in bins], pa.bool_())
            if here.true_count:
                # What lies ahead may be told or not (TS4).
                ahead = reached(watermark, rise) if number % 2 else NEVER
                mine, half = rows.filter(here), here.true_count // 2
                if isinstance(store, PartsStore) and number % 3:
                    parts = [mine.slice(0, half), mine.slice(half)]
                    given = store.apply_parts(parts, (number,), watermark, ahead)
                else:
                    given = store.apply_at(mine, (number,), watermark, ahead)
                given.rows.validate(full=True)
                played.applied.append((number, given.rows))
                if given.late is not None:
                    played.late.append(given.late)
        watermark = reached(watermark, rise)
        _fire(stores, watermark, number, played)
        if then == "move":
            for bin_id in sorted(moving):
                moved(stores[homes[bin_id]], stores[1 - homes[bin_id]], bin_id)
                homes[bin_id] = 1 - homes[bin_id]
        elif then == "store":
            stores = [stored(store, make()) for store in stores]
    _fire(stores, ALL, len(epochs), played)
    for store in stores:
        assert not store.row_count
        assert not store.due(ALL)
        if isinstance(store, TimedTextStore):
            assert not store.keys.table.key_count
    return played


def _fire(stores: Sequence[TimedStore], watermark: int, number: int, played: Played) -> None:
    for store in stores:
        if store.due(watermark):
            # Bins one by one are as good as all of them: those of a wave get their epochs so.
            some = frozenset(range(number % 3))
            for bins in (some, None):
                given = store.fire(watermark, (number,), bins)
                given.validate(full=True)
                played.fired.append((number, given))
