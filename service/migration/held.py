"""Rows that wait for a frontier, in F and S: they keep a capability and return their credit.

Flow: F and S put what they may not route or apply yet into [HeldRows] (beyond the horizon) and
[WaitingRows] (of bins that have not arrived), and take it out in the order it came.

Rows of bins on the move are kept by *interval*: from one cut to the next. No cut lies inside an
interval, so all its rows of a bin have one owner and wait for one arrival, and many small batches
may leave as one large one, stamped with the latest of their times, without crossing a cut. In a
loop a row's counters say how often it has been round, so there only rows of one time leave as one.

Invariants
  HR1  A right is held at or before the time of every row, until the last one has left.
  HR2  Rows of one interval leave in the order they came.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.dataflow.operator import Capability, payload_size
from service.dataflow.progress.timestamp import Timestamp, less_equal

#: A batch, the bin of each of its rows, and its bytes.
Part = tuple[pa.RecordBatch, NDArray[np.int32], int]


@dataclass(slots=True)
class HeldRows:
    """A batch that waits as it came, with the right to send at its time."""

    rows: pa.RecordBatch
    right: Capability
    #: Bytes of the rows.
    size: int

    @property
    def epoch(self) -> int:
        """The epoch of the rows."""
        return self.right.time[0]


@dataclass(slots=True)
class WaitingRows:
    """Rows of one interval between cuts whose bins have not arrived."""

    #: Where the interval begins: the last cut at or before every row.
    start: int
    right: Capability
    #: Latest time of any row that ever came.
    latest: Timestamp
    #: Batches, the bin of each of their rows and their bytes, in order of arrival (HR2).
    parts: list[Part] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all rows. Cost: O(batches)."""
        return sum(size for _, _, size in self.parts)

    def add(self, rows: pa.RecordBatch, bins: NDArray[np.int32], time: Timestamp) -> int:
        """Keep `rows` of `time`; returns their bytes. `right` must be at or before it (HR1)."""
        assert less_equal(self.right.time, time), "HR1"
        size = payload_size(rows)
        self.parts.append((rows, bins, size))
        self.latest = max(self.latest, time)
        return size

    def take(self, waits: NDArray[np.bool_], most: int) -> pa.RecordBatch | None:
        """Remove rows whose bin need not wait any more (HR2); None if there are none.

        Args:
            waits: bool[bins], whether rows of a bin must stay.
            most: no further batch is taken from once this many rows are.
        """
        taken: list[pa.RecordBatch] = []
        kept: list[Part] = []
        count = 0
        for position, (rows, bins, size) in enumerate(self.parts):
            if count >= most:
                kept += self.parts[position:]
                break
            stays = waits[bins]
            if stays.all():
                kept.append((rows, bins, size))
                continue
            goes = rows
            if stays.any():
                goes = rows.filter(pa.array(~stays))
                rest = rows.filter(pa.array(stays))
                kept.append((rest, bins[stays], payload_size(rest)))
            taken.append(goes)
            count += goes.num_rows
        if not taken:
            return None
        self.parts = kept
        return taken[0] if len(taken) == 1 else pa.concat_batches(taken)
