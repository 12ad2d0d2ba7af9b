"""How `megaphone migrate` shows plans and their progress to people and programs.

Flow: statuses, plans -> [show_answer, show_plan, watch_plan] -> standard output.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from service.asking import FINAL, Conversation
from service.migration.plan_file import PlanFile
from service.migration.records import RequestState, StatusRecord
from service.status import size_text


def show_answer(status: StatusRecord, *, as_json: bool) -> None:
    """Print one status."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(status).decode() + "\n")
    else:
        Console().print(Text(sentence_of(status)), soft_wrap=True)


def sentence_of(status: StatusRecord) -> str:
    """A status in one line.

    >>> sentence_of(StatusRecord(id="a", state=RequestState.RUNNING, bins=3, bytes=9, waves=2))
    'a: running, 3 bins, 9 B, 2 waves in 0 ms'
    """
    took = f"{status.duration_ms:,} ms"
    waited = status.longest_wait_ms
    if status.dry_run is True:
        line = f"{status.id}: would move {status.bins:,} bins, {size_text(status.bytes)}, in "
        line += f"{status.waves:,} waves: about {took}"
        return line if not isinstance(waited, int) else f"{line}, rows wait {waited:,} ms at most"
    line = f"{status.id}: {status.state}"
    if status.state is RequestState.ACCEPTED:
        return f"{line}, {status.bins:,} bins in {status.waves:,} waves"
    if status.bins or status.waves:
        line += f", {status.bins:,} bins, {size_text(status.bytes)}, {status.waves:,} waves"
        line += f" in {took}"
    if isinstance(waited, int):
        line += f", longest wait {waited:,} ms"
    return line if status.reason is None else f"{line}; {status.reason}"


def show_plan(plan: PlanFile, owners: NDArray[np.int32]) -> None:
    """Print what a plan moves between which workers."""
    table = Table(title=f"{len(plan.waves):,} waves", title_justify="left")
    for column in ("from", "to", "bins"):
        table.add_column(column, justify="right")
    after = owners.copy()
    ways: Counter[tuple[int, int]] = Counter()
    for wave in plan.waves:
        for bin_, worker in wave.moves:
            ways[int(after[bin_]), worker] += 1
            after[bin_] = worker
    for (source, target), bins in sorted(ways.items()):
        table.add_row(f"worker-{source}", f"worker-{target}", f"{bins:,}")
    Console().print(table)


def watch_plan(talk: Conversation, known: Sequence[StatusRecord], *, as_json: bool) -> RequestState:
    """Show a plan's progress until it ends; returns the state in which it did.

    Args:
        talk: with the job.
        known: what was said of it so far, at least one status.
        as_json: print the last status only, as JSON, and no progress.

    Raises:
        PeerLost: the job ended or fell silent before.
    """
    last = known[-1]
    if last.state not in FINAL:
        if as_json:
            *_, last = talk.follow(last.id)
        else:
            last = _with_progress(talk, known)
    show_answer(last, as_json=as_json)
    return last.state


def _with_progress(talk: Conversation, known: Sequence[StatusRecord]) -> StatusRecord:
    """Follow a plan with a bar; where there is no terminal, rich prints the bar's end only."""
    last = known[-1]
    planned = next((s for s in known if s.state is RequestState.ACCEPTED), None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    waves = None if planned is None else planned.waves
    with Progress(*columns) as progress:
        task = progress.add_task(last.id, total=waves, figures="")
        for status in (last, *talk.follow(last.id)):
            _advance(progress, task, status, waves)
            last = status
    return last


def _advance(progress: Progress, task: TaskID, status: StatusRecord, waves: int | None) -> None:
    done = 0 if status.state is RequestState.ACCEPTED else status.waves
    bins = 0 if status.state is RequestState.ACCEPTED else status.bins
    of_all = "" if waves is None else f" of {waves:,}"
    figures = f"{status.state}, {done:,}{of_all} waves, {bins:,} bins, {size_text(status.bytes)}"
    progress.update(task, completed=done, figures=figures)
