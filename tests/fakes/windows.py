"""Windows as a person would compute them, row by row, and stores of windows driven like S does.

What is checked against it may not share its arithmetic: here every window is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from service.hashing import bins_of
from service.statestore.timed import ALL, NEVER, TimedStore

#: A row: key, event time, value.
Row = tuple[int, int, int]
_NAMES = ["key", "time", "v"]


def windows_of(time: int, size: int, every: int) -> list[tuple[int, int]]:
    """All windows [start, end) that a time is in, cut off at the ends of int64."""
    found = []
    start = time // every * every
    while start + size > time:
        found.append((max(start, NEVER), min(start + size, ALL)))
        start -= every
    return found[::-1]


@dataclass
class Model:
    """What windows must give, kept row by row."""

    size: int
    every: int
    lateness: int
    #: Whether the number of different values is given, too.
    distinct: bool = False
    #: (key, start, end) -> values.
    rows: dict[tuple[int, int, int], list[int]] = field(default_factory=dict)
    given: set[tuple[int, int, int]] = field(default_factory=set)
    watermark: int = NEVER

    def apply(self, rows: Sequence[Row]) -> tuple[list[tuple[Any, ...]], list[Row]]:
        """Results given at once, and rows that are late."""
        late, again = [], set()
        for key, time, value in rows:
            open_ones = [
                (start, end)
                for start, end in windows_of(time, self.size, self.every)
                if not self._over(end, self.lateness)
            ]
            if not open_ones:
                late.append((key, time, value))
            for start, end in open_ones:
                self.rows.setdefault((key, start, end), []).append(value)
                if self._over(end, 0):
                    again.add((key, start, end))
        return self._results(again), late

    def fire(self, watermark: int) -> list[tuple[Any, ...]]:
        """Results of windows that close."""
        self.watermark = max(self.watermark, watermark)
        closing = {
            window for window in self.rows if self._over(window[2], 0) and window not in self.given
        }
        found = self._results(closing)
        for window in [window for window in self.rows if self._over(window[2], self.lateness)]:
            del self.rows[window]
        return found

    def _over(self, end: int, longer: int) -> bool:
        return self.watermark == ALL or self.watermark >= end + longer

    def _results(self, windows: set[tuple[int, int, int]]) -> list[tuple[Any, ...]]:
        self.given |= windows
        ordered = sorted(windows, key=lambda window: (window[2], window[1], window[0]))
        found = []
        for window in ordered:
            values, total = self.rows[window], sum(self.rows[window])
            numbers = (len(values), total, min(values), max(values), total / len(values))
            found.append((*window, *numbers, *([len(set(values))] if self.distinct else [])))
        return found


def batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows as a batch with columns key, time and v."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    return pa.record_batch(
        {name: pa.array(values, pa.int64()) for name, values in zip(_NAMES, columns, strict=True)}
    )


def listed(rows: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """A batch as tuples."""
    return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))


@dataclass
class Slots:
    """Two stores between which bins move, each bin in one of them; driven as S drives them."""

    stores: tuple[TimedStore, TimedStore]
    owner: dict[int, int]
    number: int = 0
    #: The column of keys, and what is done to rows before they go to the owner of theirs.
    key: str = "key"
    prepared: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None

    @classmethod
    def of(cls, first: TimedStore, second: TimedStore) -> Slots:
        """All bins in the first."""
        return cls((first, second), dict.fromkeys(range(first.bins), 0))

    def apply(
        self, rows: Sequence[Row], epoch: int, watermark: int
    ) -> tuple[list[tuple[Any, ...]], list[Row]]:
        """Rows to the owners of their bins."""
        given: list[tuple[Any, ...]] = []
        late: list[Row] = []
        sent = batch(rows) if self.prepared is None else self.prepared(batch(rows))
        keys = sent.column(self.key).to_numpy()
        bins = bins_of(keys, self.stores[0].bin_bits).tolist()
        owners = np.array([self.owner[bin_id] for bin_id in bins], dtype=np.int64)
        for number, store in enumerate(self.stores):
            mine = sent.filter(pa.array(owners == number))
            if mine.num_rows:
                found = store.apply_at(mine, (epoch,), watermark)
                given += listed(found.rows)
                late += [] if found.late is None else listed(found.late.select(_NAMES))
        return given, late

    def fire(self, epoch: int, watermark: int) -> list[tuple[Any, ...]]:
        """What both give."""
        found: list[tuple[Any, ...]] = []
        for store in self.stores:
            if store.due(watermark):
                found += listed(store.fire(watermark, (epoch,)))
        return found

    def move(self, bin_id: int, how: str) -> None:
        """Move a bin to the other store: whole, given up, copied before, or in a group."""
        source, target = self.stores[self.owner[bin_id]], self.stores[1 - self.owner[bin_id]]
        self.owner[bin_id] = 1 - self.owner[bin_id]
        self.number += 1
        if how == "group" and (groups := source.groups) is not None:
            coming = target.groups
            assert coming is not None, "both are of one kind"
            coming.install(coming.read(groups.give_up([bin_id], cut=self.number)))
            return
        if how == "group copied" and (groups := source.groups) is not None:
            coming = target.groups
            assert coming is not None, "both are of one kind"
            source.copier.begin(bin_id)
            while piece := source.copier.next_piece(bin_id, 200):
                target.copier.stage(bin_id, self.number, piece)
            if groups.nbytes_left(bin_id) is not None:
                chunk = groups.leave([bin_id], self.number, cut=self.number)
                coming.install(coming.read(chunk))
                return
            source.copier.end(bin_id)
        if how == "copied":
            source.copier.begin(bin_id)
            while piece := source.copier.next_piece(bin_id, 200):
                target.copier.stage(bin_id, self.number, piece)
            chunks = source.copier.leave(bin_id, self.number, self.number)
        elif how == "extract":
            chunks = source.extract(bin_id, cut=self.number)
        else:
            chunks = source.give_up(bin_id, cut=self.number)
        assembler = target.assembler(bin_id)
        for chunk in chunks:
            assembler.feed(chunk)
        if how == "extract":
            source.delete(bin_id)
        target.install(bin_id, assembler)

    def stage(self, bin_id: int) -> None:
        """Copy a bin to the other store, where it is not owned; nothing comes of it."""
        source, target = self.stores[self.owner[bin_id]], self.stores[1 - self.owner[bin_id]]
        self.number += 1
        source.copier.begin(bin_id)
        while piece := source.copier.next_piece(bin_id, 200):
            target.copier.stage(bin_id, self.number, piece)
        source.copier.end(bin_id)

    def restart(self, make: Any) -> None:
        """Write both, and read them into new ones."""
        again = []
        for number, store in enumerate(self.stores):
            mine = np.array(
                [bin_id for bin_id, owner in self.owner.items() if owner == number], dtype=np.int64
            )
            new: TimedStore = make()
            keys, values = store.stored_rows(mine)
            half = len(keys) // 2
            everything = values.tolist()
            new.load_rows(keys[:half], everything[:half])
            new.load_rows(keys[half:], everything[half:])
            for bin_id in mine.tolist():
                new.set_timers(bin_id, store.timers(bin_id))
            again.append(new)
        self.stores = again[0], again[1]
