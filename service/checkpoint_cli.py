"""`megaphone checkpoint`: ask a running job to keep its state as of now, and wait until it has.

Flow: a request on <app>.control -> the job -> <app>.status -> [checkpoint] -> one line, or a
document of docs/contracts/status-record.schema.json.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from service.asking import Conversation
from service.cli_options import AppName, Knobs, Output, Servers, with_knobs
from service.migration.records import RequestState


@with_knobs
def checkpoint(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    identity: Annotated[
        str, typer.Option("--id", help="Name of the request; without it, a new one.")
    ] = "",
    output: Annotated[
        Output,
        typer.Option(help="text for people; json as docs/contracts/status-record.schema.json."),
    ] = Output.TEXT,
) -> None:
    """Ask a running job for a checkpoint and wait until it is written.

    Exit status 1 if it was rejected or aborted; the one before it then stands.
    """
    with Conversation(bootstrap_servers, app_name, knobs.load()) as conversation:
        name = identity or conversation.new_id("checkpoint")
        conversation.ask(name, {"kind": "checkpoint"})
        *_, status = conversation.follow(name)
    whole = status.state is RequestState.COMPLETED
    if output is Output.JSON:
        typer.echo(msgspec.json.encode(status).decode())
    elif whole:
        took = f"{status.bytes:,} bytes, {status.duration_ms:,} ms"
        typer.echo(f"checkpoint {status.id}: cut {status.at}, {took}")
    if not whole:
        typer.echo(f"checkpoint {status.id!r} was {status.state}: {status.reason}", err=True)
        raise typer.Exit(1)
