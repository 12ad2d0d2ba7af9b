"""`megaphone bench experiments`: makes what is missing, then draws and reports.

Flow: the set of runs -> those that are not done -> word-count runs -> files -> charts, one page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from service.bench.experiments.charts import draw
from service.bench.experiments.report import page
from service.bench.experiments.sets import Group, Setup, experiments, setups_of
from service.bench.experiments.store import Store, name_of
from service.bench.machine import commit, machine
from service.bench.words.command import document_of, make_runs
from service.bench.words.director import direct
from service.bench.words.lines import lines_of
from service.bench.words.options import WordOptions
from service.bench.words.outcome import WordRun
from service.cli_options import Output
from service.errors import UsageError

REPORT = "report.html"


def run_experiments(
    folder: Annotated[Path, typer.Option(help="Where setups, results and charts are kept")] = Path(
        "experiments"
    ),
    quick: Annotated[bool, typer.Option(help="Few and short runs, for a look")] = False,
    draw_only: Annotated[bool, typer.Option(help="Make no run; draw what there is")] = False,
    output: Annotated[
        Output, typer.Option(help="text: the page's path; json: an object of all files.")
    ] = Output.TEXT,
) -> None:
    """Make the paper's experiments on this machine: runs, charts, and one page."""
    if find_spec("matplotlib") is None:
        raise UsageError("the charts need matplotlib: install megaphone with its 'demo' extra")
    measured = commit()
    store = Store(folder, measured)
    groups = experiments(quick=quick)
    where = machine()
    missing = setups_of(groups, store.is_done)
    if missing and draw_only:
        raise UsageError(f"{len(missing)} runs of {measured} are missing; leave --draw-only out")
    make(missing, store, where)
    pictures = draw(groups, store)
    report = store.charts / REPORT
    report.write_text(page(groups, store, pictures, where, measured), encoding="utf-8")
    if output is Output.JSON:
        typer.echo(json.dumps(files_of(groups, store, pictures, report, measured), indent=1))
    else:
        typer.echo(str(report))


def make(
    setups: Sequence[Setup],
    store: Store,
    where: Mapping[str, str | int | float],
    direct: Callable[[WordOptions], WordRun] = direct,
) -> None:
    """Make the runs and keep each as soon as it is done, so that a set that is broken off goes on.

    Args:
        setups: what is to be made.
        store: where it is kept.
        where: what is known of the machine.
        direct: makes one run.

    Raises:
        MegaphoneError: a run failed; those before it are kept.
    """
    seconds = sum(setup.seconds for setup in setups)
    typer.echo(f"{len(setups)} runs to make, {seconds / 60:.0f} minutes for all", err=True)
    for number, options in enumerate((setup.options for setup in setups), 1):
        typer.echo(f"{number}/{len(setups)} {name_of(options)}", err=True)
        store.prepare(options)
        made = make_runs(options, 1, direct=direct)
        (run,) = made.runs
        store.keep(options, list(lines_of(run)), document_of(made, dict(where)).json())


def files_of(
    groups: Sequence[Group], store: Store, pictures: Mapping[str, Path], report: Path, measured: str
) -> dict[str, object]:
    """Where everything is: report, charts by name, and the document of each run by its name."""
    runs = [options for group in groups for options in group.runs]
    return {
        "commit": measured,
        "report": str(report),
        "charts": {name: str(path) for name, path in pictures.items()},
        "results": {name_of(options): str(store.document(options)) for options in runs},
    }
