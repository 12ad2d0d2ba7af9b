"""Schedules of the progress protocol while the processes stay the same; see progress_cluster.py.

Beside safety and liveness: what accumulation saves, and that the simulator's shortcuts are none.
Joining and leaving are test_progress_membership.py's, broken protocols test_progress_mutants.py's.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest

from tests.property.progress_cluster import DELAYS, Cluster, Links
from tests.property.progress_elastic import Watched
from tests.property.progress_mutants import EagerSender, TwoLoops


@pytest.mark.parametrize("seed", range(100))
def test_no_frontier_is_ever_ahead_and_everything_drains(seed: int) -> None:
    cluster = Cluster(seed).run()
    assert cluster.batches_sent > cluster.founders


@pytest.mark.parametrize("seed", range(15))
def test_after_every_step_no_view_is_ahead_of_what_messages_and_rights_could_result_in(
    seed: int,
) -> None:
    """The same by a truth that shares nothing with the tracker but the order."""
    assert Watched(seed).run().truth.is_empty
    assert TwoLoops(seed).run().truth.is_empty


def test_accumulation_sends_far_fewer_batches_than_speaking_at_once() -> None:
    seeds = range(1000, 1030)
    held_back = sum(Cluster(seed).run().batches_sent for seed in seeds)
    at_once = sum(Cluster(seed, EagerSender).run().batches_sent for seed in seeds)
    assert held_back < at_once / 3, (held_back, at_once)


def test_links_keep_their_order_and_differ_in_speed() -> None:
    links: Links[int] = Links(Random(3))
    for number in range(600):
        links.put(number % 4, number % 5, number)
        links.now += 1
    arrived = defaultdict(list)
    waited = defaultdict(list)
    while not links.is_empty:
        sender, receiver, number = links.take()
        arrived[sender, receiver].append(number)
        waited[links.delays[sender, receiver]].append(links.now - number)
    assert len(arrived) == 20
    assert all(numbers == sorted(numbers) for numbers in arrived.values())
    assert set(waited) == set(DELAYS)
    assert links.now > 600, "the slow ones are waited for"
