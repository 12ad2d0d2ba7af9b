"""Rows at S whose bin may not be changed yet: it has not arrived, or a cut holds it.

Flow: S gives rows to [WaitingBins.separate], which keeps those that must wait and gives the others
back; once a cut of a bin is released, [WaitingBins.drain] gives its rows in the order they came.

A bin waits for *cuts*, each at most once: one at which it arrives, or any other at which its state
must stand still. They are released in their order; the first of them is where its rows wait from.

Invariants
  WB1  Rows of a bin at or beyond its first cut are kept, all others are given back.
  WB2  Cuts of a bin are released in the order of their times.
  WB3  Rows of one place (an interval between cuts; in a loop a time of it) leave in the order they
       came, and places in the order of their times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.dataflow.operator import Capability
from service.dataflow.progress.timestamp import Timestamp
from service.migration.held import WaitingRows

#: `hold_from` of a bin that does not wait: no epoch is that late.
NEVER = np.iinfo(np.int64).max


class WaitingBins:
    """Which bins wait from when on, and their rows."""

    def __init__(self, bins: int) -> None:
        """Nothing waits."""
        #: First cut that each bin waits for (WB1).
        self.hold_from = np.full(bins, NEVER, dtype=np.int64)
        self.hold_min = NEVER
        #: Whether a release may have let rows go that are still here.
        self.released = False
        #: Bytes of all rows.
        self.nbytes = 0
        #: Cuts that each bin waits for, ascending; the first is its `hold_from`.
        self._cuts: dict[int, deque[int]] = {}
        #: Rows by where their interval begins; in a loop, where no two times leave as one, by that
        #: and their time.
        self._places: dict[Timestamp, WaitingRows] = {}

    def __bool__(self) -> bool:
        """Whether there are rows that wait."""
        return bool(self._places)

    def wait_for(self, bin_id: int, cut: int) -> None:
        """Let rows of the bin wait from `cut` on; cuts of one bin come in their order."""
        self._cuts.setdefault(bin_id, deque()).append(cut)
        self.hold_from[bin_id] = min(int(self.hold_from[bin_id]), cut)
        self.hold_min = min(self.hold_min, cut)

    def release(self, bins: Iterable[int], cut: int) -> None:
        """Let these bins' rows go that waited for `cut` and wait for no further one (WB2)."""
        for bin_id in bins:
            cuts = self._cuts[bin_id]
            first = cuts.popleft()
            assert first == cut, f"S1: bin {bin_id} of {first} is released with those of {cut}"
            self.hold_from[bin_id] = cuts[0] if cuts else NEVER
            if not cuts:
                del self._cuts[bin_id]
        self.hold_min = int(self.hold_from.min())
        self.released = True

    def separate(
        self,
        rows: pa.RecordBatch,
        bins: NDArray[np.int32],
        time: Timestamp,
        place: Timestamp,
        right: Callable[[], Capability],
    ) -> pa.RecordBatch:
        """Keep the rows that must wait (WB1); returns the others.

        Args:
            rows: rows of one time.
            bins: the bin of each.
            time: their time.
            place: what they may leave with; begins with the start of their interval (WB3).
            right: gives a right to send at `time`; called if it is needed.
        """
        waits = self.hold_from[bins] <= time[0]
        if not waits.any():
            return rows
        waiting = self._places.get(place)
        if waiting is None:
            waiting = self._places[place] = WaitingRows(place[0], right(), time)
        elif time < waiting.right.time:
            waiting.right.drop()
            waiting.right = right()
        self.nbytes += waiting.add(rows.filter(pa.array(waits)), bins[waits], time)
        return rows.filter(pa.array(~waits))

    def drain(
        self, ready: Callable[[], bool], most: int
    ) -> Iterator[tuple[WaitingRows, pa.RecordBatch]]:
        """Rows that may go, in batches of about `most` rows, as long as it is `ready` (WB3).

        `released` stays set while some are left. The consumer applies each batch before the next.
        """
        if not self.released:
            return
        for place in sorted(self._places):
            waiting = self._places[place]
            waits = self.hold_from <= waiting.start
            while ready():
                before = waiting.size
                rows = waiting.take(waits, most)
                if rows is None:
                    break
                self.nbytes -= before - waiting.size
                yield waiting, rows
            else:
                return
            if not waiting.parts:
                waiting.right.drop()
                del self._places[place]
        self.released = False

    def mark_below(self, cut: int, marked: NDArray[np.bool_]) -> None:
        """Set `marked` for every bin that waits for a cut below `cut`, or has rows of one."""
        marked |= self.hold_from < cut
        for waiting in self._places.values():
            if waiting.start < cut:
                for _, bins, _ in waiting.parts:
                    marked[bins] = True
