"""The runs of the NEXMark bench through Kafka: backlogs, moving state, load by a schedule, a peer.

Flow: KafkaOptions -> [make_kafka_runs] on a broker -> KafkaRuns -> kafka_figures -> document,
table, report.

Invariants
  TK1  A rate is of runs whose results are those of the oracle, or the figure of differences says
       not.
  TK2  A ratio (moving to steady, ours to a peer's) and an allowance (a run's own stall) are taken
       inside a run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from service.bench.nexmark.backlog import (
    MOVING_WORKERS,
    BacklogRun,
    MovingRun,
    run_backlog,
    run_moving,
)
from service.bench.nexmark.beside_kafka import BesideKafka, can_read, run_beside_kafka
from service.bench.nexmark.jobs import JobOptions
from service.bench.nexmark.loads import Kind, Load, loads_of
from service.bench.nexmark.open_loop import WORKERS, LoopOptions, LoopRun, run_open_loop
from service.bench.nexmark.oracle import expected
from service.bench.nexmark.runs import keeps_state
from service.bench.nexmark.stream import Drawn, StreamOptions, drawn
from service.bench.nexmark.sustained import stairs_of, sustained
from service.bench.nexmark.topics import Place, publish
from service.clock import SystemClock
from service.nexmark.forms import Format
from service.nexmark.rules import RULES

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """What is run through Kafka."""

    queries: Sequence[str]
    #: Of a backlog.
    events: int
    check_events: int
    #: Sizes of the groups that events are shuffled in, of the runs that move.
    groups: Sequence[int]
    #: "none", or a strategy; the strategies also move state under load.
    migrations: Sequence[str]
    #: Sizes of the groups that events are shuffled in, of the runs under load.
    load_groups: Sequence[int]
    runs: int
    #: Runs under load, of each query, order and strategy.
    load_runs: int
    #: Percent of the maximum sustained rate, rising.
    shares: Sequence[int]
    #: Events a second beyond which no maximum is looked for; None: no cap.
    rate_max: int | None
    #: Of each share, before the first, and of each step in the search for the maximum.
    seconds: float
    warm_up: float
    step_seconds: float
    format: Format
    peer_events: int

    @property
    def strategies(self) -> list[str]:
        """Those of the migrations that move something."""
        return [each for each in self.migrations if each != "none"]


@dataclass(slots=True)
class KafkaQuery:
    """All that was measured of a query."""

    query: str
    #: Events of the stream, and how many of them are of types that the query reads.
    events: int = 0
    read: int = 0
    backlogs: list[BacklogRun] = field(default_factory=list)
    moving: list[MovingRun] = field(default_factory=list)
    #: The search for the maximum sustained rate.
    stairs: LoopRun | None = None
    #: What each of the loops goes through, rising.
    loads: list[Load] = field(default_factory=list)
    #: Nothing moves in a query without state.
    loops: dict[Kind, list[LoopRun]] = field(default_factory=dict)
    beside: list[BesideKafka] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Events a second of each backlog."""
        return [self.events / run.seconds for run in self.backlogs]

    @property
    def sustained(self) -> int:
        """The maximum sustained rate, events a second; 0: none that was tried."""
        return 0 if self.stairs is None else sustained(self.stairs.rates)

    @property
    def comparisons(self) -> list[list[str]]:
        """What is not as the oracle says, of each run that was compared."""
        return [run.wrong for run in self.backlogs] + [run.wrong for run in self.moving]


@dataclass(frozen=True, slots=True)
class KafkaRuns:
    """All that was measured through Kafka."""

    options: KafkaOptions
    queries: list[KafkaQuery]
    peer: str | None


def make_kafka_runs(
    bootstrap_servers: str, options: KafkaOptions, peer: tuple[str, Path] | None, say: Say
) -> KafkaRuns:
    """Make all runs, and say what is done.

    Args:
        bootstrap_servers: a broker; topics made here are removed again.
        options: what to run.
        peer: name and interpreter of a processor to run beside.
        say: is told of each step.

    Raises:
        MegaphoneError: a job, the generator, the meter or the peer failed.
    """
    suite = _Suite(Place(bootstrap_servers, options.format), options, say)
    made = [KafkaQuery(query) for query in options.queries]
    with suite.removed():
        stream = drawn(StreamOptions(options.events))
        publish(suite.place, suite.prefix("backlog"), stream.options)
        say(f"{options.events:,} events are in Kafka")
        for query in made:
            suite.moving(query)
            suite.backlogs(query, stream)
            suite.climb(query)
            suite.loops(query)
        if peer is not None:
            suite.beside(made, *peer)
    return KafkaRuns(options, made, None if peer is None else peer[0])


