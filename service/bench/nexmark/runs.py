"""The runs of the NEXMark bench in memory: timed ones, compared ones, paced ones, a peer's.

Flow: SuiteOptions -> [make_runs] -> Runs -> memory_figures -> document, and
memory_report -> table, page.

Invariants
  NR1  A ratio is taken inside a run: ours and the peer's are measured one after the other, on one
       core, on the same stream; the peer is given as much of it as has `peer_events` of what the
       query reads, as it takes some us for each. Both take long beside their start.
  NR2  Every rate is of runs whose rows are those of the oracle, or the figure says so.
  NR3  Latency is at shares of the median of the timed runs, with one worker as they have. While
       state moves there are two, and half of the maximum or, so that moves fit into the stream, as
       much as lets it last four seconds; the figure says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from service.bench.nexmark.beside import can_express, run_beside
from service.bench.nexmark.latencies import Latency
from service.bench.nexmark.loads import Load, loads_of
from service.bench.nexmark.memory import MemoryOptions, Ran, run_query
from service.bench.nexmark.oracle import Recorded, differences, expected
from service.bench.nexmark.paced import PacedRun, run_paced
from service.bench.nexmark.stream import Drawn, StreamOptions, drawn
from service.bench.one_core import one_core
from service.bench.peers import Peer
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import stateful_of
from service.nexmark.queries import BUILT_IN
from service.nexmark.query_topics import QueryTopics
from service.nexmark.rules import RULES

#: Rows that are read at once in the runs that are timed.
_ROWS = 65_536
#: Workers of the runs in which state moves.
_WORKERS = 2
#: How long a stream lasts at least while state moves.
_MOVING_S = 4.0


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """What is run."""

    queries: Sequence[str]
    events: int
    check_events: int
    #: Sizes of the groups that events are shuffled in.
    groups: Sequence[int]
    migrations: Sequence[str]
    runs: int
    #: Events that a peer is given, of those that the query reads.
    peer_events: int
    #: Percent of the maximum at which latency is seen, rising.
    shares: Sequence[int]
    #: Runs at each, and of each strategy.
    load_runs: int


@dataclass(frozen=True, slots=True)
class Check:
    """One run that was compared with the oracle."""

    group: int
    migration: str
    #: What is wrong, in words.
    wrong: list[str]
    ran: Ran

    @property
    def label(self) -> str:
        """How the events came and what moved."""
        return f"{'in order' if self.group == 1 else 'out of order'}, {self.migration}"


@dataclass(frozen=True, slots=True)
class QueryRuns:
    """All that was measured of a query."""

    query: str
    checks: list[Check] = field(default_factory=list)
    #: Events a second.
    rates: list[float] = field(default_factory=list)
    peers: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    #: Greatest resident memory of each timed run, bytes.
    memory: list[int] = field(default_factory=list)
    #: Runs at each share of the maximum, without a move.
    paced: dict[Load, list[PacedRun]] = field(default_factory=dict)
    #: Runs while state moves, by strategy.
    moving: dict[str, list[PacedRun]] = field(default_factory=dict)

    @property
    def maximum(self) -> float:
        """Events a second of the timed runs."""
        return median(self.rates)


@dataclass(frozen=True, slots=True)
class Runs:
    """All that was measured."""

    options: SuiteOptions
    peer: str | None
    queries: list[QueryRuns]


def make_runs(
    options: SuiteOptions, peer: Peer | None, python: Path | None, say: Callable[[str], None]
) -> Runs:
    """Make all runs, and say what is done.

    Raises:
        MegaphoneError: a job or the peer failed, or the peer is not exact.
    """
    made = [QueryRuns(query) for query in options.queries]
    for group in options.groups:
        stream = drawn(StreamOptions(options.check_events, group=group))
        for query in made:
            query.checks.extend(_checks(query.query, stream, options, say))
    full = drawn(StreamOptions(options.events))
    with one_core():
        for query in made:
            _time(query, full, options, peer, python)
            say(f"{query.query}: {max(query.rates):,.0f} events/s at best")
        recorded = full.recorded()
        for query in made:
            _pace(query, full, recorded, options, say)
    return Runs(options, None if peer is None else str(peer), made)


def _checks(
    query: str, stream: Drawn, options: SuiteOptions, say: Callable[[str], None]
) -> Iterator[Check]:
    wanted = expected(query, stream.recorded())
    for migration in options.migrations:
        if migration != "none" and not keeps_state(query):
            continue
        ran = run_query(query_flow(query, stream), stream, MemoryOptions(_WORKERS, migration))
        found = wanted.slice(0, 0) if ran.rows is None else ran.rows
        check = Check(stream.options.group, migration, differences(query, found, wanted), ran)
        say(f"{query} {check.label}: {'; '.join(check.wrong) or 'exact'}")
        yield check


def keeps_state(query: str) -> bool:
    """Whether there is anything to move."""
    return stateful_of(BUILT_IN[query](QueryTopics()).vertices) > 0


def query_flow(query: str, stream: Drawn) -> Flow:
    """The query, told how far the stream is out of order."""
    late = f"{stream.options.out_of_order_ms}ms"
    return BUILT_IN[query](QueryTopics(out_of_orderness=late))


def _time(
    made: QueryRuns, full: Drawn, options: SuiteOptions, peer: Peer | None, python: Path | None
) -> None:
    """Run for the clock, the first time for nothing."""
    query, once = made.query, MemoryOptions(rows=_ROWS)
    some = full.beginning(RULES[query].inputs, options.peer_events)
    run_query(query_flow(query, full), full.beginning(RULES[query].inputs, _ROWS), once)
    for _ in range(options.runs):
        ran = run_query(query_flow(query, full), full, once)
        ours = full.events / ran.seconds
        made.rates.append(ours)
        made.memory.append(ran.peak_bytes)
        if python is None or peer is None or not can_express(query):
            continue
        module = f"service.bench.nexmark.{peer}_side"
        theirs = some.events / run_beside(python, module, query, some).seconds
        made.peers.append(theirs)
        made.ratios.append(ours / theirs)


def _pace(
    made: QueryRuns,
    full: Drawn,
    recorded: Recorded,
    options: SuiteOptions,
    say: Callable[[str], None],
) -> None:
    """Latency at each share, and while state moves (NR3)."""
    query = made.query
    moving = [each for each in options.migrations if each != "none" and keeps_state(query)]
    at_most = max(1, min(round(made.maximum / 2), round(full.events / _MOVING_S)))
    for _ in range(options.load_runs):
        for load in loads_of(made.maximum, options.shares):
            run = run_paced(query, query_flow(query, full), full, recorded, load.rate)
            made.paced.setdefault(load, []).append(run)
            say(f"{query} at {load.label}: p99 {_p99(run.steady)}")
        for strategy in moving:
            how = MemoryOptions(_WORKERS, strategy)
            run = run_paced(query, query_flow(query, full), full, recorded, at_most, how)
            made.moving.setdefault(strategy, []).append(run)
            told = f"p99 {_p99(run.steady)}, moving {_p99(run.moving)}"
            say(f"{query} {strategy} at {at_most:,} events/s: {told}")


def _p99(found: Latency | None) -> str:
    return "none" if found is None else f"{found.p99:.1f} ms"


def is_exact(each: QueryRuns) -> bool:
    """Whether every run compared was right."""
    return bool(each.checks) and not any(check.wrong for check in each.checks)
