"""The flow that is measured, and the member that runs it: the service's own, but for its two ends.

Flow: [WordMember] source (keys drawn here) -> F == exchange ==> S -> [Counted], which drops rows.

A migratable backend is a flow with an aggregate, lowered to F and S as any job's. A native one is a
flow of an exchange and a function over batches that keeps one table a worker: the same kernels, no
bins, no router.

In an open loop every record carries the moment it was due, and S's program tells each record's
latency as it applies it; at full speed there is no such moment, and a record is its key alone. The
flow names an aggregate of that column so that F sends it; the program reads it for the meter only,
and gives key and count, as the original's does.

Invariants
  WC1  Nothing of the path is of the benchmark but the two ends: source rows come from memory, and
       what S emits is dropped where a sink would write it.
  WC2  The frontier of the end passes a time when every record up to it has been counted, in all
       processes: consumption is the acknowledgement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.bench.words.histogram import Latencies
from service.bench.words.options import WordOptions
from service.bench.words.vector import VectorStore
from service.clock import Clock
from service.dataflow.flow import Flow
from service.dataflow.operator import Operator, OperatorContext
from service.dataflow.transport.base import Transport
from service.dataflow.vertices import (
    KafkaSink,
    KafkaSource,
    Order,
    SinkVertex,
    SourceVertex,
)
from service.hashing import bins_of
from service.ids import Role, Slot
from service.ingest.source import SourceOperator
from service.member import Member
from service.migration.records import Generation
from service.statestore.aggregate import Aggregate, AggregateProgram, Count, Oldest
from service.statestore.arena import KeyedTable
from service.statestore.columns import ColumnSpec, Values
from service.statestore.hosted import HostedStore
from service.statestore.vertex_store import ArenaProgram, VertexStore

SOURCE, COUNTS, END = "words", "counts", "end"
KEY, DUE, COUNT = "key", "due", "count"
#: The source's input: no partitions, as rows come from memory.
TOPIC = "words"
#: Bytes of moved rows that may wait in one process; the open loop never stops for them.
_HELD_BYTES = 4 << 30

Int64s = NDArray[np.int64]


def columns_of(options: WordOptions) -> pa.Schema:
    """Columns of the stream."""
    names = [KEY, DUE] if options.open_loop else [KEY]
    return pa.schema([(name, pa.int64()) for name in names])


def aggregates_of(options: WordOptions) -> dict[str, Aggregate]:
    """What the flow says that S reads."""
    return {COUNT: Count(), DUE: Oldest(DUE)} if options.open_loop else {COUNT: Count()}


class Meter:
    """Latencies of records at S, apart for those of bins that the run's plans move."""

    def __init__(self, bin_bits: int, moved: NDArray[np.bool_], clock: Clock) -> None:
        """`moved`: bool[bins], which bins any plan names."""
        self._bin_bits = bin_bits
        self._moved = moved
        self._any_moved = bool(moved.any())
        self._clock = clock
        #: Of records of bins that stay, and of bins that move; none before the run begins.
        self.stayed: Latencies | None = None
        self.moved: Latencies | None = None

    def begin(self, stayed: Latencies, moved: Latencies) -> None:
        """Record from now on."""
        self.stayed, self.moved = stayed, moved

    def applied(self, rows: pa.RecordBatch) -> None:
        """These records have just been counted."""
        if self.stayed is None or self.moved is None:
            return
        now = self._clock.monotonic_ns()
        dues = rows.column(DUE).to_numpy()
        if not self._any_moved:
            self.stayed.record_each(dues, now)
            return
        moves = self._moved[bins_of(rows.column(KEY).to_numpy(), self._bin_bits)]
        self.moved.record_each(dues[moves], now)
        self.stayed.record_each(dues[~moves], now)


class MeteredProgram:
    """A program of S that tells a meter about each record it has applied."""

    def __init__(self, program: ArenaProgram, meter: Meter) -> None:
        """Wrap `program`."""
        self._program = program
        self._meter = meter

    @property
    def state_columns(self) -> Sequence[ColumnSpec]:
        """The program's."""
        return self._program.state_columns

    def apply(
        self,
        table: KeyedTable,
        keys: NDArray[np.int64],
        values: Mapping[str, Values],
        version: int,
    ) -> tuple[NDArray[np.int64], dict[str, Values]]:
        """As the program does."""
        return self._program.apply(table, keys, values, version)

    def apply_rows(self, table: KeyedTable, rows: pa.RecordBatch, version: int) -> pa.RecordBatch:
        """As the program does; then the records' latencies are known."""
        changed = self._program.apply_rows(table, rows, version)
        self._meter.applied(rows)
        return changed


