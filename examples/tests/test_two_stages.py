"""How a user tests a flow: examples/two_stages.py, unchanged, without a broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.two_stages import flow
from megaphone.testing import Cluster, crash, move, restart, run

SCHEMAS = Path(__file__).parents[1] / "schemas"


def bids(*auctions: int) -> list[dict[str, int]]:
    """A bid on each of these auctions."""
    return [{"auction": auction} for auction in auctions]


def test_the_busiest_auction_of_each_hundred() -> None:
    with Cluster(flow, registry=SCHEMAS) as cluster:
        cluster.send("bids", bids(101, 101, 199, 205))
        cluster.send("bids", bids(199, 199))
        assert cluster.latest("out") == {
            1: {"hundred": 1, "most_bids": 3},
            2: {"hundred": 2, "most_bids": 1},
        }


@pytest.mark.parametrize("seed", range(5))
def test_neither_a_move_nor_a_crash_nor_the_order_changes_the_last_result(seed: int) -> None:
    first, second = bids(101, 101, 199), bids(199, 199, 205)
    seen = run(
        flow,
        {"bids": [first, move(range(8), to=1, wait=False), second, crash(), restart()]},
        bins=16,
        schedule=seed,
    )
    last = {row["hundred"]: row["most_bids"] for row in seen["out"]}
    assert last == {1: 3, 2: 1}
