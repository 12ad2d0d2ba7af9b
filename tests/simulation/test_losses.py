"""A job lost at any step of a copy, move or checkpoint goes on from its last one, which is whole.

A process that dies ends the generation, so that losing one is losing all: the job in one process is
ended at each of the fail points, at different times and in different orders. Steps of a worker with
a memory budget are those of tests/unit/statestore/test_checkpoint_crashes.py and, with SIGKILL, of
tests/integration/test_killed_at_each_step.py, which has all others as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from megaphone.testing import Cluster
from service.fail_points import FAIL_POINTS, at
from service.migration.records import decode_manifest
from service.testing.broker import KitBroker
from tests.simulation.checkpoint_lives import BINS, FLOWS, _check_cut, _check_end, _rows

#: Those of the shells, which a job in one process does not have, and what it has in their place.
SHELLS = ("manifest.due", "manifest.written")
#: A job in one process has no memory budget.
POINTS = [name for name in FAIL_POINTS if not name.startswith("tiers.")]


class Lost(Exception):
    """The process is gone."""


def lose() -> None:
    raise Lost


@contextmanager
def losing(point: str, nth: int) -> Iterator[None]:
    """Lose the job at a point, the controller's own included."""
    if point not in SHELLS:
        with at(point, nth, lose):
            yield
        return
    keep: Callable[..., None] = KitBroker.keep_manifest

    def keep_or_not(broker: KitBroker, manifest: object) -> None:
        if point == "manifest.written":
            keep(broker, manifest)
        raise Lost

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(KitBroker, "keep_manifest", keep_or_not)
        yield


def work(job: Cluster, draw: np.random.Generator, sent: list[list[tuple[int, int]]]) -> None:
    """Send some rows to both partitions, with time between them."""
    for partition in (0, 1, 0, 1):
        rows = _rows(draw, sent, int(draw.integers(1, 12)))
        sent[partition] += rows
        given = [{"auction": key, "price": price} for key, price in rows]
        job.send("bids", given, partition=partition)
        job.advance(float(draw.integers(1, 3)))


def go_on(
    job: Cluster, draw: np.random.Generator, sent: list[list[tuple[int, int]]], *, precopy: bool
) -> None:
    """Move bins, write a checkpoint meanwhile, and end."""
    job.move([0, 1, 2, 3], 2, batch=2, precopy=precopy, wait=False)
    job.checkpoint(wait=False)
    for _ in range(20):
        work(job, draw, sent)
    job.finish()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("point", POINTS)
def test_a_job_lost_there_goes_on_from_a_whole_checkpoint(
    point: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bins of a test are small, and copied all the same.
    monkeypatch.setattr("service.migration.copies.LEAST_BYTES", 0)
    name = ("aggregate", "two stages")[seed % 2]
    draw = np.random.default_rng(seed)
    sent: list[list[tuple[int, int]]] = [[], []]
    columns = {"bids": {"auction": "int64", "price": "int64"}}
    flow = FLOWS[name]()
    with Cluster(flow, workers=3, gateways=2, bins=BINS, schemas=columns, schedule=seed) as job:
        work(job, draw, sent)
        job.checkpoint()
        work(job, draw, sent)
        with losing(point, 1 + seed), pytest.raises(Lost):
            go_on(job, draw, sent, precopy=point.startswith("copy."))
        assert not job.is_up
        manifests = [decode_manifest(each) for each in job._broker.manifests]
        assert len(manifests) == 1 + (point == "manifest.written")
        for manifest in manifests:
            _check_cut(name, job, manifest, sent)
        job.restart()
        work(job, draw, sent)
        job.finish()
        _check_end(name, job, sent, seed)
        _check_cut(name, job, decode_manifest(job._broker.manifests[-1]), sent)
