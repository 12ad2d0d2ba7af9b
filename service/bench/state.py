"""State larger than memory: stores four times as large as their budgets, and such that fit.

Flow: [run_state] -> a process of its own per worker (`state_side`), all at once -> what each found
-> [figures_of] -> BenchDocument. The method stands in docs/benchmarks/state.md.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Annotated, TextIO

import msgspec
import typer

from service.bench.document import BenchDocument, Figure
from service.bench.machine import commit, machine
from service.bench.output import Output, printed
from service.bench.stall import StallProbe
from service.bench.state_side import MET, ROW_BYTES, SideOptions, SideResult
from service.errors import MegaphoneError
from service.sizes import bytes_of

_ROOT = Path(__file__).parents[2]
_SIDE = "service.bench.state_side"
#: How many times the budget the state is.
_TIMES = 4
#: Lower bounds, records a second of one worker; and how far above its budget memory may go.
SKEWED_BOUND = 300_000.0
UNIFORM_BOUND = 50_000.0
MEMORY_BOUND = 1.15
#: Keys of the store that fits into its budget.
_FITTING_KEYS = 1_000_000


@dataclass(frozen=True, slots=True)
class StateOptions:
    """How large, and how often."""

    budget: int = 1 << 30
    runs: int = 3
    #: Records of a run of skewed keys; of uniform ones a fourth.
    records: int = 4_000_000
    #: Processes at once; each has a budget, state and records of its own.
    workers: int = 2


def run_state(options: StateOptions, folder: Path) -> BenchDocument:
    """Measure; rows that leave memory are kept under `folder` meanwhile.

    Raises:
        MegaphoneError: a side failed, or counted wrongly.
    """
    where = machine()
    keys = _TIMES * options.budget // ROW_BYTES
    few = min(_FITTING_KEYS, keys // (8 * _TIMES))

    def sides(budget: int, number: int) -> list[SideResult]:
        records = options.records
        asked = SideOptions(budget, number, options.runs, records, records // 4)
        return together(
            [msgspec.structs.replace(asked, worker=each) for each in range(options.workers)], folder
        )

    with StallProbe() as probe:
        tiered = sides(options.budget, keys)
        bounded, unbounded = (sides(budget, few) for budget in (options.budget, 0))
    where["stall_ms"] = round(probe.stall_ms, 3)
    parameters = {
        "workers": options.workers,
        "budget_bytes": options.budget,
        "state_bytes": keys * ROW_BYTES,
        "keys": keys,
        "fitting_keys": few,
        "runs": options.runs,
        "records": options.records,
    }
    figures = figures_of(options, tiered, bounded, unbounded)
    return BenchDocument("state", commit(), where, parameters, figures)


def figures_of(
    options: StateOptions,
    tiered: Sequence[SideResult],
    bounded: Sequence[SideResult],
    unbounded: Sequence[SideResult],
) -> list[Figure]:
    """All figures, of what each worker found. Pure.

    Rates are of each worker, on average over the workers; memory and slowest batches those of the
    worker that has most.

    Args:
        options: what was asked for.
        tiered: with state that does not fit.
        bounded: with state that fits into the budget.
        unbounded: the same without a budget.
    """
    free = _rates(each.uniform for each in unbounded)
    ratios = [
        mine / other
        for mine, other in zip(_rates(each.uniform for each in bounded), free, strict=True)
    ]
    grown = max(each.grown for each in tiered) / options.budget
    skewed, uniform = (
        _rates(each.skewed for each in tiered),
        _rates(each.uniform for each in tiered),
    )
    slowest = [max(each.slowest_skewed_ms for each in tiered)]
    slowest_uniform = [max(each.slowest_uniform_ms for each in tiered)]
    return [
        Figure.of("Zipf 0.99, each worker", "records/s", skewed, at_least=SKEWED_BOUND),
        Figure.of("uniform, each worker", "records/s", uniform, at_least=UNIFORM_BOUND),
        Figure.of("memory above readiness over the budget", "", [grown], at_most=MEMORY_BOUND),
        Figure.of(
            "every key for the first time, each worker",
            "records/s",
            [fmean(each.loading for each in tiered)],
        ),
        Figure.of("Zipf 0.99: slowest batch", "ms", slowest),
        Figure.of("uniform: slowest batch", "ms", slowest_uniform),
        Figure.of(
            "rows on disk alone at the end, each worker",
            "rows",
            [fmean(each.away for each in tiered)],
        ),
        Figure.of("all in memory, no budget: uniform, each worker", "records/s", free),
        Figure.of("all in memory, with a budget over without one: uniform", "", ratios),
    ]


def _rates(each: Iterable[Sequence[float]]) -> list[float]:
    """Run by run, the rate of each worker on average."""
    return [fmean(run) for run in zip(*each, strict=True)]


def together(asked: Sequence[SideOptions], folder: Path) -> list[SideResult]:
    """Measure in as many processes at once, which meet before each part (SB3 of `state_side`).

    Raises:
        MegaphoneError: a process failed, or counted wrongly.
    """
    with ExitStack() as stack:
        # Here, so that nothing stays of a process that is ended.
        kept = stack.enter_context(TemporaryDirectory(dir=folder))
        sides = []
        for options in asked:
            errors = stack.enter_context(TemporaryFile("w+", encoding="utf-8"))
            command = [sys.executable, "-m", _SIDE, msgspec.json.encode(options).decode()]
            process = subprocess.Popen(
                [*command, kept],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            stack.callback(_end, process)
            sides.append((process, errors))
        said = [_said(*side) for side in sides]
        while said == [MET] * len(sides):
            for process, _ in sides:
                _go_on(process)
            said = [_said(*side) for side in sides]
    found = [msgspec.json.decode(each, type=SideResult) for each in said]
    if not all(each.exact for each in found):
        raise MegaphoneError("the store counted otherwise than NumPy; no figure is worth telling")
    return found


def _said(process: subprocess.Popen[str], errors: TextIO) -> str:
    """The next line of a process.

    Raises:
        MegaphoneError: it ended without one.
    """
    assert process.stdout is not None, "it is a pipe"
    if line := process.stdout.readline().strip():
        return line
    process.wait()
    errors.seek(0)
    raise MegaphoneError(f"the measured process failed: {errors.read().strip()[-2_000:]}")


def _go_on(process: subprocess.Popen[str]) -> None:
    """Tell a process that all have come so far; one that has ended is found out by its silence."""
    assert process.stdin is not None, "it is a pipe"
    with suppress(BrokenPipeError):
        process.stdin.write("\n")
        process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that has not ended, and close its pipes."""
    process.kill()
    with suppress(BrokenPipeError):
        process.communicate()


def state(
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that are measured at once, each with a store")
    ] = 2,
    budget: Annotated[
        str, typer.Option(help="Memory of each store; its state is four times it")
    ] = ("1GiB"),
    runs: Annotated[int, typer.Option(min=1, max=100, help="Runs of each kind of keys")] = 3,
    records: Annotated[
        int, typer.Option(min=1 << 14, help="Records of a run with skewed keys, each worker")
    ] = 4_000_000,
    folder: Annotated[
        Path, typer.Option(help="Where rows that leave memory are kept meanwhile")
    ] = Path(),
    output: Annotated[Output, typer.Option(help="text or json")] = Output.TEXT,
) -> None:
    """Measure stores whose state is four times their memory, beside such that fit."""
    options = StateOptions(bytes_of(budget, "--budget"), runs, records, workers)
    document = run_state(options, folder.resolve())
    typer.echo(printed(document, output))
    raise typer.Exit(document.exit_status)
