"""`megaphone checkpoint`: ask a running job to keep its state as of now, and wait until it has.

Flow: a request on <app>.control -> the job -> <app>.status -> [checkpoint] -> one line, or a
document of docs/contracts/status-record.schema.json.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import uuid4

import msgspec
import typer

from service.clock import Clock, SystemClock
from service.config import Config, load_config
from service.control_topics import START_AT_END, Admin, AppTopics, RecordWriter, TopicTail
from service.errors import PeerLost, UsageError
from service.migration.records import RequestState, StatusRecord, decode_status

_LOOK_S = 0.1
_FINAL = (RequestState.COMPLETED, RequestState.REJECTED, RequestState.ABORTED)


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
    name = identity or f"checkpoint-{uuid4()}"
    status = ask_checkpoint(bootstrap_servers, app_name, name, load_config(), SystemClock())
    whole = status.state is RequestState.COMPLETED
    if output is Output.JSON:
        typer.echo(msgspec.json.encode(status).decode())
    elif whole:
        took = f"{status.bytes:,} bytes, {status.duration_ms:,} ms"
        typer.echo(f"checkpoint {status.id}: cut {status.at}, {took}")
    if not whole:
        typer.echo(f"checkpoint {status.id!r} was {status.state}: {status.reason}", err=True)
        raise typer.Exit(1)


def ask_checkpoint(
    bootstrap_servers: str, app: str, identity: str, config: Config, clock: Clock
) -> StatusRecord:
    """The final status of a checkpoint asked for under `identity`.

    Raises:
        UsageError: there is no such job.
        PeerLost: the job did not answer in time.
        BrokerError: Kafka did not answer.
    """
    topics, timeout_s = AppTopics(app), config.limits.broker_timeout_s
    if topics.control not in Admin(bootstrap_servers, timeout_s).partitions():
        raise UsageError(
            f"no job {app!r} at {bootstrap_servers}: topic {topics.control!r} is absent"
        )
    tail = TopicTail(bootstrap_servers, topics.status, START_AT_END, timeout_s)
    try:
        writer = RecordWriter(bootstrap_servers, f"{app}.checkpoint")
        request = {"id": identity, "kind": "checkpoint"}
        writer.write(topics.control, identity, msgspec.json.encode(request))
        writer.flush(timeout_s)
        # The job gives up by itself after stop_timeout_s; a second look is for its answer.
        patience_s = config.limits.stop_timeout_s + 2 * config.limits.peer_timeout_s
        deadline = clock.monotonic_ns() + int(patience_s * 1e9)
        while clock.monotonic_ns() < deadline:
            for entry in tail.poll(_LOOK_S):
                if entry.key == identity and entry.value is not None:
                    status = decode_status(entry.value)
                    if status.state in _FINAL:
                        return status
    finally:
        tail.close()
    raise PeerLost(
        f"job {app!r} has not answered request {identity!r} for {patience_s:g} s; is it running? "
        "`megaphone status` says"
    )
