"""Speed of keyed operators in Python, and of small batches that wait at S.

Run it by hand: `python -m tests.bench.bench_objects`. One thread, processor time, so that a busy
neighbour counts little; best of several passes. Not collected by pytest.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import numpy as np
import pyarrow as pa

from service.migration.state_host import StateHost
from service.statestore.aggregate import AggregateProgram, Count, Sum
from service.statestore.distinct import DistinctProgram
from service.statestore.object_codec import decode, encode
from service.statestore.object_store import ObjectStore
from service.statestore.stateful_map import StatefulMap
from service.statestore.vertex_store import VertexStore
from tests.fakes.control import FIRST, ControlHand, generation, promise
from tests.fakes.ports import Ports

BINS = 10
BATCHES = 20
PASSES = 3
CALLS = 2_000
INT = pa.schema([("out", pa.int64())])
FLOAT = pa.schema([("out", pa.float64())])


def report(name, value, unit):
    sys.stdout.write(f"{name:<66}{value:>10,.2f} {unit}\n")


def best(function, setup=lambda: None):
    """Least processor time of a call, in us."""
    taken = []
    for _ in range(PASSES):
        setup()
        begun = time.process_time()
        function()
        taken.append(time.process_time() - begun)
    return min(taken) * 1e6


def total(state, price):
    state = (state or 0) + price
    return state, state


def total_of_tuple(state, row):
    return total(state, row[0])


def total_of_dict(state, row):
    return total(state, row["price"])


class Mean:
    __slots__ = ("bids", "total")

    def __init__(self):
        self.bids = self.total = 0


def mean(state, price):
    state.bids += 1
    state.total += price
    return state, state.total / state.bids


FUNCTIONS = {
    "value, int": (total, "price", INT, None),
    "value, object changed in place": (mean, "price", FLOAT, Mean),
    "tuple, int": (total_of_tuple, ("price",), INT, None),
    "dict, int": (total_of_dict, None, INT, None),
}


def drawn(keys, rows):
    draw = np.random.default_rng(1)
    return [
        pa.record_batch({"key": draw.integers(0, keys, rows), "price": draw.integers(0, 999, rows)})
        for _ in range(BATCHES)
    ]


def bench_store(name, store, batches):
    def run():
        for batch in batches:
            store.apply_rows(batch, (1,))

    run()
    report(name, best(run) / sum(batch.num_rows for batch in batches), "us a row")


def bench_maps():
    for keys in (1_000, 100_000):
        for name, (function, value, outputs, initial) in FUNCTIONS.items():
            program = StatefulMap("v", "key", function, value, outputs, initial)
            store = ObjectStore("v", program, BINS)
            bench_store(f"stateful_map, {name}, {keys:,} keys", store, drawn(keys, 10_000))
    for rows in (1, 10, 100):
        store = ObjectStore("v", StatefulMap("v", "key", total, "price", INT), BINS)
        bench_store(f"stateful_map, batches of {rows}", store, drawn(1_000, rows))


def bench_distinct():
    store = VertexStore("v", DistinctProgram("key", ["key", "price"]), BINS)
    bench_store("distinct, 100,000 keys", store, drawn(100_000, 10_000))


def bench_codec():
    for value in (5, (1, 2), {"bids": 1, "mean": 2.5}, list(range(100)), set(range(100))):
        encoded = encode(value)
        name = f"{type(value).__name__}, {len(encoded)} bytes"
        report(f"encode {name}", best(partial(repeated, encode, value)) / CALLS, "us")
        report(f"decode {name}", best(partial(repeated, decode, encoded)) / CALLS, "us")


def repeated(function, argument):
    for _ in range(CALLS):
        function(argument)


def bench_gathering():
    """1,000 tiny epochs at once, applied one by one and together."""
    for merge_from in (1 << 30, 8):
        program = AggregateProgram("key", {"n": Count(), "total": Sum("v")}, {"v": "int64"})
        hand = ControlHand(generation([0] * 64, workers=1))
        host = StateHost(VertexStore("v", program, 6), "key", hand.source, 64)
        host.merge_from = merge_from
        hand.read(promise(FIRST + 10_000))
        ports = Ports(
            host,
            inputs=3,
            outputs=2,
            paths=[(2, 0), (2, 1), (0, 0), (1, 0)],
            routed=[1],
            start=(FIRST,),
            peers=2,
        )
        batch = pa.record_batch({"key": np.arange(10), "v": np.arange(10)})

        def queue(ports=ports, batch=batch):
            for epoch in range(FIRST, FIRST + 1_000):
                ports.put(0, epoch, batch)

        sent = len(ports.sent)
        taken = best(ports.step, queue)
        outputs = (len(ports.sent) - sent) // PASSES
        how = "together" if merge_from == 8 else "one by one"
        report(f"1,000 epochs of 10 rows at S, {how}, {outputs} outputs", taken / 1e3, "ms")


if __name__ == "__main__":
    bench_maps()
    bench_distinct()
    bench_codec()
    bench_gathering()
