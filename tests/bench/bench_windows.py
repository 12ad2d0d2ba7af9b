"""What windows cost a row: `python -m tests.bench.bench_windows`.

One store, rows of a million a second of event time in batches of 65,536, 100,000 keys spread evenly
and in any order, event times rising. A run is all of them, the results of the windows included;
processor time, so that a busy neighbour counts little.

Cannot catch: what the rest of a job costs beside them.
"""

from __future__ import annotations

import sys
from statistics import median
from time import process_time

import numpy as np
import pyarrow as pa

from service.statestore.aggregate import Aggregate, AggregateProgram, Count, Max, Mean, Sum
from service.statestore.panes import Panes
from service.statestore.timed import ALL, NEVER
from service.statestore.window_form import WindowForm
from service.statestore.window_store import WindowStore

KEYS = 100_000
#: Event time is in milliseconds.
ROWS_PER_MS = 1_000
BATCH = 1 << 16
ROWS = 480 * BATCH
RUNS = 5
BIN_BITS = 10

CASES: dict[str, tuple[int, int, dict[str, Aggregate]]] = {
    "tumbling 10 s, count": (10_000, 10_000, {"n": Count()}),
    "tumbling 10 s, count, total, highest, mean": (
        10_000,
        10_000,
        {"n": Count(), "sum": Sum("v"), "top": Max("v"), "mean": Mean("v")},
    ),
    "sliding 10 s every 2 s, count": (10_000, 2_000, {"n": Count()}),
    "sliding 10 s every 1 s, count": (10_000, 1_000, {"n": Count()}),
}


def batches() -> list[tuple[pa.RecordBatch, int]]:
    """Rows, and the watermark when they have come."""
    random = np.random.default_rng(5)
    found = []
    for start in range(0, ROWS, BATCH):
        times = np.arange(start, start + BATCH) // ROWS_PER_MS
        keys = random.integers(0, KEYS, BATCH)
        rows = pa.record_batch({"key": keys, "time": times, "v": keys})
        found.append((rows, int(times[-1])))
    return found


def seconds(
    given: list[tuple[pa.RecordBatch, int]],
    size: int,
    every: int,
    aggregates: dict[str, Aggregate],
) -> tuple[float, int]:
    """Seconds of one run, and the rows that it gave."""
    program = AggregateProgram("key", aggregates, {"v": "int64"})
    store = WindowStore("w", WindowForm("key", Panes.of(size, every), "time"), program, BIN_BITS)
    watermark, results = NEVER, 0
    begin = process_time()
    for epoch, (rows, reached) in enumerate(given):
        store.apply_at(rows, (epoch,), watermark)
        watermark = reached
        if store.due(watermark):
            results += store.fire(watermark, (epoch,)).num_rows
    results += store.fire(ALL, (len(given),)).num_rows
    return process_time() - begin, results


def main() -> None:
    """Print a line for each case: median, least and greatest rate, and results a row."""
    given = batches()
    for name, (size, every, aggregates) in CASES.items():
        runs = [seconds(given, size, every, aggregates) for _ in range(1 + RUNS)][1:]
        rates = sorted(ROWS / 1e6 / took for took, _ in runs)
        sys.stdout.write(
            f"| {name} | {median(rates):.1f} | {rates[0]:.1f} to {rates[-1]:.1f} "
            f"| {runs[0][1] / ROWS:.3f} |\n"
        )


if __name__ == "__main__":
    main()
