"""A query under load by a schedule: how late results are while nothing moves, and while bins do.

Flow: rates -> nexmark-loadgen (open loop) -> topics -> job -> results -> nexmark-loadgen's meter,
or a reader whose records are paired with events later (due) -> Timeline -> [RateRun] for each rate.

One job and one schedule go through all rates, the lowest first: a warm-up, then each rate for the
same time. At two fifths of that time a quarter of the bins is asked to move, there and back.

Invariants
  OL1  The schedule never waits: an event's latency counts from when it was meant to be sent.
  OL2  Everything that was sent is waited for before the job is stopped, so no result is missing
       because it came late.
  OL3  A window of a rate counts as moving if any part of it lies within a plan, from its first
       cut to its last completion, whenever the plan was asked for; all others count as steady. The
       first second of a rate counts as neither.
  OL4  Out of order no event is late: the job's bound is the time of a group at the lowest rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.bench.nexmark.backlog import output_topic
from service.bench.nexmark.children import Child, Document
from service.bench.nexmark.due import Dating
from service.bench.nexmark.jobs import Job, JobOptions, moves, started
from service.bench.nexmark.latencies import Latency, Span, Timeline
from service.bench.nexmark.meters import meter_of
from service.bench.nexmark.topics import PARTITIONS, Place, event_topics, records_in
from service.bench.stall import StallProbe
from service.clock import SystemClock
from service.errors import MegaphoneError
from service.migration.records import StatusRecord

WORKERS = 2
#: Windows of ten seconds end five times a second.
DILATION = 50
#: Auctions are open for so long at most, so that they close while results are read.
_OPEN_S = 3.0
_IN_FLIGHT_MIN = 100
#: Share of the events that open one.
_AUCTIONS = 3 / 50
_ASK_AT = 0.4
_SETTLE_US = 1_000_000
_LEAD_S = 60.0
_DRAIN_S = 120.0
#: How many times as long as its schedule a load may take where the machine cannot keep to it: that
#: is a figure (late, latency), and not the end of the bench.
_BEHIND = 4
_PLANS_S = 240.0
_STOP_S = 120.0
_WINDOWED = ("q4", "q5", "q6", "q7", "q8")


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """What is sent, and what moves meanwhile."""

    #: Events a second, the lowest first.
    rates: Sequence[int]
    #: Of each rate, and of the warm-up at the first.
    seconds: float
    warm_up: float
    #: None: nothing moves.
    strategy: str | None
    #: Size of the groups that events are shuffled in; 1: in order.
    group: int = 1
    seed: int = 0

    @property
    def early_us(self) -> int:
        """How much earlier than its date's time an event may leave: the longest group."""
        return 0 if self.group == 1 else -(-self.group * 1_000_000 // min(self.rates))

    def late_ms(self, dilation: int) -> int:
        """How late an event may be in event time, which is floored to milliseconds."""
        return 0 if self.group == 1 else -(-self.early_us * dilation // 1_000) + 1

    @property
    def steps(self) -> list[tuple[int, float]]:
        """Rate and length of each step of the schedule."""
        return [(self.rates[0], self.warm_up), *((rate, self.seconds) for rate in self.rates)]

    @property
    def length(self) -> float:
        """Seconds of the whole schedule."""
        return sum(seconds for _, seconds in self.steps)

    def spans(self, start_us: int) -> list[Span]:
        """When each rate begins and ends, the warm-up left out."""
        first = start_us + round(self.warm_up * 1e6)
        length = round(self.seconds * 1e6)
        return [
            (first + place * length, first + (place + 1) * length)
            for place in range(len(self.rates))
        ]


@dataclass(frozen=True, slots=True)
class RateRun:
    """What was seen at one rate."""

    rate: int
    steady: Latency | None
    moving: Latency | None
    plans: Sequence[StatusRecord]
    #: Share of the events that left more than 10 ms late.
    late: float

    @property
    def moved_bytes(self) -> int:
        """Of both plans together."""
        return sum(plan.bytes for plan in self.plans)

    @property
    def duration_ms(self) -> int:
        """Of the longer plan."""
        return max((plan.duration_ms for plan in self.plans), default=0)


@dataclass(frozen=True, slots=True)
class LoopRun:
    """One job under all rates."""

    rates: Sequence[RateRun]
    #: Greatest resident memory of a worker, bytes.
    worker_bytes: int
    stall_ms: float
    #: Results that no events could be told for (due).
    unpaired: int


def run_open_loop(place: Place, options: JobOptions, loop: LoopOptions, folder: Path) -> LoopRun:
    """Run a query under all rates.

    Raises:
        MegaphoneError: the job, the generator or the meter failed, or results did not come to an
            end within two minutes and four times the schedule.
    """
    place.create(event_topics(options.prefix))
    dilation = DILATION if options.query in _WINDOWED else 1
    late_ms = loop.late_ms(dilation)
    options = replace(options, out_of_orderness=f"{late_ms}ms")
    load = _load_arguments(place, options, loop, dilation)
    with (
        output_topic(place, options),
        StallProbe() as probe,
        started(place, options, folder) as job,
    ):
        job.await_running()
        with (
            meter_of(place, options, folder, late_ms) as meter,
            Child("loadgen", load, folder) as loadgen,
        ):
            start_us, plans = _watched(job, loadgen, loop)
            loadgen.finish(_STOP_S)
            published = records_in(place, options.inputs)
            job.child.await_(
                lambda: job.read_of_input() >= published,
                "done with its input",
                _BEHIND * loop.length + _DRAIN_S,
            )
            job.child.ask_to_stop()
            job.child.finish(_STOP_S)
            dating = Dating.of_plan(loadgen.said(kind="plan")[0], loop.early_us, late_ms)
            timeline, unpaired = meter.timeline(dating)
    said = loadgen.said(kind="progress", phase="live")
    return LoopRun(
        [
            rate_run(number, loop, start_us, timeline, plans, said)
            for number in range(len(loop.rates))
        ],
        max((used for slot, used in job.memory.items() if slot.startswith("worker")), default=0),
        probe.stall_ms,
        unpaired,
    )


def _load_arguments(
    place: Place, options: JobOptions, loop: LoopOptions, dilation: int
) -> list[str]:
    steps = ",".join(f"{rate}x{seconds:g}" for rate, seconds in loop.steps)
    # An auction is open for up to twice the time in which as many are opened as are in flight.
    opened = sum(rate * seconds for rate, seconds in loop.steps) / loop.length * _AUCTIONS
    in_flight = max(_IN_FLIGHT_MIN, round(_OPEN_S / 2 * opened))
    return [
        *("-m", "loadgen", "run", "--live-only", "--client", "direct"),
        *("--bootstrap-servers", place.bootstrap_servers, "--topic-prefix", options.prefix),
        *("--topics", "separate", "--format", place.format, "--partitions", str(PARTITIONS)),
        *("--rate-shape", "steps", "--rate-steps", steps),
        *("--seconds", f"{loop.length:g}"),
        *("--time-dilation", str(dilation), "--in-flight-auctions", str(in_flight)),
        *("--seed", str(loop.seed), "--out-of-order-group-size", str(loop.group)),
    ]


def _watched(job: Job, loadgen: Child, loop: LoopOptions) -> tuple[int, list[StatusRecord]]:
    """Ask for moves when they are due; start of the stream, and what became of the plans."""
    loadgen.await_(lambda: bool(loadgen.said(kind="plan")), "its plan", _LEAD_S)
    start_us = int(loadgen.said(kind="plan")[0]["schedule"]["start_us"])
    clock = SystemClock()
    asked: list[str] = []
    due = [] if loop.strategy is None else loop.spans(start_us)

    def over() -> bool:
        job.look_at_memory()
        if len(asked) < 2 * len(due):
            begin, end = due[len(asked) // 2]
            if clock.wall_us() >= begin + _ASK_AT * (end - begin):
                assert loop.strategy is not None, "then nothing is due"
                requests = moves(f"at-{len(asked) // 2}", loop.strategy, job.options)
                job.ask(*requests)
                asked.extend(str(request["id"]) for request in requests)
        if not job.child.running:
            raise MegaphoneError(f"the job ended under load: {job.child.last_words}")
        return bool(loadgen.said(kind="summary"))

    loadgen.await_(over, "done", _BEHIND * loop.length + _LEAD_S)
    plans: list[StatusRecord] = []

    def moved() -> bool:
        plans[:] = job.completed(asked) or []
        return len(plans) == len(asked)

    job.child.await_(moved, "done with its plans", _PLANS_S)
    return start_us, plans


def rate_run(
    number: int,
    loop: LoopOptions,
    start_us: int,
    timeline: Timeline,
    plans: Sequence[StatusRecord],
    progress: Sequence[Document],
) -> RateRun:
    """What belongs to one of the rates; there are two plans for each, or none at all."""
    begin, end = loop.spans(start_us)[number]
    span = (begin + _SETTLE_US, end)
    own = plans[2 * number : 2 * number + 2]
    seconds = [each for each in progress if begin <= int(each["t_us"]) < end]
    sent = sum(int(each["events_per_second"]) for each in seconds)
    return RateRun(
        loop.rates[number],
        timeline.within([span], without=_spans_of(plans)),
        timeline.touching(_spans_of(plans), within=span),
        own,
        sum(int(each["late"]) for each in seconds) / max(1, sent),
    )


def _spans_of(plans: Sequence[StatusRecord]) -> list[Span]:
    """From the first cut of each plan to its last completion (OL3)."""
    return [(plan.at, plan.at + plan.duration_ms * 1000) for plan in plans if plan.at is not None]
