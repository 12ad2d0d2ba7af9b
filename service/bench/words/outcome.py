"""What one run was, and the numbers that are read off it.

Flow: results of the workers, notes of the director -> [WordRun] -> lines, figures, charts. Pure.

Invariants
  WO1  What counts lies between `skip` after the beginning and `skip` before the end, by due time.
  WO2  A window counts as migrating if any part of it lies between the first cut of a plan and its
       completion, and as steady if neither it nor a neighbour does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from service.bench.words.histogram import Int64s, Latencies, Latency
from service.bench.words.options import WordOptions

_NS = 1_000_000_000


@dataclass(slots=True)
class PlanNote:
    """One request: when it was due and asked for, and when it had completed; ns."""

    number: int
    #: Since the run began; None: before the load.
    due_ns: int | None
    asked_ns: int
    done_ns: int = 0


@dataclass(slots=True)
class WaveNote:
    """One wave: when it was accepted, its cut, when it had completed (monotonic ns), its size."""

    cut: int
    issued_ns: int
    cut_ns: int
    bins: int
    done_ns: int = 0
    bytes: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """One plan of the run itself: its waves, first cut and completion; ns since the run began."""

    waves: list[WaveNote]
    start_ns: int
    end_ns: int

    @property
    def bytes(self) -> int:
        """Bytes of all chunks."""
        return sum(wave.bytes for wave in self.waves)

    @property
    def seconds(self) -> float:
        """From the first cut to the completion of the last wave."""
        return (self.end_ns - self.start_ns) / _NS

    @property
    def gaps_ms(self) -> list[float]:
        """From the completion of each wave to the cut of the next; 0 if that came before."""
        return [
            max(0.0, (after.cut_ns - before.done_ns) / 1e6)
            for before, after in zip(self.waves, self.waves[1:], strict=False)
        ]


@dataclass(frozen=True, slots=True)
class WordRun:
    """One run; times are of the monotonic clock unless it says otherwise."""

    options: WordOptions
    stall_ms: float
    frontier: Latencies
    stayed: Latencies
    moved: Latencies
    #: Per worker.
    records: list[int]
    progress: list[list[tuple[int, int]]]
    #: (ns, resident bytes of each worker).
    rss: list[tuple[int, tuple[int, ...]]]
    #: The most that each worker had while the run lasted, bytes; none where the system cannot say.
    peaks: tuple[int, ...]
    #: (ns, processor time of all workers and their threads, seconds).
    cpu: list[tuple[int, float]]
    began_ns: int
    start_ns: int
    bare: list[float]
    rounds: list[int]
    plans: list[PlanNote]
    waves: list[WaveNote]
    #: Bins that left: (cut, bin, new owner, keys).
    left: list[tuple[int, int, int, int]]
    #: Owner of each bin when the generation began.
    owners: NDArray[np.int32]
    rows: int

    @property
    def spans(self) -> list[Span]:
        """The plans of the run itself that moved something, in order."""
        spans = []
        for plan in self.plans:
            waves = [wave for wave in self.waves if plan.asked_ns <= wave.issued_ns <= plan.done_ns]
            if waves and plan.due_ns is not None:
                start = waves[0].cut_ns - self.start_ns
                end = max(wave.done_ns for wave in waves) - self.start_ns
                spans.append(Span(waves, start, max(start, end)))
        return spans

    @property
    def counted_windows(self) -> Int64s:
        """Windows that count (WO1)."""
        width, skip = self.frontier.width_ns, self.options.skip_ns
        first, last = -(-skip // width), (self.options.duration_ns - skip) // width
        return np.arange(first, max(first + 1, last), dtype=np.int64)

    def migrating_windows(self, spans: Sequence[Span] | None = None) -> Int64s:
        """Windows that some plan's moves fall into (WO2); of `spans`, by default of all."""
        width = self.frontier.width_ns
        ranges = [
            np.arange(span.start_ns // width, span.end_ns // width + 1)
            for span in (self.spans if spans is None else spans)
        ]
        found = np.unique(np.concatenate(ranges)) if ranges else np.empty(0, dtype=np.int64)
        kept: Int64s = found[(found >= 0) & (found < len(self.frontier.maxima))]
        return kept

    @property
    def steady_windows(self) -> Int64s:
        """Windows that count and that no move is near (WO2)."""
        moving = self.migrating_windows()
        near = np.concatenate([moving - 1, moving, moving + 1])
        kept: Int64s = np.setdiff1d(self.counted_windows, near)
        return kept

    @property
    def by_record(self) -> Latencies:
        """Latencies of all records at S, whether their bins move or not."""
        every = Latencies(len(self.stayed.maxima), self.stayed.width_ns, self.stayed.start_ns)
        every.add(self.stayed)
        every.add(self.moved)
        return every

    @property
    def throughput(self) -> float:
        """Records counted in a second by each worker, on average, where it counts (WO1)."""
        skip, end = self.options.skip_ns, self.options.duration_ns - self.options.skip_ns
        rates = []
        for progress in self.progress:
            within = [(at, done) for at, done in progress if skip <= at <= end]
            if len(within) < 2:
                return 0.0
            (first, before), (last, after) = within[0], within[-1]
            rates.append((after - before) * _NS / (last - first))
        return sum(rates) / len(rates)

    @property
    def cpu_ns(self) -> float:
        """Processor time of all workers for each record, where it counts; of all their threads.

        It says what the throughput is on a machine that has nothing else to do: a core's second
        divided by it, times the cores.
        """
        skip, end = self.options.skip_ns, self.options.duration_ns - self.options.skip_ns
        within = [(at - self.start_ns, used) for at, used in self.cpu]
        within = [(at, used) for at, used in within if skip <= at <= end]
        rate = self.throughput * len(self.progress)
        if len(within) < 2 or not rate:
            return 0.0
        (first, before), (last, after) = within[0], within[-1]
        return (after - before) * _NS * _NS / ((last - first) * rate)

    def rss_sums(self) -> Iterator[tuple[int, int]]:
        """(ns since the run began, resident bytes of all workers)."""
        for at, each in self.rss:
            yield at - self.start_ns, sum(each)

    def rss_steady(self) -> int:
        """Resident bytes of all workers before the first move; of the median reading."""
        spans = self.spans
        until = spans[0].start_ns if spans else self.options.duration_ns
        seen = [total for at, total in self.rss_sums() if 0 <= at < until]
        return int(median(seen)) if seen else 0

    def rss_peak(self) -> int:
        """The most that workers took while the run lasted; then it is proven.

        The greatest reading of all together. By what a worker's mark is beyond all readings of it,
        it had more between two of them; the others may have had their most just then, so all of
        that is added. The marks alone say nothing of a move: each worker has one of its own time.
        """
        end = self.options.duration_ns
        read = [each for at, each in self.rss if 0 <= at - self.start_ns <= end]
        if not read:
            return sum(self.peaks)
        most = max(map(sum, read))
        for mark, mine in zip(self.peaks, zip(*read, strict=True), strict=False):
            most += max(0, mark - max(mine))
        return most


def merged(parts: Sequence[Latencies]) -> Latencies:
    """The latencies of all workers."""
    first = parts[0]
    whole = Latencies(len(first.maxima), first.width_ns, first.start_ns)
    for part in parts:
        whole.add(part)
    return whole


def counted(latencies: Latencies, run: WordRun) -> Latency:
    """All latencies that count."""
    return latencies.over(run.counted_windows)
