"""All-to-all exchange of 8-byte records by hash between two processes, beside bare ZeroMQ.

Flow: source -> ExchangeOperator == routed channel ==> sink, in two real processes; half of what
each sends crosses. Then the same two processes move frames of 64 KiB with ZeroMQ alone.

Invariants
  XB1  A rate counts from the common start to the moment a process knows that everything has
       arrived everywhere; the slower process counts.
  XB2  What arrived is what was sent: as many records, and the same sum of their values.
  XB3  Bare ZeroMQ is as fast as we can make it: both directions at once, no receiving copy, a
       window of its own, nothing looked at. The ratio is of bytes that crossed, in both cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import zmq

from service.bench.document import Figure
from service.bench.pair import drive, together
from service.clock import SystemClock
from service.dataflow.graph import Dataflow
from service.dataflow.operator import OperatorContext, Pact
from service.dataflow.progress.summary import identity
from service.dataflow.spreading import ExchangeOperator
from service.dataflow.transport.frame import FrameKind
from service.dataflow.transport.zeromq import ZmqTransport
from service.dataflow.worker import Worker
from service.errors import MegaphoneError

PROCESSES = 2
BOUND_RECORDS = 50e6
BOUND_OF_BARE = 0.3
RECORD_BYTES = 8
FRAME_BYTES = 64 << 10
#: Different batches in turn, more than the caches hold.
_BATCHES = 16
#: Sums are taken as 64 bits hold them.
_SUM = (1 << 64) - 1
#: Frames handed to a socket before the other direction has its turn.
_BURST = 16
#: Frames that wait in a socket: 8 MiB, the window of our own links.
_WINDOW_FRAMES = 128
_LINGER_MS = 1_000
_WAIT_S = 0.1
_WAIT_MS = 100


@dataclass(frozen=True, slots=True)
class ExchangeOptions:
    """How much each process sends."""

    records: int = 100_000_000
    batch_records: int = 1 << 18

    @property
    def batches(self) -> int:
        """Batches each process sends, at least one."""
        return max(1, self.records // self.batch_records)


class Exchanged(NamedTuple):
    """What one process saw: rows taken in, their sum, what it sent, and both durations."""

    records: int
    total: int
    sent: int
    exchange_ns: int
    bare_ns: int


class _Source:
    """Sends batches of random records while there is room."""

    def __init__(self, options: ExchangeOptions, seed: int) -> None:
        """Prepare the batches."""
        random = np.random.default_rng(seed)
        numbers = [random.integers(0, 1 << 62, options.batch_records) for _ in range(_BATCHES)]
        self._batches = [pa.record_batch({"key": each}) for each in numbers]
        sums = [int(each.sum()) for each in numbers]
        #: Sum of all values that will be sent, as 64 bits hold it.
        self.total = sum(sums[n % _BATCHES] for n in range(options.batches)) & _SUM
        self._left = options.batches

    def open(self, context: OperatorContext) -> None:
        """Take the port and the right to send."""
        self._context = context
        (self._output,) = context.outputs
        self._right = context.initial[0]

    def step(self) -> None:
        """Send one batch, and the next when the worker has received again."""
        if self._left and self._output.ready():
            self._left -= 1
            self._output.send(self._right, self._batches[self._left % _BATCHES])
            if not self._left:
                self._right.drop()
        if self._left:
            self._context.resume()


class _Sink:
    """Counts records and sums them up (XB2)."""

    def __init__(self) -> None:
        """Nothing came."""
        self.records = 0
        self.total = 0

    def open(self, context: OperatorContext) -> None:
        """Take the port."""
        (self._input,) = context.inputs

    def step(self) -> None:
        """Take everything in."""
        while (message := self._input.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            self.records += rows.num_rows
            self.total = (self.total + int(rows.column(0).to_numpy().sum())) & _SUM


def _graph(source: _Source, sink: _Sink) -> Dataflow:
    graph = Dataflow()
    feed = graph.add("in", source, inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))
    spread = graph.add(
        "exchange",
        ExchangeOperator("key", PROCESSES),
        inputs=1,
        outputs=1,
        connectivity={(0, 0): identity(1)},
    )
    end = graph.add("out", sink, inputs=1, outputs=0, connectivity={})
    graph.connect((feed, 0), (spread, 0))
    graph.connect((spread, 0), (end, 0), Pact.ROUTED)
    return graph


def exchange(transport: ZmqTransport, peers: int, options: ExchangeOptions) -> Exchanged:
    """One process's side: our exchange, then bare ZeroMQ."""
    clock = SystemClock()
    source, sink = _Source(options, transport.index), _Sink()
    sent = source.total
    worker = Worker(_graph(source, sink), transport.index, peers, (1,), transport)
    begun = clock.monotonic_ns()
    drive(worker, transport, clock)
    took = clock.monotonic_ns() - begun
    bare = _bare(transport, options.records * RECORD_BYTES // FRAME_BYTES)
    return Exchanged(sink.records, sink.total, sent, took, bare)


def _bare(transport: ZmqTransport, frames: int) -> int:
    """Nanoseconds to send `frames` to the other process and to take as many from it (XB3)."""
    clock = SystemClock()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.setsockopt(zmq.RCVHWM, _WINDOW_FRAMES)
    push.setsockopt(zmq.SNDHWM, _WINDOW_FRAMES)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    (other,) = transport.peers
    transport.send(other, FrameKind.REPORT, 0, (), [b"%d" % port])
    while not (heard := transport.receive(1)):
        transport.wait(_WAIT_S)
    push.connect("tcp://127.0.0.1:" + bytes(heard[0].body).decode())
    frame = bytes(FRAME_BYTES)
    push.send(frame)
    pull.recv()
    begun = clock.monotonic_ns()
    to_send = to_receive = frames
    while to_send or to_receive:
        try:
            for _ in range(min(_BURST, to_send)):
                push.send(frame, zmq.NOBLOCK)
                to_send -= 1
        except zmq.Again:
            pass
        try:
            while to_receive:
                pull.recv(zmq.NOBLOCK, copy=False)
                to_receive -= 1
        except zmq.Again:
            ready = [(pull, zmq.POLLIN), *([(push, zmq.POLLOUT)] if to_send else [])]
            _await(ready)
    took = clock.monotonic_ns() - begun
    push.close(_LINGER_MS)
    pull.close()
    context.term()
    return took


def _await(sockets: Sequence[tuple[zmq.Socket[bytes], int]]) -> None:
    poller = zmq.Poller()
    for socket, event in sockets:
        poller.register(socket, event)
    poller.poll(_WAIT_MS)


def exchange_figures(runs: int, options: ExchangeOptions) -> Iterator[Figure]:
    """Measure, in fresh processes each run.

    Raises:
        MegaphoneError: records were lost or made up, which would be a bug (XB2).
    """
    rates: list[float] = []
    crossing: list[float] = []
    bare: list[float] = []
    for _ in range(runs):
        (sides,) = together(exchange, PROCESSES, [options])
        records = PROCESSES * options.batches * options.batch_records
        if (sum(side.records for side in sides), sum(side.total for side in sides) & _SUM) != (
            records,
            sum(side.sent for side in sides) & _SUM,
        ):
            raise MegaphoneError(f"an exchange of {records} records lost some: {sides}")
        rate = records * 1e9 / max(side.exchange_ns for side in sides)
        rates.append(rate)
        # By hash every second record crosses.
        crossing.append(rate * RECORD_BYTES / PROCESSES / 1e6)
        frames = options.records * RECORD_BYTES // FRAME_BYTES
        moved = PROCESSES * frames * FRAME_BYTES
        bare.append(moved * 1e3 / max(side.bare_ns for side in sides))
    name = f"exchange of {RECORD_BYTES}-byte records, {PROCESSES} processes"
    yield Figure.of(name, "records/s", rates, at_least=BOUND_RECORDS)
    ratios = [ours / theirs for ours, theirs in zip(crossing, bare, strict=True)]
    yield Figure.of("exchange: bytes crossing over bare ZeroMQ", "", ratios, at_least=BOUND_OF_BARE)
    yield Figure.of("exchange: bytes crossing", "MB/s", crossing)
    yield Figure.of(f"bare ZeroMQ, frames of {FRAME_BYTES >> 10} KiB", "MB/s", bare)
