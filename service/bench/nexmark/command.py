"""`megaphone bench nexmark`: its options, and what it prints.

Flow: arguments -> events -> runs of each query in memory, through Kafka, and of a peer beside them
-> the document, a table, an HTML report.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.bench.document import BenchDocument, Figure
from service.bench.machine import commit, machine
from service.bench.nexmark.kafka_figures import kafka_figures
from service.bench.nexmark.memory_figures import memory_figures
from service.bench.nexmark.report import page, table_of
from service.bench.nexmark.runs import Runs, SuiteOptions, make_runs
from service.bench.nexmark.through import KafkaOptions, KafkaRuns, make_kafka_runs
from service.bench.output import Output
from service.bench.peers import KafkaPeer, Peer, environment
from service.bench.stall import StallProbe
from service.broker.lookup import VARIABLE, find_broker
from service.errors import UsageError
from service.migration.strategy import Strategy
from service.nexmark.forms import Format
from service.nexmark.queries import BUILT_IN
from service.nexmark.rules import RULES


class EventOrder(StrEnum):
    """How events come."""

    IN_ORDER = "in-order"
    OUT_OF_ORDER = "out-of-order"


class Through(StrEnum):
    """What is measured."""

    MEMORY = "memory"
    KAFKA = "kafka"
    BOTH = "both"


class Beside(StrEnum):
    """What is measured beside."""

    BYTEWAX = "bytewax"
    QUIXSTREAMS = "quixstreams"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an option is without being given; see the help of each."""

    events: int = 4_000_000
    check_events: int = 200_000
    runs: int = 5
    peer_events: int = 1_000_000
    peer_backlog: int = 300_000
    backlog_events: int = 1_000_000
    backlog_runs: int = 3
    load_runs: int = 1
    shares: tuple[int, ...] = (25, 50, 80)
    seconds: float = 12.0
    warm_up: float = 4.0
    step_seconds: float = 3.0


QUICK = Sizes(400_000, 20_000, 1, 100_000, 50_000, 200_000, 1, 1, (50,), 8.0, 2.0, 2.0)


