"""Laws of strategies, of the even spread and of rebalancing, over all small routings.

Cannot catch: a strategy that is lawful and slow; that is measured.
"""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.migration.rebalance import rebalance
from service.migration.strategy import Strategy, waves_of
from service.migration.target import half, spread, uniform, uniform_skew

WORKERS = 4


@st.composite
def routings(draw: st.DrawFn) -> NDArray[np.int32]:
    owners = draw(st.lists(st.integers(0, WORKERS - 1), min_size=1, max_size=40))
    return np.array(owners, dtype=np.int32)


@given(routings(), st.sampled_from(Strategy), st.integers(1, 50), st.data())
def test_waves_turn_the_routing_into_the_target_and_move_nothing_else(
    owners: NDArray[np.int32], strategy: Strategy, batch: int, data: st.DataObject
) -> None:
    bins = st.integers(0, owners.size - 1)
    target = data.draw(st.dictionaries(bins, st.integers(0, WORKERS - 1)))
    waves = waves_of(strategy, owners, target, batch)
    moved = [move for wave in waves for move in wave]
    wanted = [(b, w) for b, w in target.items() if owners[b] != w]
    if strategy is Strategy.OPTIMIZED:
        assert sorted(moved) == sorted(wanted)
    else:
        assert moved == wanted
    assert all(waves)
    if strategy is Strategy.BATCHED:
        assert all(len(wave) == batch for wave in waves[:-1])
        assert all(len(wave) <= batch for wave in waves)
    if strategy is Strategy.FLUID:
        assert all(len(wave) == 1 for wave in waves)
    if strategy is Strategy.ALL_AT_ONCE:
        assert len(waves) <= 1


@given(routings(), st.integers(1, 3), st.booleans(), st.data())
def test_in_an_optimized_wave_a_worker_sends_or_receives_with_one_other(
    owners: NDArray[np.int32], batch: int, sized: bool, data: st.DataObject
) -> None:
    bins = st.integers(0, owners.size - 1)
    target = data.draw(st.dictionaries(bins, st.integers(0, WORKERS - 1)))
    sizes = None
    if sized:
        drawn = data.draw(st.lists(st.integers(0, 5), min_size=owners.size, max_size=owners.size))
        sizes = np.array(drawn)
    waves = waves_of(Strategy.OPTIMIZED, owners, target, batch, sizes)
    for wave in waves:
        bins_of_pair = Counter((int(owners[bin_]), worker) for bin_, worker in wave)
        named = [worker for pair in bins_of_pair for worker in pair]
        assert len(named) == len(set(named))
        assert max(bins_of_pair.values()) <= batch
    # No order of waves can be shorter than its busiest worker, or longer than three of its rounds.
    parcels = Counter((int(owners[b]), w) for b, w in target.items() if owners[b] != w)
    sends: Counter[int] = Counter()
    receives: Counter[int] = Counter()
    for (sender, receiver), count in parcels.items():
        sends[sender] += -(-count // batch)
        receives[receiver] += -(-count // batch)
    busiest = max([*sends.values(), *receives.values()], default=0)
    if sends.keys() & receives.keys():
        assert busiest <= len(waves) <= 3 * busiest
    else:
        assert len(waves) == busiest
    if sizes is not None:
        for pair in parcels:
            own = [m for wave in waves for m in wave if (int(owners[m[0]]), m[1]) == pair]
            found = [int(sizes[bin_]) for bin_, _ in own]
            assert found == sorted(found, reverse=True)


@given(routings(), st.data(), st.sampled_from([0.0, 0.05, 0.5]))
def test_a_rebalance_never_makes_anybody_busier_than_the_busiest_was(
    owners: NDArray[np.int32], data: st.DataObject, threshold: float
) -> None:
    drawn = data.draw(st.lists(st.integers(0, 50), min_size=owners.size, max_size=owners.size))
    loads = np.array(drawn, dtype=np.float64)
    target = rebalance(owners, loads, WORKERS, threshold)
    before = np.bincount(owners, weights=loads, minlength=WORKERS)
    mean = before.sum() / WORKERS
    after = owners.copy()
    carried = before.copy()
    for bin_, worker in target.items():
        sender = int(owners[bin_])
        assert sender != worker
        assert carried[sender] > mean > carried[worker], "RB1"
        top = carried.max()
        carried[sender] -= loads[bin_]
        carried[worker] += loads[bin_]
        after[bin_] = worker
        assert carried.max() <= top, "RB2"
        assert carried[worker] < top, "RB2"
    if carried.max() > mean * (1 + threshold):
        busiest, idlest = int(carried.argmax()), int(carried.argmin())
        for bin_ in np.flatnonzero((after == busiest) & (loads > 0)):
            moved_once = int(bin_) in target
            assert moved_once or carried[idlest] + loads[bin_] >= carried[busiest], "RB3"


@given(routings())
@example(np.zeros(40, dtype=np.int32))
def test_a_rebalance_of_equal_bins_moves_no_more_than_an_even_spread_would(
    owners: NDArray[np.int32],
) -> None:
    target = rebalance(owners, np.ones(owners.size), WORKERS, 0.0)
    assert len(target) <= len(spread(owners, WORKERS))


def test_patterns_are_those_of_the_experiments() -> None:
    """The counts are those printed for 16 workers: a quarter of the bins moves in eighths of it."""
    for bits, moved, steps in ((6, 16, 2), (8, 64, 8), (10, 256, 32), (12, 1024, 128)):
        owners, target = uniform(1 << bits, 16), uniform_skew(1 << bits, 16)
        assert int((owners != target).sum()) == moved
        waves = waves_of(Strategy.OPTIMIZED, target, dict(enumerate(owners.tolist())), 1)
        assert len(waves) == steps
    assert half(8, 4).tolist() == [0, 2, 2, 0, 0, 2, 2, 0]
    assert set(half(8, 2).tolist()) == {0}


@given(routings(), st.integers(1, WORKERS))
def test_a_spread_is_even_and_every_move_takes_from_one_that_has_too_many(
    owners: NDArray[np.int32], workers: int
) -> None:
    target = spread(owners, workers)
    after = owners.copy()
    for bin_, worker in target.items():
        assert owners[bin_] != worker
        after[bin_] = worker
    counts = np.bincount(after, minlength=WORKERS)
    assert counts[workers:].sum() == 0
    assert counts[:workers].max() - counts[:workers].min() <= 1
    before = np.bincount(owners, minlength=WORKERS)
    givers = {int(owners[bin_]) for bin_ in target}
    takers = set(target.values())
    assert not givers & takers
    assert all(counts[giver] < before[giver] for giver in givers)


def test_no_even_spread_moves_fewer_bins() -> None:
    """Every routing of up to 5 bins on 3 workers, against every even spread there is."""
    for bins in range(1, 6):
        everything = list(product(range(3), repeat=bins))
        for workers in (1, 2, 3):
            even = [
                r
                for r in everything
                if max(r) < workers
                and max(r.count(w) for w in range(workers))
                - min(r.count(w) for w in range(workers))
                <= 1
            ]
            for owners in everything:
                least = min(sum(a != b for a, b in zip(owners, r, strict=True)) for r in even)
                assert len(spread(np.array(owners, dtype=np.int32), workers)) == least
