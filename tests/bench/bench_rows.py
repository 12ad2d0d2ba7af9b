"""Speed of typed rows: joins beside the same by Python objects, tables, timers, text keys.

Run it by hand: `python -m tests.bench.bench_rows`. One thread, processor time, so that a busy
neighbour counts little; medians of several passes, both ways of joining in turn within each, so
that their ratio is of one run. Not collected by pytest.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import pyarrow as pa

from service.dataflow.sides import tagged
from service.statestore.aggregate import AggregateProgram, Max
from service.statestore.columns import KEY_ID
from service.statestore.join import JoinProgram
from service.statestore.object_join import ObjectJoin
from service.statestore.object_store import ObjectStore
from service.statestore.row_format import RowFormat
from service.statestore.row_store import RowStore
from service.statestore.row_table import RowTable
from service.statestore.text_keys import key_hashes
from service.statestore.text_store import TextKeyedStore
from service.statestore.timers import TimerTable
from service.statestore.vertex_store import VertexStore

BIN_BITS = 10
BATCH = 10_000
PASSES = 5
NUMBERS = pa.schema([("key", pa.int64()), ("price", pa.int64())])
TEXTS = pa.schema([("key", pa.int64()), ("price", pa.int64()), ("name", pa.string())])


def report(name, value, unit):
    sys.stdout.write(f"{name:<60}{value:>12,.2f} {unit}\n")


def timed(function):
    """Processor seconds of a call."""
    begun = time.process_time()
    function()
    return time.process_time() - begun


def drawn(schema, keys, rows, seed):
    random = np.random.default_rng(seed)
    columns = {
        "key": random.integers(0, keys, rows),
        "price": random.integers(0, 1_000, rows),
        "name": np.char.mod("auction %d", np.arange(rows)),
    }
    return pa.record_batch([pa.array(columns[name]) for name in schema.names], schema=schema)


def bench_join(schema, keys, batches):
    """Left and right batches in turn, as two streams come."""
    form = tagged(("key", "key"), [schema, schema])
    others = [field for field in schema if field.name != "key"]
    output = pa.schema(
        [
            ("key", pa.int64()),
            *(pa.field(f"{side}.{field.name}", field.type) for side in "lr" for field in others),
        ]
    )
    given = [form.of(drawn(schema, keys, BATCH, number), number % 2) for number in range(batches)]
    rows = BATCH * batches
    ways = {
        "objects": lambda: ObjectStore("j", ObjectJoin("key", *form.names, output), BIN_BITS),
        "rows": lambda: RowStore("j", JoinProgram("key", *form.names, output), BIN_BITS),
    }
    taken = {name: [] for name in ways}
    pairs = {}
    for _ in range(PASSES):
        for name, make in ways.items():
            store = make()
            found = []

            def run(store=store, found=found):
                found.append(sum(store.apply_rows(batch, (1,)).num_rows for batch in given))

            taken[name].append(timed(run))
            pairs[name] = found[0]
    assert pairs["objects"] == pairs["rows"]
    what = (
        f"join, {len(others)} columns a side, {keys:,} keys, {pairs['rows'] / rows:.1f} pairs a row"
    )
    for name, seconds in taken.items():
        report(f"{what}, {name}", statistics.median(seconds) / rows * 1e9, "ns a row")
    ratios = [old / new for old, new in zip(taken["objects"], taken["rows"], strict=True)]
    report(f"{what}, faster by", statistics.median(ratios), "times")


def bench_table(keys, rows):
    form = RowFormat(pa.schema([("n", pa.int32()), ("x", pa.float64()), ("text", pa.string())]))
    random = np.random.default_rng(1)
    named = random.integers(0, keys, rows)
    columns = [
        pa.array(np.arange(rows, dtype=np.int32)),
        pa.array(np.arange(rows) / 3),
        pa.array(np.char.mod("text %d", np.arange(rows))),
    ]
    table = RowTable(BIN_BITS, [form])
    steps = {"encode": [], "put": [], "find": [], "read": [], "remove": []}
    for _ in range(PASSES):
        state = {}
        steps["encode"].append(timed(lambda s=state: s.update(r=form.encode(columns, rows))))
        steps["put"].append(timed(lambda s=state: table.put(named, s["r"], 1)))
        steps["find"].append(timed(lambda s=state: s.update(f=table.find(named))))
        steps["read"].append(timed(lambda s=state: table.read(0, s["f"].addresses)))
        distinct = np.unique(named)
        steps["remove"].append(timed(lambda d=distinct: table.remove(d, 2)))
    for name, seconds in steps.items():
        report(f"table, {keys:,} keys, {name}", statistics.median(seconds) / rows * 1e9, "ns a row")


def bench_timers(keys, rows):
    random = np.random.default_rng(1)
    named, times = random.integers(0, keys, rows), random.integers(0, 1_000, rows)
    steps = {"set": [], "pop in 1,000 steps": []}
    for _ in range(PASSES):
        table = TimerTable(BIN_BITS)

        def pop(table=table):
            for until in range(1_000):
                table.pop(until)

        steps["set"].append(timed(lambda t=table: t.set(named, times)))
        steps["pop in 1,000 steps"].append(timed(pop))
    for name, seconds in steps.items():
        report(f"timers, {name}", statistics.median(seconds) / rows * 1e9, "ns a timer")


def bench_text_keys(keys, batches):
    """An aggregate of keys that are text, hashing included, beside the same of integers."""
    numbers = [drawn(NUMBERS, keys, BATCH, seed) for seed in range(batches)]
    texts = [
        rows.append_column("text", pa.array(np.char.mod("auction %d", rows["key"].to_numpy())))
        for rows in numbers
    ]
    taken = {"integers": [], "text": []}
    for _ in range(PASSES):
        program = AggregateProgram(KEY_ID, {"top": Max("price")}, {"price": pa.int64()})
        plain = VertexStore("v", program, BIN_BITS)
        store = TextKeyedStore(VertexStore("v", program, BIN_BITS), "text", pa.string())
        plain_rows = [rows.rename_columns([KEY_ID, "price"]) for rows in numbers]

        def run_plain(store=plain, given=plain_rows):
            for rows in given:
                store.apply_rows(rows, (1,))

        def run(store=store):
            for rows in texts:
                hashes = pa.array(key_hashes(rows["text"]))
                store.apply_rows(rows.append_column(KEY_ID, hashes), (1,))

        # The first time fills the store, the second finds every key there.
        run_plain()
        run()
        taken["integers"].append(timed(run_plain))
        taken["text"].append(timed(run))
    for name, seconds in taken.items():
        median = statistics.median(seconds) / (BATCH * batches) * 1e9
        report(f"highest of {keys:,} keys that are {name}", median, "ns a row")
    report("bytes a text key, all of it", store.keys.table.nbytes / store.row_count, "bytes")


if __name__ == "__main__":
    bench_join(NUMBERS, 1_000_000, 20)
    bench_join(NUMBERS, 10_000, 20)
    bench_join(TEXTS, 1_000_000, 20)
    bench_join(TEXTS, 10_000, 20)
    bench_table(100_000, 100_000)
    bench_timers(100_000, 500_000)
    bench_text_keys(1_000, 20)
    bench_text_keys(100_000, 20)
