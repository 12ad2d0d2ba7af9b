"""The `megaphone` command.

Flow: arguments and environment -> options -> launcher, a role's process, or a question to a running
job. Every failure with a name becomes one line on stderr and its exit status: 0 ok, 1 failed or
inexact, 2 usage or environment, 3 a figure missed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from socket import gethostname
from typing import Annotated

import typer

from service.allocator import keep_freed_memory
from service.bench.cli import app as bench_app
from service.broker.lookup import serve
from service.checkpoint_cli import checkpoint
from service.cli_options import (
    Address,
    AppName,
    Bins,
    CheckpointEvery,
    Gateways,
    HttpPort,
    Knobs,
    Registry,
    Servers,
    SlotText,
    StateDir,
    StateMemory,
    Target,
    Tied,
    UntilEnd,
    Workers,
    example,
    query_arguments,
    with_knobs,
    with_query,
)
from service.completion import completion
from service.config import Config
from service.config_cli import check_config
from service.control_cli import app as control_app
from service.controller_process import ControllerProcess
from service.controller_start import ControllerOptions
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import uses_kafka
from service.dlq_cli import app as dlq_app
from service.doctor.command import doctor
from service.errors import MegaphoneError, UsageError
from service.fail_points import arm
from service.hashing import bin_bits_of
from service.ids import Role, Slot
from service.keys_cli import keys
from service.launcher import ChildSpec, Launcher
from service.local import run_local as run_roles_here
from service.log import Log
from service.looking_cli import graph, status
from service.migrate_cli import migrate, shortcuts
from service.nexmark.queries import QueryTopics
from service.parent import tie_to_parent
from service.preflight import check_topics, require_kafka
from service.process import MemberProcess
from service.process_options import ProcessOptions, slot_of
from service.sizes import bytes_of
from service.standalone.command import run_without_kafka
from service.state_cli import app as state_app
from service.targets import load_flow, registry_of
from service.topics_cli import create_topics

#: Owners take up to 6 bytes each in JSON, a record of the log at most 1 MB.
BINS_MAX = 1 << 16

app = typer.Typer(
    name="megaphone",
    help="Stateful stream processing on Kafka whose state moves while it runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_app, name="bench")
app.add_typer(migrate, name="migrate")
app.add_typer(shortcuts)
app.add_typer(state_app, name="state")
app.add_typer(control_app, name="control")
app.add_typer(dlq_app, name="dlq")
app.add_typer(keys)
app.command(epilog=example("checkpoint --app bids"))(checkpoint)
app.command(epilog=example("status --app bids --watch"))(status)
app.command(epilog=example("graph examples.two_stages:flow --svg flow.svg"))(graph)
app.command(epilog=example("doctor examples.filtered:flow --app large"))(doctor)
app.command(epilog=example("check-config knobs.toml --changed"))(check_config)
app.command(epilog=example("completion bash"))(completion)
app.command(epilog=example("create-topics examples.filtered:flow --partitions 4"))(create_topics)


@app.command(epilog=example("run examples.filtered:flow --app large --workers 2 --bins 64"))
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
    _check_bins(bins)
    config = knobs.load(worker__state_memory_bytes=_state_memory(state_memory))
    flow = load_flow(target, query)
    flow.check()
    if local and not uses_kafka(flow.vertices):
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


@app.command(epilog=example("controller nexmark:auction_bids --app bids --workers 2 --gateways 1"))
@with_knobs
@with_query
def controller(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    workers: Workers = 2,
    gateways: Gateways = 1,
    bins: Bins = 1024,
    until_end: UntilEnd = False,
    checkpoint_every: CheckpointEvery = 0.0,
    address: Address = "",
    http_port: HttpPort = None,
    knobs: Knobs = Knobs(),
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run the controller of a job: admits members, answers requests, plans moves, stops the job."""
    _check_bins(bins)
    config = _begin(knobs, tied=tied)
    flow = load_flow(target, query)
    require_kafka(flow)
    options = ControllerOptions(
        bootstrap_servers,
        app_name,
        workers,
        gateways,
        bins,
        until_end,
        address,
        http_port,
        checkpoint_every,
    )
    ControllerProcess(options, config, flow, Log("controller")).run()


@app.command(epilog=example("worker nexmark:auction_bids --app bids --slot 0"))
@with_knobs
@with_query
def worker(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    slot: SlotText,
    state_dir: StateDir = Path("megaphone-state"),
    state_memory: StateMemory = "",
    registry: Registry = "",
    address: Address = "",
    http_port: HttpPort = None,
    knobs: Knobs = Knobs(),
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run a worker: hosts bins of state and writes results."""
    config = _begin(knobs, tied=tied, state_memory=state_memory)
    options = ProcessOptions(
        bootstrap_servers,
        app_name,
        slot_of(Role.WORKER, slot, gethostname()),
        state_dir,
        address,
        http_port,
    )
    _run_member(options, config, load_flow(target, query), registry)


@app.command(epilog=example("gateway nexmark:auction_bids --app bids --slot 0"))
@with_knobs
@with_query
def gateway(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    slot: SlotText,
    state_dir: StateDir = Path("megaphone-state"),
    registry: Registry = "",
    address: Address = "",
    http_port: HttpPort = None,
    knobs: Knobs = Knobs(),
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run a gateway: reads Kafka partitions and routes their records."""
    config = _begin(knobs, tied=tied)
    options = ProcessOptions(
        bootstrap_servers,
        app_name,
        slot_of(Role.GATEWAY, slot, gethostname()),
        state_dir,
        address,
        http_port,
    )
    _run_member(options, config, load_flow(target, query), registry)


def _state_memory(text: str) -> int | None:
    return bytes_of(text, "--state-memory") if text else None


def _begin(knobs: Knobs, *, tied: bool, state_memory: str = "") -> Config:
    """What every role does first."""
    config = knobs.load(worker__state_memory_bytes=_state_memory(state_memory))
    arm(_slot_of(sys.argv), os.environ)
    if tied:
        tie_to_parent(config.limits.stop_timeout_s)
    return config


def _run_member(options: ProcessOptions, config: Config, flow: Flow, registry: str) -> None:
    require_kafka(flow)
    MemberProcess(options, config, flow, registry_of(registry), Log(str(options.slot))).run()


@app.command(epilog=example("broker"))
def broker() -> None:
    """Run a local Kafka broker until Ctrl-C and print its address."""
    serve()


def main() -> None:
    """Entry point: named errors become one line and an exit status."""
    keep_freed_memory()
    try:
        app(prog_name="megaphone")
    except MegaphoneError as error:
        Log(_slot_of(sys.argv)).error(
            "process.failed", error=type(error).__name__, message=str(error)
        )
        sys.stdout.flush()
        # Not through the interpreter's exit: it would free Kafka's clients, and those wait for the
        # broker, which may be what failed.
        os._exit(error.exit_status)


def _check_bins(bins: int) -> None:
    """Refuse a number of bins that cannot be, or whose owners do not fit a record of the log."""
    bin_bits_of(bins)
    if bins > BINS_MAX:
        raise UsageError(
            f"--bins {bins}: at most {BINS_MAX}; the table of owners must fit one Kafka record"
        )


def _slot_of(arguments: list[str]) -> str:
    """What the command line says this process is, for the failure's line."""
    role = arguments[1] if len(arguments) > 1 else "megaphone"
    words = [word for argument in arguments for word in argument.split("=", 1)]
    if role in (Role.WORKER, Role.GATEWAY) and "--slot" in words[:-1]:
        with suppress(UsageError):
            return str(slot_of(Role(role), words[words.index("--slot") + 1], gethostname()))
    return role
