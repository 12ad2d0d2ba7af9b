"""`megaphone create-topics`: makes the topics that a flow reads and writes, where they are missing.

Flow: a flow -> topics of its sources and sinks -> Kafka. A job makes its own topics by itself.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from service.cli_options import Knobs, Output, Servers, Target, with_knobs, with_query
from service.control_topics import Admin
from service.nexmark.query_topics import QueryTopics
from service.preflight import require_kafka, topics_of
from service.targets import load_flow


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
    for topic in made:
        admin.create(topic, partitions)
    kept = {topic: existing[topic] for topic in wanted if topic in existing}
    if output is Output.JSON:
        document = {"created": dict.fromkeys(made, partitions), "existing": kept}
        typer.echo(msgspec.json.encode(document).decode())
        return
    for topic in wanted:
        count, done = (kept[topic], "is there") if topic in kept else (partitions, "created")
        typer.echo(f"{topic}: {done}, {count} partitions")
