"""One picture for each of the paper's figures, drawn from the files of the runs.

Flow: groups, Store -> [draw] -> PNG files. Needs matplotlib, which comes with the `demo` extra, and
imports it only when it draws.

Invariants
  CH1  A picture shows what was measured and what the paper prints in different ink, and says of
       each curve what it is: no percentile under another's name.
  CH2  Of a run's two moves the second counts, as in the paper; the first where the second began
       too late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from service.bench.experiments import paper
from service.bench.experiments.results import Result, read_result
from service.bench.experiments.sets import STRATEGIES, Group
from service.bench.experiments.store import Store
from service.bench.words.options import WordOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = {"sudden": "#b9536a", "fluid": "#2b6ca3", "batched": "#d98a2b", "optimized": "#4b8a5f"}
NAMES = {
    "sudden": "all-at-once",
    "fluid": "fluid",
    "batched": "batched",
    "optimized": "optimized",
}
_INK, _SOFT, _PAPER = "#333333", "#6b7480", "#9aa2ad"
_DPI = 140
#: A group's run of middle size, whose course is shown.
_TIMELINE_GROUP = "domain"


def draw(groups: Sequence[Group], store: Store) -> dict[str, Path]:
    """Draw everything; returns the picture of each figure by its name."""
    store.charts.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Path] = {}

    def keep(name: str, figure: Figure) -> None:
        pictures[name] = store.charts / f"{name}.png"
        figure.savefig(pictures[name], dpi=_DPI)

    for group in groups:
        results = {
            options: read_result(store.lines(options), options.duration_ns)
            for options in group.runs
        }
        if group.name.startswith("overhead"):
            keep(group.name, _overhead(group, results))
        else:
            keep(group.name, _sweep(group, results))
        if group.name == _TIMELINE_GROUP:
            largest = max(options.domain for options in group.runs)
            shown = {
                options.migration: result
                for options, result in results.items()
                if options.domain == largest
            }
            keep("timeline", _timelines(shown))
            keep("memory", _memory(shown))
    return pictures


def _overhead(group: Group, results: dict[WordOptions, Result]) -> Figure:
    """CCDF by number of bins, and p99 beside the paper's."""
    from matplotlib import colormaps

    figure, (left, right) = _figure(2)
    ours: dict[int | None, float] = {}
    shades = colormaps["viridis"]
    for number, (options, result) in enumerate(results.items()):
        bits = None if options.backend.native else options.bin_bits
        label = "native" if bits is None else f"2^{bits} bins"
        colour = _INK if bits is None else shades(number / max(1, len(results)))
        left.step(
            [latency / 1e6 for latency, _, _ in result.ccdf],
            [share for _, share, _ in result.ccdf],
            where="pre",
            color=colour,
            linestyle="--" if bits is None else "-",
            linewidth=1.4,
            label=label,
        )
        ours[bits] = result.at_share(0.01)
    left.set_xlabel("latency by frontier, ms")
    left.set_ylabel("share of records at or above")
    left.set_xscale("log")
    left.set_yscale("log")
    _label_log(left.xaxis)
    left.legend(frameon=False, fontsize=8)
    theirs = paper.KEY_COUNT if group.name.endswith("vec") else paper.HASH_COUNT
    for values, colour, label in (
        (ours, COLOURS["fluid"], "ours, p99"),
        ({bits: row[1] for bits, row in theirs.items()}, _PAPER, "paper, p99"),
    ):
        with_bins = sorted((bits, value) for bits, value in values.items() if bits is not None)
        right.plot(*zip(*with_bins, strict=True), color=colour, marker="o", ms=4, label=label)
        if None in values:
            right.axhline(values[None], color=colour, linestyle=":", linewidth=1.2)
    right.set_yscale("log")
    _label_log(right.yaxis)
    right.set_xlabel("log2 of the number of bins; dotted: native")
    right.set_ylabel("ms")
    right.legend(frameon=False, fontsize=9)
    return figure


def _sweep(group: Group, results: dict[WordOptions, Result]) -> Figure:
    """Largest latency and duration of the second move, by what is varied."""
    figure, axes = _figure(2)
    for strategy in STRATEGIES:
        points = sorted(
            (_value(options, group.varied), _peak(result, plan), _seconds(plan))
            for options, result in results.items()
            if options.migration == strategy and (plan := result.shown) is not None
        )
        if not points:
            continue
        values, peaks, seconds = zip(*points, strict=True)
        for where, shown in zip(axes, (peaks, seconds), strict=True):
            where.plot(
                values, shown, color=COLOURS[strategy], marker="o", ms=4, label=NAMES[strategy]
            )
    for where, label in zip(
        axes, ("largest latency by frontier, ms", "duration of the move, s"), strict=True
    ):
        where.set_xscale("log", base=2)
        where.set_yscale("log")
        _label_log(where.yaxis)
        ticks = sorted({_value(options, group.varied) for options in group.runs})
        where.set_xticks(ticks, [_short(value) for value in ticks])
        where.minorticks_off()
        where.set_xlabel(_AXES[group.varied])
        where.set_ylabel(label)
        where.legend(frameon=False, fontsize=9)
    return figure


def _timelines(results: dict[str, Result]) -> Figure:
    """The course of a run under each strategy: p50, p99 and max of each window."""
    figure, axes = _figure(len(results), share=True)
    for where, (strategy, result) in zip(axes, results.items(), strict=True):
        windows = result.timelines.get("summary_timeline", [])
        at = [window.at_ns / 1e9 for window in windows]
        for column, width in (("max", 1.6), ("p99", 1.2), ("p50", 0.9)):
            values = [window.values[column] / 1e6 for window in windows]
            where.plot(at, values, linewidth=width, label=column)
        _shade(where, result)
        where.set_title(NAMES[strategy], fontsize=10, loc="left", color=_INK)
        where.set_yscale("log")
        _label_log(where.yaxis)
        where.set_xlabel("s; shaded: a move")
    axes[0].set_ylabel("latency by frontier, ms")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _memory(results: dict[str, Result]) -> Figure:
    """Resident size of all workers through a run."""
    figure, (axes,) = _figure(1)
    for strategy, result in results.items():
        at = [(when / 1e9, size / (1 << 20)) for when, size in result.rss if when >= 0]
        axes.plot(*zip(*at, strict=True), color=COLOURS[strategy], label=NAMES[strategy])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.set_ylabel("resident size of all workers, MiB")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _shade(axes: Axes, result: Result) -> None:
    for start, end in result.plans:
        axes.axvspan(start / 1e9, end / 1e9, color="#7d9c5b", alpha=0.22, linewidth=0, zorder=0)


def _figure(columns: int, *, share: bool = False) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * max(2, columns) if columns > 1 else 8.0, 4.2))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, columns, squeeze=False, sharey=share)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(colors=_SOFT, labelsize=9)
        each.grid(axis="y", color="#e3e6ea", linewidth=0.8)
    return figure, list(axes)


_AXES = {
    "bins": "bins",
    "domain": "keys",
    "rate": "records/s of each worker",
}


def _value(options: WordOptions, varied: str) -> int:
    value: int = getattr(options, varied)
    return value


def _peak(result: Result, plan: tuple[int, int]) -> float:
    return max(result.max_during(plan), 1e-3)


def _seconds(plan: tuple[int, int]) -> float:
    return max((plan[1] - plan[0]) / 1e9, 1e-3)


def _label_log(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of each decade, and none between."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= 10 * unit or (value >= unit and value % unit == 0):
            return f"{value / unit:g}{name}"
    return f"{value:g}"
