"""Epochs that bins of a vertex with event time have still to go through, one by one.

Flow: S goes through an epoch while some of its bins wait -> [WaitingTimes.keep]; once a cut of a
bin is released -> [WaitingTimes.going] -> the epochs in order, each with the bins that go through
it now, their rows, and W before and at the epoch.

What a bin's rows and timers give at an epoch depends on W there, and later epochs on what is left,
so a bin that waited is not given its rows at once: it lives the epochs it missed.

Invariants
  WT1  A bin goes through each epoch at or beyond its cut in which it is owned here once, in order,
       with the W that all others saw there.
  WT2  An epoch is kept, and the right to send at it, until no bin has to go through it; one in
       which nothing happens to a bin that waits is not kept.
  WT3  What is kept counts as bytes held, rows and epochs alike: over the budget the gateways stop
       reading, and W stops rising.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.dataflow.operator import Capability, payload_size
from service.migration.held import Part
from service.migration.waiting import NEVER, WaitingBins

#: What an epoch and its rights take, beside its rows.
_EPOCH_BYTES = 512


@dataclass(slots=True)
class EpochPart:
    """An epoch as some bins go through it."""

    epoch: int
    #: W before the epoch and at it.
    before: int
    now: int
    #: One for each output that may send.
    rights: list[Capability]
    rows: pa.RecordBatch | None = None


@dataclass(slots=True)
class _Kept:
    """An epoch, and the rows of those bins that have not gone through it."""

    part: EpochPart
    #: Bins that are owned here in it: bool[bins].
    owned: NDArray[np.bool_]
    rows: list[Part] = field(default_factory=list)

    def take(self, bins: NDArray[np.bool_]) -> tuple[pa.RecordBatch | None, int]:
        """Remove the rows of these bins: bool[bins]; they, if any, and how many bytes less."""
        taken: list[pa.RecordBatch] = []
        kept: list[Part] = []
        before = sum(size for _, _, size in self.rows)
        for rows, numbers, size in self.rows:
            goes = bins[numbers]
            if goes.all():
                taken.append(rows)
            elif not goes.any():
                kept.append((rows, numbers, size))
            else:
                taken.append(rows.filter(pa.array(goes)))
                rest = rows.filter(pa.array(~goes))
                kept.append((rest, numbers[~goes], payload_size(rest)))
        self.rows = kept
        less = before - sum(size for _, _, size in kept)
        if not taken:
            return None, less
        return (taken[0] if len(taken) == 1 else pa.concat_batches(taken)), less


class WaitingTimes(WaitingBins):
    """Which bins wait from when on, and the epochs they miss."""

    def __init__(self, bins: int) -> None:
        """Nothing waits."""
        super().__init__(bins)
        self._kept: deque[_Kept] = deque()
        #: First kept epoch that each bin has not gone through.
        self._behind = np.full(bins, NEVER, dtype=np.int64)

    def __bool__(self) -> bool:
        """Whether there is an epoch that some bin has to go through."""
        return bool(self._kept)

    def keep(
        self,
        part: EpochPart,
        owned: NDArray[np.bool_],
        numbers: NDArray[np.int32] | None,
    ) -> bool:
        """Keep an epoch for the bins that wait and are `owned` in it (WT2).

        Args:
            part: the epoch, with the rows of those bins; epochs come in order.
            owned: bool[bins].
            numbers: the bin of each row, if there are rows.

        Returns:
            Whether it is kept, and the rights with it.
        """
        waits = owned & (self.hold_from <= part.epoch)
        if part.rows is None and (part.now == part.before or not waits.any()):
            return False
        kept = _Kept(part, owned)
        if part.rows is not None:
            assert numbers is not None, "every row has a bin"
            assert waits[numbers].all(), "S1: its bin comes, or waits for a cut"
            kept.rows.append((part.rows, numbers, payload_size(part.rows)))
            part.rows = None
        self._kept.append(kept)
        self.nbytes += _EPOCH_BYTES + sum(size for _, _, size in kept.rows)
        self._behind[waits] = np.minimum(self._behind[waits], part.epoch)
        return True

    def going(self) -> Iterator[tuple[EpochPart, NDArray[np.bool_]]]:
        """Epochs that bins may go through now, in order, and which bins: bool[bins] (WT1).

        Who takes one goes through it before the next, and may stop; `settle` ends it either way.
        """
        for kept in self._kept:
            epoch = kept.part.epoch
            goes = (self._behind <= epoch) & (self.hold_from > epoch)
            if not goes.any():
                continue
            self._behind[goes] = epoch + 1
            mine = goes & kept.owned
            if mine.any():
                rows, less = kept.take(mine)
                self.nbytes -= less
                part = kept.part
                yield EpochPart(part.epoch, part.before, part.now, part.rights, rows), mine

    def settle(self, *, complete: bool) -> None:
        """Let epochs go that no bin has to go through; `complete`: nothing more may go now."""
        epochs = np.array([kept.part.epoch for kept in self._kept], dtype=np.int64)
        behind = np.flatnonzero(self._behind != NEVER)
        place = np.searchsorted(epochs, self._behind[behind])
        self._behind[behind] = np.append(epochs, NEVER)[place]
        first = int(self._behind.min())
        while self._kept and self._kept[0].part.epoch < first:
            kept = self._kept.popleft()
            assert not kept.rows, "WT1: rows of a bin that does not go through their epoch"
            for right in kept.part.rights:
                right.drop()
            self.nbytes -= _EPOCH_BYTES
        if complete:
            self.released = False

    def mark_below(self, cut: int, marked: NDArray[np.bool_]) -> None:
        """Set `marked` for every bin that waits for a cut below `cut`, or is behind it."""
        marked |= self.hold_from < cut
        marked |= self._behind < cut
