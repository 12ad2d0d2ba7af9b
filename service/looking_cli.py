"""`megaphone status` and `megaphone graph`: looking at a job, or at a flow, without touching it.

Flow: a job's topics -> [status] -> text or JSON, once or again and again; a flow -> [graph] -> its
vertices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from service.cli_options import AppName, Knobs, Output, Servers, Target, with_knobs, with_query
from service.drawing import document_of, svg_of, table_of
from service.errors import UsageError
from service.nexmark.queries import QueryTopics
from service.status import print_status
from service.status_watch import watch_status
from service.targets import load_flow


@with_knobs
def status(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, with what is new, until Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    output: Annotated[
        Output, typer.Option(help="text for people; json as docs/contracts/status.schema.json.")
    ] = Output.TEXT,
) -> None:
    """Show members, owners of bins, frontiers and the plan under way.

    With --watch text is drawn in place and JSON comes one document a line.
    """
    as_json = output is Output.JSON
    if watch:
        watch_status(bootstrap_servers, app_name, knobs.load(), every_s=every, as_json=as_json)
    else:
        print_status(bootstrap_servers, app_name, knobs.load(), as_json=as_json)


@with_query
def graph(
    target: Target,
    query: QueryTopics,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write the picture to this file, too.")
    ] = None,
    output: Annotated[
        Output, typer.Option(help="text for people; json as docs/contracts/graph.schema.json.")
    ] = Output.TEXT,
) -> None:
    """Show the vertices of a flow and the streams between them; runs nothing."""
    flow = load_flow(target, query)
    if output is Output.JSON:
        typer.echo(msgspec.json.encode(document_of(flow)).decode())
    else:
        typer.echo(table_of(flow), nl=False)
    if svg is not None:
        try:
            svg.write_text(svg_of(flow), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--svg {svg} cannot be written: {error.strerror}") from error
