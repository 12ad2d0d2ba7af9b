"""A query over events in Kafka: how fast it works them off, and whether it stays exact.

Flow: events in topics -> [run_backlog]: one job to their end -> rate, differences from the oracle.
Events that come in portions -> [run_moving]: a job whose bins move there and back, is stopped and
goes on to the end -> differences, plans.

Invariants
  BL1  A backlog's time runs from the moment the first process of the job runs, before which nothing
       can have been read, to the moment Kafka has stored the last result (NT2). Starting processes
       is nobody's rate; reading the first record, and every wait behind it, is.
  BL2  Rows follow each plan: a last part of the events is held back until both are done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from service.bench.nexmark.jobs import END_S, JobOptions, moves, started
from service.bench.nexmark.oracle import differences
from service.bench.nexmark.stream import StreamOptions
from service.bench.nexmark.topics import Place, Publisher, read_back, rows_of
from service.migration.records import StatusRecord

#: Of the events: those there before the job, and those behind its plans.
_BEFORE, _BEHIND = 0.3, 0.1
_PORTION = 2_048
_PLANS_S = 240.0
MOVING_WORKERS = 2


@dataclass(frozen=True, slots=True)
class BacklogRun:
    """One job over a backlog."""

    seconds: float
    results: int
    #: What is wrong with them, in words.
    wrong: list[str]


@dataclass(frozen=True, slots=True)
class MovingRun:
    """One job whose bins moved there and back."""

    group: int
    migration: str
    wrong: list[str]
    moved_bytes: int
    duration_ms: int

    @property
    def label(self) -> str:
        """How the events came and what moved."""
        order = "in order" if self.group == 1 else "out of order"
        return f"{order}, {self.migration}"


@contextmanager
def output_topic(place: Place, options: JobOptions) -> Iterator[None]:
    """The topic of results while a job needs it; the job's own topics go with it."""
    place.create([options.output], **{"message.timestamp.type": "LogAppendTime"})
    try:
        yield
    finally:
        place.remove([options.output, f"{options.app}."])


def run_backlog(place: Place, options: JobOptions, wanted: pa.Table, folder: Path) -> BacklogRun:
    """Work a backlog off, once.

    Args:
        place: where it is.
        options: of the job.
        wanted: what the oracle says.
        folder: for logs and state.

    Raises:
        MegaphoneError: the job failed.
    """
    with output_topic(place, options):
        with started(place, options, folder) as job:
            job.child.finish(END_S)
            begun_us = job.running_since_us
        found = read_back(place, options.output)
        wrong = differences(options.query, rows_of(options.query, place, found), wanted)
    return BacklogRun((found.last_ms * 1000 - begun_us) / 1e6, len(found), wrong)


def run_moving(
    place: Place,
    options: JobOptions,
    stream: StreamOptions,
    wanted: pa.Table,
    strategy: str,
    folder: Path,
) -> MovingRun:
    """Let a quarter of the bins move there and back while events come (BL2), stop, go on.

    Raises:
        MegaphoneError: the job failed, or a plan did not complete.
    """
    publisher = Publisher(place, options.prefix, stream)
    requests = [] if strategy == "none" else moves("check", strategy, options)
    done: list[StatusRecord] = []
    with output_topic(place, options):
        publisher.send(int(stream.events * _BEFORE))
        publisher.flush()
        with started(place, options, folder) as job:
            job.await_running()
            job.ask(*requests)

            def moved() -> bool:
                found = job.completed([str(each["id"]) for each in requests])
                if found is None and publisher.sent < stream.events * (1 - _BEHIND):
                    publisher.send(_PORTION)
                    publisher.flush()
                done[:] = found or []
                return found is not None

            job.child.await_(moved, "done with its plans", _PLANS_S)
            publisher.send(stream.events)
            publisher.flush()
            job.child.ask_to_stop()
            job.child.finish(END_S)
        with started(place, replace(options, until_end=True), folder) as job:
            job.child.finish(END_S)
        found = read_back(place, options.output)
        wrong = differences(options.query, rows_of(options.query, place, found), wanted)
    return MovingRun(
        stream.group,
        strategy,
        wrong,
        sum(status.bytes for status in done),
        max((status.duration_ms for status in done), default=0),
    )
