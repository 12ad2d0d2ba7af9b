"""`megaphone control`: the control topic by hand, and what was made of what stood on it.

Flow: a JSON object -> [send] -> <app>.control; <app>.status -> [list, show]; <app>.accepted ->
[log]. What a record means is the controller's business; `send` refuses only what is no object.

Exit statuses: 0 done as asked; 1 rejected or aborted; 2 the command line, no such job, no broker.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.asking import FINAL, Conversation
from service.cli_options import AppName, Knobs, Output, Servers, example, with_knobs
from service.config import Config
from service.control_topics import Entry, TopicTail
from service.errors import UsageError
from service.migrate_view import sentence_of, show_answer
from service.migration.records import (
    DECODE_ERRORS,
    Promise,
    RequestState,
    StatusRecord,
    decode_log,
    decode_status,
    encode,
)
from service.migration.requests import RECORD_BYTES_MAX
from service.status import job_topics

app = typer.Typer(
    help="Publish requests as they are, and look at what a job was asked and did.",
    no_args_is_help=True,
)
_STEERS = ("pause", "resume", "abort")


@app.command(epilog=example("""control send --app bids '{"kind": "rescale", "workers": 2}'"""))
@with_knobs
def send(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    record: Annotated[
        str,
        typer.Argument(
            metavar="RECORD",
            help="A JSON object as docs/contracts/control-record.schema.json; "
            "-: from standard input. Without an id it is given a new one.",
        ),
    ] = "-",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once the request is accepted.")
    ] = False,
    output: Annotated[
        Output, typer.Option(help="text for people; json: the last status.")
    ] = Output.TEXT,
) -> None:
    """Publish one request and follow what becomes of it; status 1 if it is rejected or aborted."""
    body = _object(sys.stdin.read(RECORD_BYTES_MAX + 1) if record == "-" else record)
    with Conversation(bootstrap_servers, app_name, knobs.load()) as talk:
        identity = body.pop("id", None)
        if identity is None:
            identity = talk.new_id(str(body.get("kind", "request")))
        if not isinstance(identity, str):
            raise UsageError("the record's id is no text; leave it out, or write it in quotes")
        answer = talk.ask(identity, body)
        follows = answer.state not in FINAL and (not detach or body.get("kind") in _STEERS)
        if follows:
            *_, answer = talk.follow(identity)
    show_answer(answer, as_json=output is Output.JSON)
    if answer.state in (RequestState.ABORTED, RequestState.REJECTED):
        raise typer.Exit(1)


@app.command("list", epilog=example("control list --app bids --state running"))
@with_knobs
def list_(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    state: Annotated[
        list[RequestState] | None, typer.Option(help="Only those in this state; several times.")
    ] = None,
    output: Annotated[
        Output, typer.Option(help="text for people; json as docs/contracts/requests.schema.json.")
    ] = Output.TEXT,
) -> None:
    """List every request a job remembers with its newest state, the one said last at the end."""
    newest: dict[str, StatusRecord] = {}
    for status in _statuses(bootstrap_servers, app_name, knobs.load()):
        newest.pop(status.id, None)
        newest[status.id] = status
    chosen = [each for each in newest.values() if not state or each.state in state]
    if output is Output.JSON:
        document = {"app": app_name, "requests": chosen}
        typer.echo(msgspec.json.encode(document).decode())
        return
    table = Table()
    for column in ("id", "state", "bins", "waves", "ms", "reason"):
        right = column in ("bins", "waves", "ms")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for each in chosen:
        counts = (f"{count:,}" for count in (each.bins, each.waves, each.duration_ms))
        table.add_row(*map(Text, (each.id, each.state, *counts, each.reason or "")))
    Console().print(table)


@app.command(epilog=example("control show half-over --app bids"))
@with_knobs
def show(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    identity: Annotated[str, typer.Argument(metavar="ID", help="Id of the request.")],
    output: Annotated[
        Output, typer.Option(help="text for people; json: a status record a line.")
    ] = Output.TEXT,
) -> None:
    """Show everything that is still known to have been said of one request, in order."""
    found = [
        each for each in _statuses(bootstrap_servers, app_name, knobs.load()) if each.id == identity
    ]
    if not found:
        raise UsageError(
            f"job {app_name!r} has said nothing of {identity!r}; `megaphone control list` has the "
            "ids it knows"
        )
    for each in found:
        typer.echo(encode(each).decode() if output is Output.JSON else sentence_of(each))


@app.command(epilog=example("control log --app bids --last 20"))
@with_knobs
def log(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    last: Annotated[int, typer.Option(min=1, help="Records to print, counted from the end.")] = 50,
    promises: Annotated[
        bool, typer.Option("--promises", help="Promises of the horizon, too; there are many.")
    ] = False,
    output: Annotated[
        Output, typer.Option(help="text for people; json: a record of the log a line.")
    ] = Output.TEXT,
) -> None:
    """Print the accepted log: generations, moves, checkpoints, the stop, as processes read it.

    The whole log is read; it grows by about 20 small records a second that a job runs.
    """
    config = knobs.load()
    topic = job_topics(bootstrap_servers, app_name, config).accepted
    kept: list[tuple[int, bytes]] = []
    for entry in _entries(bootstrap_servers, topic, config):
        if entry.value is None or (not promises and _is_promise(entry.value)):
            continue
        kept.append((entry.offset, entry.value))
        del kept[:-last]
    for offset, value in kept:
        if output is Output.JSON:
            typer.echo(value.decode())
        else:
            typer.echo(f"{offset:>10,}  {value.decode()}")


def _is_promise(value: bytes) -> bool:
    return isinstance(decode_log(value), Promise)


def _object(text: str) -> dict[str, object]:
    if len(text) > RECORD_BYTES_MAX:
        raise UsageError(f"the record is longer than {RECORD_BYTES_MAX:,} bytes; no job reads it")
    try:
        body = msgspec.json.decode(text.encode())
    except DECODE_ERRORS as error:
        raise UsageError(f"the record is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise UsageError('the record is no JSON object; write {"kind": "rescale", "workers": 2}')
    return body


def _statuses(bootstrap_servers: str, app_name: str, config: Config) -> Iterator[StatusRecord]:
    topic = job_topics(bootstrap_servers, app_name, config).status
    for entry in _entries(bootstrap_servers, topic, config):
        if entry.value is not None:
            yield decode_status(entry.value)


def _entries(bootstrap_servers: str, topic: str, config: Config) -> Iterator[Entry]:
    timeout_s = config.limits.broker_timeout_s
    with closing(TopicTail(bootstrap_servers, topic, timeout_s=timeout_s)) as tail:
        yield from tail.read_to_end(timeout_s)
