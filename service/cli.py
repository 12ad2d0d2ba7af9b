"""The `megaphone` command.

Flow: arguments and environment -> options -> launcher, a role's process, or a question to a running
job. Every failure with a name becomes one line on stderr and its exit status: 0 ok, 1 failed or
inexact, 2 usage or environment, 3 a figure missed.
"""

from __future__ import annotations

import importlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.broker.lookup import serve
from service.clock import SystemClock
from service.config import load_config
from service.controller_process import ControllerOptions, ControllerProcess
from service.dataflow.flow import Flow
from service.errors import MegaphoneError, UsageError
from service.hashing import bin_bits_of
from service.ids import Role, Slot
from service.ingest.registry import SchemaRegistry, open_registry
from service.launcher import ChildSpec, Launcher
from service.local import run_local
from service.log import Log
from service.nexmark.queries import QueryTopics, built_in
from service.process import MemberProcess, ProcessOptions
from service.status import print_status

_BUILT_IN_PREFIX = "nexmark:"

app = typer.Typer(
    name="megaphone",
    help="Stateful stream processing on Kafka whose state moves while it runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Target = Annotated[str, typer.Argument(help="module:flow, or a built-in such as nexmark:auction_bids")]
Servers = Annotated[
    str, typer.Option(help="Kafka, host:port[,host:port]", envvar="KAFKA_BOOTSTRAP_SERVERS")
]
AppName = Annotated[
    str, typer.Option("--app", help="Name of the job; prefix of its topics", envvar="MEGAPHONE_APP")
]
Workers = Annotated[int, typer.Option(min=1, max=1024, help="Worker slots")]
Gateways = Annotated[int, typer.Option(min=1, max=1024, help="Gateway slots")]
Bins = Annotated[int, typer.Option(help="Bins of state, a power of two, fixed for its life")]
UntilEnd = Annotated[bool, typer.Option("--until-end", help="Stop at today's end of the input")]
StateDir = Annotated[Path, typer.Option(help="Folder of checkpoints")]
Registry = Annotated[str, typer.Option(help="Folder of <id>.avsc files, or a registry's URL")]
Prefix = Annotated[str, typer.Option(help="Topics of a built-in: <prefix>-events")]
OutputTopic = Annotated[str, typer.Option(help="Output topic of a built-in")]
SlotNumber = Annotated[int, typer.Option("--slot", min=0, help="Which slot this process plays")]
Address = Annotated[str, typer.Option(help="Where peers connect to")]
HttpPort = Annotated[int, typer.Option(help="Port of /metrics; 0 takes a free one; -1: the knob's")]


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
    found = getattr(module, attribute, None)
    flow = found() if callable(found) else found
    if not isinstance(flow, Flow):
        raise UsageError(f"{target!r} is {type(found).__name__}, not a megaphone.Flow")
    return flow


def _registry(text: str) -> SchemaRegistry:
    default = Path(__file__).parent / "nexmark" / "schemas"
    return open_registry(text or str(default), SystemClock())


@app.command()
def run(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    workers: Workers = 2,
    gateways: Gateways = 1,
    bins: Bins = 1024,
    until_end: UntilEnd = False,
    local: Annotated[bool, typer.Option("--local", help="Everything in one process")] = False,
    state_dir: StateDir = Path("megaphone-state"),
    registry: Registry = "",
    topic_prefix: Prefix = "nexmark",
    output_topic: OutputTopic = "",
) -> None:
    """Run a flow: a controller, gateways and workers on this machine."""
    bin_bits_of(bins)
    config = load_config()
    topics = QueryTopics(topic_prefix, output_topic or None)
    flow = load_flow(target, topics)
    flow.check()
    options = ControllerOptions(bootstrap_servers, app_name, workers, gateways, bins, until_end)
    if local:
        raise typer.Exit(run_local(options, state_dir, config, flow, _registry(registry)))
    common = [target, "--bootstrap-servers", bootstrap_servers, "--app", app_name]
    common += ["--topic-prefix", topic_prefix, "--output-topic", output_topic]
    job = ["--workers", str(workers), "--gateways", str(gateways), "--bins", str(bins)]
    if until_end:
        job.append("--until-end")
    member = ["--state-dir", str(state_dir), "--registry", registry]
    children = [ChildSpec(Slot(Role.CONTROLLER, 0), ["controller", *common, *job])]
    for role, count in ((Role.WORKER, workers), (Role.GATEWAY, gateways)):
        for number in range(count):
            arguments = [str(role), *common, *member, "--slot", str(number)]
            children.append(ChildSpec(Slot(role, number), arguments))
    launcher = Launcher(children, config.limits.stop_timeout_s, Log("launcher"))
    raise typer.Exit(launcher.run())


@app.command()
def controller(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    workers: Workers = 2,
    gateways: Gateways = 1,
    bins: Bins = 1024,
    until_end: UntilEnd = False,
    address: Address = "tcp://127.0.0.1:*",
    http_port: HttpPort = -1,
    topic_prefix: Prefix = "nexmark",
    output_topic: OutputTopic = "",
) -> None:
    """Run the controller of a job."""
    bin_bits_of(bins)
    flow = load_flow(target, QueryTopics(topic_prefix, output_topic or None))
    options = ControllerOptions(
        bootstrap_servers,
        app_name,
        workers,
        gateways,
        bins,
        until_end,
        address,
        None if http_port < 0 else http_port,
    )
    ControllerProcess(options, load_config(), flow, Log("controller")).run()


@app.command()
def worker(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    slot: SlotNumber,
    state_dir: StateDir = Path("megaphone-state"),
    registry: Registry = "",
    address: Address = "tcp://127.0.0.1:*",
    http_port: HttpPort = -1,
    topic_prefix: Prefix = "nexmark",
    output_topic: OutputTopic = "",
) -> None:
    """Run a worker: hosts bins of state and writes results."""
    options = ProcessOptions(
        bootstrap_servers,
        app_name,
        Slot(Role.WORKER, slot),
        state_dir,
        address,
        None if http_port < 0 else http_port,
    )
    _run_member(options, target, QueryTopics(topic_prefix, output_topic or None), registry)


@app.command()
def gateway(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    slot: SlotNumber,
    state_dir: StateDir = Path("megaphone-state"),
    registry: Registry = "",
    address: Address = "tcp://127.0.0.1:*",
    http_port: HttpPort = -1,
    topic_prefix: Prefix = "nexmark",
    output_topic: OutputTopic = "",
) -> None:
    """Run a gateway: reads Kafka partitions and routes their records."""
    options = ProcessOptions(
        bootstrap_servers,
        app_name,
        Slot(Role.GATEWAY, slot),
        state_dir,
        address,
        None if http_port < 0 else http_port,
    )
    _run_member(options, target, QueryTopics(topic_prefix, output_topic or None), registry)


def _run_member(options: ProcessOptions, target: str, topics: QueryTopics, registry: str) -> None:
    flow = load_flow(target, topics)
    process = MemberProcess(
        options, load_config(), flow, _registry(registry), Log(str(options.slot))
    )
    process.run()


@app.command()
def broker() -> None:
    """Run a local Kafka broker until Ctrl-C and print its address."""
    serve()


@app.command()
def status(
    bootstrap_servers: Servers,
    app_name: AppName,
    output: Annotated[Output, typer.Option(help="text or json")] = Output.TEXT,
) -> None:
    """Show members, owners of bins, frontiers and the plan under way."""
    print_status(bootstrap_servers, app_name, load_config(), as_json=output is Output.JSON)


def main() -> None:
    """Entry point: named errors become one line and an exit status."""
    try:
        app()
    except MegaphoneError as error:
        Log(_slot_of(sys.argv)).error(
            "process.failed", error=type(error).__name__, message=str(error)
        )
        sys.exit(error.exit_status)


def _slot_of(arguments: list[str]) -> str:
    """What the command line says this process is, for the failure's line."""
    role = arguments[1] if len(arguments) > 1 else "megaphone"
    if "--slot" in arguments[:-1]:
        return f"{role}-{arguments[arguments.index('--slot') + 1]}"
    return role
