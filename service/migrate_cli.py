"""`megaphone migrate`, `rescale`, `rebalance`: moving state of a running job by hand.

Flow: arguments -> a request on <app>.control -> what becomes of it, to people or as JSON. Every
plan is made and judged by the job's controller; nothing here moves anything.

Exit statuses: 0 done as asked; 1 rejected, aborted, or the job fell silent; 2 the command line, no
such job, or no broker.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from service.asking import Conversation
from service.cli_options import AppName, Knobs, Output, Servers, example, with_knobs
from service.errors import UsageError
from service.migrate_bodies import body_of_file, body_of_target, target_named
from service.migrate_view import show_answer, show_plan, watch_plan
from service.migration.plan_file import PlanFile, PlanForm, TimedWave, read_plan, text_of
from service.migration.records import RequestState
from service.migration.requests import LoadKind
from service.migration.strategy import Strategy, default_batch, waves_of
from service.migration.target import TARGETS_KNOWN

migrate = typer.Typer(
    help="Plan, start, watch and steer the moving of bins in a running job.",
    no_args_is_help=True,
)

Target = Annotated[
    str,
    typer.Option(
        metavar="TARGET",
        help=f"Where bins are to be: {TARGETS_KNOWN}, or a JSON file: a list of the worker of each "
        "bin, a list of [bin, worker] pairs, or an object of them.",
    ),
]
Chosen = Annotated[
    Strategy | None,
    typer.Option(help="How the moves are cut into waves; without it, batched.", metavar="NAME"),
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, help="Bins a wave (batched), or a pair of workers (optimized)."),
]
At = Annotated[int | None, typer.Option(min=0, help="First cut, µs since 1970.")]
Precopy = Annotated[
    bool,
    typer.Option(
        "--precopy", help="Copy bins ahead, while they go on changing; rows wait less at the cut."
    ),
]
Queue = Annotated[bool, typer.Option("--queue", help="Wait for the plan under way, if any.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Move nothing; say bins, bytes, and about how long it would take."
    ),
]
Identity = Annotated[str | None, typer.Option("--id", help="Id of the request; a new one.")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Return once the request is accepted; do not watch.")
]
PlanId = Annotated[
    str | None, typer.Argument(metavar="ID", help="Id of the plan; without it, the one under way.")
]


class PlanOutput(StrEnum):
    """How a plan is printed."""

    TEXT = "text"
    JSON = "json"
    LINES = "lines"


Printed = Annotated[
    Output,
    typer.Option(
        "--output", help="text for people; json: the last status, as status-record.schema.json."
    ),
]


def _talk(bootstrap_servers: str, app_name: str, knobs: Knobs) -> Conversation:
    return Conversation(bootstrap_servers, app_name, knobs.load())


def _ask(
    talk: Conversation,
    identity: str | None,
    body: dict[str, object],
    output: Output,
    *,
    detach: bool = False,
) -> None:
    """Publish a request, follow it, and end with the status its end has."""
    named = identity or talk.new_id(str(body["kind"]))
    answer = talk.ask(named, {name: value for name, value in body.items() if value is not None})
    as_json = output is Output.JSON
    steers = body["kind"] in ("pause", "resume", "abort")
    if steers:
        # Carried out on the spot: accepted and completed follow one another.
        *_, answer = talk.follow(named)
    if detach or steers or answer.dry_run is True:
        show_answer(answer, as_json=as_json)
        return
    _end(watch_plan(talk, [answer], as_json=as_json))


def _end(state: RequestState) -> None:
    if state is not RequestState.COMPLETED:
        raise typer.Exit(1)


@migrate.command(epilog=example("migrate plan --app bids --target half --to half.json"))
@with_knobs
def plan(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    target: Target,
    strategy: Chosen = None,
    batch: Batch = None,
    to: Annotated[Path | None, typer.Option(help="Write the plan to this file.")] = None,
    output: Annotated[
        PlanOutput,
        typer.Option(help="text for people; json as plan.schema.json; lines: M and D lines."),
    ] = PlanOutput.TEXT,
) -> None:
    """Show the waves that a target would take from where bins are now, and move nothing."""
    with _talk(bootstrap_servers, app_name, knobs) as talk:
        owners = _owners(talk)
        chosen = strategy or Strategy.BATCHED
        wanted = target_named(target, owners, talk.workers)
        waves = waves_of(chosen, owners, wanted, batch or default_batch(chosen, wanted, None))
        found = PlanFile(tuple(TimedWave(0, moves) for moves in waves))
    form = PlanForm.LINES if output is PlanOutput.LINES else PlanForm.JSON
    if to is not None:
        try:
            to.write_text(text_of(found, form), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--to {to} cannot be written: {error.strerror}") from error
    if output is PlanOutput.TEXT:
        show_plan(found, owners)
    elif to is None:
        sys.stdout.write(text_of(found, form))


@migrate.command(epilog=example("migrate apply --app bids --target spread:2 --strategy optimized"))
@with_knobs
def apply(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    file: Annotated[
        Path | None,
        typer.Argument(help="A plan: JSON of `migrate plan`, or M and D lines of the original."),
    ] = None,
    target: Target = "",
    strategy: Chosen = None,
    batch: Batch = None,
    at: At = None,
    precopy: Precopy = False,
    queue: Queue = False,
    dry_run: DryRun = False,
    identity: Identity = None,
    detach: Detach = False,
    output: Printed = Output.TEXT,
) -> None:
    """Move bins to a target, or as a plan file says, and watch until they are there."""
    if (file is None) == (not target):
        raise UsageError("name either a plan file or a --target")
    if file is not None and (strategy is not None or batch is not None):
        raise UsageError("a plan file has its waves already; leave --strategy and --batch out")
    waves = None if file is None else read_plan(_text(file), str(file))
    with _talk(bootstrap_servers, app_name, knobs) as talk:
        if waves is not None:
            body = body_of_file(waves)
        else:
            body = body_of_target(target, _owners(talk), talk.workers)
            body |= {"strategy": strategy, "batch": batch}
        body |= {"at": at, **_flags(precopy, queue, dry_run)}
        _ask(talk, identity, body, output, detach=detach)


@with_knobs
def rescale(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    workers: Annotated[int, typer.Option(min=1, help="Workers that are to hold bins, 0 to N-1.")],
    strategy: Chosen = None,
    batch: Batch = None,
    precopy: Precopy = False,
    queue: Queue = False,
    dry_run: DryRun = False,
    identity: Identity = None,
    detach: Detach = False,
    output: Printed = Output.TEXT,
) -> None:
    """Spread a running job's bins over N of its workers, moving as few as possible."""
    body: dict[str, object] = {"kind": "rescale", "workers": workers}
    body |= {"strategy": strategy, "batch": batch}
    body |= _flags(precopy, queue, dry_run)
    with _talk(bootstrap_servers, app_name, knobs) as talk:
        _ask(talk, identity, body, output, detach=detach)


