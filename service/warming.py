"""Compiles what the built-in queries and the load generator need, so that no start waits for it.

Flow: image build -> `python -m service.warming` -> machine code in the folders that numba and
`avro.kernel_cache` keep it in; a process that starts with those folders compiles nothing.

Most kernels are compiled where they are imported, those of codecs where a flow asks for them. The
rest is found by running the queries in memory: rows, a move copied ahead, a stop and a restart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

from service.dataflow.flow import Flow
from service.dataflow.flow_shape import stateful_of
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.egress.encoders import encoder_of
from service.ingest.decode import DecodeLimits
from service.ingest.decoders import decoder_of
from service.ingest.registry import FolderRegistry
from service.nexmark.events import EventSource, NexmarkConfig
from service.nexmark.forms import Format, Topics
from service.nexmark.queries import BUILT_IN, built_in
from service.nexmark.query_topics import QueryTopics
from service.nexmark.wire import Wire
from service.testing.cluster import Cluster

#: Commands whose modules are imported, and with them the kernels of everything behind them.
COMMANDS = ("service.cli", "loadgen.cli")
#: The forms in which events come.
FORMS = (
    (Format.AVRO, Topics.SEPARATE),
    (Format.JSON, Topics.SEPARATE),
    (Format.JSON, Topics.TAGGED),
)
_SCHEMAS = Path(__file__).parent / "nexmark" / "schemas"
_RECORD_BYTES_MAX = 1 << 20
_EVENTS, _BINS = 4_000, 16
_FIRST_MS = 1_790_000_000_000


def warm() -> Iterator[str]:
    """Compile everything; says what was done, step by step.

    Cost: some minutes of one core with empty folders, seconds with full ones.
    """
    for name in COMMANDS:
        import_module(name)
        yield f"kernels of {name}"
    registry = FolderRegistry(_SCHEMAS)
    numbers = np.arange(_EVENTS, dtype=np.int64)
    for form, topics in FORMS:
        source = EventSource(NexmarkConfig(), wire=Wire(format=form, topics=topics))
        source.encode(numbers[:100], _FIRST_MS + numbers[:100], 4)
        for query in BUILT_IN:
            warm_codecs(built_in(query, QueryTopics(format=form, event_topics=topics)), registry)
        yield f"codecs of {form} in {topics} topics"
    for query in BUILT_IN:
        run(built_in(query, QueryTopics(out_of_orderness="1s")))
        yield f"{query} in memory"


def warm_codecs(flow: Flow, registry: FolderRegistry) -> int:
    """Compile what reads and writes the records of a flow; returns for how many ends."""
    ends = 0
    for vertex in flow.vertices:
        if isinstance(vertex, SourceVertex):
            decoder_of(vertex.kafka, registry, DecodeLimits(_RECORD_BYTES_MAX)).warm()
            ends += 1
        elif isinstance(vertex, SinkVertex):
            encoder_of(vertex.kafka, registry.schema)
            ends += 1
    return ends


def run(flow: Flow) -> int:
    """Let a query work on some events while its state moves; returns how many rows it gives."""
    source = EventSource(NexmarkConfig())
    draw = {"person": source.persons, "auction": source.auctions, "bid": source.bids}
    sources = [vertex for vertex in flow.vertices if isinstance(vertex, SourceVertex)]
    with Cluster(flow, workers=2, gateways=1, bins=_BINS, registry=_SCHEMAS) as cluster:
        for half in np.split(np.arange(_EVENTS, dtype=np.int64), 2):
            for vertex in sources:
                cluster.send(vertex.name, [draw[vertex.kafka.record](half, _FIRST_MS + half)])
            if stateful_of(flow.vertices):
                cluster.rescale(1, strategy="batched", batch=_BINS // 4, precopy=True)
                cluster.rescale(2)
                cluster.stop()
                cluster.restart()
        cluster.finish()
        return sum(len(cluster.output(sink)) for sink in cluster.sinks)


if __name__ == "__main__":
    for done in warm():
        sys.stdout.write(f"{done}\n")
        sys.stdout.flush()
