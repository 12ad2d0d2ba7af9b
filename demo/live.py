"""The run as a person watches it: a calm picture on a terminal, a line a second anywhere else.

Flow: run -> Picture -> [TerminalView | LineView] -> terminal. Pictures are plain values, and all
that drawing reads.

A refresh costs a few milliseconds and there are three a second: two cores are shared with the job.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.clock import Clock

_BAR_WIDTH = 40
_BARS = " ▁▂▃▄▅▆▇█"
#: The sparkline's top, on a log scale from 1 ms.
_SPARK_TOP_MS = 1000.0
_REFRESH_NS = 330_000_000
_LINE_NS = 1_000_000_000
_LABEL = "grey58"
_ACCENT = "cyan"
_MOVING = "yellow"
_GOOD = "green"


class Stage(StrEnum):
    """The parts of a run, in order."""

    BROKER = "broker"
    JOB = "job"
    STATE = "state"
    WARM_UP = "warm-up"
    STREAM = "stream"
    DRAIN = "drain"
    PROOF = "proof"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency over the last second, ms."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Second:
    """One second of the stream: its p99 (ms; None without records), and whether bins moved."""

    p99: float | None
    moving: bool


@dataclass(frozen=True, slots=True)
class PlanView:
    """The plan under way, or the last one."""

    id: str
    state: str
    waves: int
    waves_planned: int
    bins: int
    bins_planned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything a view shows.

    Attributes:
        stage: what is going on.
        detail: a few words about it.
        done: share of the stage that is done, 0 to 1; None when nobody knows.
        published: events sent so far, and per second.
        processed: events the job is done with, and per second.
        lag: records in Kafka the job has not read.
        latency: over the last second; None before the first result.
        seconds: the stream so far, a value a second.
        bins: per worker.
        rows: rows of state in the job.
        plan: the plan under way or the last one.
    """

    stage: Stage
    detail: str = ""
    done: float | None = None
    published: tuple[int, float] = (0, 0.0)
    processed: tuple[int, float] = (0, 0.0)
    lag: int = 0
    latency: Latency | None = None
    seconds: Sequence[Second] = ()
    bins: Sequence[int] = ()
    rows: int = 0
    plan: PlanView | None = None


class View(Protocol):
    """What the run shows itself on."""

    def show(self, picture: Picture, *, now: bool = False) -> None:
        """Draw, if it is time for it, or `now`."""
        ...

    def note(self, text: str) -> None:
        """Say something once, for good."""
        ...

    def close(self) -> None:
        """Leave the terminal as it should be."""
        ...


def open_view(clock: Clock, stream: TextIO) -> View:
    """The view that suits `stream`: a live picture on a terminal, else lines."""
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalView(console, clock)
    return LineView(stream, clock)


class TerminalView:
    """Redraws the picture in place."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._clock = clock
        self._next_ns = 0
        # Drawn from the run's own loop: no thread of its own, no refresh nobody asked for.
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, picture: Picture, *, now: bool = False) -> None:
        """Draw at most three times a second, or `now`."""
        time_ns = self._clock.monotonic_ns()
        if now or time_ns >= self._next_ns:
            self._next_ns = time_ns + _REFRESH_NS
            self._live.update(drawn(picture), refresh=True)

    def note(self, text: str) -> None:
        """Print a line above the picture."""
        self._live.console.print(Text(text, style=_LABEL))

    def close(self) -> None:
        """Leave the last picture standing."""
        self._live.stop()


class LineView:
    """Prints a line when the stage changes, and at most one a second."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._stage: Stage | None = None
        self._line = ""
        self._next_ns = 0

    def show(self, picture: Picture, *, now: bool = False) -> None:
        """Print, if the stage is new or a second has passed and something changed."""
        time_ns = self._clock.monotonic_ns()
        line = line_of(picture)
        fresh = picture.stage is not self._stage
        if line != self._line and (now or fresh or time_ns >= self._next_ns):
            self._stage, self._line = picture.stage, line
            self._next_ns = time_ns + _LINE_NS
            self._write(line)

    def note(self, text: str) -> None:
        """Print a line."""
        self._write(text)

    def close(self) -> None:
        """Nothing to restore."""

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def line_of(picture: Picture) -> str:
    """The picture in one line."""
    parts = [f"{picture.stage:<7}"]
    if picture.done is not None:
        parts.append(f"{picture.done:4.0%}")
    if picture.stage in (Stage.STATE, Stage.WARM_UP, Stage.STREAM, Stage.DRAIN):
        parts.append(f"published {picture.published[0]:,} ({picture.published[1]:,.0f}/s)")
        parts.append(f"processed {picture.processed[0]:,} ({picture.processed[1]:,.0f}/s)")
        parts.append(f"lag {picture.lag:,}")
    if picture.stage is Stage.STREAM:
        if (latency := picture.latency) is not None:
            parts.append(f"p50 {latency.p50:.1f} p99 {latency.p99:.1f} max {latency.max:.1f} ms")
        parts.append(f"bins {'/'.join(map(str, picture.bins))}")
        if (plan := picture.plan) is not None:
            parts.append(f"{plan.id} {plan.state} {plan.waves}/{plan.waves_planned} waves")
    if picture.detail:
        parts.append(picture.detail)
    return "  ".join(parts)


