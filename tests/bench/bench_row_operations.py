"""Costs of the stateless operations, each ten times in a row through a whole worker step.

Run it by hand: `python -m tests.bench.bench_row_operations`. For each operation: a batch of one row
through ten of them (us a step), and what a row costs one of them in batches of 8,192 (ns). Medians
of 300 and 30 steps. Not collected by pytest; docs/benchmarks/operations.md has the figures.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from service.dataflow.flow import Flow, Stream
from service.dataflow.vertices import KafkaSink, KafkaSource
from tests.fakes.small_job import SmallJob

SCHEMA = pa.schema([("auction", pa.int64()), ("price", pa.int64()), ("channel", pa.string())])
IN_A_ROW = 10
ROWS = 8_192

Operation = Callable[[Stream, str], Stream]


def _read(parts: tuple[Stream, Stream]) -> Stream:
    taken, others = parts
    others.inspect(f"end {others.vertex}", lambda epoch, batch: None)
    return taken


OPERATIONS: dict[str, Operation] = {
    "map_batches, the batch itself": lambda s, n: s.map_batches(n, lambda batch: batch),
    "map_batches, one Arrow kernel": lambda s, n: s.map_batches(
        n, lambda batch: batch.set_column(1, "price", pc.add(batch["price"], 1))
    ),
    "filter, one Arrow kernel": lambda s, n: s.filter(n, lambda b: pc.greater(b["price"], 1)),
    "filter, Arrow expression": lambda s, n: s.filter(n, pc.field("price") > 1),
    "filter, Polars expression": lambda s, n: s.filter(n, pl.col("price") > 1),
    "select by name": lambda s, n: s.select(n, "auction", "price", "channel"),
    "with_columns, Arrow expression": lambda s, n: s.with_columns(n, price=pc.field("price") + 1),
    "with_columns, Polars expression": lambda s, n: s.with_columns(n, price=pl.col("price") + 1),
    "map_frames, one Polars expression": lambda s, n: s.map_frames(
        n, lambda frame: frame.with_columns(price=pl.col("price") + 1)
    ),
    "branch, one Arrow kernel": lambda s, n: _read(
        s.branch(n, lambda b: pc.greater(b["price"], 1))
    ),
    "flat_map": lambda s, n: s.flat_map(n, lambda batch: [batch]),
    "inspect": lambda s, n: s.inspect(n, lambda epoch, batch: None),
    "delay": lambda s, n: s.delay(n, step=1),
    "exchange": lambda s, n: s.exchange(n, by="auction"),
    "map_rows": lambda s, n: s.map_rows(n, lambda row: row, SCHEMA),
    "filter_rows": lambda s, n: s.filter_rows(n, lambda row: row["price"] > 1),
    "flat_map_rows": lambda s, n: s.flat_map_rows(n, lambda row: [row], SCHEMA),
}


def job(operation: Operation, times: int) -> SmallJob:
    """A process with the operation so often in a row."""
    flow = Flow("bench")
    stream = flow.source("in", KafkaSource(["events"], "bid", SCHEMA.names))
    for number in range(times):
        stream = operation(stream, f"v{number}")
    stream.sink("out", KafkaSink("out", key="auction", schema=1))
    return SmallJob(flow, SCHEMA)


def batch(rows: int) -> pa.RecordBatch:
    """Bids that every filter keeps."""
    numbers = pa.array(range(2, rows + 2), pa.int64())
    return pa.RecordBatch.from_arrays([numbers, numbers, numbers.cast(pa.string())], schema=SCHEMA)


def seconds(built: SmallJob, rows: pa.RecordBatch, steps: int) -> float:
    """Median time of a step that takes `rows` from source to sink."""
    (worker,) = built.workers
    feed = built.feeds[0]["in"]
    found = []
    for epoch in range(100, 100 + steps):
        feed.right.downgrade((epoch,))
        feed.output.send(feed.right, rows)
        # The frontier passes the epoch in the same step: what a delay waits for.
        feed.right.downgrade((epoch + 1,))
        began = time.perf_counter()
        worker.step()
        while worker.has_work:
            worker.step()
        found.append(time.perf_counter() - began)
    taken = sum(each.num_rows for _, each in built.results[0]["out"])
    assert taken == steps * rows.num_rows, f"{taken} rows arrived"
    return statistics.median(found)


def main() -> None:
    """Print a line for each operation."""
    sys.stdout.write(f"{'operation':<36}{'1 row x 10, us':>16}{'a row of 8,192, ns':>20}\n")
    for name, operation in OPERATIONS.items():
        one = seconds(job(operation, IN_A_ROW), batch(1), 300) * 1e6
        ten = seconds(job(operation, IN_A_ROW), batch(ROWS), 30)
        none = seconds(job(operation, 0), batch(ROWS), 30)
        each = (ten - none) / IN_A_ROW / ROWS * 1e9
        sys.stdout.write(f"{name:<36}{one:>16,.0f}{each:>20,.1f}\n")


if __name__ == "__main__":
    main()
