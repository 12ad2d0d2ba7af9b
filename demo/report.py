"""Writes what a run leaves behind: summary.json, latency.png and index.html, and a closing table.

Flow: Summary, windows of the meter -> report folder; Summary -> terminal.
The page carries its picture and its style: it can be sent as one file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from demo.summary import Bound, Check, MigrationSummary, Summary
from loadgen.report import LatencyMs, Mark, Window, timeline_png

SUMMARY = "summary.json"
PICTURE = "latency.png"
PAGE = "index.html"

_MIB = 1 << 20


def clear(folder: Path) -> None:
    """Make the folder and remove an earlier run's report, lest it be taken for this one's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SUMMARY, PICTURE, PAGE):
        (folder / name).unlink(missing_ok=True)


def write(folder: Path, summary: Summary, windows: Sequence[Window]) -> None:
    """Write the report of a run.

    Args:
        folder: exists.
        summary: what was found out.
        windows: latencies by intended time; without any the page has no picture.
    """
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
    picture = b""
    if any(window.histogram.count for window in windows):
        marks = [
            Mark(m["first_cut"], m["first_cut"] + m["duration_ms"] * 1000, _mark(m))
            for m in summary["migrations"]
        ]
        timeline_png(folder / PICTURE, windows, marks, title="Latency through the run")
        picture = (folder / PICTURE).read_bytes()
    (folder / PAGE).write_text(page(summary, picture), encoding="utf-8")


def page(summary: Summary, picture: bytes) -> str:
    """The report as one HTML page."""
    template = resources.files("demo") / "report.html"
    good = summary["results_exact"]
    proof = summary["proof"]
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=f"megaphone demo, {summary['started']}",
        subtitle=escape(_subtitle(summary)),
        verdict_class="good" if good else "",
        verdict="every result exact" if good else "not exact",
        numbers="".join(
            f"<div><b>{value}</b><span>{name}</span></div>" for value, name in _numbers(summary)
        ),
        notes="".join(f'<p class="soft">{escape(note)}</p>' for note in summary["notes"]),
        picture=base64.b64encode(picture).decode(),
        latency="\n".join(
            _row([name, *_latency_cells(latency)])
            for name, latency in (
                ("steady", summary["latency_ms"]["steady"]),
                ("while migrating", summary["latency_ms"]["migrating"]),
            )
        ),
        migrations="\n".join(_row(_migration_cells(m)) for m in summary["migrations"]),
        proof=f"{summary['outputs_compared']:,} outputs over {proof['bids']:,} bids and "
        f"{proof['auctions']:,} auctions; {proof['ownership_changes_seen']:,} of "
        f"{proof['ownership_changes']:,} changes of a bin's owner seen in the outputs.",
        checks="\n".join(_check_row(check) for check in proof["checks"]),
        bounds="\n".join(_bound_row(bound) for bound in summary["bounds"]),
        facts="\n".join(_row(fact) for fact in _facts(summary)),
    )


