"""The measured process of `megaphone bench state`: one store driven by batches, and its memory.

Flow: options as JSON on the command line -> [main], which says where it waits for the others ->
what was measured as JSON on standard output.

Invariants
  SB1  Memory is that of a process that does nothing else: the judge, which needs a counter per key,
       begins when memory is no longer looked at, in any of the processes.
  SB2  The judge counts anew, from the seeds, with NumPy; it shares no code with the store.
  SB3  All workers load, run and judge at the same times: before each part a process meets the
       others, so that none measures while another is done and leaves it the machine.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from service.clock import SystemClock
from service.statestore.aggregate import Aggregate, AggregateProgram, Count, Sum
from service.statestore.slot_database import SlotDatabase
from service.statestore.tiered_table import TieredTable
from service.statestore.tiers import back_stores
from service.statestore.vertex_store import VertexStore

Int64s = NDArray[np.int64]

#: What a process says where it waits for the others.
MET = "met"
BATCH = 16_384
_BIN_BITS = 10
#: State columns of a key: with its stamp and itself a row takes 128 bytes.
_COLUMNS = 14
ROW_BYTES = 8 * (2 + _COLUMNS)
#: Odd, so that it spreads ranks over the keys.
_SPREAD = 2_654_435_761
_EXPONENT = 0.99
_SKEWED, _UNIFORM = 1, 2


class SideOptions(msgspec.Struct, frozen=True):
    """What one process measures."""

    #: Bytes for the store; 0: no bound, all in memory.
    budget: int
    #: Keys, and below the records of a run, are those of this worker alone.
    keys: int
    runs: int
    #: Records of one run of each kind, and as many before the first that are not measured.
    skewed: int
    uniform: int
    #: Which worker it is: each draws its own keys.
    worker: int = 0


class SideResult(msgspec.Struct, frozen=True):
    """What it found."""

    skewed: list[float]
    uniform: list[float]
    #: Records a second while each key came for the first time.
    loading: float
    #: Bytes of memory above those at readiness, at most; and the slowest batch of each kind, ms.
    grown: int
    slowest_skewed_ms: float
    slowest_uniform_ms: float
    #: Rows on disk alone at the end.
    away: int
    #: Whether every key had the count and the sums that NumPy counts.
    exact: bool


@dataclass(slots=True)
class _Clocked:
    records: int = 0
    seconds: float = 0.0
    slowest: float = 0.0


class _Driven:
    """A store, and the memory of its process."""

    def __init__(self, options: SideOptions, folder: Path) -> None:
        self.options = options
        outputs: dict[str, Aggregate] = {"n": Count()}
        outputs |= {f"s{number}": Sum("v") for number in range(1, _COLUMNS)}
        self.store = VertexStore(
            "counts", AggregateProgram("k", outputs, {"v": "int64"}), _BIN_BITS
        )
        self.database: SlotDatabase | None = None
        if options.budget:
            self.database = SlotDatabase(folder / "live", options.budget)
            back_stores({"counts": self.store}, self.database)
        self._process = psutil.Process()
        self._clock = SystemClock()
        self.version = 0
        warm = np.arange(BATCH, dtype=np.int64) % options.keys
        self.store.apply(warm, {"v": warm}, 0)
        self.store.clear()
        self._ready = self._process.memory_info().rss
        self.grown = 0

    def apply(self, keys: Int64s, clocked: _Clocked) -> None:
        began = self._clock.monotonic_ns()
        self.version += 1
        self.store.apply(keys, {"v": keys & 255}, self.version)
        seconds = (self._clock.monotonic_ns() - began) / 1e9
        clocked.records += len(keys)
        clocked.seconds += seconds
        clocked.slowest = max(clocked.slowest, seconds)
        self.grown = max(self.grown, self._process.memory_info().rss - self._ready)


def _loading(keys: int) -> Iterator[Int64s]:
    for start in range(0, keys, BATCH):
        yield np.arange(start, min(start + BATCH, keys), dtype=np.int64)


def _drawn(kind: int, run: int, options: SideOptions) -> Iterator[Int64s]:
    """Batches of one run: the same each time it is asked for."""
    random = np.random.default_rng([kind, run, options.worker])
    records = options.skewed if kind == _SKEWED else options.uniform
    for _ in range(max(1, records // BATCH)):
        if kind == _UNIFORM:
            yield random.integers(0, options.keys, BATCH)
            continue
        # Zipf's law of exponent 0.99 by its integral: the share of ranks up to x is
        # (x**0.01 - 1) / (keys**0.01 - 1).
        least = 1.0 - _EXPONENT
        drawn = (random.random(BATCH) * (options.keys**least - 1) + 1) ** (1 / least)
        ranks = np.minimum(drawn.astype(np.int64) - 1, options.keys - 1)
        yield ranks * _SPREAD % options.keys


def _is_exact(driven: _Driven) -> bool:
    """SB2."""
    options = driven.options
    expected = np.ones(options.keys, dtype=np.int64)
    for kind in (_SKEWED, _UNIFORM):
        for run in range(options.runs + 1):
            for keys in _drawn(kind, run, options):
                np.add.at(expected, keys, 1)
    seen = 0
    for bin_id in range(driven.store.bins):
        rows = driven.store.table.extract(bin_id)
        counts = expected[rows.keys]
        sums = counts * (rows.keys & 255)
        columns = list(rows.columns.values())
        if not (columns[0] == counts).all() or any((each != sums).any() for each in columns[1:]):
            return False
        seen += len(rows)
    return seen == options.keys == driven.store.row_count


def measure(
    options: SideOptions, folder: Path, meet: Callable[[], None] = lambda: None
) -> SideResult:
    """Load every key once, then take turns: a run of skewed keys, one of uniform keys.

    Args:
        options: what is measured.
        folder: where rows are kept that leave memory.
        meet: returns when all workers have come so far (SB3).

    Raises:
        StateError: the disk refused.
    """
    driven = _Driven(options, folder)
    loading = _Clocked()
    meet()
    for keys in _loading(options.keys):
        driven.apply(keys, loading)
    rates: dict[int, list[float]] = {_SKEWED: [], _UNIFORM: []}
    slowest = dict.fromkeys(rates, 0.0)
    for run in range(options.runs + 1):
        for kind, found in rates.items():
            clocked = _Clocked()
            meet()
            for keys in _drawn(kind, run, options):
                driven.apply(keys, clocked)
            # The first run of each kind only warms up: what it is about to need is not there yet.
            if run:
                found.append(clocked.records / clocked.seconds)
                slowest[kind] = max(slowest[kind], clocked.slowest)
    table = driven.store.table
    away = table.away_count if isinstance(table, TieredTable) else 0
    meet()
    result = SideResult(
        rates[_SKEWED],
        rates[_UNIFORM],
        loading.records / loading.seconds,
        driven.grown,
        slowest[_SKEWED] * 1e3,
        slowest[_UNIFORM] * 1e3,
        away,
        _is_exact(driven),
    )
    if driven.database is not None:
        driven.database.close()
    return result


def _meet() -> None:
    """Say that this process has come so far, and wait until it hears that all have (SB3)."""
    sys.stdout.write(f"{MET}\n")
    sys.stdout.flush()
    sys.stdin.readline()


def main() -> None:
    """Measure as the first argument says, in the folder that the second one names."""
    options = msgspec.json.decode(sys.argv[1], type=SideOptions)
    with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
        result = measure(options, Path(folder), _meet)
    sys.stdout.write(f"{msgspec.json.encode(result).decode()}\n")


if __name__ == "__main__":
    main()
