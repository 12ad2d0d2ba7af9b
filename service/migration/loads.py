"""Loads of bins: how much state each holds and how often it changes, at little cost.

Flow: S [LoadMeter] counts rows of some batches -> now and then a LoadReport of the bins here ->
controller [LoadBook] -> sizes for strategies and estimates, loads for a rebalance. Pure.

Invariants
  LD1  A report is at most 6 bytes and a bit per bin, however many rows and whatever the numbers.
  LD2  A number comes out of its code within 1 part in 1,000, and 0 as 0.
  LD3  The book keeps what the newest owner said of a bin; of the others it knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from service.errors import ProtocolViolation
from service.migration.reports import LoadReport
from service.statestore.hosted import HostedStore

#: One batch in so many is counted, once enough were counted to tell bins apart.
_ONE_IN = 8
_ROWS_ENOUGH = 4_096
#: Codes per doubling: 64 doublings fill 16 bits.
_PER_DOUBLING = 1_024


@njit(
    types.void(types.Array(types.int32, 1, "C"), types.Array(types.int64, 1, "C")),
    cache=True,
    nogil=True,
)
def _count(bins: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
    for row in range(bins.shape[0]):
        counts[bins[row]] += 1


class LoadMeter:
    """Changes per bin of one vertex here, since they were last taken."""

    def __init__(self, bins: int) -> None:
        """Nothing was counted."""
        self._counts = np.zeros(bins, dtype=np.int64)
        self._rows = 0
        self._counted = 0

    def wants(self, rows: int) -> bool:
        """Note a batch of so many rows; whether `count` is to be told their bins."""
        self._rows += rows
        if self._counted >= _ROWS_ENOUGH and self._counted * _ONE_IN > self._rows:
            return False
        self._counted += rows
        return True

    def count(self, bins: NDArray[np.int32]) -> None:
        """Count the rows of a batch that `wants` chose, by bin. Cost: 1 ns a row."""
        _count(bins, self._counts)

    def take(self) -> NDArray[np.float64]:
        """Rows per bin since the last call, those not counted spread as the counted ones."""
        counts = self._counts.astype(np.float64) * (self._rows / max(1, self._counted))
        self._counts[:] = 0
        self._rows = self._counted = 0
        return counts


def sizes_of(stores: Iterable[HostedStore], bins: int) -> tuple[NDArray[np.int64], ...]:
    """Rows of each bin over all vertices, and bytes that they take when they move, an estimate."""
    rows = np.zeros(bins, dtype=np.int64)
    size = np.zeros(bins, dtype=np.int64)
    for store in stores:
        own = store.rows_per_bin()
        rows += own
        size += (own * _bytes_per_row(store)).astype(np.int64)
    return rows, size


def _bytes_per_row(store: HostedStore) -> float:
    stored = store.stored_bytes
    if stored is not None:
        # The key goes beside what is kept for it.
        return 8.0 + stored
    return store.total_nbytes / max(1, store.row_count)


def load_report(
    installed: NDArray[np.bool_],
    rows: NDArray[np.int64],
    size: NDArray[np.int64],
    updates_per_s: NDArray[np.float64],
) -> LoadReport:
    """The report about the bins that are `installed` here (LD1)."""
    return LoadReport(
        installed=np.packbits(installed).tobytes(),
        rows=_coded(rows[installed]),
        size=_coded(size[installed]),
        updates_per_s=_coded(updates_per_s[installed]),
    )


def _coded(numbers: NDArray[np.int64] | NDArray[np.float64]) -> bytes:
    """Each number, >= 0 and below 2**63, as its logarithm in 16 bits (LD2)."""
    codes = np.rint(np.log2(1.0 + numbers) * _PER_DOUBLING)
    packed: bytes = codes.astype("<u2").tobytes()
    return packed


def _decoded(codes: bytes) -> NDArray[np.float64]:
    doublings = np.frombuffer(codes, dtype="<u2").astype(np.float64) / _PER_DOUBLING
    return np.asarray(np.exp2(doublings) - 1.0, dtype=np.float64)


class LoadBook:
    """What the controller knows of each bin (LD3)."""

    def __init__(self, bins: int) -> None:
        """Nothing is known."""
        #: Whether anything is known of a bin.
        self.known = np.zeros(bins, dtype=np.bool_)
        self.rows = np.zeros(bins, dtype=np.float64)
        #: Bytes that a bin takes when it moves.
        self.size = np.zeros(bins, dtype=np.float64)
        self.updates_per_s = np.zeros(bins, dtype=np.float64)

    def take(self, report: LoadReport) -> None:
        """Take in what a worker says of its bins.

        Raises:
            ProtocolViolation: it speaks of more or fewer bins than it names.
        """
        bins = self.known.size
        bits = np.unpackbits(np.frombuffer(report.installed, dtype=np.uint8))[:bins]
        here = bits.astype(np.bool_)
        expected = 2 * int(here.sum())
        columns = (report.rows, report.size, report.updates_per_s)
        if bits.size != bins or any(len(codes) != expected for codes in columns):
            raise ProtocolViolation("LD1: a report of loads does not fit the bins it names")
        self.known |= here
        self.rows[here] = _decoded(report.rows)
        self.size[here] = _decoded(report.size)
        self.updates_per_s[here] = _decoded(report.updates_per_s)

    @property
    def is_complete(self) -> bool:
        """Whether every bin was spoken of."""
        return bool(self.known.all())

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each bin; 0 where nothing is known."""
        return self.size.astype(np.int64)
