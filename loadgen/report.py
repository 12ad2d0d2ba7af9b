"""What a measurement says: percentiles, timelines, selections by time, pictures.

Flow: windows of a FinalDocument -> [split | latency_ms | ccdf_ms | timeline] -> summary.json
                                 -> [timeline_png | ccdf_png] -> report.
Pure but for the two functions that write a picture; they alone need matplotlib, which comes with
the `demo` extra, and so they import it themselves. Windows are whole: a selection takes a window
when any part of it lies within a range, so that nothing measured during the range is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from loadgen.histogram import Histogram
from loadgen.measure import WindowDocument

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_COLOURS = {"max": "#b9536a", "p99": "#d98a2b", "p50": "#2b6ca3"}
_SHADE = "#7d9c5b"
_INK = "#333333"


@dataclass(frozen=True, slots=True)
class Window:
    """Latencies of one window: start (epoch µs), length (µs) and histogram."""

    start_us: int
    length_us: int
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Mark:
    """An interval to shade in a picture, such as a migration from first cut to completion."""

    start_us: int
    end_us: int
    label: str


class LatencyMs(TypedDict):
    """Percentiles in milliseconds, with the number of records behind them."""

    count: int
    p50: float
    p99: float
    p999: float
    max: float


class TimelinePoint(TypedDict):
    """One window of a timeline; times are epoch µs."""

    t_us: int
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def windows_of(documents: Iterable[WindowDocument], window_us: int) -> list[Window]:
    """The windows of a printed timeline (`consumed` or `intended`)."""
    return [
        Window(document["t_us"], window_us, Histogram.of_document(document["histogram"]))
        for document in documents
    ]


def split(
    windows: Iterable[Window], ranges: Sequence[tuple[int, int]], *, margin_us: int = 0
) -> tuple[Histogram, Histogram]:
    """Merge the windows within the ranges, and those outside.

    Args:
        windows: of one timeline.
        ranges: (start, end) in epoch µs.
        margin_us: windows this near to a range, but not in it, count on neither side.

    Returns:
        (inside, outside).
    """
    inside, outside = Histogram(), Histogram()
    for window in windows:
        if _touches(window, ranges, 0):
            inside.add(window.histogram)
        elif not _touches(window, ranges, margin_us):
            outside.add(window.histogram)
    return inside, outside


def latency_ms(histogram: Histogram) -> LatencyMs:
    """The percentiles every summary shows."""
    return {
        "count": histogram.count,
        "p50": histogram.quantile(0.5) / 1000,
        "p99": histogram.quantile(0.99) / 1000,
        "p999": histogram.quantile(0.999) / 1000,
        "max": histogram.max_us / 1000,
    }


def ccdf_ms(histogram: Histogram) -> list[tuple[float, float]]:
    """(latency in ms, share of records above it), latencies ascending."""
    return [(value / 1000, above) for value, above in histogram.ccdf()]


def timeline(windows: Iterable[Window]) -> list[TimelinePoint]:
    """Percentiles per window."""
    return [
        {
            "t_us": window.start_us,
            "count": window.histogram.count,
            "p50_ms": window.histogram.quantile(0.5) / 1000,
            "p99_ms": window.histogram.quantile(0.99) / 1000,
            "max_ms": window.histogram.max_us / 1000,
        }
        for window in windows
    ]


def timeline_png(
    path: Path, windows: Sequence[Window], marks: Sequence[Mark] = (), *, title: str = ""
) -> None:
    """Draw median, 99th percentile and maximum per window over time, with the marks shaded.

    Below it, records per second. Time runs in seconds from the first window or mark.

    Raises:
        ValueError: no window has a record.
    """
    filled = [window for window in windows if window.histogram.count]
    if not filled:
        raise ValueError("no latencies to draw: the measurement has no records")
    start = min([filled[0].start_us, *(mark.start_us for mark in marks)])
    figure = _figure(11, 5.6, title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_latency(top, filled, start)
    _draw_rate(bottom, filled, start)
    for axes in (top, bottom):
        for mark in marks:
            first, last = (mark.start_us - start) / 1e6, (mark.end_us - start) / 1e6
            axes.axvspan(first, last, color=_SHADE, alpha=0.22, linewidth=0, zorder=0)
    for mark in marks:
        top.annotate(
            mark.label,
            ((mark.start_us + mark.end_us - 2 * start) / 2e6, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color="#4f6a35",
        )
    began = datetime.fromtimestamp(start / 1e6, UTC)
    bottom.set_xlabel(f"seconds since {began:%Y-%m-%d %H:%M:%S} UTC")
    figure.savefig(path, dpi=140)


def ccdf_png(path: Path, series: Mapping[str, Histogram], *, title: str = "") -> None:
    """Draw, per labelled histogram, the share of records slower than each latency.

    Raises:
        ValueError: no histogram has a record.
    """
    if not any(histogram.count for histogram in series.values()):
        raise ValueError("no latencies to draw: the measurement has no records")
    figure = _figure(7.5, 5, title)
    axes = figure.subplots()
    least = 1.0
    for label, histogram in series.items():
        # The last point, above which there is nothing, has no place on a log axis.
        points = [point for point in ccdf_ms(histogram) if point[1] > 0]
        if points:
            axes.step(*zip(*points), where="post", linewidth=1.6, label=label)
            least = min(least, points[-1][1])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(least / 2, 1.2)
    axes.set_xlabel("latency, ms (intended send time to consumed result)")
    axes.set_ylabel("share of records slower")
    _label_decades(axes.xaxis)
    _clean(axes)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=140)


def _touches(window: Window, ranges: Sequence[tuple[int, int]], margin_us: int) -> bool:
    end = window.start_us + window.length_us
    return any(
        start - margin_us < end and window.start_us <= last + margin_us for start, last in ranges
    )


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    return figure


def _draw_latency(axes: Axes, windows: Sequence[Window], start_us: int) -> None:
    times = [(w.start_us + w.length_us / 2 - start_us) / 1e6 for w in windows]
    lines = {
        "max": [w.histogram.max_us / 1000 for w in windows],
        "p99": [w.histogram.quantile(0.99) / 1000 for w in windows],
        "p50": [w.histogram.quantile(0.5) / 1000 for w in windows],
    }
    for label, values in lines.items():
        axes.plot(
            times,
            values,
            label=label,
            color=_COLOURS[label],
            linewidth=1.4 if label != "max" else 1.0,
        )
    axes.set_yscale("log")
    least, most = min(lines["p50"]), max(lines["max"])
    axes.set_ylim(max(least, 0.1) / 1.6, max(most, 1.0) * 1.6)
    _label_decades(axes.yaxis)
    axes.set_ylabel("latency, ms")
    axes.legend(loc="upper right", frameon=False, ncols=3, fontsize=9)
    _clean(axes)


def _draw_rate(axes: Axes, windows: Sequence[Window], start_us: int) -> None:
    times = [(w.start_us + w.length_us / 2 - start_us) / 1e6 for w in windows]
    rates = [w.histogram.count * 1e6 / w.length_us for w in windows]
    axes.fill_between(times, rates, color=_COLOURS["p50"], alpha=0.25, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("records/s")
    axes.yaxis.set_major_formatter(_plain)
    _clean(axes)


def _label_decades(axis: Axis) -> None:
    """Labels at 1, 2 and 5 of each decade: a latency axis rarely spans more than two."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(_plain)
    axis.set_minor_locator(NullLocator())


def _plain(value: float, _position: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _clean(axes: Axes) -> None:
    axes.grid(visible=True, which="major", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
