"""Any chain of stateless operations, on any number of processes, gives what Python gives.

What arrives is compared as (epoch, value), since several processes promise no order; the sink
checks that no row comes at a time that the frontier has passed (tests/fakes/small_job.py).
Cannot catch: moving bins and delays of links; the simulation does that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from service.dataflow.flow import Flow, Stream
from service.dataflow.vertices import KafkaSink, KafkaSource
from service.dataflow.worker import WorkerLimits
from tests.fakes.small_job import SmallJob

SCHEMA = pa.schema([("a", pa.int64())])
TIGHT = WorkerLimits(data_window=4096, local_queue=512)

Rows = list[tuple[int, int]]


class Operation(NamedTuple):
    """What a flow does under a name, and what that does to (epoch, value)."""

    apply: Callable[[Stream, str], Stream]
    model: Callable[[Rows, int], Rows]


def refuse_fives(record: dict) -> dict:
    if record["a"] % 5 == 0:
        raise ValueError(record["a"])
    return {"a": record["a"] + 7}


def with_errors(stream: Stream, name: str) -> Stream:
    good = stream.map_rows(name, refuse_fives, SCHEMA)
    bad = good.errors(f"{name} bad").select(f"{name} a", "a")
    return stream.flow.concat(f"{name} both", good, bad)


def parted(stream: Stream, name: str) -> Stream:
    odd, even = stream.branch(name, lambda batch: pc.equal(pc.bit_wise_and(batch["a"], 1), 1))
    doubled = even.with_columns(f"{name} twice", a=pc.field("a") * 2)
    return stream.flow.concat(f"{name} both", odd, doubled)


def rounded(step: int) -> Callable[[Rows, int], Rows]:
    return lambda rows, _: [(-(-epoch // step) * step, value) for epoch, value in rows]


OPERATIONS = [
    Operation(
        lambda s, n: s.filter(n, pc.field("a") > 3),
        lambda rows, _: [(e, a) for e, a in rows if a > 3],
    ),
    Operation(
        lambda s, n: s.filter(n, pl.col("a") % 3 != 0),
        lambda rows, _: [(e, a) for e, a in rows if a % 3],
    ),
    Operation(
        lambda s, n: s.select(n, a=pl.col("a") + 1),
        lambda rows, _: [(e, a + 1) for e, a in rows],
    ),
    Operation(
        lambda s, n: s.flat_map(n, lambda batch: (batch, batch.slice(0, 0), batch)),
        lambda rows, _: rows * 2,
    ),
    Operation(parted, lambda rows, _: [(e, a if a % 2 else 2 * a) for e, a in rows]),
    Operation(with_errors, lambda rows, _: [(e, a + 7 if a % 5 else a) for e, a in rows]),
    Operation(lambda s, n: s.exchange(n, by="a"), lambda rows, _: rows),
    Operation(lambda s, n: s.broadcast(n), lambda rows, workers: rows * workers),
    Operation(lambda s, n: s.delay(n, step=7), rounded(7)),
    Operation(
        lambda s, n: s.delay(n, until=lambda epoch: epoch + epoch % 4),
        lambda rows, _: [(e + e % 4, a) for e, a in rows],
    ),
]

CHAINS = st.lists(st.integers(0, len(OPERATIONS) - 1), min_size=1, max_size=6)
BATCHES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1), st.lists(st.integers(0, 40), min_size=1)),
    max_size=6,
)


@settings(deadline=None)
@given(CHAINS, BATCHES, st.integers(1, 3), st.booleans())
def test_a_chain_of_operations_gives_what_python_gives(
    chain: list[int], batches: list[tuple[int, int, list[int]]], workers: int, tight: bool
) -> None:
    stream = Flow("chain").source("in", KafkaSource(["events"], "number", ["a"]))
    for place, number in enumerate(chain):
        stream = OPERATIONS[number].apply(stream, f"v{place}")
    stream.sink("out", KafkaSink("out", key="a", schema=1))
    limits = TIGHT if tight else None
    job = SmallJob(stream.flow, SCHEMA, workers=workers, gateways=2, limits=limits)
    expected: Rows = []
    epochs = [10, 10]
    for ahead, gateway, values in batches:
        epochs[gateway] += ahead
        rows = pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)
        job.put(rows, epochs[gateway], at=workers + gateway)
        expected += [(epochs[gateway], value) for value in values]
    for number in chain:
        expected = OPERATIONS[number].model(expected, workers)
    job.end()
    assert job.complete
    found = Counter((time[0], row["a"]) for time, rows in job.timed() for row in rows)
    assert found == Counter(expected)
