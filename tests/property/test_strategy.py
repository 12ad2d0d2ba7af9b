"""Laws of strategies and of the even spread, over all small routings.

Cannot catch: a strategy that is lawful and slow; that is measured.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.migration.plan import spread
from service.migration.strategy import Strategy, waves_of

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
    assert moved == [(b, w) for b, w in target.items() if owners[b] != w]
    assert all(waves)
    if strategy is Strategy.BATCHED:
        assert all(len(wave) == batch for wave in waves[:-1])
        assert all(len(wave) <= batch for wave in waves)
    if strategy is Strategy.FLUID:
        assert all(len(wave) == 1 for wave in waves)
    if strategy is Strategy.ALL_AT_ONCE:
        assert len(waves) <= 1


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
