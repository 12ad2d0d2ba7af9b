"""The unit of everything: rows at one timestamp.

Flow: made by a source at its tick, transformed by operators, routed by F, applied by S, produced by
a sink. All rows of a batch share the timestamp; no operator may depend on where batches are cut.

Invariants
  B1  `rows` is one contiguous Arrow record batch; it is never changed in place.
  B2  `origin`, if present, has one entry per row: the producing partition or bin, which ordered
      vertices use to put the rows of one timestamp into the stable order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """`rows` at `time`; `origin` as B2 says."""

    #: (epoch, loop counters...); the order is defined in service.dataflow.progress.timestamp.
    time: tuple[int, ...]
    rows: pa.RecordBatch
    origin: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.rows.num_rows)
