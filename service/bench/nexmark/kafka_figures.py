"""What the runs through Kafka come to: figures with their bounds.

Flow: KafkaRuns -> [kafka_figures] -> document. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.bench.document import Figure
from service.bench.nexmark.loads import Kind, Load
from service.bench.nexmark.open_loop import LoopRun
from service.bench.nexmark.sustained import LATE_MAX
from service.bench.nexmark.through import KafkaQuery, KafkaRuns

#: Events a second from a backlog; less where output is about as large as input.
RATE, RATE_COPYING = 250_000.0, 150_000.0
_COPYING = ("q0", "q1")
#: Percent of the maximum at which latency has bounds, and the strategy whose moves have.
BOUND_SHARE, BOUND_STRATEGY = 50, "batched"
STEADY_P99_MS_MAX = 50.0
MOVING_RATIO_MAX = 1.5
MOVING_MAX_MS = 150.0
#: What the meter can tell apart.
_LEAST_MS = 0.001


def kafka_figures(made: KafkaRuns) -> Iterator[Figure]:
    """The figures, query by query."""
    for each in made.queries:
        name = f"{each.query}: through Kafka"
        bound = RATE_COPYING if each.query in _COPYING else RATE
        yield Figure.of(
            f"{name}, backlog, 1 gateway + 1 worker", "events/s", each.rates, at_least=bound
        )
        read = [each.read / run.seconds for run in each.backlogs]
        yield Figure.of(f"{name}, backlog, records read", "records/s", read)
        yield from _differences(each)
        if each.stairs is not None:
            held = f"{name}, maximum sustained, 1 gateway + 2 workers"
            yield Figure.of(held, "events/s", [each.sustained])
        for kind, loops in each.loops.items():
            yield from _loops(f"{name}, {kind.label}", kind, each.loads, loops)
        if each.beside:
            theirs = [run.theirs for run in each.beside]
            yield Figure.of(f"{name}, {made.peer}", "events/s", theirs)
            ratios = [run.ratio for run in each.beside]
            yield Figure.of(f"{name}, over {made.peer}, same events", "", ratios)


def _differences(each: KafkaQuery) -> Iterator[Figure]:
    name = f"{each.query}: differences from the oracle, through Kafka"
    wrong = [len(run.wrong) for run in each.backlogs]
    yield Figure.of(f"{name}, backlog", "", [max(wrong)], at_most=0)
    for run in each.moving:
        yield Figure.of(f"{name}, {run.label}", "", [len(run.wrong)], at_most=0)
        if run.migration != "none":
            moved = f"{each.query}: moved through Kafka, {run.label}"
            yield Figure.of(moved, "bytes", [run.moved_bytes])


def _loops(
    name: str, kind: Kind, loads: Sequence[Load], loops: Sequence[LoopRun]
) -> Iterator[Figure]:
    for place, load in enumerate(loads):
        # Half of a cap is not half of the maximum (LD1).
        of, bounded = f"{name}, at {load.label}", load.share == BOUND_SHARE and not load.capped
        at = [loop.rates[place] for loop in loops]
        yield Figure.of(f"{of}: rate", "events/s", [each.rate for each in at])
        late = [each.late for each in at]
        limit = LATE_MAX if bounded else None
        yield Figure.of(f"{of}: generator late", "of events", late, at_most=limit)
        steady = [each.steady for each in at if each.steady is not None]
        if bounded:
            # Where a plan outlasts its rate there are no steady windows, and no bound would say so.
            yield Figure.of(
                f"{of}: has steady windows", "of runs", [len(steady) / len(at)], at_least=1
            )
        if steady:
            limit = STEADY_P99_MS_MAX if bounded else None
            yield Figure.of(f"{of}: steady p50", "ms", [each.p50 for each in steady])
            yield Figure.of(f"{of}: steady p99", "ms", [each.p99 for each in steady], at_most=limit)
            yield Figure.of(f"{of}: steady max", "ms", [each.max for each in steady])
        yield from _moving(of, loops, place, bounded=bounded and kind.strategy == BOUND_STRATEGY)
    used = [loop.worker_bytes / 1e6 for loop in loops]
    yield Figure.of(f"{name}: largest worker", "MB", used)
    yield Figure.of(f"{name}: stall", "ms", [loop.stall_ms for loop in loops])
    unpaired = [loop.unpaired for loop in loops]
    if any(unpaired):
        yield Figure.of(f"{name}: results of unknown events", "", unpaired)


def _moving(of: str, loops: Sequence[LoopRun], place: int, *, bounded: bool) -> Iterator[Figure]:
    """Ratio and allowance are taken inside each run (TK2)."""
    pairs = [(loop, loop.rates[place]) for loop in loops]
    moving = [(loop, at, at.moving) for loop, at in pairs if at.moving is not None]
    if bounded:
        seen = [len(moving) / len(loops)]
        yield Figure.of(f"{of}: has moving windows", "of runs", seen, at_least=1)
    if not moving:
        return
    yield Figure.of(f"{of}: moving p50", "ms", [found.p50 for *_, found in moving])
    yield Figure.of(f"{of}: moving p99", "ms", [found.p99 for *_, found in moving])
    ratios = [
        found.p99 / max(at.steady.p99, _LEAST_MS)
        for _, at, found in moving
        if at.steady is not None
    ]
    if ratios:
        limit = MOVING_RATIO_MAX if bounded else None
        yield Figure.of(f"{of}: moving p99 / steady p99", "", ratios, at_most=limit)
    limit = MOVING_MAX_MS if bounded else None
    most = [max(0.0, found.max - loop.stall_ms) for loop, _, found in moving]
    yield Figure.of(f"{of}: moving max", "ms", [found.max for *_, found in moving])
    yield Figure.of(f"{of}: moving max - stall", "ms", most, at_most=limit)
    yield Figure.of(f"{of}: moved", "bytes", [at.moved_bytes for _, at, _ in moving])
    took = [at.duration_ms for _, at, _ in moving]
    yield Figure.of(f"{of}: longer of the two moves", "ms", took)