def nexmark(
    query: Annotated[
        list[str] | None, typer.Option(help="q0 to q8; several times for several")
    ] = None,
    through: Annotated[
        Through, typer.Option(help="In memory, through a real Kafka with processes, or both")
    ] = Through.MEMORY,
    events: Annotated[
        int | None, typer.Option(min=1_000, help="Events of a run in memory that is timed; 4 M")
    ] = None,
    check_events: Annotated[
        int | None,
        typer.Option(min=1_000, help="Events of a run compared with the oracle; 200,000"),
    ] = None,
    order: Annotated[
        list[EventOrder] | None,
        typer.Option(help="How events come in the runs compared; both, through Kafka the second"),
    ] = None,
    migration: Annotated[
        list[str] | None,
        typer.Option(
            help="What moves: none or a strategy; several times; all, through Kafka batched"
        ),
    ] = None,
    load_order: Annotated[
        list[EventOrder] | None,
        typer.Option(help="How events come under load, through Kafka; in order"),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Through Kafka, too, every strategy and both orders, compared and under load;"
            " for hours",
        ),
    ] = False,
    runs: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Timed runs; figures are medians; 5, through Kafka 3"),
    ] = None,
    load_runs: Annotated[
        int | None, typer.Option(min=1, max=100, help="Runs at each load of each query; 1")
    ] = None,
    backlog_events: Annotated[
        int | None, typer.Option(min=1_000, help="Events that lie in Kafka to be worked off; 1 M")
    ] = None,
    share: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=400, help="Percent of the maximum sustained rate to load with; 25 50 80"
        ),
    ] = None,
    rate_max: Annotated[
        int | None,
        typer.Option(
            min=100,
            help="Look for no maximum beyond, events a second; where it is sustained, shares are of"
            " it and no bound at half the maximum is judged; none",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=4, help="Length of each load in which state moves; 12")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="How records are written in Kafka")
    ] = Format.AVRO,
    bootstrap_servers: Annotated[
        str, typer.Option(help="Kafka; without it, one is found or started", envvar=VARIABLE)
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, one run, one load: a look, no figures")
    ] = False,
    peer: Annotated[
        Beside | None,
        typer.Option(help="Run this beside; installs it the first time. quixstreams reads Kafka"),
    ] = None,
    peer_events: Annotated[
        int | None, typer.Option(min=1_000, help="Events a peer is given; 1 M, in Kafka 300,000")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file")] = None,
    output: Annotated[Output, typer.Option(help="text or json")] = Output.TEXT,
) -> None:
    """Run NEXMark's queries: rates, latency, exactness while state moves, a peer beside."""
    sizes = QUICK if quick else Sizes()
    known = [name for name in RULES if name in BUILT_IN]
    check(query or [], migration or [], known)
    check_peer(peer, through)
    memory = SuiteOptions(
        queries=query or known,
        events=events or sizes.events,
        check_events=check_events or sizes.check_events,
        groups=[_GROUPS[each] for each in order or EventOrder],
        migrations=migration or _MIGRATIONS,
        runs=runs or sizes.runs,
        peer_events=peer_events or sizes.peer_events,
        shares=sorted(set(share or sizes.shares)),
        load_runs=load_runs or sizes.load_runs,
    )
    matrix = kafka_matrix(order, migration, load_order, full=full)
    kafka = KafkaOptions(
        queries=query or known,
        events=backlog_events or sizes.backlog_events,
        check_events=check_events or sizes.check_events,
        groups=matrix.groups,
        migrations=matrix.migrations,
        load_groups=matrix.load_groups,
        runs=runs or sizes.backlog_runs,
        load_runs=load_runs or sizes.load_runs,
        shares=sorted(set(share or sizes.shares)),
        rate_max=rate_max,
        seconds=seconds or sizes.seconds,
        warm_up=sizes.warm_up,
        step_seconds=sizes.step_seconds,
        format=form,
        peer_events=peer_events or sizes.peer_backlog,
    )
    made = _made(through, memory, kafka, peer, bootstrap_servers)
    if report is not None:
        _write(report, made)
    if output is Output.JSON:
        typer.echo(made.document.json())
    else:
        typer.echo(made.document.text(), err=True)
        typer.echo(table_of(made.memory, made.kafka))
    raise typer.Exit(made.document.exit_status)


#: Size of the groups that events are shuffled in; under load smaller ones, as a latency may be
#: overstated by the time of one.
_GROUPS = {EventOrder.IN_ORDER: 1, EventOrder.OUT_OF_ORDER: 1_000}
_LOAD_GROUPS = {EventOrder.IN_ORDER: 1, EventOrder.OUT_OF_ORDER: 100}
_MIGRATIONS = ["none", *map(str, Strategy)]


@dataclass(frozen=True, slots=True)
class Matrix:
    """What of strategies and orders is run through Kafka."""

    #: Sizes of the groups that events are shuffled in: of the runs compared, and under load.
    groups: list[int]
    load_groups: list[int]
    migrations: list[str]


