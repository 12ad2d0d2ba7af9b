"""S: hosts the bins of one stateful vertex on one process, applies rows, hands bins over.

Flow: F == exchange ==> [StateHost] -> downstream; StateHost == state channel ==> StateHost.

For each move of bin b at cut c the old owner waits until b is *settled* at c, extracts it and
sends it stamped c; the new owner holds b's rows >= c until the bin is installed and the *gate* is
open.

Invariants
  S1  A row at t for bin b is applied only here: by owner(b, t), with b installed, every earlier
      move of b here released, and t below the local horizon.
  S2  A bin is extracted at c only when settled: installed, released, data and state inputs have
      reached c, and no held row of it lies below c.
  S3  A capability at c is kept on the state output from the moment the move is read until the last
      chunk is sent, so no state frontier passes c before.
  S4  Rows of an arriving bin go on once every downstream stateful input and sink has reached c, so
      nothing the new owner emits can overtake what the old one emitted.
  S5  Bins that do not move never wait.
  S6  Rows that wait hold a capability and no credit.
  S7  Of rows that may be applied, those that came earlier are applied earlier.
  S8  State is taken and sent in portions, between which this process receives and applies rows: a
      large wave does not stop the bins that stay.
  S9  An ordered vertex applies the rows of a time together, once nothing at or before it can come
      (OR1 of `ordered`), and rows of a bin that has not arrived time by time as well.
Source: DESIGN §7; the original's S stalls all keys, this one gates per bin.
"""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.dataflow.operator import Capability, Message, OperatorContext, payload_size
from service.dataflow.progress.antichain import Antichain
from service.dataflow.progress.timestamp import Timestamp
from service.dataflow.vertices import Order
from service.errors import ProtocolViolation
from service.hashing import bins_of
from service.migration.control_source import ControlSource
from service.migration.gathering import gather
from service.migration.handover import Arrival, CutReport, Departure
from service.migration.held import HeldRows, WaitingRows
from service.migration.ordered import OrderedRows
from service.migration.records import Move
from service.statestore.chunk import bin_of_chunk
from service.statestore.columns import numbers_of
from service.statestore.hosted import HostedStore

#: `hold_from` of a bin that does not wait: no epoch is that late.
_NEVER = np.iinfo(np.int64).max
#: Bins of a cut that have arrived are released together, at least this part of them at once: each
#: release goes through all rows that wait.
_RELEASE_PARTS = 8


