"""What a run found out, as one document: summary.json.

Flow: Outcome -> [summarised] -> dict of docs/contracts -> file, report, terminal. Pure, but for
`machine` and `versions`, which look at this computer.

Latencies are taken from the intended send time of the oldest event a result absorbed to the moment
the result was consumed from the output topic, and sorted by the former: an event due while bins
moved counts as migrating, whenever its result came out.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import confluent_kafka
import numpy as np
import psutil

from demo.observe import RequestStatus
from demo.options import Names, Options
from demo.proof import Verdict
from demo.run import Outcome
from loadgen.report import LatencyMs, latency_ms, split

#: Fewer results than this while bins moved say little about their 99th percentile.
MIGRATING_RECORDS_MIN = 10_000
_LATE_SHARE_MAX = 0.01
_LAG_GROWTH_MAX = 0.01
_STEADY_P99_MS = 30.0
_MIGRATING_P99_FACTOR = 1.5
_MIGRATING_MAX_MS = 100.0
_SECOND_US = 1_000_000
_LIBRARIES = (
    *("confluent-kafka", "numpy", "numba", "pyarrow", "pyzmq", "rocksdict"),
    *("fastavro", "duckdb"),
)


class Bound(TypedDict):
    """A figure against what it should be; the figures of docs/benchmarks are taken elsewhere."""

    name: str
    unit: str
    value: float
    bound: float
    met: bool


class MigrationSummary(TypedDict):
    """One completed migration."""

    id: str
    bins: int
    bytes: int
    waves: int
    duration_ms: int
    first_cut: int


class Check(TypedDict):
    """One check of the proof."""

    name: str
    claim: str
    violations: int
    samples: list[str]


class Proof(TypedDict):
    """What the proof compared."""

    bids: int
    bids_counted: int
    auctions: int
    ownership_changes: int
    ownership_changes_seen: int
    checks: list[Check]


class Generator(TypedDict):
    """How well the generator kept its schedule."""

    events: int
    late: int
    late_fraction: float
    lateness_ms_max: float


class Lag(TypedDict):
    """Records waiting in Kafka through the stream."""

    max: int
    end: int
    growth_per_second: float


class Latencies(TypedDict):
    """Latency with and without bins on the move."""

    steady: LatencyMs
    migrating: LatencyMs


class Summary(TypedDict):
    """summary.json."""

    started: str
    commit: str | None
    parameters: dict[str, int | float]
    #: Names of the run's topics, and of the job whose own topics start with it.
    topics: dict[str, str]
    #: Of the stream, and of it what the job read; the load of state and the warm-up not included.
    events_published: int
    events_processed: int
    outputs_compared: int
    throughput_events_per_second: float
    results_exact: bool
    latency_ms: Latencies
    migrations: list[MigrationSummary]
    state_rows: int
    generator: Generator
    lag: Lag
    sustained: bool
    bounds: list[Bound]
    proof: Proof
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    notes: list[str]


def summarised(options: Options, names: Names, outcome: Outcome, kafka: str) -> Summary:
    """The document of a run whose processes all ended well; `kafka` is the broker's version."""
    schedule, loaded = outcome.generated.schedule, outcome.generated.before_stream
    assert schedule is not None, "a stream has a schedule"
    ranges = [moving(status) for status in outcome.migrations]
    migrating, steady = split(outcome.measured.windows(), ranges)
    latencies = Latencies(steady=latency_ms(steady), migrating=latency_ms(migrating))
    last_us = outcome.measured.last_result_us() or schedule[1]
    generator = _generator(outcome.generated.summaries.get("live", {}))
    stalls = _stalls(outcome, schedule[0], last_us, ranges)
    lag = _lag(outcome.lag)
    bounds = _bounds(generator, lag, latencies, stalls["stall_ms"], options.rate)
    return Summary(
        started=datetime.fromtimestamp(schedule[0] / 1e6, UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        parameters=_parameters(options),
        topics={"app": names.app, "events": names.events, "results": names.results},
        events_published=outcome.generated.total - loaded,
        events_processed=outcome.processed - loaded,
        outputs_compared=outcome.verdict.outputs_compared,
        throughput_events_per_second=round(
            generator["events"] * _SECOND_US / max(1, last_us - schedule[0]), 1
        ),
        results_exact=outcome.verdict.exact,
        latency_ms=latencies,
        migrations=[_migration(status) for status in outcome.migrations],
        state_rows=outcome.state_rows,
        generator=generator,
        lag=lag,
        sustained=all(bound["met"] for bound in bounds[:2]),
        bounds=bounds,
        proof=_proof(outcome.verdict),
        machine={**machine(), **stalls},
        versions=versions(kafka),
        notes=_notes(latencies, outcome),
    )


def moving(status: RequestStatus) -> tuple[int, int]:
    """From the first cut to the completion, epoch µs."""
    assert status.at is not None, "a completed move has a first cut"
    return status.at, status.at + status.duration_ms * 1000


def machine() -> dict[str, str | int | float]:
    """This computer."""
    return {
        "cpu": _cpu_model(),
        "cpus": psutil.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / (1 << 30), 1),
        "system": platform.platform(terse=True),
    }


