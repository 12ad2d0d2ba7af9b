"""State larger than memory: one store, four times as large as its budget, and one that fits.

Flow: [run_state] -> a process of its own per side (`state_side`) -> figures -> BenchDocument. The
method stands in docs/benchmarks/state.md.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from service.bench.document import BenchDocument, Figure
from service.bench.machine import commit, machine
from service.bench.output import Output, printed
from service.bench.stall import StallProbe
from service.bench.state_side import ROW_BYTES, SideOptions, SideResult
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


def run_state(options: StateOptions, folder: Path) -> BenchDocument:
    """Measure; rows that leave memory are kept under `folder` meanwhile.

    Raises:
        MegaphoneError: a side failed, or counted wrongly.
    """
    where = machine()
    keys = _TIMES * options.budget // ROW_BYTES
    few = min(_FITTING_KEYS, keys // (8 * _TIMES))

    def side(budget: int, number: int) -> SideResult:
        return _side(
            SideOptions(budget, number, options.runs, options.records, options.records // 4),
            folder,
        )

    with StallProbe() as probe:
        tiered = side(options.budget, keys)
        fitting = [side(budget, few) for budget in (options.budget, 0)]
    where["stall_ms"] = round(probe.stall_ms, 3)
    parameters = {
        "budget_bytes": options.budget,
        "state_bytes": keys * ROW_BYTES,
        "keys": keys,
        "fitting_keys": few,
        "runs": options.runs,
        "records": options.records,
    }
    return BenchDocument("state", commit(), where, parameters, figures_of(options, tiered, fitting))


def figures_of(
    options: StateOptions, tiered: SideResult, fitting: list[SideResult]
) -> list[Figure]:
    """All figures; `fitting` is what stays in memory, with the budget and without. Pure."""
    bounded, unbounded = fitting
    ratios = [one / other for one, other in zip(bounded.uniform, unbounded.uniform, strict=True)]
    return [
        Figure.of("Zipf 0.99", "records/s", tiered.skewed, at_least=SKEWED_BOUND),
        Figure.of("uniform", "records/s", tiered.uniform, at_least=UNIFORM_BOUND),
        Figure.of(
            "memory above readiness over the budget",
            "",
            [tiered.grown / options.budget],
            at_most=MEMORY_BOUND,
        ),
        Figure.of("every key for the first time", "records/s", [tiered.loading]),
        Figure.of("Zipf 0.99: slowest batch", "ms", [tiered.slowest_skewed_ms]),
        Figure.of("uniform: slowest batch", "ms", [tiered.slowest_uniform_ms]),
        Figure.of("rows on disk alone at the end", "rows", [tiered.away]),
        Figure.of("all in memory, no budget: uniform", "records/s", unbounded.uniform),
        Figure.of("all in memory, with a budget over without one: uniform", "", ratios),
    ]


def _side(options: SideOptions, folder: Path) -> SideResult:
    done = subprocess.run(
        [sys.executable, "-m", _SIDE, msgspec.json.encode(options).decode(), str(folder)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MegaphoneError(f"the measured process failed: {done.stderr.strip()[-2_000:]}")
    result = msgspec.json.decode(done.stdout, type=SideResult)
    if not result.exact:
        raise MegaphoneError("the store counted otherwise than NumPy; no figure is worth telling")
    return result


def state(
    budget: Annotated[str, typer.Option(help="Memory of the store; state is four times it")] = (
        "1GiB"
    ),
    runs: Annotated[int, typer.Option(min=1, max=100, help="Runs of each kind of keys")] = 3,
    records: Annotated[
        int, typer.Option(min=1 << 14, help="Records of a run with skewed keys")
    ] = 4_000_000,
    folder: Annotated[
        Path, typer.Option(help="Where rows that leave memory are kept meanwhile")
    ] = Path(),
    output: Annotated[Output, typer.Option(help="text or json")] = Output.TEXT,
) -> None:
    """Measure a store whose state is four times its memory, beside one that fits."""
    options = StateOptions(bytes_of(budget, "--budget"), runs, records)
    document = run_state(options, folder.resolve())
    typer.echo(printed(document, output))
    raise typer.Exit(document.exit_status)
