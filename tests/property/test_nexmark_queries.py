"""Queries as flows give what the oracle gives: any stream, any order, bins on the move.

Claims: the rules of service.nexmark.rules, by the flows that users run. Cannot catch: codecs and
Kafka (tests/integration/test_nexmark.py).
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphone.testing import Cluster
from service.bench.nexmark.oracle import differences, expected
from service.dataflow.flow_shape import stateful_of
from service.dataflow.vertices import SourceVertex, TimedVertex
from service.nexmark import queries
from service.nexmark.queries import BUILT_IN
from service.nexmark.query_topics import QueryTopics
from service.nexmark.rules import PRESETS, RULES
from tests.fakes.nexmark import TYPES, streams, tables_of

QUERIES = sorted(set(BUILT_IN) & set(RULES))
SCHEMAS = Path(queries.__file__).parent / "schemas"
BINS = 8
LATENESS_MS = 260_000_000_000_000


def test_there_are_all_that_the_rules_name():
    assert set(QUERIES) == set(RULES)


@pytest.mark.parametrize("query", QUERIES)
@settings(max_examples=20, deadline=None)
@given(streams(), st.integers(0, 1_000), st.sampled_from(sorted(PRESETS)))
def test_they_agree_with_the_oracle_while_bins_move(query, stream, seed, preset):
    agrees(query, stream, Random(seed), preset)


@pytest.mark.parametrize("query", QUERIES)
@settings(max_examples=3, deadline=None)
@given(streams(), st.integers(0, 1_000))
def test_a_megabyte_of_extra_is_a_value_like_any_other(query, stream, seed):
    large = {
        kind: [{**row, "extra": "x" * 1_000_000} if at < 2 else row for at, row in enumerate(rows)]
        for kind, rows in stream.items()
    }
    agrees(query, large, Random(seed), "default")


def agrees(query, stream, chance, preset):
    """What the flow gives, while bins move, is what the oracle gives."""
    # Nothing is late: what is, is for the tests of windows and joins to say.
    where = QueryTopics(out_of_orderness=f"{LATENESS_MS}ms", windows=PRESETS[preset])
    wanted = expected(query, tables_of(stream), PRESETS[preset])
    rows = run(BUILT_IN[query](where), {kind: stream[kind] for kind in RULES[query].inputs}, chance)
    found = pa.Table.from_pylist(rows, wanted.schema) if rows else wanted.slice(0, 0)
    assert differences(query, found, wanted) == []


def run(flow, events, chance):
    """What the flow gives for the events, type by type in their order, with moves in between."""
    schemas = {
        vertex.name: {name: TYPES[vertex.name][name] for name in vertex.connector.fields}
        for vertex in flow.vertices
        if isinstance(vertex, SourceVertex)
    }
    left = {kind: rows for kind, rows in events.items() if rows}
    made = Cluster(
        flow,
        gateways=2,
        bins=BINS,
        schemas=schemas,
        registry=SCHEMAS,
        schedule=chance.randrange(1_000),
    )
    with made as cluster:
        while left:
            kind = chance.choice(sorted(left))
            count = chance.randint(1, len(left[kind]))
            cluster.send(kind, left[kind][:count])
            left[kind] = left[kind][count:]
            if not left[kind]:
                del left[kind]
            worker = chance.randrange(2)
            moving = [b for b in range(BINS) if cluster.owners[b] != worker]
            if moving and stateful_of(flow.vertices):
                cluster.move(moving, worker, batch=3)
        if not any(isinstance(vertex, TimedVertex) for vertex in flow.vertices):
            return cluster.output("out")
        # An event so late in each partition that the watermark passes all others.
        for kind in events:
            for partition in range(2):
                cluster.send(kind, [_far_ahead(kind)], partition=partition)
        cluster.finish()
        return cluster.output("out")


def _far_ahead(kind):
    """An event that is in no result: no window and no auction that it is in closes.

    Its seller is no person, since who registers and sells in one window is told at once.
    """
    row = {name: -1 if of == pa.int64() else "" for name, of in TYPES[kind].items()}
    others = {"date_time": 2 * LATENESS_MS, "expires": 3 * LATENESS_MS, "seller": -2}
    return {name: others.get(name, value) for name, value in row.items()}
