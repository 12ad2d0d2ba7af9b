"""Bins of every kind of store arrive with what they left with, copied before or not.

Every world compares them (`handovers`); here are the kinds that the other tests have not, and
engines that lose or exchange what is kept while its keys and their number stay.

What this kind cannot catch: see tests/simulation/handovers.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.dataflow.worker import WorkerLimits
from service.statestore.arena import KeyedTable
from service.statestore.columns import Rows
from service.statestore.object_store import ObjectStore
from tests.simulation.flows import FlowUnderTest, one_stage
from tests.simulation.keyed_flows import firsts, listed, named, remembering, remembering_names
from tests.simulation.test_copies import TIGHT
from tests.simulation.test_mutants import Mutant, expect_caught
from tests.simulation.world import Shape, World


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("flow", [firsts, named, remembering_names, listed])
def test_what_is_kept_under_any_keys_arrives_as_it_left(
    flow: Callable[[], FlowUnderTest], copies: bool
) -> None:
    for seed, limits in ((24_000, WorkerLimits()), (24_001, TIGHT)):
        world = World(seed, Shape(flow=flow(), limits=limits, copies=copies, rows=400))
        world.run()
        assert world.check() > 10
        assert world.handovers.compared > 25


def test_small_bins_leave_together_and_others_alone() -> None:
    together = alone = 0
    for seed in range(24_100, 24_106):
        world = World(seed, Shape(flow=one_stage(), rows=400))
        world.run()
        assert world.check() > 10
        assert world.handovers.compared > 25
        together += world.handovers.together > 0
        alone += world.handovers.together == 0
    assert together
    assert alone


def unmoved() -> Shape:
    return Shape(flow=one_stage())


def copied_objects() -> Shape:
    return Shape(flow=remembering(), copies=True)


_install = KeyedTable.install
_write_encoded = ObjectStore.write_encoded


def _exchanging(table: KeyedTable, bin_id: int, rows: Rows) -> None:
    """`install` that puts each column's cells into another one."""
    columns = dict(zip(rows.columns, reversed(rows.columns.values()), strict=True))
    _install(table, bin_id, Rows(rows.keys, rows.versions, columns))


def _keeping(store: ObjectStore, bin_id: int, keys: list[int], encoded: list[bytes]) -> None:
    """`write_encoded` that leaves what is there as it was copied."""
    new = [(key, each) for key, each in zip(keys, encoded) if key not in store._objects.states]
    _write_encoded(store, bin_id, [key for key, _ in new], [each for _, each in new])


MUTANTS = {
    "cells of a bin come into other columns": Mutant(
        [("service.statestore.arena.KeyedTable.install", _exchanging)], "HO1", unmoved
    ),
    "what completes a copy does not replace what was copied": Mutant(
        [("service.statestore.object_store.ObjectStore.write_encoded", _keeping)],
        "HO1",
        copied_objects,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_some_seed_catches_a_move_in_which(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine as it is passes under the very seed that caught the other one."""
    expect_caught(MUTANTS[name], monkeypatch)
