"""The NEXMark bench for people: one table on the terminal, one page of HTML.

Flow: Runs, KafkaRuns, BenchDocument -> [table_of], [page] -> text. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from string import Template

from service.bench.document import BenchDocument
from service.bench.nexmark.kafka_report import KAFKA_HEAD, kafka_checks, kafka_rows
from service.bench.nexmark.memory_report import MEMORY_HEAD, memory_rows
from service.bench.nexmark.runs import Runs, is_exact
from service.bench.nexmark.through import KafkaRuns
from service.nexmark.rules import RULES

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>NEXMark, $commit</title>
<style>
  body { margin: 0 auto; max-width: 80rem; padding: 3rem 1.5rem; color: #22272e; background: #fff;
         font: 16px/1.55 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
  h1 { font-size: 1.75rem; } h2 { margin-top: 2.5rem; font-size: 1.15rem; }
  table { width: 100%; border-collapse: collapse; font-size: .9rem; }
  th, td { padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #e3e6ea; text-align: right; }
  th { color: #6b7480; font-weight: 500; } .soft { color: #6b7480; } .bad { color: #b3261e; }
  th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
<h1>NEXMark</h1>
<p class="soft">Commit $commit. $machine. $parameters.</p>
$summary
<h2>Every figure</h2>
$figures
<h2>Runs that were compared with the oracle</h2>
$checks
</body>
</html>
""")


def table_of(made: Runs | None, kafka: KafkaRuns | None = None) -> str:
    """What a run ends with: a table of the runs in memory, one of those through Kafka."""
    parts = []
    if made is not None:
        parts.append(_aligned([MEMORY_HEAD, *memory_rows(made)]))
    if kafka is not None:
        parts.append(_aligned([KAFKA_HEAD, *kafka_rows(kafka)]))
    return "\n\n".join(parts)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *others]))
    return "\n".join(lines)


def page(document: BenchDocument, made: Runs | None, kafka: KafkaRuns | None = None) -> str:
    """The report as HTML, in one file."""

    def facts(of: object) -> str:
        assert isinstance(of, dict)
        return escape(", ".join(f"{name} {value}" for name, value in of.items()))

    figures = [
        (
            each.name,
            f"{each.median:,.6g} ({each.min:,.6g} to {each.max:,.6g})",
            each.unit,
            "" if each.bound is None else f"{each.bound:,g}",
            "" if each.met is None else "met" if each.met else "missed",
        )
        for each in document.figures
    ]
    return _PAGE.substitute(
        commit=escape(document.commit),
        machine=facts(dict(document.machine)),
        parameters=facts(dict(document.parameters)),
        summary=_summaries(made, kafka),
        figures=_table(("figure", "median (range)", "unit", "bound", ""), figures),
        checks=_table(
            ("query", "run", "seconds", "result"),
            [
                *([] if made is None else _checks(made)),
                *([] if kafka is None else kafka_checks(kafka)),
            ],
        ),
    )


def _summaries(made: Runs | None, kafka: KafkaRuns | None) -> str:
    """A heading and a table for each of the two."""
    parts = []
    if made is not None:
        parts.append(
            "<h2>In memory</h2>"
            + _table(MEMORY_HEAD, memory_rows(made))
            + _table(("query", "rule"), _rules(made))
        )
    if kafka is not None:
        parts.append("<h2>Through Kafka</h2>" + _table(KAFKA_HEAD, kafka_rows(kafka)))
    return "\n".join(parts)


def _rules(made: Runs) -> Iterator[tuple[str, ...]]:
    for each in made.queries:
        right = "" if is_exact(each) else " (not exact)"
        yield each.query, RULES[each.query].meaning + right


def _checks(made: Runs) -> Iterator[tuple[str, ...]]:
    for each in made.queries:
        for check in each.checks:
            yield (
                each.query,
                check.label,
                f"{check.ran.seconds:.3f}",
                "; ".join(check.wrong) or "exact",
            )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]] | Iterator[Sequence[str]]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{cells(head, 'th')}</tr>\n{body}\n</table>"
