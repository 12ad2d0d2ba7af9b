"""`megaphone bench nexmark`: its options, and what it prints.

Flow: arguments -> events -> runs of each query in memory, and of a peer beside them -> the
document, a table, an HTML report.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.bench.document import BenchDocument
from service.bench.machine import commit, machine
from service.bench.nexmark.report import page, table_of
from service.bench.nexmark.runs import Runs, SuiteOptions, figures_of, make_runs
from service.bench.output import Output
from service.bench.peers import Peer, environment
from service.bench.stall import StallProbe
from service.errors import UsageError
from service.migration.strategy import Strategy
from service.nexmark.queries import BUILT_IN
from service.nexmark.rules import RULES


class EventOrder(StrEnum):
    """How events come."""

    IN_ORDER = "in-order"
    OUT_OF_ORDER = "out-of-order"


def nexmark(
    query: Annotated[
        list[str] | None, typer.Option(help="q0 to q8; several times for several")
    ] = None,
    events: Annotated[
        int, typer.Option(min=1_000, help="Events of a run that is timed")
    ] = 4_000_000,
    check_events: Annotated[
        int, typer.Option(min=1_000, help="Events of a run that is compared with the oracle")
    ] = 200_000,
    order: Annotated[
        list[EventOrder] | None, typer.Option(help="How events come in the runs compared")
    ] = None,
    migration: Annotated[
        list[str] | None,
        typer.Option(help="What moves in the runs compared: none or a strategy; several times"),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Timed runs; figures are medians")] = 5,
    peer: Annotated[
        Peer | None, typer.Option(help="Run this beside; installs it the first time")
    ] = None,
    peer_events: Annotated[
        int, typer.Option(min=1_000, help="Events a peer is given, of those that the query reads")
    ] = 1_000_000,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file")] = None,
    output: Annotated[Output, typer.Option(help="text or json")] = Output.TEXT,
) -> None:
    """Run NEXMark's queries in memory: rates, exactness while state moves, a peer beside."""
    known = [name for name in RULES if name in BUILT_IN]
    options = SuiteOptions(
        queries=query or known,
        events=events,
        check_events=check_events,
        groups=[_GROUPS[each] for each in order or EventOrder],
        migrations=migration or ["none", *map(str, Strategy)],
        runs=runs,
        peer_events=peer_events,
    )
    _check(options, known)
    python = None if peer is None else environment(peer)
    where = machine()
    with StallProbe() as probe:
        made = make_runs(options, peer, python, lambda line: typer.echo(line, err=True))
    where["stall_ms"] = round(probe.stall_ms, 3)
    document = document_of(made, where)
    if report is not None:
        try:
            report.write_text(page(document, made), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--report {report} cannot be written: {error.strerror}") from error
    if output is Output.JSON:
        typer.echo(document.json())
    else:
        typer.echo(document.text(), err=True)
        typer.echo(table_of(made))
    raise typer.Exit(document.exit_status)


#: Size of the groups that events are shuffled in.
_GROUPS = {EventOrder.IN_ORDER: 1, EventOrder.OUT_OF_ORDER: 1_000}


def _check(options: SuiteOptions, known: list[str]) -> None:
    """Refuse what there is not.

    Raises:
        UsageError: an unknown query or strategy.
    """
    for name in options.queries:
        if name not in known:
            raise UsageError(f"no query {name!r}; there are: {', '.join(known)}")
    strategies = ["none", *map(str, Strategy)]
    for name in options.migrations:
        if name not in strategies:
            raise UsageError(f"no migration {name!r}; there are: {', '.join(strategies)}")


def document_of(made: Runs, where: dict[str, str | int | float]) -> BenchDocument:
    """The contract's document."""
    options = made.options
    parameters: dict[str, str | int | float] = {
        "queries": " ".join(options.queries),
        "events": options.events,
        "check_events": options.check_events,
        "groups": " ".join(map(str, options.groups)),
        "migrations": " ".join(options.migrations),
        "runs": options.runs,
        "peer": made.peer or "",
        "peer_events": options.peer_events,
    }
    return BenchDocument("nexmark", commit(), where, parameters, list(figures_of(made)))
