"""`megaphone status`: looking at a job without touching it.

Flow: a job's topics -> [status] -> text or JSON, once or again and again.
"""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli_options import AppName, Knobs, Output, Servers, with_knobs
from service.status import print_status
from service.status_watch import watch_status


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
