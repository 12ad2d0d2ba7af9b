"""What the runs in memory come to: figures with their bounds.

Flow: Runs -> [memory_figures] -> document. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.bench.document import Figure
from service.bench.nexmark.latencies import Latency
from service.bench.nexmark.paced import PacedRun
from service.bench.nexmark.runs import QueryRuns, Runs

#: Events a second that every query must reach in memory, and the three without state.
RATE, RATE_STATELESS = 1e6, 8e6
_STATELESS = ("q0", "q1", "q2")
#: How many times faster than the peer.
OVER_PEER = 20.0


def memory_figures(made: Runs) -> Iterator[Figure]:
    """The figures, query by query."""
    for each in made.queries:
        name = f"{each.query}: in memory"
        bound = RATE_STATELESS if each.query in _STATELESS else RATE
        yield Figure.of(f"{name}, 1 worker", "events/s", each.rates, at_least=bound)
        yield Figure.of(f"{name}, peak memory", "MB", [used / 1e6 for used in each.memory])
        if each.ratios:
            yield Figure.of(f"{each.query}: {made.peer}", "events/s", each.peers)
            ratio = f"{name} over {made.peer}, same stream"
            yield Figure.of(ratio, "", each.ratios, at_least=OVER_PEER)
        yield from _checks(each)
        for load, runs in each.paced.items():
            yield from _paced(f"{name}, at {load.label}", each, runs)
        for strategy, runs in each.moving.items():
            yield from _paced(f"{name}, {strategy}", each, runs)


def _checks(each: QueryRuns) -> Iterator[Figure]:
    for check in each.checks:
        name = f"{each.query}: differences from the oracle, {check.label}"
        yield Figure.of(name, "", [len(check.wrong)], at_most=0)
        used = f"{each.query}: peak memory, {check.label}"
        yield Figure.of(used, "MB", [check.ran.peak_bytes / 1e6])
        if check.migration != "none":
            moved = f"{each.query}: moved, {check.label}"
            yield Figure.of(moved, "bytes", [check.ran.moved_bytes])


def _paced(name: str, each: QueryRuns, runs: Sequence[PacedRun]) -> Iterator[Figure]:
    yield Figure.of(f"{name}: rate", "events/s", [run.rate for run in runs])
    shares = [100 * run.rate / each.maximum for run in runs]
    yield Figure.of(f"{name}: of the maximum", "%", shares)
    yield from _latencies(f"{name}: steady", [run.steady for run in runs])
    yield from _latencies(f"{name}: moving", [run.moving for run in runs])
    if any(run.moved_bytes for run in runs):
        yield Figure.of(f"{name}: moved", "bytes", [run.moved_bytes for run in runs])
        took = [run.duration_ms for run in runs]
        yield Figure.of(f"{name}: longer of the two moves", "ms", took)
    yield Figure.of(f"{name}: peak memory", "MB", [run.peak_bytes / 1e6 for run in runs])


def _latencies(name: str, found: Sequence[Latency | None]) -> Iterator[Figure]:
    there = [each for each in found if each is not None]
    if there:
        yield Figure.of(f"{name} p50", "ms", [each.p50 for each in there])
        yield Figure.of(f"{name} p99", "ms", [each.p99 for each in there])
        yield Figure.of(f"{name} max", "ms", [each.max for each in there])
