"""The figures of word-count runs, held to the bounds that hold for such runs.

Flow: WordRun of each run, and of its native twin -> [figures_of] -> BenchDocument. Pure.

Invariants
  WF1  A bound is held only by a run of the size it was set for (2 workers, the domain, the rate);
       of other runs a figure is recorded.
  WF2  Every bound on a longest latency has the run's own stall added before it is judged: the
       figure is what is left of the latency without the stall.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from service.bench.document import Figure
from service.bench.words.histogram import Latency
from service.bench.words.options import Backend, WordOptions
from service.bench.words.outcome import WordRun, counted

_MB = 1e6
_MIB = 1 << 20
#: Records/s of each worker at full speed, by domain.
FULL_SPEED = {1_000_000: 12e6, 16_000_000: 8e6}
OF_BARE = 0.4
OF_PEER = 40.0
OF_NATIVE = 0.85
P99_OF_NATIVE = 1.3
#: Open loop without moves, ms.
P50_MS, P99_MS, MAX_MS = 1.5, 4.0, 25.0
#: While a quarter of 16 M keys moves in batches.
STAYED_P99_OF_STEADY = 1.5
MOVING_MAX_MS = 50.0
FLUID_WAVES_S, FLUID_GAP_MS = 25.0, 20.0
MOVED_MB_S = 400.0
#: Beside a tenth of the steady size.
RSS_BESIDE_MIB = 256.0
_OPEN_RATE = 1_000_000


def figures_of(
    runs: Sequence[WordRun],
    natives: Sequence[WordRun] = (),
    peers: Sequence[float] = (),
) -> Iterator[Figure]:
    """All figures of runs with equal options.

    Args:
        runs: one or more.
        natives: the native twin of each run, made beside it; or none.
        peers: records/s of another stream processor, measured beside each run; or none.
    """
    options = runs[0].options
    yield from _throughput(options, runs, natives, peers)
    if options.open_loop:
        yield from _latency(options, runs)
        if natives:
            yield from _beside_native(options, runs, natives)
    if all(run.spans for run in runs):
        yield from _moves(options, runs)
    yield from _memory(runs)
    yield Figure.of("longest stall of the machine", "ms", [run.stall_ms for run in runs])


def _throughput(
    options: WordOptions,
    runs: Sequence[WordRun],
    natives: Sequence[WordRun],
    peers: Sequence[float],
) -> Iterator[Figure]:
    hash_two = options.workers == 2 and options.backend is Backend.HASH
    full = not options.open_loop
    rates = [run.throughput for run in runs]
    bound = FULL_SPEED.get(options.domain) if full and hash_two else None
    yield Figure.of("records counted by each worker", "records/s", rates, at_least=bound)
    yield Figure.of("processor time of a record", "ns", [run.cpu_ns for run in runs])
    bare = [sum(run.bare) / len(run.bare) for run in runs]
    if full and all(bare):
        yield Figure.of("the fold alone, in each worker at once", "records/s", bare)
        ratios = [rate / alone for rate, alone in zip(rates, bare, strict=True)]
        held = OF_BARE if bound else None
        yield Figure.of("records counted over the fold alone", "", ratios, at_least=held)
    if natives:
        theirs = [run.throughput for run in natives]
        ratios = [mine / other for mine, other in zip(rates, theirs, strict=True)]
        yield Figure.of("records counted without bins", "records/s", theirs)
        name = "records counted over those without bins"
        yield Figure.of(name, "", ratios, at_least=OF_NATIVE)
    if peers:
        ratios = [mine / other for mine, other in zip(rates, peers, strict=True)]
        yield Figure.of("one worker of Bytewax's stateful_map", "records/s", list(peers))
        held = OF_PEER if bound else None
        yield Figure.of("records counted over those of Bytewax", "", ratios, at_least=held)


def _latency(options: WordOptions, runs: Sequence[WordRun]) -> Iterator[Figure]:
    held = options.workers == 2 and options.rate == _OPEN_RATE and options.migration == "none"
    overall = [counted(run.frontier, run) for run in runs]
    p50, p99 = _ms(overall, 0.5), _ms(overall, 0.99)
    yield Figure.of("latency by frontier, p50", "ms", p50, at_most=P50_MS if held else None)
    yield Figure.of("latency by frontier, p99", "ms", p99, at_most=P99_MS if held else None)
    yield Figure.of("latency by frontier, p99.9", "ms", _ms(overall, 0.999))
    name = "latency by frontier, max less the run's stall"
    most = MAX_MS if held else None
    yield Figure.of(name, "ms", _less_stall(runs, overall), at_most=most)
    each = [counted(run.by_record, run) for run in runs]
    yield Figure.of("latency by record, p50", "ms", _ms(each, 0.5))
    yield Figure.of("latency by record, p99", "ms", _ms(each, 0.99))
    yield Figure.of("latency by record, max", "ms", [one.max_ns / 1e6 for one in each])


def _beside_native(
    options: WordOptions, runs: Sequence[WordRun], natives: Sequence[WordRun]
) -> Iterator[Figure]:
    ours = _ms([counted(run.frontier, run) for run in runs], 0.99)
    theirs = _ms([counted(run.frontier, run) for run in natives], 0.99)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    yield Figure.of("latency by frontier without bins, p99", "ms", theirs)
    held = P99_OF_NATIVE if options.bins in (1 << 8, 1 << 16) else None
    yield Figure.of("p99 over that without bins", "", ratios, at_most=held)


def _moves(options: WordOptions, runs: Sequence[WordRun]) -> Iterator[Figure]:
    """Of the last plan of each run, which brings the bins back: what the paper reports."""
    last = [run.spans[-1] for run in runs]
    waves = [len(span.waves) / span.seconds for span in last]
    fluid = options.migration == "fluid"
    held = FLUID_WAVES_S if fluid else None
    yield Figure.of("waves", "1/s", waves, at_least=held)
    gaps = [median(span.gaps_ms) for span in last if span.gaps_ms]
    if len(gaps) == len(last):
        held = FLUID_GAP_MS if fluid else None
        yield Figure.of("gap between waves, median", "ms", gaps, at_most=held)
    yield Figure.of("bytes moved", "MB", [span.bytes / _MB for span in last])
    speed = [span.bytes / _MB / span.seconds for span in last]
    held = MOVED_MB_S if options.migration == "sudden" else None
    yield Figure.of("state moved", "MB/s", speed, at_least=held)
    yield Figure.of("time from the first cut to the end", "ms", [s.seconds * 1e3 for s in last])
    longest = [max((w.done_ns - w.cut_ns) / 1e6 for w in span.waves) for span in last]
    yield Figure.of("longest wave", "ms", longest)
    if options.open_loop:
        yield from _latency_of_moves(options, runs)


def _latency_of_moves(options: WordOptions, runs: Sequence[WordRun]) -> Iterator[Figure]:
    quarter = (
        options.migration == "batched"
        and options.workers == 2
        and options.domain == 16_000_000
        and options.rate == _OPEN_RATE
    )
    windows = [run.migrating_windows(run.spans[-1:]) for run in runs]
    stayed = [run.stayed.over(last) for run, last in zip(runs, windows, strict=True)]
    steady = [run.stayed.over(run.steady_windows) for run in runs]
    ours, before = _ms(stayed, 0.99), _ms(steady, 0.99)
    yield Figure.of("by record, steady, p99", "ms", before)
    yield Figure.of("by record while moving, bins that stay, p99", "ms", ours)
    ratios = [during / at_rest for during, at_rest in zip(ours, before, strict=True) if at_rest]
    if len(ratios) == len(runs):
        name = "bins that stay: p99 while moving over steady"
        yield Figure.of(name, "", ratios, at_most=STAYED_P99_OF_STEADY if quarter else None)
    moved = [run.moved.over(last) for run, last in zip(runs, windows, strict=True)]
    yield Figure.of("by record while moving, bins that move, p99", "ms", _ms(moved, 0.99))
    yield Figure.of("by record while moving, bins that move, max", "ms", _maxima(moved))
    every = [a.plus(b) for a, b in zip(stayed, moved, strict=True)]
    name = "by record while moving, max less the run's stall"
    most = MOVING_MAX_MS if quarter else None
    yield Figure.of(name, "ms", _less_stall(runs, every), at_most=most)
    frontier = [run.frontier.over(last) for run, last in zip(runs, windows, strict=True)]
    yield Figure.of("by frontier while moving, p99", "ms", _ms(frontier, 0.99))
    yield Figure.of("by frontier while moving, max", "ms", _maxima(frontier))
    if all(len(run.spans) > 1 for run in runs):
        first = [run.by_record.over(run.migrating_windows(run.spans[:1])) for run in runs]
        yield Figure.of("by record in the first move, p99", "ms", _ms(first, 0.99))
        yield Figure.of("by record in the first move, max", "ms", _maxima(first))


def _memory(runs: Sequence[WordRun]) -> Iterator[Figure]:
    steady = [run.rss_steady() / _MIB for run in runs]
    yield Figure.of("resident size of all workers, steady", "MiB", steady)
    if all(run.spans for run in runs):
        peak = [run.rss_peak() / _MIB for run in runs]
        yield Figure.of("resident size of all workers, peak", "MiB", peak)
        beside = [most - 1.1 * usual for most, usual in zip(peak, steady, strict=True)]
        name = "peak beyond the steady size and a tenth"
        yield Figure.of(name, "MiB", beside, at_most=RSS_BESIDE_MIB)


def _ms(each: Sequence[Latency], share: float) -> list[float]:
    return [one.quantile(share) / 1e6 for one in each]


def _maxima(each: Sequence[Latency]) -> list[float]:
    return [one.max_ns / 1e6 for one in each]


def _less_stall(runs: Sequence[WordRun], each: Sequence[Latency]) -> list[float]:
    """WF2."""
    return [max(0.0, one.max_ns / 1e6 - run.stall_ms) for run, one in zip(runs, each, strict=True)]
