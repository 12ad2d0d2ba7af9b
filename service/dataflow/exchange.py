"""Sends every row to the process that its key's hash names; no state, no table.

Flow: operator -> [ExchangeOperator] == routed channel ==> operator, in any process. One kernel call
and one `take` a batch, whatever the number of processes.

Invariants
  EX1  Rows of one key go to one process, the same from every sender, as long as `targets` stay.
  EX2  Rows of one batch for one process keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numba import njit, types
from numpy.typing import NDArray

from service.dataflow.operator import OperatorContext
from service.errors import GraphError
from service.hashing import KEYS, mix64

#: Up to so many parts, one pass a part without a branch is faster than one pass with a table.
_FEW = 6


@njit(inline="always")
def _spread_few(
    part: NDArray[np.uint32], counts: NDArray[np.int64], order: NDArray[np.int64]
) -> None:
    """Write each row where the next row of a part goes; go on only if it was of that part."""
    place = 0
    for number in range(counts.shape[0]):
        start = place
        for row in range(part.shape[0]):
            order[place] = row
            place += part[row] == number
        counts[number] = place - start


@njit(
    types.void(KEYS, types.Array(types.int64, 1, "C"), types.Array(types.int64, 1, "C")),
    cache=True,
    nogil=True,
)
def _spread(keys: NDArray[np.int64], counts: NDArray[np.int64], order: NDArray[np.int64]) -> None:
    """Counting sort of rows by part: `order` lists rows grouped by part, `counts` how many.

    `order` has one entry more than there are rows, which means nothing.
    Cost: 1 ns a row, and 0.5 ns for each of a few parts.
    """
    rows, parts = keys.shape[0], counts.shape[0]
    part = np.empty(rows, dtype=np.uint32)
    for row in range(rows):
        # The top 32 bits of the hash as a fraction of `parts`: no division, hardly any bias.
        high = mix64(np.uint64(keys[row])) >> np.uint64(32)
        part[row] = (high * np.uint64(parts)) >> np.uint64(32)
    if parts <= _FEW:
        _spread_few(part, counts, order)
        return
    for row in range(rows):
        counts[part[row]] += 1
    place = np.zeros(parts, dtype=np.int64)
    for number in range(1, parts):
        place[number] = place[number - 1] + counts[number - 1]
    for row in range(rows):
        order[place[part[row]]] = row
        place[part[row]] += 1


class ExchangeOperator:
    """Spreads the rows of its input over processes by the hash of an int64 column."""

    def __init__(self, name: str, key: str, targets: Sequence[int] | None = None) -> None:
        """Spread by `key` over the peers in `targets`, by default all; `name` is for errors."""
        self._name = name
        self._key = key
        self._targets = targets

    def open(self, context: OperatorContext) -> None:
        """Take the ports."""
        (self._input,) = context.inputs
        (self._output,) = context.outputs
        self._peers = range(context.peers) if self._targets is None else self._targets

    def step(self) -> None:
        """Spread what is queued while there is room everywhere.

        Raises:
            GraphError: a key is null.
        """
        while self._output.ready() and (message := self._input.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            for part, peer in self._split(rows):
                self._output.forward(0, message, part, peer)

    def _split(self, rows: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Rows for each peer that gets some (EX2)."""
        column = rows.column(self._key)
        if column.null_count:
            raise GraphError(
                f"{self._name!r} was given {column.null_count} nulls in its key {self._key!r}; "
                "filter them or fill them in before the exchange"
            )
        keys = column.to_numpy(zero_copy_only=False)
        counts = np.zeros(len(self._peers), dtype=np.int64)
        order = np.empty(keys.shape[0] + 1, dtype=np.int64)
        _spread(keys, counts, order)
        parts = np.flatnonzero(counts).tolist()
        if len(parts) == 1:
            yield rows, self._peers[parts[0]]
            return
        grouped = rows.take(pa.array(order[:-1]))
        start = 0
        for part in parts:
            length = int(counts[part])
            yield grouped.slice(start, length), self._peers[part]
            start += length
