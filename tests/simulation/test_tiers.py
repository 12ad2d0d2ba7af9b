"""Whole jobs whose workers have no memory for rows: what the disk gives back is what went there.

Every row a batch changes is read from the worker's database before it and leaves again after it;
bins move with all their rows on disk. Judged like any other job, and against the same seed in
memory: outputs are the same, row for row and in order.

What this kind cannot catch: the disk itself; see tests/simulation/world.py for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.statestore.vertex_store import VertexStore
from tests.simulation.flows import FlowUnderTest, one_stage, two_stages
from tests.simulation.keyed_flows import firsts, joined, ordered_tree, remembering
from tests.simulation.world import Shape, World


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("flow", [one_stage, two_stages, firsts, ordered_tree, remembering, joined])
def test_workers_without_memory_for_rows_give_what_others_give(
    flow: Callable[[], FlowUnderTest], seed: int, tmp_path: Path
) -> None:
    copies = seed % 2 == 1
    world = World(8_000 + seed, Shape(flow=flow(), rows=300, copies=copies, databases=tmp_path))
    world.run()
    assert world.check() > 10
    in_memory = World(8_000 + seed, Shape(flow=flow(), rows=300, copies=copies))
    for member in in_memory.members:
        for store in member.stores.values():
            if isinstance(store, VertexStore):
                # Bins with rows on disk leave each on its own: in the same steps they do so here.
                store.groups = None
    in_memory.run()
    # What a round of copying tells depends on where rows are, and what happens when on that.
    assert copies or world.outputs == in_memory.outputs
    tables = [table for database in world.databases for table in database.tables]
    assert sum(table.recalled for table in tables) > 100
    for database in world.databases:
        database.close()


def test_rows_of_a_bin_that_moved_are_gone_from_the_database_it_left(tmp_path: Path) -> None:
    world = World(8_100, Shape(databases=tmp_path))
    world.run()
    hosts = [member for member in world.members if member.stores]
    found = 0
    for member, database in zip(hosts, world.databases, strict=True):
        owned = set(member.owned_bins())
        for bin_id in range(world.shape.bins):
            keys, _ = database.read_bin(0, bin_id, 4)
            assert bin_id in owned or not len(keys)
        found += sum(table.row_count for table in database.tables)
        database.close()
    assert found == len({row["auction"] for row in world.outputs["out"]})
