"""Word-count runs as a test says they were: what they counted, how long it waited, what moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from service.bench.words.histogram import Latencies
from service.bench.words.options import WordOptions
from service.bench.words.outcome import PlanNote, WaveNote, WordRun

#: A run of 12 s, whose plans move something in two windows each.
DURATION_S = 12.0
WIDTH_NS = 250_000_000
MS = 1_000_000
SECOND = 1_000_000_000
#: Windows that lie wholly in the moves there and back, and one that nothing is near.
THERE, BACK, STEADY = 17, 33, 25
_BEGAN = 10 * SECOND
_WINDOWS = 49


def waits(*parts: tuple[int, int, float]) -> Latencies:
    """Latencies of (window, records, ms)."""
    found = Latencies(_WINDOWS, WIDTH_NS)
    for window, records, ms in parts:
        due = np.full(records, window * WIDTH_NS, dtype=np.int64)
        found.record_each(due, window * WIDTH_NS + round(ms * MS))
    return found


def span_of(
    second: float, seconds: float, *, waves: int = 1, gap_ms: float = 0.0, nbytes: int = 0
) -> list[WaveNote]:
    """Waves from `second` on that are done after `seconds`, with the same gap between any two."""
    begin = _BEGAN + round(second * SECOND)
    whole, gap = round(seconds * SECOND), round(gap_ms * MS)
    each = (whole - (waves - 1) * gap) // waves
    assert each > 0
    found = []
    for number in range(waves):
        cut = begin + number * (each + gap)
        done = begin + whole if number == waves - 1 else cut + each
        found.append(WaveNote(cut, cut, cut, 1, done, nbytes // waves, 1))
    return found


def _of_both(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size // 2, size - size // 2)


def word_run(
    options: WordOptions,
    *,
    rate: float = 1e6,
    bare: float = 0.0,
    stall_ms: float = 0.0,
    frontier: Latencies | None = None,
    stayed: Latencies | None = None,
    moved: Latencies | None = None,
    spans: Sequence[list[WaveNote]] = (),
    rss: Sequence[tuple[float, int | tuple[int, int]]] = ((1.0, 100_000_000),),
    peaks: tuple[int, ...] = (),
) -> WordRun:
    """A run of two workers that counted `rate` records/s each; `rss` is (second, bytes of both)."""
    options = replace(options, duration_s=DURATION_S)
    progress = [(second * SECOND, round(rate * second)) for second in range(3, 10)]
    return WordRun(
        options=options,
        stall_ms=stall_ms,
        frontier=frontier or waits((STEADY, 100, 0.1)),
        stayed=stayed or waits((STEADY, 100, 0.1)),
        moved=moved or waits(),
        records=[1, 1],
        progress=[progress, progress],
        rss=[(_BEGAN + round(at * SECOND), _of_both(size)) for at, size in rss],
        peaks=peaks,
        cpu=[],
        began_ns=0,
        start_ns=_BEGAN,
        bare=[bare, bare],
        rounds=[1, 1],
        plans=[
            PlanNote(number, 1, waves[0].issued_ns, waves[-1].done_ns)
            for number, waves in enumerate(spans)
        ],
        waves=[wave for waves in spans for wave in waves],
        left=[],
        owners=np.zeros(options.bins, dtype=np.int32),
        rows=options.domain,
    )