class StateHost:
    """The state operator of one stateful vertex in one process."""

    def __init__(
        self,
        store: HostedStore,
        key: str,
        control: ControlSource,
        bins: int,
        order: Order = Order.EAGER,
    ) -> None:
        """Host `store`; the routing table of `control` says which of the `bins` are here."""
        self.store = store
        #: Rows of an ordered vertex whose time is not complete (S9); None in an eager one.
        self._ordered = OrderedRows() if order is Order.ORDERED else None
        self._key = key
        self._control = control
        #: Earliest cut at which each bin still arrives here; rows at or after it wait (S1).
        self._hold_from = np.full(bins, _NEVER, dtype=np.int64)
        self._hold_min = _NEVER
        #: Cuts at which each bin still arrives, ascending; the first is its `hold_from`.
        self._coming: dict[int, deque[int]] = {}
        self._departures: dict[int, Departure] = {}
        self._arrivals: dict[int, Arrival] = {}
        #: Rows at or beyond the local horizon, in order of arrival.
        self._beyond: deque[HeldRows] = deque()
        self._beyond_min = _NEVER
        #: Rows of bins that have not arrived, by where their interval begins; in a loop, where no
        #: two times leave as one, by that and their time.
        self._waiting: dict[Timestamp, WaitingRows] = {}
        #: Whether a release may have let rows of `_waiting` go.
        self._released = False
        #: Bytes of state taken, and sent, in one step (S8): 2 to 4 ms of work at the taking end.
        self.portion_bytes = 1 << 19
        #: Rows that waited are applied in batches of about this many.
        self.drain_rows = 1 << 16
        #: From this many batches on that wait in the queue, they are applied together.
        self.merge_from = 8
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
        held = self._beyond or self._waiting or self._ordered
        return not (held or self._departures or self._arrivals)

    def step(self) -> None:
        """Take commands, state and rows; then let leave and let go what may."""
        while (command := self._commands.pull()) is not None:
            if isinstance(command.payload, Move):
                self._plan(command.payload, self._state_output.retain(2, command))
        self._take_chunks()
        if self._arrivals:
            self._release()
        # S7: what came later is not looked at before all that may go has gone.
        if self._drain_waiting() and self._admit_beyond():
            if self._ordered is None:
                self._take_rows()
            else:
                self._take_ordered(self._ordered)
        if self._departures:
            self._depart()

    # Rows ---------------------------------------------------------------------------------------

    def _take_rows(self) -> None:
        """Apply what arrived, while there is room below; keep what must wait (S6)."""
        while self._output.ready() and (message := self._data.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            epoch = message.time[0]
            if epoch >= self._horizon():
                self._hold_beyond(rows, self._output.retain(0, message))
                continue
            if len(self._data.queue) >= self.merge_from:
                message, rows = gather(self._data, message, self._control, self.drain_rows)
                epoch = message.time[0]
            now = rows if epoch < self._hold_min else self._separate(rows, message)
            if now.num_rows and (changed := self._apply(now, message.time)).num_rows:
                self._output.forward(0, message, changed)

    def _take_ordered(self, ordered: OrderedRows) -> None:
        """Keep what arrived, and apply the times that are complete, in order (S9)."""
        while (message := self._data.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            retain = partial(self._output.retain, 0, message)
            self.held_bytes += ordered.add(rows, message.time, retain)
        frontier = self._data.frontier()
        while self._output.ready() and (held := ordered.take(frontier)) is not None:
            # Every control source has promised beyond it, and so has this process's own.
            assert held.epoch < self._horizon(), "S1: a complete time lies below the horizon"
            self.held_bytes -= held.size
            self._go_on(held)

    def _horizon(self) -> int:
        return self._control.follower.horizon

    def _hold_beyond(self, rows: pa.RecordBatch, right: Capability) -> None:
        held = HeldRows(rows, right, payload_size(rows))
        self._beyond.append(held)
        self._beyond_min = min(self._beyond_min, held.epoch)
        self.held_bytes += held.size
        self._control.at_next_horizon(self._context.activate)

    def _admit_beyond(self) -> bool:
        """Treat rows the horizon has passed as if they came now; whether none of them is left."""
        horizon = self._horizon()
        if self._beyond_min >= horizon:
            return True
        later: deque[HeldRows] = deque()
        while self._beyond and self._output.ready():
            held = self._beyond.popleft()
            if held.epoch >= horizon:
                later.append(held)
                continue
            self.held_bytes -= held.size
            self._go_on(held)
        complete = not self._beyond
        self._beyond.extendleft(reversed(later))
        self._beyond_min = min((held.epoch for held in self._beyond), default=_NEVER)
        if self._beyond:
            self._control.at_next_horizon(self._context.activate)
        return complete

    def _go_on(self, held: HeldRows) -> None:
        """Apply rows that were held, but for those of bins that have not arrived."""
        rows, right = held.rows, held.right
        if held.epoch >= self._hold_min:
            rows = self._separate(rows, right)
        if rows.num_rows and (changed := self._apply(rows, right.time)).num_rows:
            self._output.send(right, changed)
        right.drop()

    def _separate(self, rows: pa.RecordBatch, origin: Message | Capability) -> pa.RecordBatch:
        """Keep the rows whose bin has not arrived; returns the others. `origin` gives the right."""
        time = origin.time
        epoch = time[0]
        bins = bins_of(self._keys(rows), self.store.bin_bits)
        waits = self._hold_from[bins] <= epoch
        if not waits.any():
            return rows
        start = self._control.table.interval_start(epoch)
        together = len(time) == 1 and self._ordered is None
        place = (start,) if together else (start, *time)
        waiting = self._waiting.get(place)
        if waiting is None:
            waiting = WaitingRows(start, self._right(origin), time)
            self._waiting[place] = waiting
        elif time < waiting.right.time:
            waiting.right.drop()
            waiting.right = self._right(origin)
        self.held_bytes += waiting.add(rows.filter(pa.array(waits)), bins[waits], time)
        return rows.filter(pa.array(~waits))

    def _right(self, origin: Message | Capability) -> Capability:
        if isinstance(origin, Message):
            return self._output.retain(0, origin)
        return origin.delayed(origin.time)

    def _drain_waiting(self) -> bool:
        """Apply rows of released bins, earliest interval first; whether none of them is left."""
        if not self._released:
            return True
        for place in sorted(self._waiting):
            waiting = self._waiting[place]
            waits = self._hold_from <= waiting.start
            while self._output.ready():
                before = waiting.size
                rows = waiting.take(waits, self.drain_rows)
                if rows is None:
                    break
                self.held_bytes -= before - waiting.size
                changed = self._apply(rows, waiting.latest)
                if changed.num_rows:
                    self._send_late(waiting, changed)
            else:
                return False
            if not waiting.parts:
                waiting.right.drop()
                del self._waiting[place]
        self._released = False
        return True

    def _send_late(self, waiting: WaitingRows, rows: pa.RecordBatch) -> None:
        """Send at the latest time of the interval's rows: no cut lies between them and it."""
        right = waiting.right.delayed(waiting.latest)
        self._output.send(right, rows)
        right.drop()

    def _keys(self, rows: pa.RecordBatch) -> NDArray[np.int64]:
        return np.asarray(numbers_of(rows, self._key), dtype=np.int64)

    def _apply(self, rows: pa.RecordBatch, time: Timestamp) -> pa.RecordBatch:
        """Apply rows to their bins and return what comes of it."""
        self.rows_applied += rows.num_rows
        return self.store.apply_rows(rows, time)

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
            self._arrivals[cut] = Arrival(cut, len(coming), coming)
        if leaving:
            self._departures[cut] = Departure(right, leaving)
        else:
            right.drop()

    def _depart(self) -> None:
        """Send a portion of the settled bins of the earliest cut (S2, S8), while credit lasts."""
        left = self.portion_bytes
        while self._departures:
            cut = min(self._departures)
            if not (self._inputs_reached(cut) and self._state_output.ready()):
                return
            departure = self._departures[cut]
            unsettled = self._unsettled(cut)
            waiting: list[tuple[int, int]] = []
            while departure.bins or departure.chunks is not None:
                if left <= 0 or not self._state_output.ready():
                    departure.bins += waiting
                    if left <= 0:
                        self._context.resume()
                    return
                if departure.chunks is None:
                    moved, target = departure.bins.pop()
                    if unsettled[moved]:
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
                left -= len(chunk)
            departure.bins += waiting
            if departure.bins:
                return
            departure.right.drop()
            del self._departures[cut]

    def _inputs_reached(self, cut: int) -> bool:
        """Whether nothing below `cut` can arrive: no row, no bin."""
        return self._data.frontier().reached(cut) and self._state.frontier().reached(cut)

    def _gate_open(self, cut: int) -> bool:
        """Whether everything below `cut` has passed all that lies downstream (S4)."""
        return all(self._context.frontier_of(location).reached(cut) for location in self.gate)

    def _unsettled(self, cut: int) -> NDArray[np.bool_]:
        """Bins that S2 keeps here, given that both inputs have reached `cut`: bool[bins]."""
        unsettled: NDArray[np.bool_] = ~self.installed | (self._hold_from < cut)
        for waiting in self._waiting.values():
            if waiting.start < cut:
                for _, bins, _ in waiting.parts:
                    unsettled[bins] = True
        for held in self._beyond:
            if held.epoch < cut:
                unsettled[bins_of(self._keys(held.rows), self.store.bin_bits)] = True
        for rows in () if self._ordered is None else self._ordered.below(cut):
            unsettled[bins_of(self._keys(rows), self.store.bin_bits)] = True
        return unsettled

    def _take_chunks(self) -> None:
        """Take a portion of the chunks that have arrived (S8)."""
        taken = 0
        while taken < self.portion_bytes and (chunk := self._state.pull()) is not None:
            assert isinstance(chunk.payload, bytes), "a state channel carries chunks"
            self._receive(chunk.time[0], chunk.payload)
            taken += len(chunk.payload)
        if self._state.queue:
            self._context.resume()

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
            if not self._gate_open(cut):
                return
            if arrival.missing and len(arrival.installed) * _RELEASE_PARTS < arrival.bins:
                continue
            for moved in arrival.installed:
                cuts = self._coming[moved]
                first = cuts.popleft()
                assert first == cut, f"S1: bin {moved} of {first} is released with those of {cut}"
                self._hold_from[moved] = cuts[0] if cuts else _NEVER
                if not cuts:
                    del self._coming[moved]
            self._hold_min = int(self._hold_from.min())
            self._released = True
            arrival.installed.clear()
            if not arrival.missing:
                self._report(arrival)
                del self._arrivals[cut]

    def _report(self, arrival: Arrival) -> None:
        vertex = self.store.vertex
        self.reports.append(
            CutReport(vertex, arrival.cut, arrival.bins, arrival.bytes, arrival.rows)
        )
