"""The built-in query on real processes and a real Kafka: every output is right.

The oracle is `demo.proof`, which computes the running aggregate a second time. Cannot catch: faults
that need a lost process (test_job_failures), a restart (test_job_restart) or hours.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from confluent_kafka import Producer

from demo.proof import Verdict
from service.nexmark.events import EventSource, NexmarkConfig
from tests.integration.bids import (
    FIRST_MS,
    PARTITIONS,
    LoadGenerator,
    bids_of,
    faults,
    judge,
    migration_of,
    publish,
    topics,
)
from tests.integration.job import Job, read_topic

#: What the proof says when nothing was to move and nothing is wrong.
UNMOVED = {"moved"}


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input and output topic of this test."""
    return topics(bootstrap_servers, unique_name("t"))


def query(names, *more):
    """The arguments that let the built-in query read and write these topics."""
    return ["--topic-prefix", names[0].removesuffix("-events"), *more]


def test_every_output_is_exact_while_bins_move_there_and_back(
    bootstrap_servers, app_name, names, tmp_path
):
    """Two gateways, three workers; each bin of two workers leaves and comes back under load."""
    bins, workers = 64, 3
    owners = [number * workers // bins for number in range(bins)]
    there = {b: (owners[b] + 1) % workers for b in range(bins) if owners[b] != 1}
    back = {b: owners[b] for b in there}
    with (
        Job(
            bootstrap_servers,
            app_name,
            tmp_path / "state",
            workers=workers,
            gateways=2,
            bins=bins,
            arguments=query(names),
        ) as job,
        LoadGenerator(bootstrap_servers, names[0], 6_000) as load,
    ):
        job.await_running()
        job.await_(lambda: job.total("megaphone_state_applied_rows_total") > 5_000, "rows")
        migrations = []
        for number, targets in enumerate((there, back, there)):
            before = job.total("megaphone_state_applied_rows_total")
            request = {"id": f"r{number}", "kind": "move", "batch": 4}
            job.request({**request, "moves": [[b, w] for b, w in targets.items()]})
            done = job.await_status(f"r{number}", "completed")
            assert (done["bins"], done["waves"]) == (len(targets), -(-len(targets) // 4))
            assert done["bytes"] > 0
            migrations.append(migration_of(done, targets))
            job.await_(
                lambda least=before + 8_000: (
                    job.total("megaphone_state_applied_rows_total") > least
                ),
                "rows behind a migration",
            )
        published = load.stop()
        job.await_total("megaphone_ingest_records_total", published)
        job.await_total("megaphone_state_applied_rows_total", bids_of(published))
        assert job.total("megaphone_migration_received_bins_total") == sum(
            len(migration.targets) for migration in migrations
        )
        job.await_(lambda: job.total("megaphone_migration_owned_bins") == bins, "all bins")
        assert job.total("megaphone_ingest_lag_records") == 0
        job.stop()
        verdict = judge(
            bootstrap_servers,
            job,
            names,
            tmp_path / "proof",
            published=published,
            owners=owners,
            migrations=migrations,
        )
    assert verdict.exact, faults(verdict)
    assert verdict.bids == verdict.bids_counted == bids_of(published)
    # Hot auctions pass quickly: some bins may be silent in a phase, most are not.
    assert verdict.changes == 3 * len(there)
    assert verdict.changes_witnessed > verdict.changes // 2


def test_until_end_writes_all_results_and_ends_well(bootstrap_servers, app_name, names, tmp_path):
    publish(bootstrap_servers, names[0], 60_000)
    verdict = run_to_the_end(bootstrap_servers, app_name, names, tmp_path, 65_536, 60_000)
    assert set(faults(verdict)) == UNMOVED, faults(verdict)
    assert verdict.bids == verdict.bids_counted == bids_of(60_000)


def test_a_gateway_without_partitions_keeps_nobody_from_the_end(
    bootstrap_servers, app_name, unique_name, tmp_path
):
    names = topics(bootstrap_servers, unique_name("t"), partitions=1)
    publish(bootstrap_servers, names[0], 5_000, partitions=1)
    verdict = run_to_the_end(bootstrap_servers, app_name, names, tmp_path, 16, 5_000, gateways=2)
    assert set(faults(verdict)) == UNMOVED, faults(verdict)


def test_input_written_in_transactions_is_read_to_its_end_without_what_was_aborted(
    bootstrap_servers, app_name, names, unique_name, tmp_path
):
    """Each transaction leaves a mark behind that has an offset and is never delivered."""
    numbers = np.arange(2_000, dtype=np.int64)
    run = EventSource(NexmarkConfig()).encode(numbers, FIRST_MS + numbers, PARTITIONS)
    settings = {"bootstrap.servers": bootstrap_servers, "transactional.id": unique_name("x")}
    producer = Producer(settings)
    producer.init_transactions(10)
    for abort in (True, False, True):
        producer.begin_transaction()
        for partition, (start, end) in enumerate(pairwise(run.partition_starts.tolist())):
            for key, value in zip(run.key_bytes()[start:end], run.values()[start:end]):
                producer.produce(names[0], value, key, partition=partition)
        producer.flush(10)
        if abort:
            producer.abort_transaction(10)
        else:
            producer.commit_transaction(10)
    verdict = run_to_the_end(bootstrap_servers, app_name, names, tmp_path, 1, 2_000)
    assert set(faults(verdict)) == UNMOVED, faults(verdict)
    assert verdict.bids_counted == bids_of(2_000)


def run_to_the_end(
    bootstrap_servers, app_name, names, folder, bins, published, *, gateways=1
) -> Verdict:
    with Job(
        bootstrap_servers,
        app_name,
        folder / "state",
        workers=2,
        gateways=gateways,
        bins=bins,
        arguments=query(names, "--until-end"),
    ) as job:
        job.finish()
        return judge(bootstrap_servers, job, names, folder / "proof", published=published)


def test_an_empty_topic_is_read_to_its_end(bootstrap_servers, app_name, names, tmp_path):
    arguments = query(names, "--until-end")
    with Job(bootstrap_servers, app_name, tmp_path, arguments=arguments) as job:
        job.finish()
    assert read_topic(bootstrap_servers, names[1]) == []
