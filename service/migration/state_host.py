"""S: hosts the bins of one stateful vertex on one process, applies rows, hands bins over.

Flow: F == exchange ==> [StateHost] -> downstream; StateHost == state channel ==> StateHost. Rows
that wait for their bin are in `waiting`, what leaves in `departures`, what comes in `arrivals`.

For each move of bin b at cut c the old owner waits until b is *settled* at c, extracts it and
sends it stamped c; the new owner holds b's rows >= c until the bin is installed and the *gate* is
open. The gate has two parts (`gates`). What lies below S in the same process, a sink most often,
the old owner watches by itself: by its frontier each wave would wait for the rows that the wave
before held up, of other bins but at earlier times. What an exchange leads to only a frontier knows.

Invariants
  S1  A row at t for bin b is applied only here: by owner(b, t), with b installed, every earlier
      move of b here released, and t below the local horizon.
  S2  A bin is extracted at c only when settled: installed, released, data and state inputs have
      reached c, and no held row of it lies below c.
  S3  A capability at c is kept on the state output from the moment the move is read until the last
      chunk is sent and the new owners are told (S4), so no state frontier passes c before.
  S4  Rows of an arriving bin go on once all that its old owner emitted below c has passed the sinks
      below S there, and the first input behind each exchange has reached c: nothing the new owner
      emits can overtake what the old one emitted. That of owners before the old one
      has passed when the bin left: the state frontier had reached c (S2).
  S5  Bins that do not move never wait, but for the copies of S10; these wait for the rights of S3
      below their cut, and so for what a bin's old owner has under way to its sinks.
  S6  Rows that wait hold a capability and no credit.
  S7  Of rows that may be applied, those that came earlier are applied earlier.
  S8  State is taken and sent in portions, between which this process receives and applies rows: a
      large wave does not stop the bins that stay. Of copies, for which nothing waits, a portion is
      an eighth while rows come.
  S9  An ordered vertex applies the rows of a time together, once nothing at or before it can come
      (OR1 of `ordered`), and rows of a bin that has not arrived time by time as well.
  S10  A bin is copied at the cut of a checkpoint when it is settled there, and its rows at or
      beyond the cut wait for the copy (CU1 of `cutting`).
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
from service.hashing import bins_of
from service.migration.arrivals import Arrivals
from service.migration.control_source import ControlSource
from service.migration.copies import Copies
from service.migration.cutting import Cutting
from service.migration.departures import Departures
from service.migration.gathering import gather
from service.migration.handover import PASSED, CutReport
from service.migration.held import HeldRows, WaitingRows
from service.migration.loads import LoadMeter
from service.migration.ordered import OrderedRows
from service.migration.records import Checkpoint, LogRecord, Move, PreCopy, PreCopyEnd, Stop
from service.migration.waiting import NEVER, WaitingBins
from service.statestore.columns import numbers_of
from service.statestore.hosted import HostedStore

#: A portion of copies is whole again after so many steps without rows, and an eighth before. A step
#: takes the rows that came during the last one, so where rows take four fifths of a core, the steps
#: settle at five times as long as what is done beside. [measured, 2 workers, 1 M records/s each:
#: p99 while bins are copied 19 ms with portions of 256 KiB, 10 with 64 and 12 with 16. Of what
#: moves, small portions make bins that stay wait 1.9 times as long as without a move, not 2.6; but
#: a first move takes so much of the cores then that memory for it is not found in time: rows of
#: bins that move waited 327 ms at most, 57 with whole portions, medians of four pairs. Without rows
#: small portions move state at 419 MB/s, whole ones at 558]
_QUIET_STEPS = 16
_BESIDE_ROWS = 8


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
        #: Rows whose bin may not be changed yet (S1).
        self.waiting = WaitingBins(bins)
        #: Rows at or beyond the local horizon, in order of arrival.
        self._beyond: deque[HeldRows] = deque()
        self._beyond_min = NEVER
        #: Bytes of rows at or beyond the horizon, or of times that are not complete.
        self._early_bytes = 0
        #: Bytes of state taken, and sent, in one step (S8): 2 to 4 ms of work at the taking end.
        self.portion_bytes = 1 << 19
        #: The same of copies (S8).
        self.copy_bytes = 1 << 19
        #: Bins of at most so many bytes leave together: a millisecond of work at the taking end.
        self.group_bytes = 1 << 18
        #: Rows that waited are applied in batches of about this many.
        self.drain_rows = 1 << 16
        #: From this many batches on that wait in the queue, they are applied together.
        self.merge_from = 8
        #: Steps since rows came.
        self._quiet = _QUIET_STEPS
        self.rows_applied = 0
        self.meter = LoadMeter(bins)
        #: The gate (S4): locations whose frontiers must reach the cut, and ports of this process
        #: at which nothing below it may be left; lowering sets both.
        self.gate: list[int] = []
        self.near: frozenset[int] = frozenset()

    def open(self, context: OperatorContext) -> None:
        """Take the ports: data, state and control in; data and state out."""
        self._context = context
        self._peer = context.peer
        self._data, self._state, self._commands = context.inputs[:3]
        self._output, self._state_output = context.outputs[:2]
        #: Bins whose state is here.
        self.installed = self._control.table.latest == self._peer
        self.copies = Copies(self.store, self.installed, self._peer, context.aside)
        self._departures = Departures(
            self.store,
            self.copies,
            self.installed,
            self._state_output,
            self._inputs_reached,
            self._unsettled,
            self._passed_here,
        )
        self.cutting = Cutting(self.store, self.waiting, self._inputs_reached, self._unsettled)
        self._arrivals = Arrivals(
            self.store, self.copies, self.installed, self.waiting, self._gate_open
        )
        self._control.followers.append(self._read)

    def input_frontier(self) -> Antichain:
        """Times of rows that may still arrive, over all processes."""
        return self._data.frontier()

    @property
    def settled(self) -> bool:
        """Whether nothing waits, leaves or comes."""
        held = self._beyond or self.waiting or self._ordered
        return not (held or self._departures or self._arrivals or self.cutting)

    @property
    def held_bytes(self) -> int:
        """Bytes of rows that wait, for whatever it is."""
        return self.waiting.nbytes + self._early_bytes

    @property
    def reports(self) -> list[CutReport]:
        """Reports not yet taken by the shell, which clears them."""
        return self._arrivals.reports

    def step(self) -> None:
        """Take commands, state and rows; then let leave and let go what may."""
        while (command := self._commands.pull()) is not None:
            if isinstance(command.payload, Move):
                self._plan(command.payload, self._state_output.retain(2, command))
            elif isinstance(command.payload, Checkpoint):
                cut = command.payload.at
                self.cutting.add(cut, self._control.table.marked(cut) == self._peer)
        self._quiet = 0 if self._data.queue else self._quiet + 1
        self._take_copies()
        self._take_chunks()
        if self._arrivals:
            self._arrivals.release()
        # S7: what came later is not looked at before all that may go has gone.
        if self._drain_waiting() and self._admit_beyond():
            if self._ordered is None:
                self._take_rows()
            else:
                self._take_ordered(self._ordered)
        if self.cutting and (self.cutting.step() or self.waiting.released):
            self._context.resume()
        if self._departures and self._departures.step(self.portion_bytes, self.group_bytes):
            self._context.resume()
        if self.copies.step(self._copied_at_once()):
            self._context.resume()

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
            now = rows if epoch < self.waiting.hold_min else self._separate(rows, message)
            if now.num_rows and (changed := self._apply(now, message.time)).num_rows:
                self._output.forward(0, message, changed)

    def _take_ordered(self, ordered: OrderedRows) -> None:
        """Keep what arrived, and apply the times that are complete, in order (S9)."""
        while (message := self._data.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            retain = partial(self._output.retain, 0, message)
            self._early_bytes += ordered.add(rows, message.time, retain)
        frontier = self._data.frontier()
        while self._output.ready() and (held := ordered.take(frontier)) is not None:
            # Every control source has promised beyond it, and so has this process's own.
            assert held.epoch < self._horizon(), "S1: a complete time lies below the horizon"
            self._early_bytes -= held.size
            self._go_on(held)

    def _horizon(self) -> int:
        return self._control.follower.horizon

    def _hold_beyond(self, rows: pa.RecordBatch, right: Capability) -> None:
        held = HeldRows(rows, right, payload_size(rows))
        self._beyond.append(held)
        self._beyond_min = min(self._beyond_min, held.epoch)
        self._early_bytes += held.size
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
            self._early_bytes -= held.size
            self._go_on(held)
        complete = not self._beyond
        self._beyond.extendleft(reversed(later))
        self._beyond_min = min((held.epoch for held in self._beyond), default=NEVER)
        if self._beyond:
            self._control.at_next_horizon(self._context.activate)
        return complete

    def _go_on(self, held: HeldRows) -> None:
        """Apply rows that were held, but for those of bins that have not arrived."""
        rows, right = held.rows, held.right
        if held.epoch >= self.waiting.hold_min:
            rows = self._separate(rows, right)
        if rows.num_rows and (changed := self._apply(rows, right.time)).num_rows:
            self._output.send(right, changed)
        right.drop()

    def _separate(self, rows: pa.RecordBatch, origin: Message | Capability) -> pa.RecordBatch:
        """Keep the rows whose bin has not arrived; returns the others. `origin` gives the right."""
        time = origin.time
        start = self._control.table.interval_start(time[0])
        together = len(time) == 1 and self._ordered is None
        place = (start,) if together else (start, *time)
        bins = bins_of(self._keys(rows), self.store.bin_bits)
        return self.waiting.separate(rows, bins, time, place, partial(self._right, origin))

    def _right(self, origin: Message | Capability) -> Capability:
        if isinstance(origin, Message):
            return self._output.retain(0, origin)
        return origin.delayed(origin.time)

    def _drain_waiting(self) -> bool:
        """Apply rows of released bins, earliest interval first; whether none of them is left."""
        for waiting, rows in self.waiting.drain(self._output.ready, self.drain_rows):
            changed = self._apply(rows, waiting.latest)
            if changed.num_rows:
                self._send_late(waiting, changed)
        return not self.waiting.released

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
        if self.meter.wants(rows.num_rows):
            self.meter.count(bins_of(self._keys(rows), self.store.bin_bits))
        return self.store.apply_rows(rows, time)

    # Moves --------------------------------------------------------------------------------------

    def _plan(self, move: Move, right: Capability) -> None:
        """Note what leaves and what comes at a cut; keeps `right` only if something leaves."""
        leaving = []
        coming, owners = set(), set()
        for moved, source, target in self._control.table.moves_at(move.at):
            if source == self._peer:
                leaving.append((moved, target))
            elif target == self._peer:
                coming.add(moved)
                owners.add(source)
        if coming:
            self._arrivals.add(move.at, coming, owners)
        if leaving:
            self._departures.add(move.at, right, leaving)
        else:
            right.drop()

    def _inputs_reached(self, cut: int) -> bool:
        """Whether nothing below `cut` can arrive: no row, no bin."""
        return self._data.frontier().reached(cut) and self._state.frontier().reached(cut)

    def _passed_here(self, cut: int) -> bool:
        """Whether what was emitted here below `cut` has passed what lies below here (S4)."""
        return self._context.passed_here(self.near, cut)

    def _gate_open(self, cut: int) -> bool:
        """Whether everything below `cut` has arrived behind each exchange (S4)."""
        return all(self._context.frontier_of(location).reached(cut) for location in self.gate)

    def _unsettled(self, cut: int) -> NDArray[np.bool_]:
        """Bins that S2 keeps here, given that both inputs have reached `cut`: bool[bins]."""
        unsettled: NDArray[np.bool_] = ~self.installed
        self.waiting.mark_below(cut, unsettled)
        for held in self._beyond:
            if held.epoch < cut:
                unsettled[bins_of(self._keys(held.rows), self.store.bin_bits)] = True
        for rows in () if self._ordered is None else self._ordered.below(cut):
            unsettled[bins_of(self._keys(rows), self.store.bin_bits)] = True
        return unsettled

    def _read(self, record: LogRecord) -> None:
        """What the log says of copies, in its order."""
        match record:
            case PreCopy():
                self.copies.announced(record, self._control.table.latest)
            case Move():
                self.copies.moved(record)
            case PreCopyEnd():
                self.copies.ended()
            case Stop():
                self.copies.ended(for_good=True)
            case _:
                return
        self._context.activate()

    def _copied_at_once(self) -> int:
        """Bytes of copies to take or send in this step (S8)."""
        if self._quiet >= _QUIET_STEPS:
            return self.copy_bytes
        return -(-self.copy_bytes // _BESIDE_ROWS)

    def _take_copies(self) -> None:
        if self.copies.take(self._copied_at_once()):
            self._context.resume()

    def _take_chunks(self) -> None:
        """Take a portion of the chunks that have arrived (S8)."""
        taken = 0
        if self._state.queue:
            self.copies.take_before_chunks()
        while taken < self.portion_bytes and (chunk := self._state.pull()) is not None:
            assert isinstance(chunk.payload, bytes), "a state channel carries chunks"
            if chunk.payload == PASSED:
                self._arrivals.passed(chunk.time[0], chunk.sender)
            else:
                self._arrivals.receive(chunk.time[0], chunk.payload)
            taken += len(chunk.payload)
        if self._state.queue:
            self._context.resume()
