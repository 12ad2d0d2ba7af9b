"""`megaphone bench word-count`: its options, and what it prints.

Flow: arguments -> WordOptions -> runs, each with its native twin and its peer beside it -> the
original's lines, or the document, on standard output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from service.bench.words.options import Backend, WordOptions, rate_of
from service.bench.words.outcome import WordRun

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
    python = None if peer is None else environment(peer)
    where = machine()
    made = make_runs(options, runs, native=beside_native, bytewax=python)
    document = document_of(made, where)
    if output is Output.JSON:
        typer.echo(document.json())
    else:
        for run in made.runs:
            for line in lines_of(run):
                typer.echo(line)
        typer.echo(document.text(), err=True)
    raise typer.Exit(document.exit_status)


def make_runs(
    options: WordOptions, runs: int, *, native: bool = False, bytewax: Path | None = None
) -> WordRuns:
    """Make runs one after the other, each with what stands beside it.

    Raises:
        MegaphoneError: a run failed, or its counts were not exact.
    """
    made = WordRuns([], [], [])
    twin = replace(options, backend=options.backend.twin, migration="none", bare_s=0.0)
    for _ in range(runs):
        made.runs.append(direct(options))
        if native:
            made.natives.append(direct(twin))
        if bytewax is not None:
            size = RecordOptions(_PEER_RECORDS, options.domain, _PEER_BATCH)
            made.peers.append(run_bytewax(bytewax, size, "count")[0])
    return made


def document_of(made: WordRuns, where: dict[str, str | int | float]) -> BenchDocument:
    """The contract's document; `where` is what was known of the machine before the runs."""
    options = made.runs[0].options
    where["stall_ms"] = round(max(run.stall_ms for run in made.runs), 3)
    figures: list[Figure] = list(figures_of(made.runs, made.natives, made.peers))
    return BenchDocument(
        "word-count", commit(), where, dict(_parameters(options, len(made.runs))), figures
    )


def _parameters(options: WordOptions, runs: int) -> Iterator[tuple[str, Field]]:
    """Everything needed to run it again."""
    yield "runs", runs
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
