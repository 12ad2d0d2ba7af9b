"""The runs of the NEXMark bench: timed ones, compared ones, a peer's.

Flow: SuiteOptions -> [make_runs] -> Runs -> [figures_of] -> document, table, report.

Invariants
  NR1  A ratio is taken inside a run: ours and the peer's are measured one after the other, on one
       core, on the same stream; the peer is given as much of it as has `peer_events` of what the
       query reads, as it takes some us for each. Both take long beside their start.
  NR2  Every rate is of runs whose rows are those of the oracle, or the figure says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.bench.document import Figure
from service.bench.nexmark.beside import can_express, run_beside
from service.bench.nexmark.memory import MemoryOptions, Ran, run_query
from service.bench.nexmark.oracle import differences, expected
from service.bench.nexmark.stream import Drawn, StreamOptions, drawn
from service.bench.one_core import one_core
from service.bench.peers import Peer
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import stateful_of
from service.nexmark.queries import BUILT_IN
from service.nexmark.query_topics import QueryTopics
from service.nexmark.rules import RULES

#: Events a second that every query must reach in memory, and the three without state.
RATE, RATE_STATELESS = 1e6, 8e6
_STATELESS = ("q0", "q1", "q2")
#: How many times faster than the peer.
OVER_PEER = 20.0
#: Rows that are read at once in the runs that are timed.
_ROWS = 65_536
#: Workers of the runs in which state moves.
_WORKERS = 2


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
    return Runs(options, None if peer is None else str(peer), made)


def _checks(
    query: str, stream: Drawn, options: SuiteOptions, say: Callable[[str], None]
) -> Iterator[Check]:
    wanted = expected(query, stream.recorded())
    keeps_state = stateful_of(BUILT_IN[query](QueryTopics()).vertices) > 0
    for migration in options.migrations:
        if migration != "none" and not keeps_state:
            continue
        ran = run_query(query_flow(query, stream), stream, MemoryOptions(_WORKERS, migration))
        found = wanted.slice(0, 0) if ran.rows is None else ran.rows
        check = Check(stream.options.group, migration, differences(query, found, wanted), ran)
        say(f"{query} {check.label}: {'; '.join(check.wrong) or 'exact'}")
        yield check


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
        ours = full.events / run_query(query_flow(query, full), full, once).seconds
        made.rates.append(ours)
        if python is None or peer is None or not can_express(query):
            continue
        module = f"service.bench.nexmark.{peer}_side"
        theirs = some.events / run_beside(python, module, query, some).seconds
        made.peers.append(theirs)
        made.ratios.append(ours / theirs)


def figures_of(made: Runs) -> Iterator[Figure]:
    """The figures, query by query."""
    for each in made.queries:
        bound = RATE_STATELESS if each.query in _STATELESS else RATE
        yield Figure.of(
            f"{each.query}: in memory, 1 worker", "events/s", each.rates, at_least=bound
        )
        if each.ratios:
            yield Figure.of(f"{each.query}: {made.peer}", "events/s", each.peers)
            ratio = f"{each.query}: in memory over {made.peer}, same stream"
            yield Figure.of(ratio, "", each.ratios, at_least=OVER_PEER)
        for check in each.checks:
            name = f"{each.query}: differences from the oracle, {check.label}"
            yield Figure.of(name, "", [len(check.wrong)], at_most=0)
            if check.migration != "none":
                moved = f"{each.query}: moved, {check.label}"
                yield Figure.of(moved, "bytes", [check.ran.moved_bytes])


def is_exact(each: QueryRuns) -> bool:
    """Whether every run compared was right."""
    return bool(each.checks) and not any(check.wrong for check in each.checks)