class _Suite:
    """The runs on one broker, under names that nobody else has."""

    def __init__(self, place: Place, options: KafkaOptions, say: Say) -> None:
        self.place = place
        self._options = options
        self._say = say
        self._name = f"megaphone-bench-{SystemClock().wall_us()}"
        self._apps = 0

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Remove every topic at the end."""
        try:
            yield
        finally:
            self.place.remove([self._name])

    def prefix(self, of: str) -> str:
        """Of topics of events."""
        return f"{self._name}-{of}"

    def moving(self, made: KafkaQuery) -> None:
        """Runs that are compared with the oracle while state moves."""
        for group in self._options.groups:
            stream = drawn(StreamOptions(self._options.check_events, group=group))
            wanted = expected(made.query, stream.recorded())
            stateful = keeps_state(made.query)
            for strategy in self._options.migrations if stateful else ["none"]:
                job = self._job(made.query, f"check-{self._apps}", stream.options, MOVING_WORKERS)
                with _folder() as folder:
                    run = run_moving(self.place, job, stream.options, wanted, strategy, folder)
                made.moving.append(run)
                self.place.remove([job.prefix])
                self._say(f"{made.query} {run.label}: {'; '.join(run.wrong) or 'exact'}")

    def backlogs(self, made: KafkaQuery, stream: Drawn) -> None:
        """Timed runs, on events that all queries share."""
        recorded = stream.recorded()
        wanted = expected(made.query, recorded)
        made.events = self._options.events
        made.read = sum(getattr(recorded, kind).num_rows for kind in RULES[made.query].inputs)
        for _ in range(self._options.runs):
            job = replace(self._job(made.query, "backlog", stream.options, 1), until_end=True)
            with _folder() as folder:
                made.backlogs.append(run_backlog(self.place, job, wanted, folder))
            wrong = "; ".join(made.backlogs[-1].wrong) or "exact"
            self._say(f"{made.query} backlog: {made.rates[-1]:,.0f} events/s, {wrong}")

    def climb(self, made: KafkaQuery) -> None:
        """Look for the maximum sustained rate, and say the loads that are shares of it."""
        cap = self._options.rate_max
        rates = stairs_of(median(made.rates), cap)
        loop = LoopOptions(rates, self._options.step_seconds, self._options.warm_up, None)
        made.stairs = self._loop(made.query, loop)
        capped = cap is not None and made.sustained >= cap
        # Nothing was sustained: the bounds are missed at shares of the least that was tried, too.
        made.loads = loads_of(made.sustained or rates[0], self._options.shares, capped=capped)
        self._say(f"{made.query} sustained {made.sustained:,} of up to {rates[-1]:,} events/s")

    def loops(self, made: KafkaQuery) -> None:
        """Runs under load, one for each order and strategy."""
        strategies: Sequence[str | None] = [None]
        if keeps_state(made.query):
            strategies = self._options.strategies or strategies
        kinds = [
            Kind(strategy, group) for group in self._options.load_groups for strategy in strategies
        ]
        for kind in kinds * self._options.load_runs:
            loop = LoopOptions(
                [load.rate for load in made.loads],
                # Nothing moves, so there need be no time beside it.
                self._options.seconds / (1 if kind.strategy else 2),
                self._options.warm_up,
                kind.strategy,
                kind.group,
            )
            run = self._loop(made.query, loop)
            made.loops.setdefault(kind, []).append(run)
            steady = [each.steady.p99 if each.steady else 0.0 for each in run.rates]
            told = ", ".join(f"{p99:.0f} ms" for p99 in steady)
            self._say(f"{made.query} under load, {kind.label}: steady p99 {told}")

    def _loop(self, query: str, loop: LoopOptions) -> LoopRun:
        """One job under one schedule, on topics of its own."""
        job = self._job(query, f"loop-{self._apps}", None, WORKERS)
        with _folder() as folder:
            run = run_open_loop(self.place, job, loop, folder)
        self.place.remove([job.prefix])
        return run

    def beside(self, made: Sequence[KafkaQuery], peer: str, python: Path) -> None:
        """A peer and ours, on the same topic of JSON, in turns (TK2)."""
        place = Place(self.place.bootstrap_servers, Format.JSON)
        stream = drawn(StreamOptions(self._options.peer_events))
        prefix = self.prefix("peer")
        publish(place, prefix, stream.options)
        for query in made:
            if not can_read(query.query):
                continue
            wanted = expected(query.query, stream.recorded())
            for _ in range(self._options.runs):
                job = replace(self._job(query.query, "peer", stream.options, 1), until_end=True)
                with _folder() as folder:
                    run = run_beside_kafka(place, job, peer, python, stream.options, wanted, folder)
                query.beside.append(run)
                self._say(f"{query.query}: {peer} {run.theirs:,.0f} events/s, ours {run.ours:,.0f}")

    def _job(
        self, query: str, prefix: str, stream: StreamOptions | None, workers: int
    ) -> JobOptions:
        """A job on events under a prefix, that nobody has run before."""
        self._apps += 1
        app = f"{self._name}-app-{self._apps}"
        late = "0ms" if stream is None else f"{stream.out_of_order_ms}ms"
        return JobOptions(query, app, self.prefix(prefix), f"{app}-out", workers, late)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for logs and state of one run."""
    with tempfile.TemporaryDirectory(prefix="megaphone-bench-") as folder:
        yield Path(folder)
