"""The figures of word-count runs, held to the bounds that hold for such runs.

Flow: WordRun of each run, and of what was run beside it -> [figures_of] -> BenchDocument. Pure.

Invariants
  WF1  A bound is held only by a run of the size it was set for (2 workers, the domain, the rate);
       of other runs a figure is recorded.
  WF2  Every bound on a longest latency has the run's own stall added before it is judged: the
       figure is what is left of the latency without the stall. A ratio of longest latencies is of
       the latencies as they were.
  WF3  Every move of a run is judged by the same bounds, each by a figure of its own: bins return to
       where there is memory for them, and the first move has to find it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from service.bench.document import Figure
from service.bench.words.histogram import Latencies, Latency
from service.bench.words.options import Backend, WordOptions
from service.bench.words.outcome import Span, WordRun, counted

_MB = 1e6
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
#: Longest wait under all-at-once over that under fluid, 64 M keys; and, of bins that were copied
#: before and move all at once, over that with a quarter of the keys.
OF_FLUID = 10.0
OF_QUARTER_STATE = 1.5
#: Beside a tenth of the steady size, MB.
RSS_BESIDE_MB = 256.0
_OPEN_RATE = 1_000_000
_MOVES = ("first", "second", "third")


def figures_of(
    runs: Sequence[WordRun],
    natives: Sequence[WordRun] = (),
    peers: Sequence[float] = (),
    others: Sequence[WordRun] = (),
) -> Iterator[Figure]:
    """All figures of runs with equal options.

    Args:
        runs: one or more.
        natives: the native twin of each run, made beside it; or none.
        peers: records/s of another stream processor, measured beside each run; or none.
        others: a run under another strategy or with other keys, made beside each run; or none.
    """
    options = runs[0].options
    yield from _throughput(options, runs, natives, peers)
    if options.open_loop:
        yield from _latency(options, runs)
        if natives:
            yield from _beside_native(options, runs, natives)
    yield from _moves(options, runs)
    if others:
        yield from _beside_other(runs, others)
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
    """Of each plan that all runs carried out (WF3)."""
    for number in range(_moves_of(runs)):
        name, spans = _move_name(number), [run.spans[number] for run in runs]
        yield from _move(options, name, spans)
        if options.open_loop:
            yield from _latency_of_move(options, name, runs, number)


def _moves_of(runs: Sequence[WordRun]) -> int:
    """How many plans every run carried out."""
    return min(len(run.spans) for run in runs)


def _move_name(number: int) -> str:
    """What a plan's figures begin with."""
    return f"{_MOVES[number] if number < len(_MOVES) else f'{number + 1}th'} move"


def _move(options: WordOptions, name: str, spans: Sequence[Span]) -> Iterator[Figure]:
    waves = [len(span.waves) / span.seconds for span in spans]
    fluid = options.migration == "fluid"
    held = FLUID_WAVES_S if fluid else None
    yield Figure.of(f"{name}: waves", "1/s", waves, at_least=held)
    gaps = [median(span.gaps_ms) for span in spans if span.gaps_ms]
    if len(gaps) == len(spans):
        held = FLUID_GAP_MS if fluid else None
        yield Figure.of(f"{name}: gap between waves, median", "ms", gaps, at_most=held)
    yield Figure.of(f"{name}: bytes moved", "MB", [span.bytes / _MB for span in spans])
    speed = [span.bytes / _MB / span.seconds for span in spans]
    held = MOVED_MB_S if options.migration == "sudden" else None
    yield Figure.of(f"{name}: state moved", "MB/s", speed, at_least=held)
    took = [span.seconds * 1e3 for span in spans]
    yield Figure.of(f"{name}: time from the first cut to the end", "ms", took)
    longest = [max((w.done_ns - w.cut_ns) / 1e6 for w in span.waves) for span in spans]
    yield Figure.of(f"{name}: longest wave", "ms", longest)


