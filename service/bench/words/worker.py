"""One worker's process: drives a `WordMember` through load, run and stop.

Flow: orders of the director and frames of the other workers -> [WordWorker] -> member, transport;
what it saw -> director.

Invariants
  WW1  Records are drawn when they are due and not before; how far the system has come decides only
       into how many batches they are cut.
  WW2  A worker that has nothing to send goes on ticking, so that the others' records can be done;
       all workers tick at the same times, so that nobody waits for another's next tick.
  WW3  A record is done when the frontier of the flow's end, over all processes, has passed its
       time, and this process has seen it (the original's latency).
"""

from __future__ import annotations

import gc
import select
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.allocator import keep_freed_memory
from service.bench.words.counting import SOURCE, Meter, WordMember, counting_store, native_bits
from service.bench.words.histogram import Latencies
from service.bench.words.keys import Int64s, KeySpace, weigh, weigh_counted
from service.bench.words.messages import (
    Answer,
    Begin,
    Load,
    Loaded,
    LogLine,
    Order,
    Ran,
    Ready,
    Result,
    Told,
)
from service.bench.words.options import WordOptions
from service.bench.words.schedule import OpenLoop, StepClock
from service.bench.words.vector import VectorStore
from service.clock import SystemClock
from service.dataflow.transport.link import PeerAddress
from service.dataflow.transport.zeromq import ZmqTransport
from service.ids import Role, Slot
from service.ingest.source import ReadRows
from service.migration.records import Generation, Move, decode_log
from service.migration.reports import plain
from service.telling import Teller

Pipe: TypeAlias = "Connection[Answer | str, Order | list[str]]"

#: Width of a window of the timeline.
WINDOW_NS = 250_000_000
_US = 1_000
#: Steps between ticks while more than the last one is under way: what lags needs larger batches,
#: and leaves room for bins that move; those that stay must not wait for it.
_LAG_STEPS = 3
_LINKS_NS = 100_000_000
_PROGRESS_NS = 10_000_000
_WAIT_S = 0.002
#: Rows redrawn at once where the stream is weighed.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Tick:
    """Records sent at one epoch."""

    epoch: int
    first: int
    records: int


