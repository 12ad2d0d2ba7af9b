"""S of a vertex with event time: goes through complete epochs in order, rows first, then timers.

Flow: F == exchange ==> [TimedHost] -> downstream, late rows -> their own output; every gateway's
words about event time ==> [TimedHost], on a port of its own, each in the epoch it closes.

Beside what every S does (`state_host`), an epoch e that is complete at all inputs is gone through
once: its rows are applied, judged by W of the epoch before, then what is due at W(e) fires, at e.
An epoch without rows in which W rose is gone through, too.

Invariants, beside S1-S8 and S10
  TH1  Epochs are gone through in order, each once, when no input's frontier has an element at or
       before it: rows, words and W of an epoch are all there, in every process the same.
  TH2  A bin takes part in the epochs in which it is owned here: at or beyond the cut at which it
       leaves nothing of it fires; those from the cut on at which it comes or is copied it goes
       through later, one by one (WT1 of `waiting_times`).
  TH3  Settled at c (S2) includes that every epoch below c was gone through, timers and all.
  TH4  A right at e is held on every output from the first row or word of e until e was gone
       through, by all bins: what an epoch gives comes at that epoch.
Source: DESIGN §4 (watermarks), §7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.dataflow.operator import Capability, Message, OperatorContext, payload_size
from service.hashing import bins_of
from service.migration.control_source import ControlSource
from service.migration.event_clock import EventClock, Word, lowered
from service.migration.ordered import sorted_rows
from service.migration.records import Checkpoint, LogRecord
from service.migration.state_host import StateHost
from service.migration.waiting_times import EpochPart, WaitingTimes
from service.statestore.timed import NEVER, PartsStore, TimedStore


@dataclass(slots=True)
class _Epoch:
    """What came of one epoch that is not complete."""

    rights: list[Capability]
    batches: list[pa.RecordBatch] = field(default_factory=list)
    size: int = 0


class TimedHost(StateHost):
    """The state operator of one vertex with event time in one process."""

    def __init__(
        self,
        store: TimedStore,
        key: str,
        control: ControlSource,
        bins: int,
        *,
        sources: Iterable[int],
        watermark: int = NEVER,
        delay: int = 0,
        sorts: bool = True,
        late: Sequence[str] | None = None,
    ) -> None:
        """Host `store`.

        Args:
            store: the state, with timers.
            key: the column of integers that says a row's bin.
            control: says which of the bins are here.
            bins: how many there are.
            sources: numbers of the sources above, whose words are heard.
            watermark: W as of the restored checkpoint.
            delay: how far rows may come behind the sources' watermark.
            sorts: whether the rows of one epoch are put in order by their columns.
            late: columns of the late rows, if the flow asks for them.
        """
        super().__init__(store, key, control, bins)
        self._timed = store
        self._sources = tuple(sources)
        self._first_watermark = watermark
        self._delay = delay
        self._sorts = sorts
        #: The store, where it takes the batches of an epoch as they came.
        self._parts = store if isinstance(store, PartsStore) and not sorts else None
        self._late_columns = None if late is None else list(late)
        self.waiting = self._missed = WaitingTimes(bins)
        #: Epochs of which something came and that are not complete, and the same as a heap.
        self._epochs: dict[int, _Epoch] = {}
        self._order: list[int] = []
        #: Owners that `_owned` was made of: one array for all epochs between two cuts.
        self._owners: NDArray[np.int32] | None = None
        self._owned: NDArray[np.bool_] = np.zeros(bins, dtype=np.bool_)
        self.rows_late = 0

    def open(self, context: OperatorContext) -> None:
        """Take the ports: data, state, control and words in; data, state and late rows out."""
        super().open(context)
        self._words = context.inputs[3]
        self._outs = [context.outputs[0], *context.outputs[2:]]
        self.clock = EventClock(context.peers, self._sources, self._first_watermark)

    @property
    def settled(self) -> bool:
        """Whether nothing waits, leaves or comes."""
        return super().settled and not self._epochs

    def watermark_at(self, cut: int) -> int:
        """W of the last epoch below a cut, once nothing below it can come."""
        return self.clock.at(cut)

    def forget(self, cut: int) -> None:
        """A cut's part is told."""
        self.clock.forget(cut)

    # Epochs -------------------------------------------------------------------------------------

    def _take_rows(self) -> None:
        """Keep what arrived, and go through the epochs that are complete, in order (TH1)."""
        while (message := self._data.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            epoch = self._entered(0, message)
            size = payload_size(rows)
            epoch.batches.append(rows)
            epoch.size += size
            self._early_bytes += size
        while (message := self._words.pull()) is not None:
            assert isinstance(message.payload, bytes), "words are bytes"
            self._entered(3, message)
            self.clock.hear(message.time[0], Word.decoded(message.payload))
        while self._order and self._is_complete(self._order[0]) and self._has_room():
            number = heappop(self._order)
            epoch = self._epochs.pop(number)
            self._early_bytes -= epoch.size
            # Every control source has promised beyond it, and so has this process's own.
            assert number < self._horizon(), "S1: a complete time lies below the horizon"
            before, now = self.clock.advance(number)
            self._go_through(EpochPart(number, before, now, epoch.rights), epoch.batches)

    def _entered(self, port: int, message: Message) -> _Epoch:
        """The epoch of a message just pulled from `port` (TH4)."""
        number = message.time[0]
        epoch = self._epochs.get(number)
        if epoch is None:
            rights = [output.retain(port, message) for output in self._outs]
            epoch = self._epochs[number] = _Epoch(rights)
            heappush(self._order, number)
        return epoch

    def _is_complete(self, epoch: int) -> bool:
        return not any(
            element <= (epoch,)
            for port in (self._data, self._words)
            for element in port.frontier().elements()
        )

    def _has_room(self) -> bool:
        return all(output.ready() for output in self._outs)

    def _together(self, batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """The rows of an epoch as one batch, in order if that matters to the store."""
        if not batches:
            return batches
        if self._sorts:
            return [sorted_rows(batches)]
        return batches if len(batches) == 1 else [pa.concat_batches(batches)]

    def _go_through(self, part: EpochPart, batches: list[pa.RecordBatch]) -> None:
        """Let the bins that need not wait go through an epoch, and keep it for the others (TH2)."""
        waits = part.epoch >= self.waiting.hold_min
        if not waits and not self._departures:
            whole = batches if self._parts is not None else self._together(batches)
            self._live(part, whole, None)
        else:
            owned = self._owned_at(part.epoch)
            free = owned & (self.waiting.hold_from > part.epoch)
            going = self._together(batches)
            numbers = None
            if going:
                (rows,) = going
                numbers = bins_of(self._keys(rows), self.store.bin_bits)
                goes = free[numbers]
                if not goes.all():
                    going = [rows.filter(pa.array(goes))]
                    part.rows = rows.filter(pa.array(~goes))
                    numbers = numbers[~goes]
            self._live(part, going, free)
            if waits and self._missed.keep(part, owned, numbers):
                return
            assert part.rows is None, "S1: a row for a bin that is not here, nor comes"
        for right in part.rights:
            right.drop()

    def _live(
        self, part: EpochPart, batches: list[pa.RecordBatch], bins: NDArray[np.bool_] | None
    ) -> None:
        """Apply rows of an epoch, then fire what is due, of these bins or of all."""
        time = (part.epoch,)
        before, now = lowered(part.before, self._delay), lowered(part.now, self._delay)
        if count := sum(rows.num_rows for rows in batches):
            self.rows_applied += count
            if self.meter.wants(count):
                for rows in batches:
                    self.meter.count(bins_of(self._keys(rows), self.store.bin_bits))
            if self._parts is not None and len(batches) > 1:
                given = self._parts.apply_parts(batches, time, before, now)
            else:
                given = self._timed.apply_at(batches[0], time, before, now)
            if given.rows.num_rows:
                self._output.send(part.rights[0], given.rows)
            if given.late is not None and given.late.num_rows:
                self.rows_late += given.late.num_rows
                if self._late_columns is not None:
                    self._outs[1].send(part.rights[1], given.late.select(self._late_columns))
        # A timer of the past, set by a row, is due as well.
        if (now > before or batches) and self._timed.due(now):
            some = None if bins is None else frozenset(np.flatnonzero(bins).tolist())
            fired = self._timed.fire(now, time, some)
            if fired.num_rows:
                self._output.send(part.rights[0], fired)

    def _owned_at(self, epoch: int) -> NDArray[np.bool_]:
        """Bins that are owned here in an epoch: bool[bins]."""
        owners = self._control.table.owners_at(epoch)
        if owners is not self._owners:
            self._owners, self._owned = owners, owners == self._peer
        return self._owned

    # Bins that waited ---------------------------------------------------------------------------

    def _drain_waiting(self) -> bool:
        """Let released bins go through the epochs they missed; whether all have."""
        waiting = self._missed
        if not waiting.released:
            return True
        complete = self._has_room()
        if complete:
            for part, bins in waiting.going():
                self._live(part, [] if part.rows is None else [part.rows], bins)
                if not self._has_room():
                    complete = False
                    break
        waiting.settle(complete=complete)
        return complete

    def _inputs_reached(self, cut: int) -> bool:
        """Whether nothing below `cut` can arrive: no row, no bin, no word."""
        return super()._inputs_reached(cut) and self._words.frontier().reached(cut)

    def _unsettled(self, cut: int) -> NDArray[np.bool_]:
        """Bins that S2 and TH3 keep here, given that all inputs have reached `cut`: bool[bins]."""
        unsettled = super()._unsettled(cut)
        if self._order and self._order[0] < cut:
            unsettled[:] = True
        return unsettled

    def _read(self, record: LogRecord) -> None:
        """What the log says, before any epoch beyond it can be gone through."""
        if isinstance(record, Checkpoint):
            self.clock.mark(record.at)
        super()._read(record)
