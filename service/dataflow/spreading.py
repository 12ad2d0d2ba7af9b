"""Rows sent over the workers without state: by the hash of a column, or all to all.

Flow: operator -> [ExchangeOperator | BroadcastOperator] == exchange ==> receiver, a ConcatOperator
in every process. Which worker a row goes to never changes; what is to move belongs behind `key_by`.

Invariants
  SP1  A row's worker depends on the value of its column and the number of workers only.
  SP2  Rows of one batch for one worker keep their order.
  SP3  At most one message to each worker leaves after `ready` (W3 of the worker).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numba import njit, types
from numpy.typing import NDArray

from service.dataflow.operator import OperatorContext
from service.hashing import KEYS, mix64

_TARGETS = types.Array(types.uint32, 1, "C")
_NUMBERS = types.Array(types.int64, 1, "C")
#: Up to so many workers, one pass each without a branch is faster than one pass with a table.
_FEW = 6
#: Arrow types that are 64 bits a value.
_WIDE = frozenset(
    each.id
    for each in (
        pa.int64(),
        pa.uint64(),
        pa.float64(),
        pa.timestamp("us"),
        pa.duration("us"),
        pa.date64(),
        pa.time64("us"),
    )
)


@njit(types.void(KEYS, types.int64, _TARGETS), cache=True, nogil=True)
def _aim(values: NDArray[np.int64], workers: int, target: NDArray[np.uint32]) -> None:
    """The worker of each row.

    The upper half of the hash times the number of workers, its upper half again, is the worker: no
    division, and a row's worker says nothing about its slot in a bin's table.
    Cost: 0.8 ns a row.
    """
    for row in range(values.shape[0]):
        half = mix64(np.uint64(values[row])) >> np.uint64(32)
        target[row] = (half * np.uint64(workers)) >> np.uint64(32)


@njit(types.void(_TARGETS, _NUMBERS, _NUMBERS), cache=True, nogil=True)
def _sort(target: NDArray[np.uint32], counts: NDArray[np.int64], order: NDArray[np.int64]) -> None:
    """Counting sort by worker: `order` lists rows grouped by worker, `counts` how many each gets.

    Cost: 2 ns a row, up to 6 for two workers.
    """
    rows, workers = target.shape[0], counts.shape[0]
    for row in range(rows):
        counts[target[row]] += 1
    place = np.zeros(workers, dtype=np.int64)
    for next_worker in range(1, workers):
        place[next_worker] = place[next_worker - 1] + counts[next_worker - 1]
    for row in range(rows):
        order[place[target[row]]] = row
        place[target[row]] += 1


@njit(types.void(KEYS, _TARGETS, _NUMBERS, _NUMBERS), cache=True, nogil=True)
def _group(
    values: NDArray[np.int64],
    target: NDArray[np.uint32],
    counts: NDArray[np.int64],
    grouped: NDArray[np.int64],
) -> None:
    """The values grouped by worker, in their order, for a few workers: `_sort` and `take` in one.

    Each value is written where the next one of a worker goes, and the place goes on only if it was
    of that worker. So `grouped` has one entry more than there are rows, which means nothing.
    Cost: 0.7 ns a row and worker.
    """
    place = 0
    for worker in range(counts.shape[0]):
        start = place
        for row in range(target.shape[0]):
            grouped[place] = values[row]
            place += target[row] == worker
        counts[worker] = place - start


class _Sender(ABC):
    """Sends the parts of each batch where they belong."""

    def __init__(self, workers: int) -> None:
        """Spread over the peers 0 to `workers` - 1."""
        self._workers = workers

    def open(self, context: OperatorContext) -> None:
        """Take the ports."""
        (self._input,) = context.inputs
        (self._output,) = context.outputs

    def step(self) -> None:
        """Send what is queued while every worker has room (SP3)."""
        while self._output.ready() and (message := self._input.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            for part, worker in self._parts(rows):
                self._output.forward(0, message, part, worker)

    @abstractmethod
    def _parts(self, rows: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Rows for each worker that gets some."""


class ExchangeOperator(_Sender):
    """Each row to the worker that the hash of a column names; nulls go where 0 goes."""

    def __init__(self, by: str, workers: int) -> None:
        """Spread by the integer column `by`."""
        super().__init__(workers)
        self._by = by

    def _parts(self, rows: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, int]]:
        if self._workers == 1:
            yield rows, 0
            return
        column = rows.column(self._by)
        if column.null_count:
            column = column.fill_null(0)
        if column.type != pa.int64():
            column = column.cast(pa.int64(), safe=False)
        target = np.empty(rows.num_rows, dtype=np.uint32)
        _aim(column.to_numpy(), self._workers, target)
        counts = np.zeros(self._workers, dtype=np.int64)
        if self._workers <= _FEW and all(map(_is_plain, rows.columns)):
            columns = [_grouped(each, target, counts) for each in rows.columns]
            grouped = pa.RecordBatch.from_arrays(columns, schema=rows.schema)
        else:
            order = np.empty(rows.num_rows, dtype=np.int64)
            _sort(target, counts, order)
            grouped = rows.take(pa.array(order))
        workers = np.flatnonzero(counts).tolist()
        start = 0
        for worker in workers:
            length = int(counts[worker])
            yield grouped.slice(start, length), worker
            start += length


def _is_plain(column: pa.Array) -> bool:
    """Whether a column is nothing but 64-bit values."""
    return column.type.id in _WIDE and not column.null_count


def _grouped(column: pa.Array, target: NDArray[np.uint32], counts: NDArray[np.int64]) -> pa.Array:
    """A plain column grouped by worker."""
    rows = len(column)
    values = np.frombuffer(column.buffers()[1], np.int64, rows, 8 * column.offset)
    grouped = np.empty(rows + 1, dtype=np.int64)
    _group(values, target, counts, grouped)
    return pa.Array.from_buffers(column.type, rows, [None, pa.py_buffer(grouped)])


class BroadcastOperator(_Sender):
    """Every row to every worker."""

    def _parts(self, rows: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, int]]:
        for worker in range(self._workers):
            yield rows, worker
