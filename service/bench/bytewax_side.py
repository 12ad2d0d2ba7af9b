"""Bytewax's side of a benchmark; run with the interpreter of its own environment.

Flow: `python -m service.bench.bytewax_side RECORDS KEYS BATCH [count]` -> one JSON object on
standard output: nanoseconds of the dataflow's run, and the digest of what came out. The function is
a running mean, or with `count` a running count.

The items are made before the clock starts, and the source gives many at once; one worker, one
thread, no recovery: nothing but the source, `stateful_map` and a list.
"""

from __future__ import annotations

import gc
import json
import sys

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from service.bench.running_mean import digest_of, records_of, running_count, running_mean
from service.clock import SystemClock


def main() -> None:
    """Run once and tell."""
    records, keys, batch = map(int, sys.argv[1:4])
    function = running_count if sys.argv[4:] == ["count"] else running_mean
    # Bytewax takes text for a key.
    items = [(str(key), value) for key, value in records_of(records, keys)]
    outputs: list[tuple[str, float]] = []
    clock = SystemClock()
    flow = Dataflow("running_mean")
    stream = op.input("in", flow, TestingSource(items, batch))
    op.output("out", op.stateful_map("running", stream, function), TestingSink(outputs))
    gc.collect()
    gc.freeze()
    begun = clock.monotonic_ns()
    run_main(flow)
    took = clock.monotonic_ns() - begun
    digest = digest_of((int(key), mean) for key, mean in outputs)
    sys.stdout.write(json.dumps({"took_ns": took, "digest": digest}) + "\n")


if __name__ == "__main__":
    main()