def drawn(picture: Picture) -> RenderableType:
    """The picture for a terminal."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style=_LABEL, min_width=9)
    rows.add_column()
    bar = ProgressBar(
        total=1.0,
        completed=picture.done or 0.0,
        width=_BAR_WIDTH,
        complete_style=_ACCENT,
        finished_style=_GOOD,
    )
    progress = Table.grid(padding=(0, 2))
    progress.add_row(bar, Text(picture.detail, style=_LABEL))
    rows.add_row(str(picture.stage), progress)
    if picture.published[0]:
        rows.add_row("published", _counted(picture.published))
        processed = _counted(picture.processed)
        processed.append(f"    lag {picture.lag:,}", _LABEL)
        rows.add_row("processed", processed)
    if picture.latency is not None:
        rows.add_row("latency", _latency(picture.latency))
        rows.add_row("", sparkline(picture.seconds))
    for worker, bins in enumerate(picture.bins):
        rows.add_row(f"worker {worker}", _bins(bins, picture))
    if picture.plan is not None:
        rows.add_row("plan", _plan(picture.plan))
    return Padding(Group(_stages(picture.stage), Text(), rows), (1, 2))


def sparkline(seconds: Sequence[Second], width: int = 60) -> Text:
    """p99 of each second on a log scale; seconds in which bins moved in another colour."""
    text = Text()
    for second in seconds[-width:]:
        level = 0
        if second.p99 is not None:
            share = math.log(max(second.p99, 1.0)) / math.log(_SPARK_TOP_MS)
            level = 1 + min(len(_BARS) - 2, int(share * (len(_BARS) - 1)))
        text.append(_BARS[level], _MOVING if second.moving else _ACCENT)
    if seconds:
        text.append("  p99 by second", _LABEL)
    return text


def _stages(current: Stage) -> Text:
    text = Text()
    order = list(Stage)
    for stage in order:
        place = order.index(stage) - order.index(current)
        mark, style = ("✓", _GOOD) if place < 0 else ("●", f"bold {_ACCENT}")
        if place > 0:
            mark, style = "·", _LABEL
        text.append(f"{mark} {stage}   ", style)
    return text


def _counted(count: tuple[int, float]) -> Text:
    text = Text(f"{count[1]:>11,.0f}", style="bold")
    text.append(" events/s", _LABEL)
    text.append(f"{count[0]:>14,} events", _LABEL)
    return text


def _latency(latency: Latency) -> Text:
    text = Text()
    for name, value in (("p50", latency.p50), ("p99", latency.p99), ("max", latency.max)):
        text.append(f"{name} ", _LABEL)
        text.append(f"{value:.1f} ms   ", "bold")
    text.append("in the last second", _LABEL)
    return text


def _bins(bins: int, picture: Picture) -> Text:
    """A worker's bins as a bar; the longest worker's fills the width."""
    longest = max(1, *picture.bins)
    filled = round(bins / longest * _BAR_WIDTH)
    text = Text("█" * filled, style=_ACCENT)
    text.append("░" * (_BAR_WIDTH - filled), "grey30")
    text.append(f"  {bins:,} bins", "default")
    return text


def _plan(plan: PlanView) -> Text:
    style = {"completed": _GOOD, "rejected": "red", "aborted": "red"}.get(plan.state, _MOVING)
    text = Text(f"{plan.id} {plan.state}", style=style)
    text.append(
        f"   {plan.waves} of {plan.waves_planned} waves, {plan.bins} of {plan.bins_planned} bins",
        _LABEL,
    )
    return text
