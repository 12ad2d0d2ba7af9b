"""`megaphone doctor`: its options, and the order in which things are looked at.

Flow: arguments -> this machine, the cluster, the flow's schemas -> findings -> a line each, or
docs/contracts/doctor.schema.json.

Exit statuses: 0 nothing is bad; 1 something is; 2 the broker does not answer, or the command line
cannot work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from service.cli_options import (
    Gateways,
    Knobs,
    Output,
    Registry,
    StateDir,
    Workers,
    targets_like,
    with_knobs,
    with_query,
)
from service.clock import SystemClock
from service.config import Config
from service.dataflow.flow import Flow
from service.dataflow.vertices import KafkaSink, KafkaSource, SinkVertex, SourceVertex
from service.doctor import machine
from service.doctor.asking import ask_cluster
from service.doctor.cgroup import memory_limit
from service.doctor.finding import Finding, bad, exit_status_of, good, report_of, text_of, unknown
from service.doctor.judging import Needs, judge_cluster
from service.doctor.trial import try_a_record
from service.doctor.unpacking import judge_unpacking
from service.errors import MegaphoneError
from service.kafka_access import client_settings
from service.nexmark.query_topics import QueryTopics
from service.status import read_status
from service.targets import load_flow, registry_of

_PREFIX = "megaphone"


@with_knobs
@with_query
def doctor(
    knobs: Knobs,
    query: QueryTopics,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A flow, as for `megaphone run`: its topics, permissions and schemas, too.",
            autocompletion=targets_like,
        ),
    ] = "",
    bootstrap_servers: Annotated[
        str, typer.Option(help="Kafka to look at.", envvar="KAFKA_BOOTSTRAP_SERVERS")
    ] = "",
    app_name: Annotated[
        str, typer.Option("--app", help="The job: its own topics, too.", envvar="MEGAPHONE_APP")
    ] = "",
    workers: Workers = 2,
    gateways: Gateways = 1,
    state_dir: StateDir = Path("megaphone-state"),
    registry: Registry = "",
    trial: Annotated[
        bool,
        typer.Option(
            help="Take a transactional id, create a topic, write and read a record, delete the "
            "topic: rights and clocks."
        ),
    ] = True,
    output: Annotated[
        Output, typer.Option(help="text for people; json as docs/contracts/doctor.schema.json.")
    ] = Output.TEXT,
) -> None:
    """Look at everything a job needs and say how to mend what is wrong.

    Broker, topics, permissions, clocks, disk, versions, limits and ports. A running job is not
    disturbed. Status 0: nothing is bad; 1: something is; 2: the broker does not answer.
    """
    config = knobs.load()
    flow = load_flow(target, query) if target else None
    needs = needs_of(flow, app_name, gateways, config)
    findings = machine.all_of(
        machine.versions(),
        machine.folders(state_dir, app_name),
        machine.limits(workers, config.worker.state_memory_bytes, config.worker.held_budget_bytes),
        [
            machine.ports(
                config.http.host,
                config.http.port,
                1 + workers + gateways,
                _answering(bootstrap_servers, app_name, config) if config.http.port else {},
            )
        ],
        _schemas(flow, registry) if flow is not None else (),
        _cluster(bootstrap_servers, needs, config, trial=trial),
    )
    if output is Output.JSON:
        typer.echo(msgspec.json.encode(report_of(findings)).decode())
    else:
        Console().print(text_of(findings), soft_wrap=True)
    if status := exit_status_of(findings):
        raise typer.Exit(status)


def needs_of(flow: Flow | None, app: str, gateways: int, config: Config) -> Needs:
    """What a job asks of a cluster."""
    vertices = () if flow is None else flow.vertices
    inputs = dict.fromkeys(
        topic
        for vertex in vertices
        if isinstance(vertex, SourceVertex) and isinstance(vertex.connector, KafkaSource)
        for topic in vertex.connector.topics
    )
    outputs = dict.fromkeys(
        vertex.connector.topic
        for vertex in vertices
        if isinstance(vertex, SinkVertex) and isinstance(vertex.connector, KafkaSink)
    )
    return Needs(
        app, [*inputs], [*outputs], gateways, clock_us_max=int(config.control.lookahead_ms * 1e3)
    )


def _cluster(
    bootstrap_servers: str, needs: Needs, config: Config, *, trial: bool
) -> Iterator[Finding]:
    if not bootstrap_servers:
        yield unknown(
            "broker.reachable",
            "no broker was named",
            "name one by --bootstrap-servers or KAFKA_BOOTSTRAP_SERVERS",
        )
        return
    settings = client_settings(bootstrap_servers)
    timeout_s = config.limits.broker_timeout_s
    clock = SystemClock()
    own = {**needs.own, **{topic: {} for topic in needs.letters}}
    facts = ask_cluster(
        settings,
        bootstrap_servers,
        [*needs.inputs, *needs.outputs, *own],
        own,
        timeout_s,
        clock,
        group=needs.app,
    )
    if trial and facts.brokers is not None:
        told = try_a_record(settings, needs.app or _PREFIX, timeout_s, clock)
        facts = facts.with_trial(told)
    yield from judge_cluster(facts, needs)
    memory = machine.memory_bytes(memory_limit())
    packed = judge_unpacking(facts.topics, needs.inputs, needs.gateways, memory)
    if packed is not None:
        yield packed


def _schemas(flow: Flow, registry: str) -> Iterator[Finding]:
    """Whether the registry has what the flow reads and writes."""
    name = "registry.schemas"
    wrong: list[str] = []
    asked = 0
    try:
        found = registry_of(registry)
    except MegaphoneError as error:
        yield bad(name, str(error), "name a folder of <id>.avsc files or a registry by --registry")
        return
    for vertex in flow.vertices:
        try:
            match vertex:
                case SourceVertex(connector=KafkaSource(format="avro") as source):
                    asked += 1
                    found.find(source.record, source.topics)
                case SinkVertex(connector=KafkaSink(schema=int(number), format="avro")):
                    asked += 1
                    found.schema(number)
        except MegaphoneError as error:
            wrong.append(f"{vertex.name!r}: {error}")
    if wrong:
        yield bad(name, "; ".join(wrong), "put the schemas there, or name another --registry")
    elif asked:
        yield good(name, f"all {asked} that the flow names are there")


def _answering(bootstrap_servers: str, app: str, config: Config) -> dict[str, str]:
    """host:port -> slot, of a job that says so; nothing if there is none to ask."""
    if not bootstrap_servers or not app:
        return {}
    try:
        status = read_status(bootstrap_servers, app, config)
    except MegaphoneError:
        return {}
    return {str(member.details.get("http")): member.slot for member in status.members}
