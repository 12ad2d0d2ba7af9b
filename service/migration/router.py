"""F: sends every row to the worker that owns its bin at the row's time.

Flow: source or operator -> [Router] == exchange ==> S. One kernel call and one `take` a batch,
whatever the number of workers.

Invariants
  F1  No row with a time at or beyond the local horizon is routed: a later command could still
      concern it. Such batches wait in the held store, under a capability, their credit returned.
  F2  Rows of one batch for one worker keep their order.
Source: Megaphone (VLDB 2019) §3.4; DESIGN §7.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from service.dataflow.operator import Capability, OperatorContext
from service.hashing import mix64
from service.migration.control_source import ControlSource


@njit(cache=True, nogil=True)
def _route(
    keys: NDArray[np.int64],
    bin_bits: int,
    owners: NDArray[np.int32],
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
) -> None:
    """Counting sort of rows by owner: `order` lists rows grouped by owner, `counts` their number."""
    rows = keys.shape[0]
    target = np.empty(rows, dtype=np.int32)
    shift = np.uint64(64 - bin_bits)
    for row in range(rows):
        owner = owners[0]
        if bin_bits > 0:
            owner = owners[np.int64(mix64(np.uint64(keys[row])) >> shift)]
        target[row] = owner
        counts[owner] += 1
    place = np.zeros(counts.shape[0], dtype=np.int64)
    for owner in range(1, counts.shape[0]):
        place[owner] = place[owner - 1] + counts[owner - 1]
    for row in range(rows):
        order[place[target[row]]] = row
        place[target[row]] += 1


@dataclass(slots=True)
class HeldRows:
    """Rows that wait for a frontier, with the right to send them on."""

    rows: pa.RecordBatch
    right: Capability
    size: int


class Router:
    """The routing operator of one stateful vertex in one process."""

    def __init__(self, key: str, columns: list[str], bin_bits: int, control: ControlSource) -> None:
        """Route by `key`; send only `columns`, which S needs."""
        self._key = key
        self._columns = columns
        self._bin_bits = bin_bits
        self._control = control
        self._held: deque[HeldRows] = deque()
        self.held_bytes = 0

    def open(self, context: OperatorContext) -> None:
        """Take the ports: data and control in, data out."""
        self._data, self._commands = context.inputs
        (self._output,) = context.outputs
        self._peers = context.peers

    def step(self) -> None:
        """Route what may be routed, hold the rest (F1)."""
        while self._commands.pull() is not None:
            pass  # The table has the command already; the message only moved the frontier.
        horizon = self._control.follower.horizon
        while self._held and self._held[0].right.time[0] < horizon and self._output.ready():
            held = self._held.popleft()
            self.held_bytes -= held.size
            for rows, peer in self._split(held.rows, held.right.time[0]):
                self._output.send(held.right, rows, peer)
            held.right.drop()
        while self._output.ready() and (message := self._data.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            if message.time[0] >= horizon:
                self._held.append(HeldRows(rows, self._output.retain(0, message), message.size))
                self.held_bytes += message.size
                continue
            for part, peer in self._split(rows, message.time[0]):
                self._output.forward(0, message, part, peer)

    def _split(self, rows: pa.RecordBatch, epoch: int) -> list[tuple[pa.RecordBatch, int]]:
        """Rows for each worker that owns some of them at `epoch`."""
        rows = rows.select(self._columns)
        keys = rows.column(self._key).to_numpy(zero_copy_only=False)
        counts = np.zeros(self._peers, dtype=np.int64)
        order = np.empty(keys.shape[0], dtype=np.int64)
        _route(keys, self._bin_bits, self._control.table.owners_at(epoch), counts, order)
        targets = np.flatnonzero(counts).tolist()
        if len(targets) == 1:
            return [(rows, targets[0])]
        grouped = rows.take(pa.array(order))
        parts = []
        start = 0
        for target in targets:
            length = int(counts[target])
            parts.append((grouped.slice(start, length), target))
            start += length
        return parts
