"""`megaphone run`: all processes of a job on this machine, or all roles in this one.

Flow: arguments and environment -> options -> [run] -> the launcher, which starts a process for each
role, or with --local that process itself. What only --local needs is loaded only then: the launcher
waits and does no work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli_options import (
    AppName,
    Bins,
    CheckpointEvery,
    Gateways,
    Knobs,
    Registry,
    Servers,
    StateDir,
    StateMemory,
    Target,
    UntilEnd,
    Workers,
    query_arguments,
    with_knobs,
    with_query,
)
from service.controller_start import ControllerOptions, check_bins
from service.dataflow.flow_shape import uses_kafka
from service.ids import Role, Slot
from service.launcher import ChildSpec, Launcher
from service.log import Log
from service.nexmark.query_topics import QueryTopics
from service.preflight import check_topics, require_kafka
from service.process_options import state_memory_of
from service.targets import load_flow, registry_of


@with_knobs
@with_query
def run(
    target: Target,
    bootstrap_servers: Servers = "",
    app_name: AppName = "",
    workers: Workers = 2,
    gateways: Gateways = 1,
    bins: Bins = 1024,
    until_end: UntilEnd = False,
    checkpoint_every: CheckpointEvery = 0.0,
    local: Annotated[
        bool,
        typer.Option("--local", help="All roles in this process, one thread, for development."),
    ] = False,
    state_dir: StateDir = Path("megaphone-state"),
    state_memory: StateMemory = "",
    registry: Registry = "",
    knobs: Knobs = Knobs(),
    query: QueryTopics = QueryTopics(),
) -> None:
    """Run a flow on this machine: a controller, gateways and workers, each a process.

    Ctrl-C or SIGTERM stops it plainly: results are written, state and read positions are kept under
    --state-dir, and the same command goes on from there. A second one ends it at once.

    A flow whose sources and sinks are lists and files needs no Kafka: with --local it runs to the
    end of its sources, and nothing is kept for a later run.
    """
    check_bins(bins)
    config = knobs.load(worker__state_memory_bytes=state_memory_of(state_memory))
    flow = load_flow(target, query)
    flow.check()
    if local and not uses_kafka(flow.vertices):
        from service.standalone.command import run_without_kafka

        run_without_kafka(flow, workers=workers, gateways=gateways, bins=bins)
        return
    require_kafka(flow)
    needed = {"--bootstrap-servers": bootstrap_servers, "--app": app_name}
    missing = " and ".join(name for name, value in needed.items() if not value)
    if missing:
        raise typer.BadParameter(f"flow {flow.name!r} reads or writes Kafka and needs {missing}")
    options = ControllerOptions(
        bootstrap_servers,
        app_name,
        workers,
        gateways,
        bins,
        until_end,
        checkpoint_every_s=checkpoint_every,
    )
    check_topics(flow, bootstrap_servers, config.limits.broker_timeout_s)
    if local:
        from service.local import run_local as run_roles_here

        run_roles_here(options, state_dir, config, flow, registry_of(registry))
        return
    common = [target, "--bootstrap-servers", bootstrap_servers, "--app", app_name]
    common += [*query_arguments(query), *knobs.arguments()]
    job = ["--workers", str(workers), "--gateways", str(gateways), "--bins", str(bins)]
    if until_end:
        job.append("--until-end")
    if checkpoint_every:
        job += ["--checkpoint-every", str(checkpoint_every)]
    member = ["--state-dir", str(state_dir), "--registry", registry]
    children = [ChildSpec(Slot(Role.CONTROLLER, 0), ["controller", *common, *job])]
    for role, count in ((Role.WORKER, workers), (Role.GATEWAY, gateways)):
        for number in range(count):
            arguments = [str(role), *common, *member, "--slot", str(number)]
            if role is Role.WORKER and state_memory:
                arguments += ["--state-memory", state_memory]
            children.append(ChildSpec(Slot(role, number), arguments))
    if config.http.port:
        # One machine, one port: the controller has it, the others have those behind it.
        children = [
            ChildSpec(child.slot, [*child.arguments, "--http-port", str(config.http.port + place)])
            for place, child in enumerate(children)
        ]
    launcher = Launcher(children, config.limits.stop_timeout_s, Log("launcher"))
    raise typer.Exit(launcher.run())