def _latency_of_move(
    options: WordOptions, name: str, runs: Sequence[WordRun], number: int
) -> Iterator[Figure]:
    quarter = (
        options.migration == "batched"
        and options.workers == 2
        and options.domain == 16_000_000
        and options.rate == _OPEN_RATE
    )
    windows = [run.migrating_windows([run.spans[number]]) for run in runs]
    stayed = [run.stayed.over(during) for run, during in zip(runs, windows, strict=True)]
    steady = [run.stayed.over(run.steady_windows) for run in runs]
    ours, before = _ms(stayed, 0.99), _ms(steady, 0.99)
    if not number:
        yield Figure.of("by record, steady, p99", "ms", before)
    yield Figure.of(f"{name}: by record, bins that stay, p99", "ms", ours)
    ratios = [during / at_rest for during, at_rest in zip(ours, before, strict=True) if at_rest]
    if len(ratios) == len(runs):
        ratio = f"{name}: bins that stay, p99 over steady"
        yield Figure.of(ratio, "", ratios, at_most=STAYED_P99_OF_STEADY if quarter else None)
    moved = [run.moved.over(during) for run, during in zip(runs, windows, strict=True)]
    yield Figure.of(f"{name}: by record, bins that move, p99", "ms", _ms(moved, 0.99))
    yield Figure.of(f"{name}: by record, bins that move, max", "ms", _maxima(moved))
    every = [a.plus(b) for a, b in zip(stayed, moved, strict=True)]
    left, most = f"{name}: by record, max less the run's stall", MOVING_MAX_MS if quarter else None
    yield Figure.of(left, "ms", _less_stall(runs, every), at_most=most)
    frontier = [run.frontier.over(during) for run, during in zip(runs, windows, strict=True)]
    yield Figure.of(f"{name}: by frontier, p99", "ms", _ms(frontier, 0.99))
    yield Figure.of(f"{name}: by frontier, max", "ms", _maxima(frontier))


def _beside_other(runs: Sequence[WordRun], others: Sequence[WordRun]) -> Iterator[Figure]:
    """Longest waits while bins move, beside runs under another strategy, or with fewer keys."""
    ours, theirs = runs[0].options, others[0].options
    set_for = ours.workers == 2 and ours.rate == _OPEN_RATE
    strategies = (ours.migration, theirs.migration) == ("sudden", "fluid")
    large = ours.domain == 64_000_000 and not ours.precopy
    copied = ours.migration == theirs.migration == "sudden" and ours.precopy
    for number in range(min(_moves_of(runs), _moves_of(others))):
        name = _move_name(number)
        if ours.migration != theirs.migration:
            what = f"{name}: by frontier, max, {ours.migration} over {theirs.migration}"
            waits = [_moving(each, number, each.frontier) for each in (*runs, *others)]
            least = OF_FLUID if set_for and strategies and large else None
            yield Figure.of(what, "", _over(waits), at_least=least)
        else:
            what = f"{name}: bins that move, max, {ours.domain:,} over {theirs.domain:,} keys"
            waits = [_moving(each, number, each.moved) for each in (*runs, *others)]
            most = OF_QUARTER_STATE if ours.domain == 4 * theirs.domain else None
            yield Figure.of(what, "", _over(waits), at_most=most if set_for and copied else None)


def _moving(run: WordRun, number: int, latencies: Latencies) -> int:
    """The longest wait during a plan, ns."""
    return latencies.over(run.migrating_windows([run.spans[number]])).max_ns


def _over(waits: Sequence[int]) -> list[float]:
    """The first half over the second, run by run; a nanosecond where nothing waited."""
    half = len(waits) // 2
    return [mine / max(1, other) for mine, other in zip(waits[:half], waits[half:], strict=True)]


def _memory(runs: Sequence[WordRun]) -> Iterator[Figure]:
    steady = [run.rss_steady() / _MB for run in runs]
    yield Figure.of("resident size of all workers, steady", "MB", steady)
    if all(run.spans for run in runs):
        peak = [run.rss_peak() / _MB for run in runs]
        yield Figure.of("resident size of all workers, peak", "MB", peak)
        beside = [most - 1.1 * usual for most, usual in zip(peak, steady, strict=True)]
        name = "peak beyond the steady size and a tenth"
        yield Figure.of(name, "MB", beside, at_most=RSS_BESIDE_MB)


def _ms(each: Sequence[Latency], share: float) -> list[float]:
    return [one.quantile(share) / 1e6 for one in each]


def _maxima(each: Sequence[Latency]) -> list[float]:
    return [one.max_ns / 1e6 for one in each]


def _less_stall(runs: Sequence[WordRun], each: Sequence[Latency]) -> list[float]:
    """WF2."""
    return [max(0.0, one.max_ns / 1e6 - run.stall_ms) for run, one in zip(runs, each, strict=True)]