@with_knobs
def rebalance(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    threshold: Annotated[
        float,
        typer.Option(
            min=0.0, help="How far above the mean a worker may stay: 0.1 is a tenth of the mean."
        ),
    ] = 0.1,
    by: Annotated[LoadKind, typer.Option(help="What is evened out.")] = LoadKind.UPDATES,
    strategy: Chosen = None,
    batch: Batch = None,
    precopy: Precopy = False,
    queue: Queue = False,
    dry_run: DryRun = False,
    identity: Identity = None,
    detach: Detach = False,
    output: Printed = Output.TEXT,
) -> None:
    """Even out the measured load of a running job's workers, moving few bins."""
    body: dict[str, object] = {"kind": "rebalance", "threshold": threshold, "by": by}
    body |= {"strategy": strategy, "batch": batch}
    body |= _flags(precopy, queue, dry_run)
    with _talk(bootstrap_servers, app_name, knobs) as talk:
        _ask(talk, identity, body, output, detach=detach)


def _flags(precopy: bool, queue: bool, dry_run: bool) -> dict[str, object]:
    """Those that are set; the others are left out."""
    return {"precopy": precopy or None, "queue": queue or None, "dry_run": dry_run or None}


@migrate.command(epilog=example("migrate watch --app bids"))
@with_knobs
def watch(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    identity: PlanId = None,
    output: Printed = Output.TEXT,
) -> None:
    """Show a plan's progress until it ends; status 1 if it was aborted."""
    with _talk(bootstrap_servers, app_name, knobs) as talk:
        known = talk.history(identity)
        if not known:
            what = "no plan is under way" if identity is None else f"there is no plan {identity!r}"
            raise UsageError(f"{what} in job {app_name!r}; `megaphone status` shows it")
        _end(watch_plan(talk, known, as_json=output is Output.JSON))


def _steer(kind: str, talk: Conversation, identity: str | None, output: Output) -> None:
    with talk:
        _ask(talk, None, {"kind": kind, "plan": identity}, output)


@migrate.command(epilog=example("migrate pause --app bids"))
@with_knobs
def pause(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    identity: PlanId = None,
    output: Printed = Output.TEXT,
) -> None:
    """Let a plan issue no further wave until it is resumed; waves that have a cut go on."""
    _steer("pause", _talk(bootstrap_servers, app_name, knobs), identity, output)


@migrate.command(epilog=example("migrate resume --app bids"))
@with_knobs
def resume(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    identity: PlanId = None,
    output: Printed = Output.TEXT,
) -> None:
    """Let a paused plan go on."""
    _steer("resume", _talk(bootstrap_servers, app_name, knobs), identity, output)


@migrate.command(epilog=example("migrate abort --app bids"))
@with_knobs
def abort(
    bootstrap_servers: Servers,
    app_name: AppName,
    knobs: Knobs,
    identity: PlanId = None,
    output: Printed = Output.TEXT,
) -> None:
    """End a plan where it is: bins stay where waves that have a cut put them."""
    _steer("abort", _talk(bootstrap_servers, app_name, knobs), identity, output)


def _owners(talk: Conversation) -> NDArray[np.int32]:
    owners = talk.status.owners
    if owners is None:
        raise UsageError(f"job {talk.app!r} has not begun; wait until its workers are there")
    return np.array(owners, dtype=np.int32)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not text: byte {error.start} is not UTF-8") from error
