"""`megaphone bench`: one command per benchmark.

Flow: arguments -> a broker, or a peer's environment -> benchmark -> its document on standard
output, logs on standard error.
Exit status 3 if a figure missed its bound.
"""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from service.bench.dataflow import Part, Sizes, run_dataflow
from service.bench.experiments.command import run_experiments
from service.bench.ingest import Options, run_ingest
from service.bench.nexmark.command import nexmark
from service.bench.output import Output, printed
from service.bench.peers import Peer, environment
from service.bench.state import state
from service.bench.transfer import run_transfer
from service.bench.words.command import word_count
from service.broker.lookup import VARIABLE, find_broker
from service.cli_options import example
from service.clock import SystemClock
from service.config import load_config

app = typer.Typer(help="Measure parts of the service.", no_args_is_help=True)
app.command("word-count", epilog=example("bench word-count --migration batched"))(word_count)
app.command("experiments", epilog=example("bench experiments --quick"))(run_experiments)
app.command("state", epilog=example("bench state --runs 1"))(state)
app.command("nexmark", epilog=example("bench nexmark --query q5 --runs 3"))(nexmark)


@app.callback()
def bench() -> None:
    """Measure parts of the service; figures are kept in docs/benchmarks."""


@app.command(epilog=example("bench ingest --runs 3"))
def ingest(
    bootstrap_servers: Annotated[
        str, typer.Option(help="Kafka; without it, one is found or started", envvar=VARIABLE)
    ] = "",
    records: Annotated[int, typer.Option(min=1_000, help="Records in the topic")] = 1_000_000,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Times each side reads it")] = 5,
    output: Annotated[Output, typer.Option(help="text or json")] = Output.TEXT,
) -> None:
    """Measure a gateway's poll, decode and route beside a consumer that only polls."""
    named = {VARIABLE: bootstrap_servers} if bootstrap_servers else None
    with closing(find_broker(named)) as broker:
        typer.echo(f"fills a topic, then reads it {2 * runs + 2} times", err=True)
        options = Options(records, runs)
        document = run_ingest(broker.bootstrap_servers, options, load_config(), SystemClock())
    typer.echo(printed(document, output))
    raise typer.Exit(document.exit_status)


@app.command(epilog=example("bench transfer --rows 1000000"))
def transfer(
    rows: Annotated[int, typer.Option(min=1_000, help="Rows of state that move")] = 2_000_000,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Runs of each part")] = 5,
    output: Annotated[Output, typer.Option(help="text or json")] = Output.TEXT,
) -> None:
    """Measure state that moves from one worker process to another, whole and copied before."""
    document = run_transfer(runs, rows)
    typer.echo(printed(document, output))
    raise typer.Exit(document.exit_status)


@app.command(epilog=example("bench dataflow --scale 0.01 --output json"))
def dataflow(
    only: Annotated[
        list[Part] | None, typer.Option(help="Measure this part; may be given several times")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Runs of each part")] = 5,
    scale: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Share of the full sizes, for a quick look")
    ] = 1.0,
    peer: Annotated[
        Peer | None,
        typer.Option(help="Measure stateful_map beside this; installs it the first time"),
    ] = None,
    output: Annotated[Output, typer.Option(help="text or json")] = Output.TEXT,
) -> None:
    """Measure the dataflow engine alone, in processes on this machine and without Kafka."""
    python = None if peer is None else environment(peer)
    document = run_dataflow(only or list(Part), runs, Sizes.scaled(scale), python)
    typer.echo(printed(document, output))
    raise typer.Exit(document.exit_status)
