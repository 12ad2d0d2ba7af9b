"""Speed of the state store: applying batches, growing, moving bins, checkpoints.

Run it by hand: `python -m tests.bench.bench_statestore [--large]`. Each line is one measurement on
one thread. Rates are per second of processor time, best and median of several passes, so that a
busy neighbour does not count; stalls are given in both kinds of time. Not collected by pytest.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from service.statestore.aggregate import AggregateProgram, Count, Max, Sum
from service.statestore.checkpoint import read_checkpoint, write_checkpoint
from service.statestore.vertex_store import VertexStore

PROGRAM = AggregateProgram(
    "k", {"n": Count(), "total": Sum("v"), "highest": Max("v")}, {"v": "int64"}
)
COUNT_ONLY = AggregateProgram("k", {"n": Count()}, {})
BATCH = 16_384
PASSES = 7


def report(name, value, unit):
    sys.stdout.write(f"{name:<66}{value:>12,.2f} {unit}\n")


def seconds(function, *arguments):
    """(processor, wall) time that the call took."""
    wall, processor = time.perf_counter(), time.thread_time()
    function(*arguments)
    return time.thread_time() - processor, time.perf_counter() - wall


def batches(keys, size=BATCH):
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def apply_all(store, parts):
    for part in parts:
        store.apply(part, {"v": part}, 1)


def loaded(keys, bits, program=PROGRAM):
    store = VertexStore("stats", program, bits)
    apply_all(store, batches(np.random.default_rng(1).permutation(keys)))
    return store


def rates(name, rows, function):
    taken = [seconds(function)[0] for _ in range(PASSES)]
    report(f"{name}, best", rows / min(taken) / 1e6, "M rows/s")
    report(f"{name}, median", rows / np.median(taken) / 1e6, "M rows/s")


def bench_apply(keys, bits, program=PROGRAM):
    store = loaded(keys, bits, program)
    parts = batches(np.random.default_rng(2).integers(0, keys, 64 * BATCH))
    named = "+".join(program.outputs)
    rates(
        f"apply {named}, {keys:,} keys, 2^{bits} bins",
        64 * BATCH,
        lambda: apply_all(store, parts),
    )
    report("    table bytes per row", store.table.nbytes / store.table.row_count, "B")


def bench_hot():
    store = loaded(1_000_000, 10)
    drawn = np.random.default_rng(2).zipf(1.2, 64 * BATCH) % 1_000_000
    parts = batches(drawn)
    rates("apply, 1,000,000 keys, Zipf 1.2", 64 * BATCH, lambda: apply_all(store, parts))


def spin(duration_s):
    """The longest time this process was kept from running, in seconds."""
    longest, last = 0.0, time.perf_counter()
    end = last + duration_s
    while last < end:
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def bench_growth():
    """Only new keys, from none to 2.6 M rows: every bin of 1,024 doubles nine times."""
    report("stall of this machine, doing nothing, 3 s", spin(3) * 1e3, "ms")
    parts = batches(np.random.default_rng(3).permutation(2_600_000))
    for run in ("first", "second"):
        store = VertexStore("stats", PROGRAM, 10)
        apply_all(store, [parts[0][:100]])
        taken = np.array([seconds(apply_all, store, [part]) for part in parts]) * 1e3
        for kind, each in zip(("processor", "wall"), taken[len(taken) // 2 :].T):
            name = f"growing, {run} table, {kind} time of {BATCH} new keys"
            report(f"{name}, median", np.median(each), "ms")
            report(f"{name}, p99", np.percentile(each, 99), "ms")
            report(f"{name}, max", each.max(), "ms")
        report(f"growing, {run} table, rate", 2.6e3 / taken[:, 0].sum(), "M rows/s")


def bench_move(keys, bits):
    source, target = loaded(keys, bits), VertexStore("stats", PROGRAM, bits)
    bins = range(min(1 << bits, 512))
    phases = np.zeros(3)
    for _ in range(3):
        phases[:], moved = 0, 0
        for bin_id in bins:
            marks = [time.thread_time()]
            chunks = list(source.extract(bin_id))
            marks.append(time.thread_time())
            assembler = target.assembler(bin_id)
            for chunk in chunks:
                assembler.feed(chunk)
            marks.append(time.thread_time())
            target.install(bin_id, assembler)
            marks.append(time.thread_time())
            phases += np.diff(marks)
            moved += assembler.nbytes
    named = f"bin of {keys >> bits:,} rows: "
    for phase, taken in zip(("extract and encode", "check", "install"), phases):
        report(named + phase, taken / len(bins) * 1e6, "us/bin")
    report(named + "extract and encode", moved / phases[0] / 1e6, "MB/s")
    report(named + "check and install", moved / phases[1:].sum() / 1e6, "MB/s")


def bench_checkpoint(keys):
    store = loaded(keys, 10)
    with tempfile.TemporaryDirectory() as folder:
        start = time.thread_time()
        files = write_checkpoint(Path(folder), 1, {"stats": store}, range(1 << 10))
        written = time.thread_time()
        read_checkpoint(Path(folder), files, {"stats": VertexStore("stats", PROGRAM, 10)})
        taken = time.thread_time() - written
    named = f"checkpoint of {keys:,} rows: "
    report(named + "write", keys / (written - start) / 1e6, "M rows/s")
    report(named + "verify and read", keys / taken / 1e6, "M rows/s")
    report(named + "bytes per row", files.bytes / keys, "B")


def main():
    for bits in (8, 10, 12, 16):
        bench_apply(1_000_000, bits)
    bench_apply(1_000_000, 10, COUNT_ONLY)
    bench_hot()
    if "--large" in sys.argv:
        bench_apply(16_000_000, 10)
        bench_apply(16_000_000, 10, COUNT_ONLY)
    bench_growth()
    bench_move(2_000_000, 16)
    bench_move(2_000_000, 10)
    bench_move(2_000_000, 4)
    bench_checkpoint(2_000_000)


if __name__ == "__main__":
    main()