class WordWorker:
    """Worker `peer` of a run."""

    def __init__(
        self, pipe: Pipe, peer: int, options: WordOptions, moving: NDArray[np.bool_]
    ) -> None:
        """Bind a socket and tell where; `moving` says which bins the run's plans move."""
        self._pipe = pipe
        self._peer = peer
        self._options = options
        self._moving = moving
        self._clock = SystemClock()
        bits = native_bits(options) if options.backend.native else options.bin_bits
        self._keys = KeySpace(options.domain, bits if options.backend.dense else None)
        self._transport = ZmqTransport(Slot(Role.WORKER, peer), peer + 1)
        self._poll = select.poll()
        self._poll.register(pipe.fileno(), select.POLLIN)
        share = options.domain * peer // options.workers
        #: Keys this worker loads: [least, left to load).
        self._least, self._unloaded = share, options.domain * (peer + 1) // options.workers
        self._loading = False
        self._rounds = 0
        self._loaded_told = self._ran_told = False
        self._start = 0
        self._schedule = (
            OpenLoop.of(options.rate, options.duration_ns) if options.open_loop else None
        )
        self._sent = self._done = 0
        self._under_way: deque[_Tick] = deque()
        self._last_links = self._last_progress = 0
        self._teller = Teller()
        self._progress: list[tuple[int, int]] = []
        self._left: list[tuple[int, int, int, int]] = []
        windows = options.duration_ns // WINDOW_NS + 1
        self._frontier, self._stayed, self._moved = (
            Latencies(windows, WINDOW_NS) for _ in range(3)
        )
        pipe.send(self._transport.bind())

    def run(self) -> None:
        """Take part in one run, from the endpoints to the result."""
        endpoints = self._pipe.recv()
        assert isinstance(endpoints, list), "the director first says where everybody is"
        bare = self._bare() if self._options.bare_s else 0.0
        first = self._pipe.recv()
        assert isinstance(first, LogLine), "the log begins with the generation"
        generation = decode_log(first.record)
        assert isinstance(generation, Generation), "the log begins with the generation"
        self._build(generation, first.at_us, endpoints)
        self._pipe.send(Ready(bare))
        gc.collect()
        gc.freeze()
        while not self._member.complete:
            self._turn()
        self._pipe.send(self._result())
        self._transport.leave()
        self._transport.close()

    def _build(self, generation: Generation, at_us: int, endpoints: list[str]) -> None:
        options, transport = self._options, self._transport
        self._meter: Meter | None = None
        if options.open_loop:
            self._meter = Meter(options.bin_bits, self._moving, self._clock)
        slot = Slot(Role.WORKER, self._peer)
        self._member = WordMember(options, generation, slot, transport, self._meter)
        self._ticks = self._member.ticks = StepClock(generation.first_epoch, options.tick_us)
        self._member.ticks.observe(generation.clock, at_us)
        others = {
            index: PeerAddress(Slot(Role.WORKER, index), index + 1, endpoint)
            for index, endpoint in enumerate(endpoints)
        }
        transport.start(generation.generation, self._peer, len(endpoints), others)
        while not transport.connected:
            transport.wait(_WAIT_S)
            transport.tick(self._clock.monotonic_ns())
            early = transport.receive(1)
            assert not early, "nobody speaks before all have greeted"

    # A turn -------------------------------------------------------------------------------------

    def _turn(self) -> None:
        while self._poll.poll(0):
            self._obey(self._pipe.recv())
        member, now = self._member, self._clock.monotonic_ns()
        if now - self._last_links >= _LINKS_NS:
            self._transport.tick(now)
            self._last_links = now
        if self._loading:
            self._load(now)
        elif self._start and now >= self._start:
            if self._schedule is not None:
                self._send_due(self._schedule, now)
            else:
                self._send_all(now)
        elif self._ticks.is_due(now // _US):
            self._tick(now, 0)
        member.step()
        self._look()
        self._tell()
        if not member.has_work:
            self._transport.wait(self._patience())

    def _obey(self, order: Order | list[str]) -> None:
        match order:
            case LogLine(record=line, at_us=at_us):
                record = decode_log(line)
                if isinstance(record, Move):
                    self._note_leaving(record)
                self._member.apply_log(record, at_us)
            case Load():
                self._loading = True
            case Begin(start_ns=start):
                self._start = start
                for latencies in (self._frontier, self._stayed, self._moved):
                    latencies.start_ns = start
                if self._meter is not None:
                    self._meter.begin(self._stayed, self._moved)
            case _:
                raise AssertionError(f"{order} came where an order was due")

    def _note_leaving(self, move: Move) -> None:
        """Remember which bins will leave, and how many keys they have."""
        owners = self._member.table.latest
        for bin_, target in move.moves:
            if owners[bin_] == self._peer:
                rows = self._member.counts.rows(bin_)
                self._left.append((move.at, bin_, target, rows))

    def _patience(self) -> float:
        """How long nothing is due here unless a frame arrives, seconds."""
        left = self._ticks.next_step_us - self._clock.monotonic_ns() // _US
        return max(0.0, min(left / 1e6, _WAIT_S))

    # Sending ------------------------------------------------------------------------------------

    def _load(self, now: int) -> None:
        """Send the next keys of this worker's share."""
        rows = min(self._options.batch, self._unloaded - self._least)
        if rows and self._member.may_read(SOURCE):
            self._offer(self._keys.count_down(self._unloaded - 1, rows), None)
            self._unloaded -= rows
            self._rounds += 1
            self._tick(now, 0, note=True)
        elif self._ticks.is_due(now // _US):
            self._tick(now, 0)
        self._loading = self._unloaded > self._least

    def _send_due(self, schedule: OpenLoop, now: int) -> None:
        """Send what is due, if a tick is (WW1)."""
        steps = self._ticks.steps_since(now // _US)
        if steps < (_LAG_STEPS if len(self._under_way) > 1 else 1):
            return
        first, due = self._sent, schedule.due_until(now - self._start)
        while self._sent < due and self._member.may_read(SOURCE):
            rows = min(self._options.batch, due - self._sent)
            keys = self._keys.draw(self._peer, self._sent, rows)
            begin = self._start + schedule.due(self._sent)
            interval = schedule.interval_ns
            self._offer(keys, np.arange(begin, begin + rows * interval, interval, dtype=np.int64))
            self._sent += rows
        self._tick(now, self._sent - first)

    def _send_all(self, now: int) -> None:
        """Send as much as there is room for, until the time is over."""
        rows = self._options.batch
        if now >= self._start + self._options.duration_ns:
            if self._ticks.is_due(now // _US):
                self._tick(now, 0)
        elif self._member.may_read(SOURCE):
            self._offer(self._keys.draw(self._peer, self._sent, rows), None)
            self._sent += rows
            self._tick(now, rows)

    def _offer(self, keys: Int64s, dues: Int64s | None) -> None:
        names, arrays = ["key"], [pa.array(keys)]
        if self._options.open_loop:
            names.append("due")
            arrays.append(pa.array(np.zeros(len(keys), dtype=np.int64) if dues is None else dues))
        rows = pa.RecordBatch.from_arrays(arrays, names=names)
        self._member.source.offer(ReadRows(rows, {}))

    def _tick(self, now: int, records: int, *, note: bool = False) -> None:
        """Close an epoch; `records` of the run go with it, or keys of the load."""
        if not self._member.tick(now // _US):
            return
        if records or note:
            epoch = self._member.source.last_tick
            self._under_way.append(_Tick(epoch, self._sent - records, records))

    # Looking ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See which records are done (WW3)."""
        if not self._under_way:
            return
        passed = self._member.passed()
        if passed is not None and self._under_way[0].epoch >= passed:
            return
        now = self._clock.monotonic_ns()
        while self._under_way and (passed is None or self._under_way[0].epoch < passed):
            tick = self._under_way.popleft()
            self._done += tick.records
            if self._schedule is not None and tick.records:
                due = self._start + self._schedule.due(tick.first)
                self._frontier.record_run(due, self._schedule.interval_ns, tick.records, now)
        if self._start and now - self._last_progress >= _PROGRESS_NS:
            self._last_progress = now
            self._progress.append((now - self._start, self._done))

    def _tell(self) -> None:
        """Tell the director what it waits for."""
        for report in self._teller.reports(self._member, self._clock.monotonic_ns() // _US):
            self._pipe.send(Told(plain(report)))
        if self._under_way or self._loading:
            return
        if not self._loaded_told and self._rounds and self._unloaded == self._least:
            self._loaded_told = True
            self._pipe.send(Loaded(self._rounds))
        if self._start and not self._ran_told and self._is_over():
            self._ran_told = True
            self._pipe.send(Ran())

    def _is_over(self) -> bool:
        if self._schedule is not None:
            return self._sent == self._schedule.records
        return self._clock.monotonic_ns() >= self._start + self._options.duration_ns

    # The end ------------------------------------------------------------------------------------

    def _bare(self) -> float:
        """Records/s of the fold alone, on a table of this worker's share of the keys."""
        options, clock = self._options, self._clock
        share = KeySpace(max(1, options.domain // options.workers), None)
        bits = 0 if options.backend.native else options.bin_bits
        store = counting_store(bits, None)
        for highest in range(share.domain - 1, -1, -options.batch):
            store.apply(share.count_down(highest, min(options.batch, highest + 1)), _NOTHING, 1)
        batches = [
            share.draw(self._peer, number * options.batch, options.batch) for number in range(16)
        ]
        records, begun = 0, clock.monotonic_ns()
        while (now := clock.monotonic_ns()) - begun < options.bare_s * 1e9:
            store.apply(batches[records // options.batch % len(batches)], _NOTHING, 1)
            records += options.batch
        return records * 1e9 / (now - begun)

    def _result(self) -> Result:
        store, options = self._member.counts, self._options
        if isinstance(store, VectorStore):
            keys, counts = store.counted()
            travelling = self._keys.travelling(keys)
        else:
            rows = store.table.extract_bins(np.arange(store.bins, dtype=np.int64))
            keys = travelling = rows.keys
            counts = np.ascontiguousarray(rows.columns["count"]).view(np.int64)
        return Result(
            frontier=self._frontier,
            stayed=self._stayed,
            moved=self._moved,
            records=self._sent,
            weight_sent=self._weight_sent(),
            weight_held=weigh_counted(np.ascontiguousarray(travelling), counts),
            rows=len(keys),
            counted=int(counts.sum()),
            progress=self._progress,
            left=self._left,
            table=(keys, counts) if options.validate else None,
        )

    def _weight_sent(self) -> int:
        """The weight of the load and of the run, drawn again."""
        total, options = 0, self._options
        highest = options.domain * (self._peer + 1) // options.workers - 1
        for key in range(highest, self._least - 1, -_BLOCK):
            total += weigh(self._keys.count_down(key, min(_BLOCK, key - self._least + 1)))
        for first in range(0, self._sent, _BLOCK):
            total += weigh(self._keys.draw(self._peer, first, min(_BLOCK, self._sent - first)))
        return total & (1 << 64) - 1


_NOTHING: dict[str, Int64s] = {}


def work(pipe: Pipe, peer: int, options: WordOptions, moving: NDArray[np.bool_]) -> None:
    """The life of a worker's process."""
    keep_freed_memory()
    WordWorker(pipe, peer, options, moving).run()
