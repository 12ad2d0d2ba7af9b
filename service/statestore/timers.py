"""Event-time timers, kept in the bins of their keys and moving with them.

Flow: an ordered vertex sets and cancels timers for the keys of a batch -> [TimerTable]; when the
watermark has risen, [pop] gives what is due; a bin that moves or is stored: [pack] -> entries of
chunks or of a checkpoint -> [unpack].

A timer is a time of the event clock, a key and a tag, the number by which its vertex knows what it
is for. Setting it twice is setting it once; a timer has no other identity, so that nothing of it
depends on when or where it was set.

Invariants
  TI1  `pop` gives every timer that is set and due, once, by time, key and tag: the order depends on
       which timers are set and on nothing else, whoever set them, and wherever their bins were.
  TI2  What `pack` gives depends on the timers set and on nothing else.
  TI3  `unpack` takes all entries, or leaves the bin as it was.
  TI4  A bin takes at most four times what its timers and the last calls about them need.
  TI5  `first` splits timers in their order and never between two of one key and time: firing the
       parts one after the other is firing all.
Cost: setting about 0.4 us, popping about 0.8 us a timer; a look at each bin to see if one is due.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.errors import StateCorrupt, StateError
from service.hashing import bins_of
from service.statestore import _layout, _regions, _timer_heap
from service.statestore._memory import give_back, new_arena

Int64s = NDArray[np.int64]

#: Address space for the timers of one vertex; the memory behind it is taken on first use.
RESERVED_BYTES = 1 << 34
_STORED = np.dtype([("time", "<i8"), ("key", "<i8"), ("tag", "<i8")])
_SLOT_BYTES = 8 * _timer_heap.CELLS


@dataclass(frozen=True, slots=True)
class Timers:
    """Timers, by time, key and tag (TI1)."""

    times: Int64s
    keys: Int64s
    tags: Int64s

    def __len__(self) -> int:
        return len(self.times)

    def first(self, most: int) -> tuple[Timers, Timers]:
        """The first ones, about `most`, and the others; of none none.

        The first ones are all of some times or, where the first time has more, of some keys at it.
        """
        end = min(most, len(self))
        if end < len(self):
            begin = int(np.searchsorted(self.times, self.times[end]))
            if not begin:
                # All tags of a key stay together.
                same = int(np.searchsorted(self.times, self.times[0], side="right"))
                begin = int(np.searchsorted(self.keys[:same], self.keys[end - 1], side="right"))
            end = begin
        columns = self.times, self.keys, self.tags
        rest = Timers(*(column[end:] for column in columns))
        return Timers(*(column[:end] for column in columns)), rest

    def joined(self, others: Timers) -> Timers:
        """These timers and others, in order, each once."""
        if not len(others):
            return self
        lines = np.array(
            [
                np.concatenate((getattr(self, name), getattr(others, name)))
                for name in ("times", "keys", "tags")
            ]
        )
        return Timers.of(np.unique(lines, axis=1))

    @classmethod
    def of(cls, lines: Int64s) -> Self:
        """Timers given as lines of times, keys and tags, put in order."""
        times, keys, tags = lines
        order = np.lexsort((tags, keys, times))
        return cls(times[order], keys[order], tags[order])


class TimerTable:
    """Timers of one vertex, in 2**bin_bits bins."""

    def __init__(self, bin_bits: int, *, reserved_bytes: int = RESERVED_BYTES) -> None:
        """Hold no timers.

        Raises:
            StateError: the system grants no address space.
        """
        self.bin_bits = bin_bits
        bins = 1 << bin_bits
        nothing = np.empty(0, dtype=np.int64)
        self._arena, self._memory = new_arena(
            bins, _timer_heap.CELLS, reserved_bytes, loads=nothing, initial=nothing
        )
        #: Time of each bin's first entry, which may be of a timer that was cancelled.
        self._earliest = np.full(bins, _timer_heap.NEVER, dtype=np.int64)
        self._calls = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all regions in use."""
        return int(self._arena.space[_layout.IN_USE]) * _SLOT_BYTES

    def bin_nbytes(self, bin_id: int) -> int:
        """Bytes of the bin's region."""
        region = int(self._arena.regions[bin_id])
        return 0 if region == _layout.NO_REGION else _SLOT_BYTES << (region & _layout.ORDER_MASK)

    def set(self, keys: Int64s, times: Int64s, tags: Int64s | None = None) -> None:
        """Set a timer for each row; tags are 0 by default. One that is set already stays.

        Raises:
            StateError: the reserved address space is used up; some of them are set.
        """
        self._enter(keys, times, tags, is_set=1)

    def cancel(self, keys: Int64s, times: Int64s, tags: Int64s | None = None) -> None:
        """Cancel a timer for each row; one that is not set is passed over.

        Raises:
            StateError: as `set`.
        """
        self._enter(keys, times, tags, is_set=0)

    def due(self, until: int) -> bool:
        """Whether `pop` could give something: False if not, True perhaps. Cost: O(bins)."""
        return len(self._due_bins(until)) > 0

    def pop(self, until: int, only: Collection[int] | None = None) -> Timers:
        """Take out all timers of at most this time, or those of some bins, in order (TI1)."""
        bins = self._due_bins(until)
        if only is not None:
            bins = bins[np.isin(bins, np.fromiter(only, np.int64, len(only)))]
        entries = int(self._arena.rows[bins].sum())
        lines = np.empty((_timer_heap.CELLS, entries), dtype=np.int64)
        count = _timer_heap.pop_timers(self._arena, bins, until, lines, self._earliest)
        self._give_back()
        return Timers.of(lines[: _timer_heap.CALL, :count])

    def extract(self, bin_id: int) -> Timers:
        """Copies of the bin's timers, in order. Cost: sorting them."""
        arena = self._arena
        if arena.rows[bin_id]:
            _timer_heap.settle_timers(arena, bin_id, self._earliest)
        start = int(arena.regions[bin_id]) >> _layout.ORDER_BITS
        cells = arena.cells[start : start + int(arena.rows[bin_id]), : _timer_heap.CALL]
        times, keys, tags = cells.T.copy()
        return Timers(times, keys, tags)

    def count(self, bin_id: int) -> int:
        """Number of the bin's timers. Cost: as `extract`."""
        return len(self.extract(bin_id))

    def delete(self, bin_id: int) -> None:
        """Forget the bin's timers, and give their memory back."""
        region = int(self._arena.regions[bin_id])
        if region != _layout.NO_REGION:
            _regions.release(self._arena, region)
        self._arena.regions[bin_id] = _layout.NO_REGION
        self._arena.rows[bin_id] = 0
        self._earliest[bin_id] = _timer_heap.NEVER
        self._give_back()

    def clear(self) -> None:
        """Forget all timers."""
        for bin_id in np.flatnonzero(self._arena.regions != _layout.NO_REGION).tolist():
            self.delete(bin_id)

    def pack(self, bin_id: int) -> tuple[bytes, ...]:
        """The bin's timers as entries of 24 bytes, in order (TI2)."""
        if not self._arena.rows[bin_id]:
            return ()
        timers = self.extract(bin_id)
        stored = np.empty(len(timers), dtype=_STORED)
        stored["time"], stored["key"], stored["tag"] = timers.times, timers.keys, timers.tags
        return tuple(stored.view(f"V{_STORED.itemsize}").tolist())

    def unpack(self, bin_id: int, entries: Sequence[bytes]) -> None:
        """Replace the bin's timers by those of `entries` (TI3).

        Raises:
            StateCorrupt: they are not what `pack` gives of this bin.
            StateError: the reserved address space is used up; the bin then has no timers.
        """
        timers = self.check(bin_id, entries)
        self.delete(bin_id)
        try:
            self.set(timers.keys, timers.times, timers.tags)
        except StateError:
            self.delete(bin_id)
            raise

    def check(self, bin_id: int, entries: Sequence[bytes]) -> Timers:
        """The timers of entries that `pack` gave of this bin.

        Raises:
            StateCorrupt: they are others.
        """
        return timers_in(bin_id, self.bin_bits, entries)

    def _give_back(self) -> None:
        if self._arena.space[_layout.RELEASED]:
            give_back(self._arena, self._memory)

    def _due_bins(self, until: int) -> Int64s:
        there = self._arena.rows > 0
        return np.flatnonzero(there & (self._earliest <= until))

    def _enter(self, keys: Int64s, times: Int64s, tags: Int64s | None, *, is_set: int) -> None:
        if tags is None:
            tags = np.zeros(len(keys), dtype=np.int64)
        assert len(keys) == len(times) == len(tags), "a time and a tag for each key"
        self._calls += 1
        granted = _timer_heap.set_timers(
            self._arena,
            self.bin_bits,
            np.ascontiguousarray(keys, dtype=np.int64),
            np.ascontiguousarray(times, dtype=np.int64),
            np.ascontiguousarray(tags, dtype=np.int64),
            self._calls,
            is_set,
            self._earliest,
        )
        if not granted:
            raise StateError(
                f"the address space reserved for timers is used up at {self.nbytes} bytes; spread "
                "the bins over more workers"
            )


def timers_in(bin_id: int, bin_bits: int, entries: Sequence[bytes]) -> Timers:
    """The timers of a bin's entries; raises as `TimerTable.check`."""
    if not entries:
        return Timers(*np.empty((3, 0), dtype=np.int64))
    if set(map(len, entries)) - {_STORED.itemsize}:
        raise StateCorrupt(f"a timer entry of bin {bin_id} has another length")
    stored = np.frombuffer(b"".join(entries), dtype=_STORED)
    timers = Timers(*(stored[name].astype(np.int64) for name in ("time", "key", "tag")))
    if np.any(bins_of(timers.keys, bin_bits) != bin_id):
        raise StateCorrupt(f"the timers of bin {bin_id} name a key of another bin")
    if not _ascend(timers):
        raise StateCorrupt(f"the timers of bin {bin_id} are not in order")
    return timers


def _ascend(timers: Timers) -> bool:
    """Whether each timer comes after the one before it."""
    later = timers.tags[1:] > timers.tags[:-1]
    for column in (timers.keys, timers.times):
        later = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & later)
    return bool(later.all())
