"""State from one worker to another: all bins of a vertex at one cut, over the real transport.

Flow: a filled StateHost in one process == state channel ==> an empty one in another. Nothing else
runs in either: the figure is what the path of a chunk allows. Then [figures_of] judges, pure.

Invariants
  XF1  The time counts from the moment the old owner reads the move to the moment the new one has
       installed and released the last bin; both processes read the machine's one monotonic clock.
  XF2  What arrived is what left: as many rows, and the same sum of their values.
  XF3  With a copy before the move, the copy's own time is a figure of its own.
  XF4  What counts is a move after the state was there and back once, so that both have the memory
       that a worker keeps for bins to come. The first move into a process that never had so much,
       where the system must find the memory, is a figure of its own.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from service.bench.document import BenchDocument, Figure
from service.bench.machine import commit, machine
from service.bench.pair import together
from service.bench.stall import StallProbe
from service.clock import SystemClock
from service.dataflow.graph import Dataflow
from service.dataflow.operator import OperatorContext, Pact
from service.dataflow.progress.summary import identity
from service.dataflow.transport.credit import CreditClass
from service.dataflow.transport.zeromq import ZmqTransport
from service.dataflow.worker import Worker
from service.errors import MegaphoneError
from service.hashing import bin_bits_of
from service.migration.control_source import ControlSource
from service.migration.horizon import LogFollower
from service.migration.records import Generation, Move, PreCopy, Promise, SlotBinding, Stop
from service.migration.routing_table import RoutingTable
from service.migration.state_host import StateHost
from service.statestore.aggregate import AggregateProgram, Count, Max, Sum
from service.statestore.vertex_store import VertexStore

#: The issue's figure.
BOUND_MB_S = 400.0
#: A small bin's share of rows; that many bins must not cost more than few.
TINY_BINS = 1 << 16
FEW_BINS = 1 << 10
#: Key, version and three state columns.
_ROW_BYTES = 8 * 5
_FIRST, _CUT, _STOP = 1, 1_000, 100_000
#: Moves before the one that counts (XF4).
_MOVES_BEFORE = 2
_BATCH = 1 << 18
_WAIT_S = 0.002
_PAGE_KB = resource.getpagesize() >> 10


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """What moves."""

    rows: int = 2_000_000
    bins: int = FEW_BINS
    #: Whether bins are copied before they move.
    copied: bool = False
    #: Rows changed between the copy and the cut.
    changed: int = 0


class Transferred(NamedTuple):
    """What one process saw; times are readings of the machine's monotonic clock, ns."""

    rows: int
    total: int
    copy_began: int
    copied: int
    #: Of the first move and of the one that counts: when it began and ended, and bytes that came.
    first_began: int
    first_ended: int
    began: int
    ended: int
    nbytes: int
    #: Largest memory above that before the move, bytes.
    grown: int


Round: TypeAlias = tuple[Transferred, Transferred]


class _Silent:
    """The rows of a job without rows."""

    def open(self, context: OperatorContext) -> None:
        """Hold no right to send."""

    def step(self) -> None:
        """Send nothing."""


class _Side:
    """One worker's S and its control source, driven by hand."""

    def __init__(self, transport: ZmqTransport, options: TransferOptions) -> None:
        """Build it; the first process owns every bin."""
        self.options = options
        generation = Generation(
            clock=0,
            generation=1,
            horizon=_FIRST + 1,
            first_epoch=_FIRST,
            bins=options.bins,
            workers=2,
            gateways=0,
            slots=[
                SlotBinding(slot=slot, incarnation="1", address="")
                for slot in ("worker-0", "worker-1")
            ],
            bin_owners=[0] * options.bins,
            sink_owners=[0],
            partition_owners={},
            positions={},
            manifest=None,
            until_end=False,
        )
        self.control = ControlSource(LogFollower(generation), RoutingTable.of(generation))
        program = AggregateProgram(
            "key", {"n": Count(), "total": Sum("v"), "top": Max("v")}, {"v": "int64"}
        )
        self.store = VertexStore("moved", program, bin_bits_of(options.bins))
        self.host = StateHost(self.store, "key", self.control, options.bins)
        graph = Dataflow()
        source = graph.add(
            "control",
            self.control,
            inputs=0,
            outputs=1,
            connectivity={},
            holds=frozenset({0}),
        )
        rows = graph.add("rows", _Silent(), inputs=0, outputs=1, connectivity={})
        same = identity(1)
        host = graph.add(
            "S",
            self.host,
            inputs=3,
            outputs=2,
            connectivity={(2, 0): same, (2, 1): same, (0, 0): same, (1, 0): same},
            notified=True,
        )
        graph.connect((host, 1), (host, 1), Pact.ROUTED, CreditClass.STATE)
        graph.connect((rows, 0), (host, 0))
        graph.connect((source, 0), (host, 2))
        self.control.readers.append(graph.source(host, 0))
        self._transport = transport
        self.worker = Worker(graph, transport.index, 2, (_FIRST,), transport)

    def fill(self, keys: int, start: int = 0) -> None:
        """Apply rows of the keys from `start` on."""
        for at in range(start, start + keys, _BATCH):
            numbers = np.arange(at, min(at + _BATCH, start + keys))
            batch = pa.record_batch({"key": numbers, "v": numbers})
            self.store.apply_rows(batch, (_FIRST,))

    def until(self, done: Callable[[], bool]) -> None:
        """Step until `done`."""
        while not done():
            self.worker.step()
            if not self.worker.has_work and not done():
                self._transport.wait(_WAIT_S)

    def move(self, number: int, *, precopy: int = 0) -> int:
        """Move all bins, there or back by turns, and wait for it; bytes that came here."""
        target = 1 - number % 2
        cut = _CUT * (number + 1)
        moves = [(bin_, target) for bin_ in range(self.options.bins)]
        self.control.feed(
            Move(at=cut, request="b", wave=1, waves=1, moves=moves, precopy=precopy, clock=0)
        )
        self.control.feed(Promise(horizon=cut + 1, clock=0))
        mine = target == self._transport.index
        self.until(lambda: self.host.settled and bool((self.host.installed == mine).all()))
        nbytes = sum(report.bytes for report in self.host.reports)
        self.host.reports.clear()
        return nbytes

    def total(self) -> int:
        """Sum of all values in the state, as 64 bits hold it."""
        rows = self.store.table.extract_bins(np.arange(self.options.bins))
        return int(rows.columns["total"].view(np.int64).sum())