def kafka_matrix(
    order: list[EventOrder] | None,
    migration: list[str] | None,
    load_order: list[EventOrder] | None,
    *,
    full: bool,
) -> Matrix:
    """What was asked for; of what was not, all of it if `full`, else what takes half an hour."""
    compared = order or (list(EventOrder) if full else [EventOrder.OUT_OF_ORDER])
    loaded = load_order or (list(EventOrder) if full else [EventOrder.IN_ORDER])
    return Matrix(
        [_GROUPS[each] for each in compared],
        [_LOAD_GROUPS[each] for each in loaded],
        migration or (_MIGRATIONS if full else [str(Strategy.BATCHED)]),
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """What was measured, and its document."""

    memory: Runs | None
    kafka: KafkaRuns | None
    document: BenchDocument


def _made(
    through: Through,
    memory: SuiteOptions,
    kafka: KafkaOptions,
    peer: Beside | None,
    bootstrap_servers: str,
) -> _Made:
    """Make the runs that are asked for.

    Raises:
        MegaphoneError: one failed, or there is no broker.
    """
    beside = Peer.BYTEWAX if peer is Beside.BYTEWAX else None
    in_memory = None if beside is None else environment(beside)
    in_kafka = None
    if peer is Beside.QUIXSTREAMS:
        in_kafka = (str(peer), environment(KafkaPeer.QUIXSTREAMS))
    where = machine()
    suite, through_kafka = None, None
    with StallProbe() as probe:
        if through is not Through.KAFKA:
            suite = make_runs(memory, beside, in_memory, _say)
        if through is not Through.MEMORY:
            named = {VARIABLE: bootstrap_servers} if bootstrap_servers else None
            with closing(find_broker(named)) as broker:
                through_kafka = make_kafka_runs(broker.bootstrap_servers, kafka, in_kafka, _say)
    where["stall_ms"] = round(probe.stall_ms, 3)
    return _Made(suite, through_kafka, document_of(suite, where, through_kafka))


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _write(path: Path, made: _Made) -> None:
    try:
        path.write_text(page(made.document, made.memory, made.kafka), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report {path} cannot be written: {error.strerror}") from error


def check(queries: list[str], migrations: list[str], known: list[str]) -> None:
    """Refuse what there is not.

    Raises:
        UsageError: an unknown query or strategy.
    """
    for name in queries:
        if name not in known:
            raise UsageError(f"no query {name!r}; there are: {', '.join(known)}")
    for name in migrations:
        if name not in _MIGRATIONS:
            raise UsageError(f"no migration {name!r}; there are: {', '.join(_MIGRATIONS)}")


def check_peer(peer: Beside | None, through: Through) -> None:
    """Refuse a peer that would not run.

    Raises:
        UsageError: it is measured where nothing is.
    """
    if peer is Beside.QUIXSTREAMS and through is Through.MEMORY:
        raise UsageError("quixstreams reads Kafka; add --through kafka, or both")
    if peer is Beside.BYTEWAX and through is Through.KAFKA:
        raise UsageError("bytewax is measured in memory; add --through memory, or both")


def document_of(
    made: Runs | None, where: dict[str, str | int | float], kafka: KafkaRuns | None = None
) -> BenchDocument:
    """The contract's document."""
    parameters: dict[str, str | int | float] = {}
    figures: list[Figure] = []
    if made is not None:
        parameters |= {
            "queries": " ".join(made.options.queries),
            "events": made.options.events,
            "check_events": made.options.check_events,
            "groups": " ".join(map(str, made.options.groups)),
            "migrations": " ".join(made.options.migrations),
            "runs": made.options.runs,
            "load_runs": made.options.load_runs,
            "shares": " ".join(map(str, made.options.shares)),
            "peer": made.peer or "",
            "peer_events": made.options.peer_events,
        }
        figures += memory_figures(made)
    if kafka is not None:
        parameters |= dict(_kafka_parameters(kafka))
        figures += kafka_figures(kafka)
    return BenchDocument("nexmark", commit(), where, parameters, figures)


def _kafka_parameters(made: KafkaRuns) -> Iterator[tuple[str, str | int | float]]:
    options = made.options
    for name, value in (
        ("queries", " ".join(options.queries)),
        ("events", options.events),
        ("check_events", options.check_events),
        ("groups", " ".join(map(str, options.groups))),
        ("migrations", " ".join(options.migrations)),
        ("load_groups", " ".join(map(str, options.load_groups))),
        ("runs", options.runs),
        ("load_runs", options.load_runs),
        ("shares", " ".join(map(str, options.shares))),
        ("rate_max", options.rate_max or "none"),
        ("seconds", options.seconds),
        ("warm_up", options.warm_up),
        ("step_seconds", options.step_seconds),
        ("format", str(options.format)),
        ("peer", made.peer or ""),
        ("peer_events", options.peer_events),
    ):
        yield f"kafka_{name}", value
