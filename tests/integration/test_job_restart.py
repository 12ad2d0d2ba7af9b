"""Stopped plainly and started again, a job goes on where it was: results are those of one run.

Real processes and a real Kafka; the oracle is `demo.proof` over everything all runs read and wrote.
Cannot catch: a crash between two writes of a checkpoint (the store's tests do).
"""

from __future__ import annotations

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from service.control_topics import read_compacted
from service.migration.records import decode_manifest
from tests.integration.bids import (
    PARTITIONS,
    LoadGenerator,
    faults,
    judge,
    publish,
    topics,
)
from tests.integration.command import query
from tests.integration.job import Job

UNMOVED = {"moved"}


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input and output topic of this test."""
    return topics(bootstrap_servers, unique_name("t"))


def committed(bootstrap_servers, group, topic):
    """What a lag tool sees: {partition: offset committed by the group}, and the ends."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group})
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        found = consumer.committed(partitions, timeout=10)
        ends = [consumer.get_watermark_offsets(each, timeout=10)[1] for each in partitions]
    finally:
        consumer.close()
    return {each.partition: each.offset for each in found}, dict(enumerate(ends))


def manifests(bootstrap_servers, app):
    """The manifests that are kept, oldest first."""
    found = read_compacted(bootstrap_servers, f"{app}.checkpoints", 10)
    return [decode_manifest(entry.value) for entry in found.values()]


def test_a_job_stopped_in_the_middle_goes_on_exactly(bootstrap_servers, app_name, names, tmp_path):
    """Stopped while records flow, started again to read what is left."""
    with LoadGenerator(bootstrap_servers, names[0], 5_000) as load:
        with Job(
            bootstrap_servers, app_name, tmp_path, workers=2, gateways=2, arguments=query(names)
        ) as job:
            job.await_running()
            job.await_(lambda: job.total("megaphone_state_applied_rows_total") > 5_000, "rows")
            job.stop()
            assert job.lines("state.restored") == []
        events = load.stop()
    (first,) = manifests(bootstrap_servers, app_name)
    read, _ = committed(bootstrap_servers, app_name, names[0])
    assert read == dict(enumerate(first.positions[names[0]]))
    with Job(
        bootstrap_servers,
        app_name,
        tmp_path,
        workers=2,
        gateways=2,
        arguments=[*query(names), "--until-end"],
    ) as job:
        job.finish()
        assert {line["cut"] for line in job.lines("state.restored")} == {first.cut}
        assert len(job.lines("state.restored")) == 2
        verdict = judge(bootstrap_servers, job, names, tmp_path / "proof", published=events)
    assert set(faults(verdict)) <= UNMOVED, faults(verdict)
    read, ends = committed(bootstrap_servers, app_name, names[0])
    assert read == ends
    assert manifests(bootstrap_servers, app_name)[-1].positions[names[0]] == list(ends.values())


def test_three_checkpoints_are_kept_and_any_number_of_restarts_is_exact(
    bootstrap_servers, app_name, names, tmp_path
):
    runs, each = 5, 4_000
    for run in range(runs):
        publish(bootstrap_servers, names[0], each, first=run * each)
        with Job(
            bootstrap_servers,
            app_name,
            tmp_path,
            workers=2,
            arguments=[*query(names), "--local", "--until-end"],
        ) as job:
            job.finish()
    kept = manifests(bootstrap_servers, app_name)
    assert [manifest.generation for manifest in kept] == [runs - 2, runs - 1, runs]
    for slot in ("worker-0", "worker-1"):
        found = (tmp_path / app_name / slot).iterdir()
        folders = {path.name for path in found if path.is_dir()}
        assert folders == {
            msgspec.convert(manifest.files[slot], dict)["directory"] for manifest in kept
        }
    verdict = judge(bootstrap_servers, job, names, tmp_path / "proof", published=runs * each)
    assert set(faults(verdict)) <= UNMOVED, faults(verdict)


def test_what_does_not_fit_the_checkpoint_does_not_go_on_from_it(
    bootstrap_servers, app_name, names, tmp_path
):
    """Other bins, too few workers, no files: refused by name; more workers are welcome."""
    publish(bootstrap_servers, names[0], 1_000)
    arguments = [*query(names), "--local", "--until-end"]
    state = tmp_path / "state"
    with Job(bootstrap_servers, app_name, state, workers=2, arguments=arguments) as job:
        job.finish()
    for folder, workers, bins, status, said in (
        (state, 2, 32, 1, "start with --bins 64"),
        (state, 1, 64, 2, "start with --workers 2"),
        (tmp_path / "elsewhere", 2, 64, 1, "is missing, the manifest lists it"),
    ):
        with Job(
            bootstrap_servers, app_name, folder, workers=workers, bins=bins, arguments=arguments
        ) as job:
            job.finish(status)
            (failure,) = job.lines("process.failed")
            assert said in str(failure["message"])
    with Job(bootstrap_servers, app_name, state, workers=3, arguments=arguments) as job:
        job.finish()
        assert len(job.lines("state.restored")) == 2