class MeteredVector(VectorStore):
    """A vector that tells a meter about each record it has counted."""

    def __init__(self, options: WordOptions, bin_bits: int, meter: Meter | None) -> None:
        """Make the vector of a run."""
        super().__init__(COUNTS, KEY, bin_bits, options.domain)
        self._meter = meter

    def apply_rows(self, rows: pa.RecordBatch, time: tuple[int, ...]) -> pa.RecordBatch:
        """Count, then tell."""
        changed = super().apply_rows(rows, time)
        if self._meter is not None:
            self._meter.applied(rows)
        return changed


class NativeCounts:
    """One worker's only table, and the function of a flow that keeps it."""

    def __init__(self, options: WordOptions, meter: Meter | None) -> None:
        """Make an empty table."""
        self.store: VertexStore | VectorStore
        if options.backend.dense:
            self.store = MeteredVector(options, native_bits(options), meter)
        else:
            self.store = counting_store(0, meter)

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Count a batch."""
        return self.store.apply_rows(rows, (0,))


def native_bits(options: WordOptions) -> int:
    """Bin bits of a dense key's encoding where there are no bins: enough to tell workers apart."""
    return (options.workers - 1).bit_length()


def counting_store(bin_bits: int, meter: Meter | None) -> VertexStore:
    """The service's own store of counts."""
    return VertexStore(COUNTS, _program(meter), bin_bits)


def _program(meter: Meter | None) -> ArenaProgram:
    """The service's own running count, with a meter if there is one."""
    program = AggregateProgram(KEY, {COUNT: Count()}, {})
    return program if meter is None else MeteredProgram(program, meter)


def flow_of(options: WordOptions, native: NativeCounts | None) -> Flow:
    """The flow of a run; `native` keeps the counts where there is no S."""
    flow = Flow("word-count")
    names = columns_of(options).names
    words = flow.source(SOURCE, KafkaSource([TOPIC], record="word", fields=names))
    if native is None:
        keyed = words.key_by(KEY)
        counts = keyed.aggregate(COUNTS, order=Order.EAGER, **aggregates_of(options))
    else:
        counts = words.exchange("spread", by=KEY).map_batches(COUNTS, native)
    return counts.sink(END, KafkaSink("counts", key=KEY, schema=1))


class Counted:
    """The end of the flow: rows are counted and dropped (WC2)."""

    def __init__(self) -> None:
        """Nothing came."""
        self.rows = 0

    def open(self, context: OperatorContext) -> None:
        """Take the port."""
        (self._input,) = context.inputs

    def step(self) -> None:
        """Take everything in."""
        while (message := self._input.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            self.rows += rows.num_rows


class WordMember(Member):
    """A worker that is its own gateway: it draws its records itself."""

    def __init__(
        self,
        options: WordOptions,
        generation: Generation,
        slot: Slot,
        transport: Transport,
        meter: Meter | None,
    ) -> None:
        """Build the dataflow; with a `meter`, records carry when they were due."""
        native = NativeCounts(options, meter) if options.backend.native else None
        self.source = SourceOperator(owns_partitions=True)
        self.end = Counted()
        self._options = options
        self._meter = meter
        #: Where the counts are, whatever keeps them.
        self.counts: VertexStore | VectorStore
        if native is not None:
            self.counts = native.store
        schema = columns_of(options)
        super().__init__(
            flow_of(options, native),
            generation,
            slot,
            transport,
            _no_producer,
            lambda _: schema,
            held_budget=_HELD_BYTES,
        )

    def passed(self) -> int | None:
        """Oldest time of a record that may not have been counted; None if all were (WC2)."""
        return self.frontier_at(self.places[END]).epoch()

    def _source(self, vertex: SourceVertex) -> Operator:
        assert self.slot.role is Role.WORKER, "every worker reads, and there is nobody else"
        self.sources[vertex.name] = self.source
        return self.source

    def _sink(self, vertex: SinkVertex, columns: pa.Schema) -> Operator:
        return self.end

    def _store(self, store: HostedStore) -> HostedStore:
        if self._options.backend.dense:
            self.counts = MeteredVector(self._options, store.bin_bits, self._meter)
            return self.counts
        assert isinstance(store, VertexStore), "an aggregate's state is in an arena"
        store.program = _program(self._meter)
        self.counts = store
        return store


def _no_producer(_vertex: SinkVertex, _columns: pa.Schema) -> NoReturn:
    raise AssertionError("the end of this flow needs no producer")