def transfer(transport: ZmqTransport, peers: int, options: TransferOptions) -> Transferred:
    """One process's part."""
    clock = SystemClock()
    assert peers == 2, "from one to the other"
    side = _Side(transport, options)
    control, host = side.control, side.host
    first = transport.index == 0
    if first:
        side.fill(options.rows)
    resting = _resident()
    times = []
    for number in range(_MOVES_BEFORE):
        times.append((clock.monotonic_ns(), side.move(number), clock.monotonic_ns()))
    to_other = [(bin_, 1) for bin_ in range(options.bins)]
    copy_began = copied = clock.monotonic_ns()
    if options.copied:
        control.feed(PreCopy(number=1, request="b", moves=to_other, clock=0))
        if first:
            side.until(lambda: bool(host.copies.reports))
            copied = clock.monotonic_ns()
            side.fill(options.changed)
    total = side.total() if first else 0
    began = clock.monotonic_ns()
    nbytes = side.move(_MOVES_BEFORE, precopy=int(options.copied))
    ended = clock.monotonic_ns()
    if not first:
        total = side.total()
    control.feed(Stop(at=_STOP, drain=False, clock=0))
    side.until(lambda: side.worker.complete)
    return Transferred(
        side.store.row_count,
        total,
        copy_began,
        copied,
        times[0][0],
        times[0][2],
        began,
        ended,
        nbytes,
        _peak() - resting,
    )


def _resident() -> int:
    """Bytes of memory this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_KB << 10


def _peak() -> int:
    """Most bytes of memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run_transfer(runs: int, rows: int) -> BenchDocument:
    """Measure `runs` times, `rows` rows each.

    Raises:
        MegaphoneError: rows were lost or changed, which would be a bug (XF2).
    """
    where = machine()
    with StallProbe() as probe:
        measured = _measure(runs, rows)
    where["stall_ms"] = round(probe.stall_ms, 3)
    parameters = {"runs": runs, "rows": rows}
    return BenchDocument("transfer", commit(), where, parameters, list(figures_of(measured, rows)))


@dataclass(frozen=True, slots=True)
class Measured:
    """What both sides of each run saw: the old owner's first, then the new owner's."""

    #: By number of bins, moved as they are.
    plain: Mapping[int, Sequence[Round]]
    #: 1,024 bins, copied before the cut; and as many that were not.
    copied: Sequence[Round]
    whole: Sequence[Round]


def _measure(runs: int, rows: int) -> Measured:
    def rounds(options: TransferOptions) -> list[Round]:
        return [_round(options) for _ in range(runs)]

    return Measured(
        {bins: rounds(TransferOptions(rows, bins)) for bins in (FEW_BINS, TINY_BINS, 1)},
        rounds(TransferOptions(rows, copied=True, changed=rows // 100)),
        rounds(TransferOptions(rows)),
    )


def figures_of(measured: Measured, rows: int) -> Iterator[Figure]:
    """All figures; the bound is held where bins are not tiny."""
    size = rows * _ROW_BYTES
    for bins, found in measured.plain.items():
        name = f"{bins:,} bins" if bins > 1 else "1 bin"
        bound = BOUND_MB_S if bins < TINY_BINS else None
        rates = [taken.nbytes * 1e3 / (taken.ended - gave.began) for gave, taken in found]
        yield Figure.of(f"state of {name}, worker to worker", "MB/s", rates, at_least=bound)
        rates = [size * 1e3 / (taken.first_ended - gave.first_began) for gave, taken in found]
        yield Figure.of(f"state of {name}, into a process that never had so much", "MB/s", rates)
        grown = [taken.grown / (1 << 20) for _, taken in found]
        yield Figure.of(f"memory at the new owner of {name}, above none", "MiB", grown)
    rates = [size * 1e3 / max(1, gave.copied - gave.copy_began) for gave, _ in measured.copied]
    yield Figure.of("state of 1,024 bins, copied before the cut", "MB/s", rates)
    cuts = [(taken.ended - gave.began) / 1e6 for gave, taken in measured.copied]
    yield Figure.of("cut of 1,024 copied bins, a hundredth changed since", "ms", cuts)
    cuts = [(taken.ended - gave.began) / 1e6 for gave, taken in measured.whole]
    yield Figure.of("cut of 1,024 bins that were not copied", "ms", cuts)


def _round(options: TransferOptions) -> Round:
    (sides,) = together(transfer, 2, [options])
    gave, taken = sides
    if (gave.rows, taken.rows, taken.total) != (0, options.rows, gave.total):
        raise MegaphoneError(f"a transfer of {options.rows} rows lost or changed some: {sides}")
    return gave, taken
