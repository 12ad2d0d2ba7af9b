"""`megaphone bench word-count`: its options, and what it prints.

Flow: arguments -> WordOptions -> runs, each with what stands beside it (its native twin, a peer,
another strategy or domain) -> the original's lines, or the document, on standard output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer

from service.bench.document import BenchDocument, Field, Figure
from service.bench.machine import commit, machine
from service.bench.output import Output
from service.bench.peers import Peer, environment
from service.bench.per_record import RecordOptions, run_bytewax
from service.bench.words.director import direct
from service.bench.words.figures import figures_of
from service.bench.words.lines import lines_of
from service.bench.words.migrating import NONE, STRATEGIES
from service.bench.words.options import Backend, WordOptions, rate_of
from service.bench.words.outcome import WordRun
from service.errors import UsageError

#: Seconds for which the fold is measured alone before a run at full speed.
_BARE_S = 1.0
#: Bytewax's part: records in a run, and in a batch.
_PEER_RECORDS, _PEER_BATCH = 2_000_000, 10_000


@dataclass(frozen=True, slots=True)
class WordRuns:
    """Runs with equal options, and what was measured beside each."""

    runs: list[WordRun]
    natives: list[WordRun]
    peers: list[float]
    #: Under another strategy, or with other keys.
    others: list[WordRun] = field(default_factory=list)


def word_count(
    backend: Annotated[Backend, typer.Option(help="Where counts are kept")] = Backend.HASH,
    rate: Annotated[str, typer.Option(help="Records/s of each worker, or max")] = "1000000",
    duration: Annotated[float, typer.Option(min=1, help="Seconds that records are due")] = 60.0,
    migration: Annotated[
        str, typer.Option(help="none, sudden, fluid, batched, optimized, or a plan's file")
    ] = "none",
    domain: Annotated[int, typer.Option(min=1, help="Number of keys")] = 1_000_000,
    bins: Annotated[int, typer.Option(min=1, help="Number of bins, a power of two")] = 1024,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each")] = 2,
    batch: Annotated[int, typer.Option(min=64, help="Rows of a batch at most")] = 1 << 17,
    tick_us: Annotated[int, typer.Option(min=50, help="Time between two ticks")] = 1_000,
    wave_bins: Annotated[int, typer.Option(min=0, help="Bins of a batched wave; 0: chosen")] = 0,
    precopy: Annotated[bool, typer.Option(help="Copy bins before they move")] = False,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Runs; figures are medians")] = 1,
    beside_native: Annotated[
        bool, typer.Option(help="Make each run without bins, too, and compare")
    ] = False,
    beside_strategy: Annotated[
        str, typer.Option(help="Make each run under this strategy, too, and compare longest waits")
    ] = "",
    beside_domain: Annotated[
        int, typer.Option(min=0, help="Make each run with so many keys, too, and compare; 0: none")
    ] = 0,
    peer: Annotated[
        Peer | None, typer.Option(help="Measure this beside; installs it the first time")
    ] = None,
    validate: Annotated[
        bool, typer.Option(help="Draw the stream again and compare the count of every key")
    ] = False,
    output: Annotated[Output, typer.Option(help="text: the original's lines; json")] = Output.TEXT,
) -> None:
    """Count words as the original's benchmark does: its parameters, its lines, its open loop."""
    options = WordOptions(
        backend=backend,
        rate=rate_of(rate),
        duration_s=duration,
        migration=migration,
        domain=domain,
        bins=bins,
        workers=workers,
        batch=batch,
        tick_us=tick_us,
        wave_bins=wave_bins,
        precopy=precopy,
        validate=validate,
        bare_s=_BARE_S if rate == "max" else 0.0,
    )
    other = other_of(options, beside_strategy, beside_domain)
    python = None if peer is None else environment(peer)
    where = machine()
    made = make_runs(options, runs, native=beside_native, bytewax=python, other=other)
    document = document_of(made, where)
    if output is Output.JSON:
        typer.echo(document.json())
    else:
        for run in made.runs:
            for line in lines_of(run):
                typer.echo(line)
        typer.echo(document.text(), err=True)
    raise typer.Exit(document.exit_status)


def other_of(options: WordOptions, strategy: str, domain: int) -> WordOptions | None:
    """What is run beside `options`: under another strategy, or with other keys; None: nothing.

    Raises:
        UsageError: both are asked for, or there would be no waits of moves to compare.
    """
    if not strategy and not domain:
        return None
    if strategy and domain:
        raise UsageError("--beside-strategy and --beside-domain: one comparison at a time")
    name = "--beside-strategy" if strategy else "--beside-domain"
    if options.migration == NONE or not options.open_loop:
        raise UsageError(f"{name} compares waits while bins move: give --migration and a --rate")
    if not strategy:
        if domain == options.domain:
            raise UsageError(f"--beside-domain {domain}: that is what --domain says already")
        return replace(options, domain=domain)
    if strategy not in STRATEGIES or strategy == options.migration:
        raise UsageError(
            f"--beside-strategy {strategy}: must be one of {', '.join(STRATEGIES)}, "
            f"and another than --migration {options.migration}"
        )
    return replace(options, migration=strategy)


def make_runs(
    options: WordOptions,
    runs: int,
    *,
    native: bool = False,
    bytewax: Path | None = None,
    other: WordOptions | None = None,
    direct: Callable[[WordOptions], WordRun] = direct,
) -> WordRuns:
    """Make runs one after the other, each with what stands beside it: in turns, as hours differ.

    Args:
        options: what is measured.
        runs: how often.
        native: make each run without bins, too.
        bytewax: the interpreter of Bytewax's environment, or None.
        other: make a run with these options beside each, or None.
        direct: makes one run.

    Raises:
        MegaphoneError: a run failed, or its counts were not exact.
    """
    made = WordRuns([], [], [])
    twin = replace(options, backend=options.backend.twin, migration="none", bare_s=0.0)
    for _ in range(runs):
        made.runs.append(direct(options))
        if native:
            made.natives.append(direct(twin))
        if other is not None:
            made.others.append(direct(other))
        if bytewax is not None:
            size = RecordOptions(_PEER_RECORDS, options.domain, _PEER_BATCH)
            made.peers.append(run_bytewax(bytewax, size, "count")[0])
    return made


def document_of(made: WordRuns, where: dict[str, str | int | float]) -> BenchDocument:
    """The contract's document; `where` is what was known of the machine before the runs."""
    where["stall_ms"] = round(max(run.stall_ms for run in (*made.runs, *made.others)), 3)
    figures: list[Figure] = list(figures_of(made.runs, made.natives, made.peers, made.others))
    return BenchDocument("word-count", commit(), where, dict(_parameters(made)), figures)


def _parameters(made: WordRuns) -> Iterator[tuple[str, Field]]:
    """Everything needed to run it again."""
    options = made.runs[0].options
    yield "runs", len(made.runs)
    yield "backend", str(options.backend)
    yield "rate", options.rate or "max"
    yield "duration", options.duration_s
    yield "migration", options.migration
    yield "domain", options.domain
    yield "bins", options.bins
    yield "workers", options.workers
    yield "batch", options.batch
    yield "tick_us", options.tick_us
    yield "wave_bins", options.wave_bins
    yield "precopy", int(options.precopy)
    yield "beside_native", int(bool(made.natives))
    for other in made.others[:1]:
        if other.options.migration != options.migration:
            yield "beside_strategy", other.options.migration
        else:
            yield "beside_domain", other.options.domain
