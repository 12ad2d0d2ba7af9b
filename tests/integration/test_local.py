"""`--local`: all roles in one process keep the contract that processes keep."""

from __future__ import annotations

import pytest

from tests.integration.bids import (
    LoadGenerator,
    faults,
    judge,
    migration_of,
    topics,
)
from tests.integration.command import query
from tests.integration.job import Job


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input and output topic of this test."""
    return topics(bootstrap_servers, unique_name("t"))


def test_a_local_job_is_exact_while_its_bins_move(bootstrap_servers, app_name, names, tmp_path):
    bins = 64
    owners = [0] * (bins // 2) + [1] * (bins // 2)
    there = dict.fromkeys(range(bins // 2), 1)
    back = dict.fromkeys(range(bins // 2), 0)
    arguments = [*query(names), "--local"]
    migrations = []
    with (
        Job(
            bootstrap_servers, app_name, tmp_path, workers=2, gateways=2, arguments=arguments
        ) as job,
        LoadGenerator(bootstrap_servers, names[0], 3_000) as load,
    ):
        job.await_running()
        assert len(job.processes()) == 0
        for identity, targets in (("there", there), ("back", back)):
            before = job.total("megaphone_state_applied_rows_total")
            moves = [[bin_, worker] for bin_, worker in targets.items()]
            request = {"id": identity, "kind": "move", "moves": moves, "batch": 4}
            job.request({**request, "strategy": "batched", "at": None})
            done = job.await_status(identity, "completed")
            assert done["waves"] == 8
            migrations.append(migration_of(done, targets))
            job.await_(
                lambda least=before + 5_000: (
                    job.total("megaphone_state_applied_rows_total") > least
                ),
                "rows behind a migration",
            )
        events = load.stop()
        job.await_total("megaphone_ingest_records_total", events)
        job.stop()
        assert len(job.lines("checkpoint.written")) == 1
        verdict = judge(
            bootstrap_servers,
            job,
            names,
            tmp_path / "proof",
            published=events,
            owners=owners,
            migrations=migrations,
        )
    assert not faults(verdict), faults(verdict)


def test_a_local_job_that_waits_is_stopped_by_a_signal(
    bootstrap_servers, app_name, names, tmp_path
):
    arguments = [*query(names), "--local"]
    with Job(bootstrap_servers, app_name, tmp_path, arguments=arguments) as job:
        job.await_lines("generation.began")
        job.stop()
