"""Bids for the jobs under test, and the proof of what the jobs made of them.

Flow: NEXMark events -> input topic -> job -> output topic -> [judge] -> Verdict of `demo.proof`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from demo.ownership import Migration
from demo.proof import Evidence, Verdict, prove
from demo.readback import Kind, Tally, Task, read_back, read_span, spans_of
from loadgen.broker import KafkaProducer, ensure_topic
from loadgen.producer import Sender
from service.nexmark.events import BID, EventSource, NexmarkConfig
from tests.integration.job import ROOT, Document, Job

PARTITIONS = 4
#: date_time of event n is this plus n, in milliseconds.
FIRST_MS = 1_790_000_000_000
_RUN_EVENTS = 50_000
_FLUSH_S = 60.0


def topics(bootstrap_servers: str, prefix: str, *, partitions: int = PARTITIONS) -> tuple[str, str]:
    """Create the input and the output topic of the built-in query; returns their names."""
    names = f"{prefix}-events", f"{prefix}-auction-bids"
    for name in names:
        ensure_topic(bootstrap_servers, name, partitions)
    return names


def publish(
    bootstrap_servers: str,
    topic: str,
    count: int,
    *,
    first: int = 0,
    partitions: int = PARTITIONS,
    config: NexmarkConfig | None = None,
) -> int:
    """Send events `first`, … as fast as Kafka takes them; returns how many are bids."""
    source = EventSource(config or NexmarkConfig())
    client = KafkaProducer(bootstrap_servers, 5)
    client.connect(topic)
    sender = Sender(client, [topic], partitions)
    bids = 0
    for start in range(first, first + count, _RUN_EVENTS):
        numbers = np.arange(start, min(start + _RUN_EVENTS, first + count), dtype=np.int64)
        bids += int((source.kinds(numbers) == BID).sum())
        sender.send(source.encode(numbers, FIRST_MS + numbers, partitions))
    client.flush(_FLUSH_S)
    assert client.queued() == 0
    return bids


class LoadGenerator:
    """`loadgen run`: events on a schedule until `stop`; use it in a `with` statement."""

    def __init__(self, bootstrap_servers: str, topic: str, rate: int, *more: str) -> None:
        """Start to send `rate` events per second."""
        arguments = ["run", "--bootstrap-servers", bootstrap_servers, "--topic", topic]
        arguments += ["--live-only", "--rate", str(rate), "--seconds", "600", *more]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadgen", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> int:
        """End the stream; returns how many events were sent."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=_FLUSH_S)
        summary = json.loads(output.splitlines()[-1])
        assert summary["kind"] == "summary"
        return int(summary["events"])


def bids_of(events: int) -> int:
    """How many of the first `events` events are bids."""
    kinds = EventSource(NexmarkConfig()).kinds(np.arange(events, dtype=np.int64))
    return int((kinds == BID).sum())


def migration_of(status: Document, targets: Mapping[int, int]) -> Migration:
    """What a completed request says it did."""
    at, took_ms = status["at"], status["duration_ms"]
    assert isinstance(at, int)
    assert isinstance(took_ms, int)
    return Migration(str(status["id"]), at, at + took_ms * 1000, dict(targets))


def judge(
    bootstrap_servers: str,
    job: Job,
    names: tuple[str, str],
    folder: Path,
    *,
    published: int,
    owners: Sequence[int] | None = None,
    migrations: Sequence[Migration] = (),
) -> Verdict:
    """Read input and output back, whole, and prove the one from the other."""
    folder.mkdir()
    kinds: dict[Kind, str] = {"bids": names[0], "outputs": names[1]}
    tasks = [
        Task(bootstrap_servers, kind, span, folder / f"{kind}-{number}.parquet", job.bins)
        for kind, topic in kinds.items()
        for number, span in enumerate(spans_of(bootstrap_servers, topic))
    ]
    assert {task.kind for task in tasks} == set(kinds), "there is something to judge"
    # Processes for the readers pay only where there is much to read.
    if len(tasks) <= PARTITIONS * len(names):
        tallies: dict[Kind, Tally] = {"bids": Tally(), "outputs": Tally()}
        for task in tasks:
            kind, tally = read_span(task)
            tallies[kind] = tallies[kind].plus(tally)
    else:
        tallies = read_back(tasks, lambda _: None, processes=2, timeout_s=60)
    return prove(
        Evidence(
            folder=folder,
            bins=job.bins,
            owners=owners or [b * job.workers // job.bins for b in range(job.bins)],
            migrations=migrations,
            events=tallies["bids"].records,
            published=published,
            unreadable=tallies["bids"].unreadable + tallies["outputs"].unreadable,
        )
    )


def faults(verdict: Verdict) -> dict[str, Sequence[str]]:
    """Checks that failed, with their samples."""
    return {finding.name: finding.samples for finding in verdict.violated}