def print_closing(console: Console, summary: Summary, folder: Path) -> None:
    """Print the numbers that matter and where the report is."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="grey58", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="grey58")
    proof = summary["proof"]
    for row in _closing_rows(summary):
        table.add_row(*row)
    console.print(Padding(table, (0, 2)))
    for check in proof["checks"]:
        if check["violations"]:
            console.print(f"  [red]✗[/] {check['claim']}: {check['violations']:,} violations")
            for sample in check["samples"]:
                console.print(Text(f"      {sample}", style="grey58"))
    for note in summary["notes"]:
        console.print(Padding(Text(f"note: {note}", style="yellow"), (1, 2, 0, 2)))
    console.print(Padding(Text(f"report: {folder / PAGE}", style="bold"), (1, 2)))


def _closing_rows(summary: Summary) -> Iterable[tuple[str, str | Text, str]]:
    exact, proof = summary["results_exact"], summary["proof"]
    yield (
        "results",
        Text("exact" if exact else "NOT EXACT", style="bold green" if exact else "bold red"),
        f"{summary['outputs_compared']:,} outputs over {proof['bids']:,} bids",
    )
    yield (
        "throughput",
        f"{summary['throughput_events_per_second']:,.0f}/s",
        f"{summary['events_processed']:,} of {summary['events_published']:,} events, "
        f"{summary['generator']['late_fraction']:.2%} sent late",
    )
    latency = summary["latency_ms"]
    for name, of in (("steady", latency["steady"]), ("migrating", latency["migrating"])):
        yield (
            f"p99 {name}",
            f"{of['p99']:.1f} ms",
            f"p50 {of['p50']:.1f}, max {of['max']:.1f} ms over {of['count']:,} results",
        )
    for move in summary["migrations"]:
        yield (
            f"move {move['id']}",
            f"{move['duration_ms'] / 1000:.2f} s",
            f"{move['bins']} bins, {move['bytes'] / _MIB:.1f} MiB, {move['waves']} waves",
        )
    yield (
        "ownership",
        f"{proof['ownership_changes_seen']:,}",
        f"of {proof['ownership_changes']:,} changes of a bin's owner seen in the outputs",
    )
    yield "state", f"{summary['state_rows']:,}", "rows"
    yield "machine", f"{summary['machine']['stall_ms']:.1f} ms", "longest stall"


def _mark(migration: MigrationSummary) -> str:
    return f"{migration['id']}: {migration['bins']} bins in {migration['waves']} waves"


def _subtitle(summary: Summary) -> str:
    parameters = summary["parameters"]
    return (
        f"NEXMark on Apache Kafka, {summary['started']}: {parameters['rate']:,} events/s for "
        f"{parameters['seconds']:g} s over {parameters['state_keys']:,} loaded auctions, "
        f"{parameters['workers']} workers, {parameters['gateways']} gateway(s), "
        f"{parameters['bins']:,} bins."
    )


def _numbers(summary: Summary) -> Iterable[tuple[str, str]]:
    latency = summary["latency_ms"]
    yield f"{summary['throughput_events_per_second']:,.0f}", "events per second"
    yield f"{latency['steady']['p99']:.1f} ms", "p99, steady"
    yield f"{latency['migrating']['p99']:.1f} ms", "p99 while bins moved"
    yield f"{latency['migrating']['max']:.1f} ms", "longest while bins moved"
    yield f"{summary['outputs_compared']:,}", "outputs compared"
    yield f"{summary['state_rows']:,}", "rows of state"


def _latency_cells(latency: LatencyMs) -> list[str]:
    return [
        f"{latency['count']:,}",
        f"{latency['p50']:.1f} ms",
        f"{latency['p99']:.1f} ms",
        f"{latency['p999']:.1f} ms",
        f"{latency['max']:.1f} ms",
    ]


def _migration_cells(migration: MigrationSummary) -> list[str]:
    return [
        migration["id"],
        f"{migration['bins']:,}",
        f"{migration['waves']:,}",
        f"{migration['bytes'] / _MIB:.1f} MiB",
        f"{migration['duration_ms'] / 1000:.2f} s",
    ]


def _check_row(check: Check) -> str:
    samples = "".join(f"<br><code>{escape(sample)}</code>" for sample in check["samples"])
    style = "no" if check["violations"] else "yes"
    return (
        f"<tr><td>{check['name']}</td>"
        f'<td class="text">{escape(check["claim"])}{samples}</td>'
        f'<td class="{style}">{check["violations"]:,}</td></tr>'
    )


def _bound_row(bound: Bound) -> str:
    met = '<td class="yes">met</td>' if bound["met"] else '<td class="no">missed</td>'
    return (
        f"<tr><td>{bound['name']}</td>"
        f"<td>{bound['value']:,.4g}</td><td>≤ {bound['bound']:,.4g}</td>"
        f'<td class="text">{bound["unit"]}</td>{met}</tr>'
    )


def _facts(summary: Summary) -> Iterable[list[str]]:
    yield ["events published", f"{summary['events_published']:,}"]
    yield ["events processed", f"{summary['events_processed']:,}"]
    yield ["largest lag", f"{summary['lag']['max']:,}"]
    for name, value in summary["machine"].items():
        yield [name.replace("_", " "), str(value)]
    for name, version in summary["versions"].items():
        yield [name, version]
    if summary["commit"] is not None:
        yield ["commit", summary["commit"]]


def _row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
