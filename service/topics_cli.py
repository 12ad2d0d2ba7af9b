"""`megaphone create-topics`: makes the topics that a flow reads and writes, where they are missing.

Flow: a flow -> topics of its sources and sinks -> Kafka. A job makes its own topics by itself.

Invariants
  TC1  A topic that is there stays as it is, its configuration included.
  TC2  Inputs that are made here let no batch grow in a gateway, unless somebody says otherwise: the
       broker unpacks and refuses it (docs/SECURITY.md, Limits).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from service.cli_options import Knobs, Output, Servers, Target, with_knobs, with_query
from service.control_topics import Admin
from service.nexmark.query_topics import QueryTopics
from service.preflight import inputs_of, require_kafka, topics_of
from service.targets import load_flow


class Compression(StrEnum):
    """What Kafka's `compression.type` of a topic may be."""

    UNCOMPRESSED = "uncompressed"
    PRODUCER = "producer"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


@with_knobs
@with_query
def create_topics(
    target: Target,
    bootstrap_servers: Servers,
    knobs: Knobs,
    query: QueryTopics,
    partitions: Annotated[
        int, typer.Option(min=1, help="Of each topic that is made; gateways share an input's.")
    ] = 4,
    compression: Annotated[
        Compression,
        typer.Option(
            help="compression.type of inputs that are made. uncompressed: the broker unpacks, and "
            "refuses what is too large then; others only where those who write are trusted."
        ),
    ] = Compression.UNCOMPRESSED,
    output: Annotated[
        Output, typer.Option(help="text for people; json: those made, and those that were there.")
    ] = Output.TEXT,
) -> None:
    """Create the input and output topics of a flow; those that are there stay as they are."""
    flow = load_flow(target, query)
    require_kafka(flow)
    admin = Admin(bootstrap_servers, knobs.load().limits.broker_timeout_s)
    existing = admin.partitions()
    wanted = topics_of(flow)
    made = [topic for topic in wanted if topic not in existing]
    packed = {topic: {"compression.type": compression.value} for topic in inputs_of(flow)}
    for topic in made:
        admin.create(topic, partitions, packed.get(topic))
    kept = {topic: existing[topic] for topic in wanted if topic in existing}
    if output is Output.JSON:
        document = {"created": dict.fromkeys(made, partitions), "existing": kept}
        typer.echo(msgspec.json.encode(document).decode())
        return
    for topic in wanted:
        count, done = (kept[topic], "is there") if topic in kept else (partitions, "created")
        typer.echo(f"{topic}: {done}, {count} partitions")
