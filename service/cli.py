"""The `megaphone` command.

Flow: arguments and environment -> options -> launcher, a role's process, or a question to a running
job. Every failure with a name becomes one line on stderr and its exit status: 0 ok, 1 failed or
inexact, 2 usage or environment, 3 a figure missed.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from contextlib import suppress
from enum import StrEnum
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
    Registry,
    Servers,
    SlotText,
    StateDir,
    StateMemory,
    Target,
    Tied,
    UntilEnd,
    Workers,
    query_arguments,
    with_query,
)
from service.clock import SystemClock
from service.config import Config, load_config
from service.controller_process import ControllerProcess
from service.controller_start import ControllerOptions
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import uses_kafka
from service.drawing import svg_of, table_of
from service.errors import MegaphoneError, UsageError
from service.fail_points import arm
from service.hashing import bin_bits_of
from service.ids import Role, Slot
from service.ingest.registry import SchemaRegistry, open_registry
from service.launcher import ChildSpec, Launcher
from service.local import run_local as run_roles_here
from service.log import Log
from service.migrate_cli import migrate, shortcuts
from service.nexmark.queries import QueryTopics, built_in
from service.parent import tie_to_parent
from service.preflight import check_topics, require_kafka
from service.process import MemberProcess
from service.process_options import ProcessOptions, slot_of
from service.sizes import bytes_of
from service.standalone.command import run_without_kafka
from service.state_cli import app as state_app
from service.status import print_status

_BUILT_IN_PREFIX = "nexmark:"
#: Owners take up to 6 bytes each in JSON, a record of the log at most 1 MB.
BINS_MAX = 1 << 16

app = typer.Typer(
    name="megaphone",
    help="Stateful stream processing on Kafka whose state moves while it runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_app, name="bench")
app.add_typer(migrate, name="migrate")
app.add_typer(shortcuts)
app.add_typer(state_app, name="state")
app.command()(checkpoint)


class Output(StrEnum):
    """How answers are printed."""

    TEXT = "text"
    JSON = "json"


def load_flow(target: str, topics: QueryTopics) -> Flow:
    """The flow that `target` names.

    Raises:
        UsageError: no such module or attribute, or it is no flow.
    """
    if target.startswith(_BUILT_IN_PREFIX):
        return built_in(target.removeprefix(_BUILT_IN_PREFIX), topics)
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"{target!r} is no target; write module:flow or nexmark:auction_bids")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"module {error.name!r} of {target!r} was not found") from error
    if not hasattr(module, attribute):
        raise UsageError(f"module {module_name!r} has no {attribute!r}; write module:flow")
    found = getattr(module, attribute)
    if inspect.isfunction(found):
        if inspect.signature(found).parameters:
            raise UsageError(f"{target!r} takes arguments; name a function without any, or a flow")
        found = found()
    if not isinstance(found, Flow):
        raise UsageError(f"{target!r} is {type(found).__name__}, not a megaphone.Flow")
    return found


def _registry(text: str) -> SchemaRegistry:
    default = Path(__file__).parent / "nexmark" / "schemas"
    return open_registry(text or str(default), SystemClock())


@app.command()
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
    query: QueryTopics = QueryTopics(),
) -> None:
    """Run a flow on this machine: a controller, gateways and workers, each a process.

    Ctrl-C or SIGTERM stops it plainly: results are written, state and read positions are kept under
    --state-dir, and the same command goes on from there. A second one ends it at once.

    A flow whose sources and sinks are lists and files needs no Kafka: with --local it runs to the
    end of its sources, and nothing is kept for a later run.
    """
    _check_bins(bins)
    config = load_config(_state_memory(state_memory))
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
        run_roles_here(options, state_dir, config, flow, _registry(registry))
        return
    common = [target, "--bootstrap-servers", bootstrap_servers, "--app", app_name]
    common += query_arguments(query)
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


@app.command()
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
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run the controller of a job: admits members, answers requests, plans moves, stops the job."""
    _check_bins(bins)
    config = _begin(tied=tied)
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


@app.command()
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
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run a worker: hosts bins of state and writes results."""
    config = _begin(tied=tied, state_memory=state_memory)
    options = ProcessOptions(
        bootstrap_servers,
        app_name,
        slot_of(Role.WORKER, slot, gethostname()),
        state_dir,
        address,
        http_port,
    )
    _run_member(options, config, load_flow(target, query), registry)


@app.command()
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
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run a gateway: reads Kafka partitions and routes their records."""
    config = _begin(tied=tied)
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


def _begin(*, tied: bool, state_memory: str = "") -> Config:
    """What every role does first."""
    config = load_config(_state_memory(state_memory))
    arm(_slot_of(sys.argv), os.environ)
    if tied:
        tie_to_parent(config.limits.stop_timeout_s)
    return config


def _run_member(options: ProcessOptions, config: Config, flow: Flow, registry: str) -> None:
    require_kafka(flow)
    MemberProcess(options, config, flow, _registry(registry), Log(str(options.slot))).run()


@app.command()
def broker() -> None:
    """Run a local Kafka broker until Ctrl-C and print its address."""
    serve()


@app.command()
def status(
    bootstrap_servers: Servers,
    app_name: AppName,
    output: Annotated[
        Output, typer.Option(help="text for people; json as docs/contracts/status.schema.json.")
    ] = Output.TEXT,
) -> None:
    """Show members, owners of bins, frontiers and the plan under way."""
    print_status(bootstrap_servers, app_name, load_config(), as_json=output is Output.JSON)


@app.command()
@with_query
def graph(
    target: Target,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write the picture to this file, too.")
    ] = None,
    query: QueryTopics = QueryTopics(),
) -> None:
    """Show the vertices of a flow and the streams between them; runs nothing."""
    flow = load_flow(target, query)
    typer.echo(table_of(flow), nl=False)
    if svg is not None:
        try:
            svg.write_text(svg_of(flow), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--svg {svg} cannot be written: {error.strerror}") from error


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
