"""The runs through Kafka for people: one table on the terminal, one section of the HTML page.

Flow: KafkaRuns -> [kafka_rows] -> table_of_rows of `report`, and the page. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from service.bench.nexmark.latencies import latency_cells
from service.bench.nexmark.loads import Kind, Load
from service.bench.nexmark.open_loop import LoopRun
from service.bench.nexmark.through import KafkaQuery, KafkaRuns

KAFKA_HEAD = (
    "query",
    "backlog events/s",
    "sustained",
    "exact runs",
    "moves",
    "load",
    "events/s",
    "late",
    "p50 ms",
    "p99 ms",
    "max ms",
    "moving p99",
    "moving max",
    "moved bytes",
    "took ms",
    "worker MB",
    "peer events/s",
    "times the peer",
)


def kafka_rows(made: KafkaRuns) -> Iterator[tuple[str, ...]]:
    """A row for each query, order, strategy and share; what all of a query share stands once."""
    for each in made.queries:
        first = True
        for kind, loops in each.loops.items():
            for place, load in enumerate(each.loads):
                cells = _load(kind, load, loops, place)
                yield (*_query(each, shown=first), *cells, *_peer(each, shown=first))
                first = False


def _query(each: KafkaQuery, *, shown: bool) -> tuple[str, ...]:
    if not shown:
        return each.query, "", "", ""
    runs = each.comparisons
    right = sum(not wrong for wrong in runs)
    held = "" if each.stairs is None else f"{each.sustained:,}"
    return each.query, f"{median(each.rates):,.0f}", held, f"{right} of {len(runs)}"


def _load(kind: Kind, load: Load, loops: Sequence[LoopRun], place: int) -> tuple[str, ...]:
    """Medians of the runs under one load."""
    at = [loop.rates[place] for loop in loops]
    moving = [each.moving for each in at if each.moving is not None]
    moved = ("", "")
    if moving:
        moved = (
            f"{median(each.moved_bytes for each in at):,.0f}",
            f"{median(each.duration_ms for each in at):,.0f}",
        )
    _, moving_p99, moving_max = latency_cells(moving)
    return (
        kind.label,
        load.label,
        f"{at[0].rate:,}",
        f"{median(each.late for each in at):.2%}",
        *latency_cells([each.steady for each in at]),
        moving_p99,
        moving_max,
        *moved,
        f"{median(loop.worker_bytes for loop in loops) / 1e6:,.0f}",
    )


def _peer(each: KafkaQuery, *, shown: bool) -> tuple[str, str]:
    if not shown or not each.beside:
        return "", ""
    theirs = median(run.theirs for run in each.beside)
    return f"{theirs:,.0f}", f"{median(run.ratio for run in each.beside):.1f}"


def kafka_checks(made: KafkaRuns) -> Iterator[tuple[str, ...]]:
    """Each run that was compared with the oracle, and what came of it."""
    for each in made.queries:
        for number, run in enumerate(each.backlogs):
            told = "; ".join(run.wrong) or "exact"
            yield each.query, f"through Kafka, backlog {number + 1}", f"{run.seconds:.3f}", told
        for check in each.moving:
            told = "; ".join(check.wrong) or "exact"
            yield each.query, f"through Kafka, {check.label}", "", told
