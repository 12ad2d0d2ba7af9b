"""`megaphone bench experiments`: makes what is missing, then draws and reports.

Flow: the set of runs -> those that are not done -> word-count runs -> files -> charts, one page.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from service.bench.experiments.charts import draw
from service.bench.experiments.report import page
from service.bench.experiments.sets import experiments, seconds_of
from service.bench.experiments.store import Store, name_of
from service.bench.machine import commit, machine
from service.bench.words.command import document_of, make_runs
from service.bench.words.lines import lines_of
from service.errors import UsageError

REPORT = "report.html"


def run_experiments(
    folder: Annotated[Path, typer.Option(help="Where setups, results and charts are kept")] = Path(
        "experiments"
    ),
    quick: Annotated[bool, typer.Option(help="Few and short runs, for a look")] = False,
    draw_only: Annotated[bool, typer.Option(help="Make no run; draw what there is")] = False,
) -> None:
    """Make the paper's experiments on this machine: runs, charts, and one page."""
    if find_spec("matplotlib") is None:
        raise UsageError("the charts need matplotlib: install megaphone with its 'demo' extra")
    measured = commit()
    store = Store(folder, measured)
    groups = experiments(quick=quick)
    where = machine()
    missing = [
        options
        for options in dict.fromkeys(options for group in groups for options in group.runs)
        if not store.is_done(options)
    ]
    if missing and draw_only:
        raise UsageError(f"{len(missing)} runs of {measured} are missing; leave --draw-only out")
    seconds = seconds_of(groups) if missing else 0.0
    typer.echo(f"{len(missing)} runs to make, {seconds / 60:.0f} minutes for all", err=True)
    for number, options in enumerate(missing, 1):
        typer.echo(f"{number}/{len(missing)} {name_of(options)}", err=True)
        store.prepare(options)
        made = make_runs(options, 1)
        (run,) = made.runs
        store.keep(options, list(lines_of(run)), document_of(made, dict(where)).json())
    pictures = draw(groups, store)
    report = store.charts / REPORT
    report.write_text(page(groups, store, pictures, where, measured), encoding="utf-8")
    typer.echo(str(report))
