"""`stateful_map` with a Python function per record, beside that of Bytewax.

Flow: batches in memory -> gateway and worker of one job in one thread (source, F, S, sink) ->
outputs in memory; and, in a process of its own, Bytewax's dataflow of the same records.

Invariants
  PB1  Both sides run the same function on the same records, one thread on one and the same core,
       in batches of the same size, and their outputs are equal.
  PB2  What is timed begins with records that are there, as each side takes them, and ends with
       outputs that are there: no broker, no codec, no start-up.
"""

from __future__ import annotations

import gc
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from service.bench.document import Figure
from service.bench.gateway import generation_of
from service.bench.one_core import one_core
from service.bench.running_mean import digest_of, records_of, running_mean
from service.clock import SystemClock
from service.dataflow.flow import Flow
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.vertices import KafkaSink, KafkaSource
from service.errors import MegaphoneError
from service.ids import Membership
from service.ingest.source import ReadRows
from service.member import Member

#: How many times faster than the peer.
BOUND = 3.0
_MEMBERS = Membership(1, 1)
_SIDE = "service.bench.bytewax_side"
_ROOT = Path(__file__).parents[2]
_BINS = 1024
_SECONDS_MAX = 600.0


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How many records there are, of how many keys, and how many are taken at once."""

    records: int = 500_000
    keys: int = 1_000
    batch: int = 10_000


class _Outputs:
    """What the sink writes through: keeps the batches, acknowledges when asked."""

    def __init__(self) -> None:
        """Nothing was written."""
        self.batches: list[pa.RecordBatch] = []
        self._due: list[Callable[[], None]] = []

    def has_room(self) -> bool:
        """Always."""
        return True

    def submit(self, rows: pa.RecordBatch, acknowledged: Callable[[], None]) -> None:
        """Keep a batch."""
        self.batches.append(rows)
        self._due.append(acknowledged)

    def poll(self) -> None:
        """Acknowledge what was kept."""
        due, self._due = self._due, []
        for acknowledged in due:
            acknowledged()


class _Job:
    """A worker and a gateway in this thread."""

    def __init__(self, flow: Flow, columns: pa.Schema) -> None:
        """Build both; the source is called `in`."""
        self.outputs = _Outputs()
        clock = SystemClock()
        self._now_us = clock.wall_us()
        generation = generation_of(_MEMBERS, {"records": 1}, _BINS, self._now_us)
        network = MemoryNetwork(_MEMBERS.peers)
        self._worker, self._gateway = (
            Member(
                flow,
                generation,
                _MEMBERS.slot(peer),
                network.transport(peer),
                lambda *_: self.outputs,
                lambda _: columns,
            )
            for peer in range(_MEMBERS.peers)
        )
        self._monotonic_us = clock.monotonic_ns() // 1000
        for member in (self._worker, self._gateway):
            member.ticks.observe(generation.clock, self._monotonic_us)
            member.step()

    def run(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Send each batch at a tick of its own and let all that follows happen."""
        source = self._gateway.sources["in"]
        offset = 0
        for rows in batches:
            offset += rows.num_rows
            source.offer(ReadRows(rows, {("records", 0): offset}))
            self._monotonic_us += 1
            ticked = self._gateway.tick(self._monotonic_us)
            assert ticked, "the horizon is far away"
            self._gateway.step()
            self._worker.step()
            self.outputs.poll()


def _flow() -> tuple[Flow, pa.Schema]:
    columns = pa.schema([("key", pa.int64()), ("value", pa.int64())])
    flow = Flow("running-mean")
    read = flow.source("in", KafkaSource(["records"], record="record", fields=["key", "value"]))
    means = read.key_by("key").stateful_map(
        "mean", running_mean, value="value", schema={"mean": pa.float64()}
    )
    means.sink("out", KafkaSink("means", key="key", schema=1))
    return flow, columns


def run_ours(options: RecordOptions) -> tuple[float, str]:
    """Records a second, and the digest of the outputs."""
    flow, columns = _flow()
    table = np.array(records_of(options.records, options.keys), dtype=np.int64)
    batches = [
        pa.RecordBatch.from_arrays([pa.array(part[:, 0]), pa.array(part[:, 1])], schema=columns)
        for part in np.array_split(table, max(1, options.records // options.batch))
    ]
    job, clock = _Job(flow, columns), SystemClock()
    gc.collect()
    gc.freeze()
    try:
        begun = clock.monotonic_ns()
        job.run(batches)
        took = clock.monotonic_ns() - begun
    finally:
        gc.unfreeze()
    written = (
        pair
        for rows in job.outputs.batches
        for pair in zip(rows["key"].to_pylist(), rows["mean"].to_pylist(), strict=True)
    )
    return options.records * 1e9 / took, digest_of(written)


def run_bytewax(python: Path, options: RecordOptions, *function: str) -> tuple[float, str]:
    """The same of Bytewax, run with the interpreter `python` of its environment.

    Args:
        python: the interpreter.
        options: what it runs on.
        function: `count` for a running count in place of the mean.

    Raises:
        MegaphoneError: it failed.
    """
    numbers = (options.records, options.keys, options.batch)
    done = subprocess.run(
        [python, "-m", _SIDE, *map(str, numbers), *function],
        cwd=_ROOT,  # where `-m` finds the package: it is not installed there
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS_MAX,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise MegaphoneError(f"Bytewax failed: {last}; remove {python.parents[1]} and run again")
    answer = json.loads(done.stdout)
    return options.records * 1e9 / answer["took_ns"], answer["digest"]


def record_figures(runs: int, options: RecordOptions, peer: Path | None) -> Iterator[Figure]:
    """Measure, beside Bytewax if `peer` is the interpreter of its environment.

    Raises:
        MegaphoneError: the peer failed, or the outputs differ, which would be a bug (PB1).
    """
    ours: list[float] = []
    theirs: list[float] = []
    with one_core():
        for _ in range(runs):
            rate, digest = run_ours(options)
            ours.append(rate)
            if peer is None:
                continue
            rate, expected = run_bytewax(peer, options)
            theirs.append(rate)
            if digest != expected:
                raise MegaphoneError("stateful_map and Bytewax disagree on the outputs")
    name = "stateful_map, a Python function per record"
    if theirs:
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        yield Figure.of(f"{name}: rate over that of Bytewax", "", ratios, at_least=BOUND)
        yield Figure.of("the same function in Bytewax's stateful_map", "records/s", theirs)
    yield Figure.of(name, "records/s", ours)
