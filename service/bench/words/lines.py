"""A run as the original prints it: one fact a line, its parts separated by tabs.

Flow: WordRun -> [lines_of] -> standard output. Pure. What each line means, and where the original's
own labels are wrong, is in docs/benchmarks/word-count.md.

Invariants
  WL1  Times are nanoseconds since the run began, latencies nanoseconds; what was before the run
       (the load) has negative times.
  WL2  `latency_ccdf` and `summary_timeline` are of the frontier, as the original's are; what is by
       record has lines of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from service.bench.words.histogram import Latencies
from service.bench.words.outcome import WordRun, counted

#: The percentiles of a timeline line, as the original prints them; then the largest value.
TIMELINE = (0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


def lines_of(run: WordRun) -> Iterator[str]:
    """The original's lines in its order, then those that it does not have."""
    options = run.options
    yield _line("backend", options.backend.original)
    if not options.backend.native:
        yield _line("bin_shift", options.bin_bits)
    for worker, rounds in enumerate(run.rounds):
        yield _line("loading_done", worker, rounds)
    for at, sums in run.rss_sums():
        yield _line("statm_RSS", at, sums)
    yield from _moves(run)
    if options.open_loop:
        for edge, share, count in counted(run.frontier, run).ccdf():
            yield _line("latency_ccdf", edge, f"{share:.9g}", count)
        yield from _timeline("summary_timeline", run.frontier)
        yield from _timeline("record_timeline_stayed", run.stayed)
        yield from _timeline("record_timeline_moved", run.moved)
    yield _line("throughput", round(run.throughput))
    yield _line("stall_ms", f"{run.stall_ms:.3f}")


def _moves(run: WordRun) -> Iterator[str]:
    owner = run.owners.copy()
    for span in run.spans:
        for wave in span.waves:
            yield _line("control_time", wave.cut_ns - run.start_ns)
            for cut, bin_, target, keys in run.left:
                if cut == wave.cut:
                    yield _line("migration", bin_, int(owner[bin_]), target, keys)
                    owner[bin_] = target
            elapsed, took = wave.done_ns - run.start_ns, wave.done_ns - wave.cut_ns
            yield _line("migration_done", elapsed, took)
            yield _line("wave_bytes", elapsed, wave.bins, wave.rows, wave.bytes)


def _timeline(name: str, latencies: Latencies) -> Iterator[str]:
    for number in range(len(latencies.maxima)):
        window = latencies.window(number)
        if window.count:
            values = [window.quantile(share) for share in TIMELINE]
            yield _line(name, number * latencies.width_ns, *values, window.max_ns)


def _line(*parts: object) -> str:
    return "\t".join(map(str, parts))
