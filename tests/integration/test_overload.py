"""More input than the job can take, and bins on the move: memory stays bounded, lag is reported.

When the flood is over all of it is exact.

Budgets are set small, so that every bound is reached. Cannot catch: what takes a minute or more
(the overload bench runs for 60 s at twice the sustainable rate).
"""

from __future__ import annotations

import pytest

from service.nexmark.events import NexmarkConfig
from tests.integration.bids import faults, judge, migration_of, publish, topics
from tests.integration.job import Job

KIB, MIB = 1 << 10, 1 << 20
BACKLOG, MORE = 400_000, 200_000
#: Most bids go to different auctions, so that nearly every one of them becomes an output.
WIDE = NexmarkConfig().with_state(100_000)
WINDOW, HELD = 64 * KIB, MIB
#: What does not fit must wait in Kafka.
SMALL = {
    "MEGAPHONE_GATEWAY__PREFETCH_KB": "2048",
    "MEGAPHONE_GATEWAY__POLL_RECORDS": "5000",
    "MEGAPHONE_WORKER__DATA_WINDOW_BYTES": str(WINDOW),
    "MEGAPHONE_WORKER__STATE_WINDOW_BYTES": str(2 * MIB),
    "MEGAPHONE_WORKER__LOCAL_QUEUE_BYTES": str(WINDOW),
    "MEGAPHONE_WORKER__HELD_BUDGET_BYTES": str(HELD),
    # Readings are as old as the heartbeat.
    "MEGAPHONE_CONTROL__HEARTBEAT_MS": "50",
}
#: A batch may be the one that fills a queue, and a job has a handful of queues in a process.
QUEUED_MAX = 8 * (WINDOW + 5_000 * 32)
#: Rows that are on their way when reading stops still come.
HELD_MAX = HELD + 4 * MIB
#: State, the client's queue of outputs and what Python keeps; the flood has five times as much.
GROWTH_MAX = 80 * MIB


@pytest.fixture
def names(bootstrap_servers, unique_name):
    return topics(bootstrap_servers, unique_name("t"))


def test_a_flood_waits_in_kafka_and_is_worked_off_exactly(
    bootstrap_servers, app_name, names, tmp_path
):
    bids = publish(bootstrap_servers, names[0], BACKLOG, config=WIDE)
    with Job(
        bootstrap_servers,
        app_name,
        tmp_path / "state",
        workers=2,
        arguments=["--topic-prefix", names[0].removesuffix("-events")],
        environment=SMALL,
        forked=False,  # its memory is measured
    ) as job:
        job.await_running()
        most = Most(job)
        targets = dict.fromkeys(range(16), 1)
        moves = [[b, w] for b, w in targets.items()]
        job.request({"id": "flood", "kind": "move", "moves": moves, "batch": 4})
        bids += publish(bootstrap_servers, names[0], MORE, first=BACKLOG, config=WIDE)
        job.await_(lambda: most.look() >= bids, "the end of the flood", 60)
        for metric in ("ingest_lag_records", "dataflow_queued_bytes", "dataflow_held_bytes"):
            job.await_(lambda name=metric: job.total(f"megaphone_{name}") == 0, f"no {metric}")
        done = job.await_status("flood", "completed")
        job.stop()
        verdict = judge(
            bootstrap_servers,
            job,
            names,
            tmp_path / "proof",
            published=BACKLOG + MORE,
            migrations=[migration_of(done, targets)],
        )
    assert most.lag > MORE
    assert most.paused == 1
    assert most.queued <= QUEUED_MAX
    assert most.held <= HELD_MAX
    assert {slot: grown for slot, grown in most.growth.items() if grown > GROWTH_MAX} == {}
    assert verdict.exact, faults(verdict)
    assert verdict.bids_counted == bids


class Most:
    """The largest of what each process said, and its growth, over all looks."""

    def __init__(self, job):
        self._job = job
        self._processes = job.processes()
        self._start = {slot: p.memory_info().rss for slot, p in self._processes.items()}
        self.growth = dict.fromkeys(self._processes, 0)
        self.lag = self.queued = self.held = self.paused = 0.0

    def look(self):
        """Look once; returns the rows applied so far."""
        readings = self._job.metrics().values()
        for slot, process in self._processes.items():
            grown = process.memory_info().rss - self._start[slot]
            self.growth[slot] = max(self.growth[slot], grown)

        def most(metric):
            return max(reading.get(metric, 0.0) for reading in readings)

        self.lag = max(self.lag, most("megaphone_ingest_lag_records"))
        self.queued = max(self.queued, most("megaphone_dataflow_queued_bytes"))
        self.held = max(self.held, most("megaphone_dataflow_held_bytes"))
        self.paused = max(self.paused, most("megaphone_ingest_paused_sources"))
        return sum(
            value
            for reading in readings
            for name, value in reading.items()
            if name.startswith("megaphone_state_applied_rows_total{")
        )