def versions(kafka: str) -> dict[str, str]:
    """Of Kafka as given, Python, ours, and the libraries that results and figures hang on."""
    return {
        "kafka": kafka,
        "python": platform.python_version(),
        "megaphone": _version_of("megaphone-kafka"),
        "librdkafka": confluent_kafka.libversion()[0],
        **{name: _version_of(name) for name in _LIBRARIES},
    }


def _bounds(
    generator: Generator, lag: Lag, latencies: Latencies, stall_ms: float, rate: int
) -> list[Bound]:
    steady, migrating = latencies["steady"], latencies["migrating"]

    def bound(name: str, unit: str, value: float, limit: float) -> Bound:
        return Bound(
            name=name, unit=unit, value=round(value, 4), bound=round(limit, 4), met=value <= limit
        )

    return [
        bound("generator late", "share of events", generator["late_fraction"], _LATE_SHARE_MAX),
        bound("lag growth", "events/s", lag["growth_per_second"], _LAG_GROWTH_MAX * rate),
        bound("steady p99", "ms", steady["p99"], _STEADY_P99_MS),
        bound("p99 while migrating", "ms", migrating["p99"], _MIGRATING_P99_FACTOR * steady["p99"]),
        bound("max while migrating", "ms", migrating["max"], _MIGRATING_MAX_MS + stall_ms),
    ]


def _generator(live: Mapping[str, object]) -> Generator:
    def number(name: str) -> float:
        value = live.get(name, 0)
        return value if isinstance(value, int | float) else 0

    return Generator(
        events=int(number("events")),
        late=int(number("late")),
        late_fraction=number("late_fraction"),
        lateness_ms_max=number("lateness_ms_max"),
    )


def _lag(samples: Sequence[tuple[int, int]]) -> Lag:
    """Largest and last lag, and the slope of the straight line through all of them."""
    if len(samples) < 2:
        return Lag(max=0, end=0, growth_per_second=0.0)
    times, values = np.array(samples, dtype=np.float64).T
    seconds = (times - times[0]) / _SECOND_US
    spread = seconds - seconds.mean()
    slope = float(spread @ values / max(float(spread @ spread), 1e-9))
    return Lag(max=int(values.max()), end=int(values[-1]), growth_per_second=round(slope, 1))


def _stalls(
    outcome: Outcome, start_us: int, end_us: int, ranges: Sequence[tuple[int, int]]
) -> dict[str, float]:
    """The worst stall of the stream, and the worst of the migrations."""
    probe = outcome.stalls
    return {
        "stall_ms": probe.worst_ms(start_us, end_us),
        "stall_ms_migrating": max((probe.worst_ms(*each) for each in ranges), default=0.0),
    }


def _migration(status: RequestStatus) -> MigrationSummary:
    return MigrationSummary(
        id=status.id,
        bins=status.bins,
        bytes=status.bytes,
        waves=status.waves,
        duration_ms=status.duration_ms,
        first_cut=moving(status)[0],
    )


def _proof(verdict: Verdict) -> Proof:
    return Proof(
        bids=verdict.bids,
        bids_counted=verdict.bids_counted,
        auctions=verdict.auctions,
        ownership_changes=verdict.changes,
        ownership_changes_seen=verdict.changes_witnessed,
        checks=[
            Check(
                name=finding.name,
                claim=finding.claim,
                violations=finding.violations,
                samples=list(finding.samples) if finding.violations else [],
            )
            for finding in verdict.findings
        ],
    )


def _parameters(options: Options) -> dict[str, int | float]:
    return {
        "seconds": options.seconds,
        "rate": options.rate,
        "state_keys": options.state_keys,
        "warm_up_seconds": options.warm_up,
        "workers": options.workers,
        "gateways": options.gateways,
        "bins": options.bins,
        "seed": options.seed,
    }


def _notes(latencies: Latencies, outcome: Outcome) -> list[str]:
    """What a reader of the figures must know."""
    notes = []
    verdict = outcome.verdict
    count = latencies["migrating"]["count"]
    if count < MIGRATING_RECORDS_MIN:
        notes.append(
            f"only {count:,} results were measured while bins moved; "
            f"{MIGRATING_RECORDS_MIN:,} are needed for a reliable p99"
        )
    unseen = verdict.changes - verdict.changes_witnessed
    if unseen:
        notes.append(
            f"{unseen} changes of ownership could not be seen, because their bins had no results "
            "before or after; a longer or faster run shows them"
        )
    before = sum((outcome.measured.offsets or {}).values())
    unmeasured = verdict.outputs_compared - before - count - latencies["steady"]["count"]
    if unmeasured:
        notes.append(f"the latency of {unmeasured:,} results was not measured")
    return notes


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str | None:
    """The commit of the source tree this runs from; None outside one."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _cpu_model() -> str:
    """What the kernel calls the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
