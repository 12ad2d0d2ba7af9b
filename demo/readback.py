"""Reads topics back, whole: the evidence of the proof.

Flow: input and output topic -> spans of offsets -> [read_span, in processes of their own] ->
rows -> Parquet files of bids and of outputs -> proof.

Invariants
  R1  Every record of a topic, from its first offset to its committed end as of the call, is a row,
      counted as another kind of event, or counted as unreadable.
  R2  Memory is bounded by `_FLUSH_ROWS` rows and the client's queue per process, whatever the topic
      holds.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from demo.rows import BidRows, OutputRows
from service.clock import SystemClock
from service.errors import BrokerError

Kind = Literal["bids", "outputs"]

#: Records per task: large against the cost of a consumer, small enough to show progress.
_SPAN_RECORDS = 500_000
_FLUSH_ROWS = 200_000
_CONSUME_RECORDS = 10_000
#: The client waits this long for a list to fill, also at the end of a span.
_CONSUME_S = 0.05
_ANSWER_S = 10.0
#: A span of `_SPAN_RECORDS` takes some seconds; a broker silent for this long is gone.
_SILENCE_S = 30.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets [start, end) of one partition."""

    topic: str
    partition: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Task:
    """One span to read: from where, as what, into which file, with how many bins."""

    bootstrap_servers: str
    kind: Kind
    span: Span
    file: Path
    bins: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What was found (R1): records, of which rows written, and of which unreadable."""

    records: int = 0
    rows: int = 0
    unreadable: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.records + other.records,
            self.rows + other.rows,
            self.unreadable + other.unreadable,
        )


def spans_of(bootstrap_servers: str, topic: str) -> list[Span]:
    """What a topic holds now, cut into tasks.

    Raises:
        BrokerError: the broker does not answer, or there is no such topic.
    """
    client = _consumer(bootstrap_servers)
    try:
        found = client.list_topics(topic, timeout=_ANSWER_S).topics[topic]
        if found.error is not None:
            raise BrokerError(f"topic {topic!r} cannot be read back: {found.error.str()}")
        spans: list[Span] = []
        for partition in sorted(found.partitions):
            ends = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_S)
            first, last = ends
            spans += [
                Span(topic, partition, start, min(last, start + _SPAN_RECORDS))
                for start in range(first, last, _SPAN_RECORDS)
            ]
    except KafkaException as error:
        raise BrokerError(f"topic {topic!r} cannot be read back: {error.args[0].str()}") from error
    finally:
        client.close()
    return spans


def read_back(
    tasks: Sequence[Task],
    progress: Callable[[int], None],
    *,
    processes: int = 2,
    timeout_s: float = 600.0,
) -> dict[Kind, Tally]:
    """Read every task's span into its file, in processes of their own.

    Args:
        tasks: what to read; each writes its own file.
        progress: called with the number of records of each task that is done.
        processes: how many to use.
        timeout_s: for everything together.

    Raises:
        BrokerError: a topic could not be read, or not in time.
    """
    tallies: dict[Kind, Tally] = {"bids": Tally(), "outputs": Tally()}
    deadline = _monotonic_s() + timeout_s
    # Spawned, not forked: this process has threads.
    with multiprocessing.get_context("spawn").Pool(processes, _start_reader) as pool:
        results = pool.imap_unordered(read_span, tasks)
        for _ in tasks:
            try:
                kind, tally = results.next(timeout=max(0.0, deadline - _monotonic_s()))
            except multiprocessing.TimeoutError as error:
                raise BrokerError(
                    f"the topics were not read back within {timeout_s:g} s"
                ) from error
            tallies[kind] = tallies[kind].plus(tally)
            progress(tally.records)
    return tallies


def read_span(task: Task) -> tuple[Kind, Tally]:
    """Read one span and write its Parquet file."""
    shape = BidRows(task.bins) if task.kind == "bids" else OutputRows(task.bins)
    with pq.ParquetWriter(task.file, shape.schema, use_dictionary=False) as writer:
        records = 0
        for messages in _messages(task.bootstrap_servers, task.span):
            records += len(messages)
            shape.take(messages)
            if shape.pending >= _FLUSH_ROWS:
                writer.write_table(shape.flush())
        writer.write_table(shape.flush())
    return task.kind, Tally(records, shape.rows, shape.unreadable)


def _messages(bootstrap_servers: str, span: Span) -> Iterator[list[Message]]:
    """The records of a span, in order, in lists of up to `_CONSUME_RECORDS`.

    Raises:
        BrokerError: the partition cannot be read, or the broker falls silent.
    """
    client = _consumer(bootstrap_servers)
    try:
        client.assign([TopicPartition(span.topic, span.partition, span.start)])
        heard = _monotonic_s()
        done = span.start >= span.end
        while not done:
            records = []
            for message in client.consume(_CONSUME_RECORDS, _CONSUME_S):
                error = message.error()
                if error is None:
                    offset = cast("int", message.offset())
                    # The last offsets may belong to control records, which never come.
                    done = done or offset >= span.end - 1
                    if offset < span.end:
                        records.append(message)
                elif error.name() == "_PARTITION_EOF":
                    done = True
                elif not error.retriable():
                    raise BrokerError(f"{span.topic}/{span.partition}: {error.str()}")
            if records:
                heard = _monotonic_s()
                yield records
            elif _monotonic_s() - heard > _SILENCE_S:
                raise BrokerError(
                    f"{span.topic}/{span.partition} gave nothing for {_SILENCE_S:g} s while it "
                    "was read back; is the broker still up?"
                )
    finally:
        client.close()


def _consumer(bootstrap_servers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "megaphone-demo-proof",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            # A span is read once; more in the queue would be fetched to be thrown away.
            "queued.max.messages.kbytes": 16_384,
            "fetch.queue.backoff.ms": 5,
            "log_level": 0,
        }
    )


def _monotonic_s() -> float:
    return SystemClock().monotonic_ns() / 1e9


def _start_reader() -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
