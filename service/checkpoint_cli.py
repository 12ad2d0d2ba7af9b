"""`megaphone checkpoint`: ask a running job to keep its state as of now, and wait until it has.

Flow: a request on <app>.control -> the job -> <app>.status -> [checkpoint] -> one line, or a
document of docs/contracts/status-record.schema.json.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from service.asking import Conversation
from service.config import load_config
from service.migration.records import RequestState


class Output(StrEnum):
    """How answers are printed."""

    TEXT = "text"
    JSON = "json"


def checkpoint(
    bootstrap_servers: Annotated[
        str,
        typer.Option(help="Kafka to use, host:port[,host:port].", envvar="KAFKA_BOOTSTRAP_SERVERS"),
    ],
    app_name: Annotated[str, typer.Option("--app", help="The job.", envvar="MEGAPHONE_APP")],
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
    with Conversation(bootstrap_servers, app_name, load_config()) as conversation:
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
