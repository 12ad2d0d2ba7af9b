"""The runs in memory for people: one table on the terminal, one section of the HTML page.

Flow: Runs -> [memory_rows] -> table_of_rows of `report`, and the page. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from service.bench.nexmark.latencies import latency_cells
from service.bench.nexmark.paced import PacedRun
from service.bench.nexmark.runs import QueryRuns, Runs

MEMORY_HEAD = (
    "query",
    "events/s",
    "peer events/s",
    "times the peer",
    "exact runs",
    "bytes moved",
    "peak MB",
    "moves",
    "load",
    "at events/s",
    "p50 ms",
    "p99 ms",
    "max ms",
    "moving p99",
    "moving max",
    "took ms",
    "load MB",
)


def memory_rows(made: Runs) -> Iterator[tuple[str, ...]]:
    """A row for each query and share, and each query and strategy; what they share stands once."""
    for each in made.queries:
        query = _query(each)
        loads = [("none", runs) for runs in each.paced.values()] + list(each.moving.items())
        if not loads:
            yield (*query, *[""] * (len(MEMORY_HEAD) - len(query)))
        for moves, runs in loads:
            yield (*query, *_load(each, moves, runs))
            query = (each.query, *[""] * (len(query) - 1))


def _query(each: QueryRuns) -> tuple[str, ...]:
    right = sum(not check.wrong for check in each.checks)
    moved = max((check.ran.moved_bytes for check in each.checks), default=0)
    return (
        each.query,
        f"{median(each.rates):,.0f}" if each.rates else "",
        f"{median(each.peers):,.0f}" if each.peers else "",
        f"{median(each.ratios):.1f}" if each.ratios else "",
        f"{right} of {len(each.checks)}",
        f"{moved:,}" if moved else "",
        f"{median(each.memory) / 1e6:,.0f}" if each.memory else "",
    )


def _load(each: QueryRuns, moves: str, runs: Sequence[PacedRun]) -> tuple[str, ...]:
    """Medians of the runs at one rate."""
    rate = median(run.rate for run in runs)
    _, *moving = latency_cells([run.moving for run in runs])
    took = median(run.duration_ms for run in runs)
    return (
        moves,
        f"{100 * rate / each.maximum:.3g} %",
        f"{rate:,.0f}",
        *latency_cells([run.steady for run in runs]),
        *moving,
        f"{took:,.0f}" if moves != "none" else "",
        f"{median(run.peak_bytes for run in runs) / 1e6:,.0f}",
    )
