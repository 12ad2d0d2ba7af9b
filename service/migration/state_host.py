"""S: hosts the bins of one stateful vertex on one process, applies rows, hands bins over.

Flow: F == exchange ==> [StateHost] -> downstream; StateHost == state channel ==> StateHost.

For each move of bin b at cut c the old owner waits until b is *settled* at c, extracts it and sends
it stamped c; the new owner holds b's rows >= c until the bin is installed and the *gate* is open.

Invariants
  S1  A row at t for bin b is applied only here: by owner(b, t), with b installed, every earlier move
      of b here released, and t below the local horizon.
  S2  A bin is extracted at c only when settled: installed, released, data and state inputs have
      reached c, and no held row of it lies below c.
  S3  A capability at c is kept on the state output from the moment the move is read until the last
      chunk is sent, so no state frontier passes c before.
  S4  Rows of an arriving bin go on once every downstream stateful input and sink has reached c, so
      nothing the new owner emits can overtake what the old one emitted.
  S5  Bins that do not move never wait.
  S6  Rows that wait hold a capability and no credit.
Source: DESIGN §7; the original's S stalls all keys (reference megaphone §0), this one gates per bin.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.dataflow.operator import Capability, OperatorContext
from service.dataflow.progress.antichain import Antichain
from service.errors import ProtocolViolation
from service.hashing import bins_of
from service.migration.control_source import ControlSource
from service.migration.records import Move
from service.statestore.chunk import BinAssembler, bin_of_chunk
from service.statestore.columns import Values
from service.statestore.vertex_store import VertexStore

#: `hold_from` of a bin that does not wait: no epoch is that late.
_NEVER = np.iinfo(np.int64).max


@dataclass(slots=True)
class HeldRows:
    """Rows that wait for a bin or for the horizon, with their bins and the right to emit."""

    rows: pa.RecordBatch
    bins: NDArray[np.int32]
    right: Capability
    size: int


@dataclass(slots=True)
class Departure:
    """Bins that leave at one cut: the right to send them (S3) and what is left to do."""

    right: Capability
    bins: list[tuple[int, int]]
    #: Chunks of the bin being sent; None between bins.
    chunks: Iterator[bytes] | None = None
    target: int = -1


@dataclass(slots=True)
class Arrival:
    """Bins that come at one cut."""

    cut: int
    missing: set[int]
    assemblers: dict[int, BinAssembler] = field(default_factory=dict)
    installed: list[int] = field(default_factory=list)
    bytes: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class CutReport:
    """What a new owner tells the controller when all its bins of a cut are released."""

    vertex: str
    cut: int
    bins: int
    bytes: int
    rows: int


class StateHost:
    """The state operator of one stateful vertex in one process."""

    def __init__(self, store: VertexStore, key: str, control: ControlSource, bins: int) -> None:
        """Host `store`; the routing table of `control` says which of the `bins` are here."""
        self.store = store
        self._key = key
        self._control = control
        self._bins = bins
        #: Earliest cut at which each bin still arrives here; rows at or after it wait (S1).
        self._hold_from = np.full(bins, _NEVER, dtype=np.int64)
        self._hold_min = _NEVER
        self._coming: dict[int, deque[int]] = {}
        self._departures: dict[int, Departure] = {}
        self._arrivals: dict[int, Arrival] = {}
        self._held: deque[HeldRows] = deque()
        self.held_bytes = 0
        self.rows_applied = 0
        #: Reports not yet taken by the shell.
        self.reports: list[CutReport] = []
        #: Locations whose frontiers are the gate (S4); lowering sets it.
        self.gate: list[int] = []

    def open(self, context: OperatorContext) -> None:
        """Take the ports: data, state and control in; data and state out."""
        self._context = context
        self._peer = context.peer
        self._data, self._state, self._commands = context.inputs
        self._output, self._state_output = context.outputs
        #: Bins whose state is here.
        self.installed = self._control.table.latest == self._peer

    def input_frontier(self) -> Antichain:
        """Times of rows that may still arrive, over all processes."""
        return self._data.frontier()

    @property
    def settled(self) -> bool:
        """Whether nothing waits, leaves or comes."""
        return not (self._held or self._departures or self._arrivals)

    def step(self) -> None:
        """Take commands, state and rows; then let leave and let go what may."""
        while (command := self._commands.pull()) is not None:
            if isinstance(command.payload, Move):
                self._plan(command.payload, self._state_output.retain(2, command))
        while (chunk := self._state.pull()) is not None:
            assert isinstance(chunk.payload, bytes), "a state channel carries chunks"
            self._receive(chunk.time[0], chunk.payload)
        self._release()
        self._drain_held()
        while self._output.ready() and (message := self._data.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            epoch = message.time[0]
            waiting = self._waiting(rows, epoch)
            if waiting is None:
                emitted = self._apply(rows, epoch)
                self._output.forward(0, message, emitted)
                continue
            bins, mask = waiting
            if not mask.all():
                emitted = self._apply(rows.filter(pa.array(~mask)), epoch)
                self._output.forward(0, message, emitted)
            self._hold(rows.filter(pa.array(mask)), bins[mask], self._output.retain(0, message))
        self._depart()

    # Rows ---------------------------------------------------------------------------------------

    def _waiting(
        self, rows: pa.RecordBatch, epoch: int
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]] | None:
        """Bins of the rows and which rows must wait; None if none must (the fast path)."""
        beyond = epoch >= self._control.follower.horizon
        if not beyond and epoch < self._hold_min:
            return None
        bins = bins_of(self._keys(rows), self.store.bin_bits)
        mask = np.full(bins.shape[0], True) if beyond else self._hold_from[bins] <= epoch
        return (bins, mask) if mask.any() else None

    def _keys(self, rows: pa.RecordBatch) -> NDArray[np.int64]:
        return np.asarray(_values(rows, self._key), dtype=np.int64)

    def _apply(self, rows: pa.RecordBatch, epoch: int) -> pa.RecordBatch:
        """Fold rows into their bins and return what changed, one row a key."""
        self.rows_applied += rows.num_rows
        values = {name: _values(rows, name) for name in self.store.program.input_columns}
        keys, outputs = self.store.apply(self._keys(rows), values, epoch)
        arrays = [pa.array(keys), *(pa.array(column) for column in outputs.values())]
        return pa.RecordBatch.from_arrays(arrays, names=[self._key, *outputs])

    def _hold(self, rows: pa.RecordBatch, bins: NDArray[np.int32], right: Capability) -> None:
        held = HeldRows(rows, bins, right, int(rows.nbytes))
        self._held.append(held)
        self.held_bytes += held.size

    def _drain_held(self) -> None:
        """Apply held rows that need not wait any more, oldest first."""
        if not self._held:
            return
        kept: deque[HeldRows] = deque()
        while self._held:
            held = self._held.popleft()
            if not self._output.ready():
                kept.append(held)
                continue
            epoch = held.right.time[0]
            waiting = self._waiting(held.rows, epoch)
            mask = waiting[1] if waiting is not None else np.zeros(len(held.bins), dtype=np.bool_)
            if mask.all():
                kept.append(held)
                continue
            self.held_bytes -= held.size
            if not mask.any():
                self._output.send(held.right, self._apply(held.rows, epoch))
                held.right.drop()
                continue
            self._output.send(held.right, self._apply(held.rows.filter(pa.array(~mask)), epoch))
            rest = held.rows.filter(pa.array(mask))
            kept.append(HeldRows(rest, held.bins[mask], held.right, int(rest.nbytes)))
            self.held_bytes += kept[-1].size
        self._held = kept

    # Moves --------------------------------------------------------------------------------------

    def _plan(self, move: Move, right: Capability) -> None:
        """Note what leaves and what comes at a cut; keeps `right` only if something leaves."""
        cut = move.at
        leaving = []
        coming = set()
        for moved, source, target in self._control.table.moves_at(cut):
            if source == self._peer:
                leaving.append((moved, target))
            elif target == self._peer:
                coming.add(moved)
                self._coming.setdefault(moved, deque()).append(cut)
                self._hold_from[moved] = min(int(self._hold_from[moved]), cut)
                self._hold_min = min(self._hold_min, cut)
        if coming:
            self._arrivals[cut] = Arrival(cut, coming)
        if leaving:
            self._departures[cut] = Departure(right, leaving)
        else:
            right.drop()

    def _depart(self) -> None:
        """Send the bins of the earliest cut that are settled (S2), while state credit lasts."""
        while self._departures:
            cut = min(self._departures)
            if not (self._data.frontier().reached(cut) and self._state.frontier().reached(cut)):
                return
            departure = self._departures[cut]
            waiting = []
            while departure.bins or departure.chunks is not None:
                if not self._state_output.ready():
                    departure.bins.extend(waiting)
                    return
                if departure.chunks is None:
                    moved, target = departure.bins.pop()
                    if not self._is_settled(moved, cut):
                        waiting.append((moved, target))
                        continue
                    departure.chunks = self.store.extract(moved, cut=cut)
                    # What `extract` yields is a copy: the bin's memory is free from here on.
                    self.store.delete(moved)
                    departure.target = target
                    self.installed[moved] = False
                chunk = next(departure.chunks, None)
                if chunk is None:
                    departure.chunks = None
                    continue
                self._state_output.send(departure.right, chunk, departure.target)
            departure.bins.extend(waiting)
            if departure.bins:
                return
            departure.right.drop()
            del self._departures[cut]

    def _is_settled(self, moved: int, cut: int) -> bool:
        """S2, given that both inputs have reached `cut`."""
        if not self.installed[moved] or self._hold_from[moved] < cut:
            return False
        return not any(
            held.right.time[0] < cut and bool((held.bins == moved).any()) for held in self._held
        )

    def _receive(self, cut: int, chunk: bytes) -> None:
        """Take one chunk of an arriving bin; install the bin when it is whole."""
        arrival = self._arrivals.get(cut)
        moved = bin_of_chunk(chunk)
        if arrival is None or moved not in arrival.missing:
            raise ProtocolViolation(
                f"a chunk of bin {moved} at {cut} arrived, but no move names it"
            )
        assembler = arrival.assemblers.get(moved)
        if assembler is None:
            assembler = arrival.assemblers[moved] = self.store.assembler(moved)
        arrival.bytes += len(chunk)
        if assembler.feed(chunk):
            self.store.install(moved, assembler)
            arrival.rows += self.store.rows(moved)
            del arrival.assemblers[moved]
            arrival.missing.discard(moved)
            arrival.installed.append(moved)
            self.installed[moved] = True

    def _release(self) -> None:
        """Let arrived bins' rows go once the gate is open (S4), earliest cut first."""
        for cut in sorted(self._arrivals):
            arrival = self._arrivals[cut]
            if not all(self._context.frontier_of(location).reached(cut) for location in self.gate):
                return
            if arrival.missing:
                continue
            for moved in arrival.installed:
                cuts = self._coming[moved]
                cuts.popleft()
                self._hold_from[moved] = cuts[0] if cuts else _NEVER
                if not cuts:
                    del self._coming[moved]
            self._hold_min = int(self._hold_from.min())
            self.reports.append(
                CutReport(
                    self.store.vertex, cut, len(arrival.installed), arrival.bytes, arrival.rows
                )
            )
            del self._arrivals[cut]


def _values(rows: pa.RecordBatch, name: str) -> Values:
    """A column as NumPy sees it; no copy, as columns of keyed streams hold no nulls."""
    values: Values = rows.column(name).to_numpy(zero_copy_only=False)
    return values
