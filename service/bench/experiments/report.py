"""One page that sets what was measured here beside what the paper prints.

Flow: groups, Store, pictures -> [page] -> report.html, which carries its pictures and can be sent
as one file.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from service.bench.experiments import paper
from service.bench.experiments.charts import NAMES
from service.bench.experiments.results import Result, read_result
from service.bench.experiments.sets import Group
from service.bench.experiments.store import Store
from service.bench.words.options import WordOptions

TITLES = {
    "overhead-hash": "What bins cost: hash-count",
    "overhead-vec": "What bins cost: key-count",
    "bins": "Moves by number of bins",
    "domain": "Moves by size of the state",
    "domain-hash": "Moves by size of the state, hash-count",
    "keys-per-bin": "Moves with as many keys in each bin",
    "rate": "Moves by rate",
    "timeline": "The course of a run",
    "memory": "Memory during a move",
}


def page(
    groups: Sequence[Group],
    store: Store,
    pictures: Mapping[str, Path],
    machine: Mapping[str, object],
    commit: str,
) -> str:
    """The report as HTML."""
    template = resources.files("service.bench.experiments") / "report.html"
    sections = []
    for group in groups:
        table = _overhead(group, store) if group.name.startswith("overhead") else None
        rows = table if table is not None else _moves(group, store)
        sections.append(_section(group.name, pictures, rows))
        for beside in ("timeline", "memory") if group.name == "domain" else ():
            sections.append(_section(beside, pictures, ()))
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=f"Megaphone's experiments, {escape(commit)}",
        subtitle=escape(f"Commit {commit}. {facts}."),
        sections="\n".join(sections),
        footer="2 workers, one process and one thread each, over loopback; the paper: 16 workers "
        "on 4 machines, 256 to 512 times as many keys, runs of 1,200 s. A quarter of all bins "
        "moves; the second move of a run is shown.",
    )


def _section(name: str, pictures: Mapping[str, Path], rows: Iterable[Sequence[str]]) -> str:
    picture = base64.b64encode(pictures[name].read_bytes()).decode()
    return "\n".join(
        (
            f"<h2>{TITLES[name]}</h2>",
            f'<p class="paper">Paper: {escape(paper.SAYS[name])}</p>',
            f'<img src="data:image/png;base64,{picture}" alt="{TITLES[name]}">',
            _table(rows),
        )
    )


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = list(rows)
    if not lines:
        return ""
    head, *body = lines
    cells = [_row("th", head), *(_row("td", row) for row in body)]
    return '<div class="scroll"><table>\n' + "\n".join(cells) + "\n</table></div>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _overhead(group: Group, store: Store) -> Iterator[Sequence[str]]:
    theirs = paper.KEY_COUNT if group.name.endswith("vec") else paper.HASH_COUNT
    ours = [f"{column}, ms" for column in paper.COLUMNS]
    yield ["bins", *ours, *(f"paper {column}, ms" for column in paper.COLUMNS)]
    for options in group.runs:
        bits = None if options.backend.native else options.bin_bits
        result = read_result(store.lines(options), options.duration_ns)
        measured = [*(result.at_share(share) for share in paper.SLOWER), result.max_ms]
        printed = theirs.get(bits)
        yield [
            "native" if bits is None else f"2^{bits}",
            *(f"{value:.2f}" for value in measured),
            *(("",) * 4 if printed is None else (f"{value:,.2f}" for value in printed)),
        ]


def _moves(group: Group, store: Store) -> Iterator[Sequence[str]]:
    yield [
        group.varied,
        "strategy",
        "waves",
        "MB moved",
        "duration, s",
        "max by frontier, ms",
        "max of moved bins, ms",
        "max of other bins, ms",
        "peak over steady, MiB",
    ]
    for options in group.runs:
        result = read_result(store.lines(options), options.duration_ns)
        if (plan := result.shown) is not None:
            yield [f"{getattr(options, group.varied):,}", *_move(options, result, plan)]


def _move(options: WordOptions, result: Result, plan: tuple[int, int]) -> Iterator[str]:
    numbers = [
        n for n, (cut, done) in enumerate(result.waves) if plan[0] <= cut and done <= plan[1]
    ]
    yield NAMES[options.migration]
    yield f"{len(numbers):,}"
    yield f"{sum(result.bytes[n] for n in numbers) / 1e6:,.1f}"
    yield f"{(plan[1] - plan[0]) / 1e9:.2f}"
    for timeline in ("summary_timeline", "record_timeline_moved", "record_timeline_stayed"):
        yield f"{result.max_during(plan, timeline):,.1f}"
    yield f"{_peak_over_steady(result) / (1 << 20):,.0f}"


def _peak_over_steady(result: Result) -> int:
    first = result.plans[0][0]
    steady = sorted(size for at, size in result.rss if 0 <= at < first)
    peak = max((size for at, size in result.rss if at >= first), default=0)
    return peak - steady[len(steady) // 2] if steady else 0
