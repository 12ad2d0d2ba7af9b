"""Which runs make up the paper's experiments, scaled to one machine.

Flow: `--quick` or not -> [experiments] -> groups of runs, each under the name of a figure ->
[setups_of] -> what is still to be made, and how long each takes. Pure.

The paper has 16 workers on 4 machines, 256 M to 32,768 M keys, and 4 M records/s; a run lasts
1,200 s. Here there are 2 workers, keys are 1/256 to 1/512 as many, and a run lasts some seconds;
what is varied, and how, is the paper's.

Invariants
  EX1  A run that serves several groups is one run: its name is its parameters.
  EX2  The default set fits into 40 minutes on two cores.
  EX3  A run that is done is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from service.bench.words.options import Backend, WordOptions

#: What one run takes beside its duration: processes, load, results; seconds. The largest domains
#: take some seconds more.
OVERHEAD_S = 6.0
STRATEGIES = ("sudden", "fluid", "batched", "optimized")
#: Between two workers a wave of either is one bin: all of a plan's must fit into the run.
_BIN_BY_BIN = ("fluid", "optimized")
_M = 1_000_000
#: Waves of one bin that fit between two plans of a run.
_FLUID_BINS_MAX = 1 << 8


@dataclass(frozen=True, slots=True)
class Group:
    """The runs behind one figure; `varied` is the parameter on its horizontal axis."""

    name: str
    varied: str
    runs: tuple[WordOptions, ...]


def experiments(*, quick: bool) -> list[Group]:
    """All groups, in the order of the paper's figures."""
    return [
        _overhead("overhead-hash", Backend.HASH, _M, quick),
        _overhead("overhead-vec", Backend.VEC, 16 * _M, quick),
        _moving("bins", "bins", _by_bins(quick), quick),
        _moving("domain", "domain", _by_domain(quick), quick),
        _moving("domain-hash", "domain", _by_domain_hash(quick), quick),
        _moving("keys-per-bin", "bins", _by_keys_per_bin(quick), quick),
        _moving("rate", "rate", _by_rate(quick), quick),
    ]


@dataclass(frozen=True, slots=True)
class Setup:
    """One run that is to be made, and about how long it takes."""

    options: WordOptions
    seconds: float


def setups_of(groups: Sequence[Group], is_done: Callable[[WordOptions], bool]) -> list[Setup]:
    """What is to be made, in the order of the groups, each once (EX1, EX3)."""
    runs = dict.fromkeys(options for group in groups for options in group.runs)
    return [
        Setup(options, options.duration_s + OVERHEAD_S) for options in runs if not is_done(options)
    ]


def _overhead(name: str, backend: Backend, domain: int, quick: bool) -> Group:
    """No moves: bins 2^4 to 2^20, and none."""
    bits = (4, 12, 20) if quick else range(4, 21, 2)
    duration = 3.0 if quick else 8.0
    at_rest = WordOptions(backend=backend, rate=_M // 2, duration_s=duration, domain=domain)
    with_bins = [replace(at_rest, bins=1 << each) for each in bits]
    return Group(name, "bins", (*with_bins, replace(at_rest, backend=backend.twin)))


def _moving(name: str, varied: str, bases: Iterator[WordOptions], quick: bool) -> Group:
    """Every strategy on each of `bases`; bin by bin only where all waves fit into the run."""
    duration = 6.0 if quick else 12.0
    runs = [
        replace(base, migration=strategy, duration_s=duration)
        for base in bases
        for strategy in STRATEGIES
        if strategy not in _BIN_BY_BIN or base.bins <= _FLUID_BINS_MAX
    ]
    return Group(name, varied, tuple(runs))


def _base() -> WordOptions:
    return WordOptions(backend=Backend.VEC, rate=_M // 2, domain=16 * _M, bins=1 << 8)


def _by_bins(quick: bool) -> Iterator[WordOptions]:
    for bits in (4, 8) if quick else (4, 6, 8, 10, 12):
        yield replace(_base(), bins=1 << bits)


def _by_domain(quick: bool) -> Iterator[WordOptions]:
    for millions in (1, 16) if quick else (1, 4, 16, 64):
        yield replace(_base(), domain=millions * _M)


def _by_domain_hash(quick: bool) -> Iterator[WordOptions]:
    for millions in (1, 4) if quick else (1, 4, 16):
        yield replace(_base(), backend=Backend.HASH, domain=millions * _M)


def _by_keys_per_bin(quick: bool) -> Iterator[WordOptions]:
    for bits in (4, 8) if quick else (4, 6, 8, 10):
        yield replace(_base(), bins=1 << bits, domain=_M // 16 << bits)


def _by_rate(quick: bool) -> Iterator[WordOptions]:
    for thousands in (250, 1000) if quick else (125, 250, 500, 1000, 2000, 4000):
        yield replace(_base(), rate=thousands * 1000)
