"""What a run printed, read back: charts are made from files, so that they can be made again.

Flow: stdout.0 of a run -> [read_result] -> Result -> charts, tables. Pure but for the file.

Invariants
  ER1  Only the lines are read, as the original's plotters read theirs; what a line means is told in
       docs/benchmarks/word-count.md.
  ER2  A plan's interval goes from the cut of its first wave to the completion of its last; two
       plans are told apart by the pause between them.
  ER3  Memory is told of the run, not of its proof afterwards, which takes several times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from service.errors import MegaphoneError

#: Columns of a timeline line behind the time.
COLUMNS = ("p25", "p50", "p75", "p95", "p99", "p99.9", "max")
#: A plan ends where no wave follows for so long.
_PAUSE_NS = 800_000_000


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a timeline: when it begins, and its percentiles; ns."""

    at_ns: int
    values: dict[str, int]


@dataclass(slots=True)
class Result:
    """The lines of one run."""

    backend: str = ""
    bin_shift: int | None = None
    #: (latency, share of records at or above it, records).
    ccdf: list[tuple[int, float, int]] = field(default_factory=list)
    timelines: dict[str, list[Window]] = field(default_factory=dict)
    #: (when, bytes of all workers); none after the end (ER3).
    rss: list[tuple[int, int]] = field(default_factory=list)
    #: (cut, completion) of each wave; ns.
    waves: list[tuple[int, int]] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    throughput: float = 0.0
    stall_ms: float = 0.0

    @property
    def plans(self) -> list[tuple[int, int]]:
        """(first cut, last completion) of each plan (ER2)."""
        plans: list[tuple[int, int]] = []
        for cut, done in sorted(self.waves):
            if plans and cut <= plans[-1][1] + _PAUSE_NS:
                plans[-1] = (plans[-1][0], max(plans[-1][1], done))
            else:
                plans.append((cut, done))
        return plans

    @property
    def shown(self) -> tuple[int, int] | None:
        """The last plan that began while records were due: its latencies are known."""
        windows = self.timelines.get("summary_timeline", [])
        if not windows:
            return None
        known = [plan for plan in self.plans if plan[0] <= windows[-1].at_ns]
        return known[-1] if known else None

    def at_share(self, above: float) -> float:
        """The least latency, ms, at or above which no more than this share of records lie."""
        for latency, share, _ in self.ccdf:
            if share <= above:
                return latency / 1e6
        return self.ccdf[-1][0] / 1e6 if self.ccdf else 0.0

    @property
    def max_ms(self) -> float:
        """The upper edge of the last bucket with a record."""
        return self.ccdf[-1][0] / 1e6 if self.ccdf else 0.0

    def max_during(self, plan: tuple[int, int], timeline: str = "summary_timeline") -> float:
        """The largest latency of a window that a plan's interval touches, ms."""
        windows = self.timelines.get(timeline, [])
        if not windows:
            return 0.0
        width = min((b.at_ns - a.at_ns for a, b in pairwise(windows)), default=0)
        touched = [
            window.values["max"]
            for window in windows
            if window.at_ns <= plan[1] and window.at_ns + width >= plan[0]
        ]
        return max(touched, default=0) / 1e6


def read_result(path: Path, duration_ns: int) -> Result:
    """Read the lines of a run.

    Args:
        path: of the lines.
        duration_ns: how long records were due (ER3).

    Raises:
        MegaphoneError: a line is not what a run prints.
    """
    result = Result()
    cut: int | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, *values = line.split("\t")
        try:
            cut = _take(result, name, values, cut)
        except (ValueError, IndexError) as error:
            raise MegaphoneError(
                f"line {number} of {path} is no {name} line ({error}); remove its folder and run "
                "the experiments again"
            ) from error
    result.rss = [(at, size) for at, size in result.rss if at <= duration_ns]
    return result


def _take(result: Result, name: str, values: Sequence[str], cut: int | None) -> int | None:
    """Enter one line; returns the cut of the wave that the lines are about."""
    match name:
        case "backend":
            result.backend = values[0]
        case "bin_shift":
            result.bin_shift = int(values[0])
        case "latency_ccdf":
            result.ccdf.append((int(values[0]), float(values[1]), int(values[2])))
        case "statm_RSS":
            result.rss.append((int(values[0]), int(values[1])))
        case "control_time":
            return int(values[0])
        case "migration_done":
            if cut is None:
                raise ValueError("no control_time before it")
            result.waves.append((cut, int(values[0])))
        case "wave_bytes":
            result.bytes.append(int(values[3]))
        case "throughput" | "stall_ms":
            setattr(result, name, float(values[0]))
        case "summary_timeline" | "record_timeline_stayed" | "record_timeline_moved":
            at, *numbers = map(int, values)
            window = Window(at, dict(zip(COLUMNS, numbers, strict=True)))
            result.timelines.setdefault(name, []).append(window)
        case "loading_done" | "migration":
            pass
        case _:
            raise ValueError(f"nothing prints {name!r}")
    return cut
