"""F: sends every row to the worker that owns its bin at the row's time.

Flow: source or operator -> [Router] == exchange ==> S. One kernel call for the owners, and one for
each column or a `take` (`grouping`), whatever the number of bins.

Invariants
  F1  No row with a time at or beyond the local horizon is routed: a later command could still
      concern it. Such batches wait in the held store, under a capability, their credit returned.
  F2  Rows of one batch for one worker keep their order (GR1 of `grouping`).
  F3  Of batches that may be routed, those that came earlier are routed earlier.
  F4  No null passes in a key, nor in a column that the kernels of S read as plain numbers.
  F5  Of a batch those rows stay behind of which S would make nothing beside the others, whatever
      else it has or will be given; who asks for late rows is sent all.
Source: Megaphone (VLDB 2019) §3.4; DESIGN §7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numba import njit, types
from numpy.typing import NDArray

from service.dataflow.grouping import TARGETS, parts_of
from service.dataflow.operator import Capability, OperatorContext, payload_size
from service.dataflow.row_vertices import BatchFunction
from service.errors import GraphError
from service.hashing import KEYS, mix64
from service.migration.control_source import ControlSource
from service.migration.held import HeldRows
from service.migration.records import MAX_EPOCH
from service.statestore.text_keys import key_hashes


@njit(
    types.void(KEYS, types.int64, types.Array(types.int32, 1, "C", readonly=True), TARGETS),
    cache=True,
    nogil=True,
)
def _aim(
    keys: NDArray[np.int64], bin_bits: int, owners: NDArray[np.int32], target: NDArray[np.uint32]
) -> None:
    """The owner of each row's bin. Cost: 1 ns a row, while the owners fit into the caches."""
    if bin_bits == 0:
        target[:] = owners[0]
        return
    shift = np.uint64(64 - bin_bits)
    for row in range(keys.shape[0]):
        target[row] = owners[np.int64(mix64(np.uint64(keys[row])) >> shift)]


class Router:
    """The routing operator of one stateful vertex in one process."""

    def __init__(
        self,
        vertex: str,
        key: str,
        columns: list[str],
        bin_bits: int,
        control: ControlSource,
        required: list[str] | None = None,
        text_key: str | None = None,
        combine: BatchFunction | None = None,
    ) -> None:
        """Route rows of `vertex` by `key`; send only `columns`, which S needs.

        Those that are `required`, by default all, may hold no null (F4). With a `text_key`, `key`
        is a column of its hashes, which is made here. `combine` leaves rows out (F5).
        """
        self._vertex = vertex
        self._key = key
        self._columns = columns
        self._required = columns if required is None else required
        self._text_key = text_key
        self._combine = combine
        self._bin_bits = bin_bits
        self._control = control
        self._held: deque[HeldRows] = deque()
        self._held_min = MAX_EPOCH
        self.held_bytes = 0

    def open(self, context: OperatorContext) -> None:
        """Take the ports: data and control in, data out."""
        self._context = context
        self._data, self._commands = context.inputs
        (self._output,) = context.outputs

    def step(self) -> None:
        """Route what may be routed, hold the rest (F1)."""
        while self._commands.pull() is not None:
            pass  # The table has the command already; the message only moved the frontier.
        horizon = self._control.follower.horizon
        if self._held_min < horizon:
            self._route_held(horizon)
        while self._output.ready() and (message := self._data.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            if message.time[0] >= horizon:
                self._hold(rows, self._output.retain(0, message))
                continue
            for part, peer in self._split(rows, message.time[0]):
                self._output.forward(0, message, part, peer)

    def _hold(self, rows: pa.RecordBatch, right: Capability) -> None:
        held = HeldRows(rows, right, payload_size(rows))
        self._held.append(held)
        self._held_min = min(self._held_min, held.epoch)
        self.held_bytes += held.size
        self._control.at_next_horizon(self._context.activate)

    def _route_held(self, horizon: int) -> None:
        """Route held batches below `horizon` in the order they came, while there is room (F3)."""
        later: deque[HeldRows] = deque()
        while self._held and self._output.ready():
            held = self._held.popleft()
            if held.epoch >= horizon:
                later.append(held)
                continue
            self.held_bytes -= held.size
            for rows, peer in self._split(held.rows, held.epoch):
                self._output.send(held.right, rows, peer)
            held.right.drop()
        self._held.extendleft(reversed(later))
        self._held_min = min((held.epoch for held in self._held), default=MAX_EPOCH)
        if self._held:
            self._control.at_next_horizon(self._context.activate)

    def _split(self, rows: pa.RecordBatch, epoch: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Rows for each worker that owns some of them at `epoch` (F2).

        Raises:
            GraphError: a required column holds a null.
        """
        if self._text_key is not None:
            hashes = key_hashes(rows.column(self._text_key))
            rows = rows.append_column(self._key, pa.array(hashes))
        if rows.schema.names != self._columns:
            rows = rows.select(self._columns)
        for name in self._required:
            nulls = rows.column(name).null_count
            if nulls:
                raise GraphError(
                    f"{self._vertex!r} was given {nulls} nulls in column {name!r}; "
                    "filter them or fill them in before key_by"
                )
        if self._combine is not None:
            rows = self._combine(rows)
        workers = self._control.table.workers
        if workers == 1:
            return iter([(rows, 0)] if rows.num_rows else [])
        keys = rows.column(self._key).to_numpy(zero_copy_only=False)
        target = np.empty(keys.shape[0], dtype=np.uint32)
        _aim(keys, self._bin_bits, self._control.table.owners_at(epoch), target)
        return parts_of(rows, target, workers)
