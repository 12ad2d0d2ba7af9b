"""What reads results and says how late they were.

Flow: output topic -> [Meter], nexmark-loadgen's own, for results that say a time; or [Reader],
which keeps records and the moments they were read at, to be paired with events (due) -> Timeline.

Invariants
  ME1  The moment taken is after a record has been read, so a latency is never understated.
  ME2  A timeline holds every result of the topic, or nothing is said at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from service.bench.nexmark.children import Child
from service.bench.nexmark.due import TIMED, UNTIMED, Dating, timeline_of
from service.bench.nexmark.jobs import JobOptions
from service.bench.nexmark.latencies import WINDOW_US, Timeline
from service.bench.nexmark.topics import (
    PARTITIONS,
    SCHEMA_FOLDER,
    Place,
    Published,
    ReadBack,
    records_in,
    rows_of,
)
from service.clock import SystemClock
from service.errors import BrokerError, MegaphoneError
from service.nexmark.queries import SCHEMAS

_READY_S = 60.0
_END_S = 60.0
_LIST = 5_000
_WAIT_S = 0.05


class ResultMeter(Protocol):
    """What says how late the results of a run were."""

    def timeline(self, dating: Dating) -> tuple[Timeline, int]:
        """Once the job has ended: the latencies, and how many results nothing can be said of."""
        ...


@contextmanager
def meter_of(
    place: Place, options: JobOptions, folder: Path, late_ms: int
) -> Iterator[ResultMeter]:
    """What suits a query, ready to read, for the length of a `with` block.

    Args:
        place: the broker.
        options: the job whose results are read.
        folder: where the generator's output is to be, as `loadgen.out`; it also takes the meter's.
        late_ms: the bound of out-of-orderness of the job.
    """
    if options.query in UNTIMED:
        reader = Reader(place, options)
        try:
            yield reader
        finally:
            reader.close()
        return
    with Child("meter", _arguments(place, options, folder, late_ms), folder) as child:
        child.await_(lambda: bool(child.said(kind="ready")), "ready", _READY_S)
        yield Meter(child)


def _arguments(place: Place, options: JobOptions, folder: Path, late_ms: int) -> list[str]:
    column, is_, size_ms = TIMED[options.query]
    return [
        *("-m", "loadgen", "measure", "--client", "direct", "--stop-on-stdin-close"),
        *("--bootstrap-servers", place.bootstrap_servers, "--topic", options.output),
        *("--from", "beginning", "--window-ms", str(WINDOW_US // 1000)),
        *("--format", place.format, "--field", column, "--field-is", is_),
        *("--schema", str(SCHEMA_FOLDER / f"{SCHEMAS[options.query]}.avsc")),
        *("--size-ms", str(size_ms), "--out-of-orderness-ms", str(late_ms)),
        *("--plan", str(folder / "loadgen.out")),
    ]


class Meter:
    """nexmark-loadgen's meter in a process of its own."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def timeline(self, dating: Dating) -> tuple[Timeline, int]:
        """Let it read to the end, and take what it says (ME2).

        Raises:
            MegaphoneError: it failed, or could not read a result.
        """
        self._child.ask_to_stop()
        self._child.finish(_END_S)
        final = self._child.said(kind="final")[0]
        if final["unreadable"]:
            raise MegaphoneError(f"the meter could not read {final['unreadable']:,} results")
        return Timeline.of_document(final), 0


class Reader:
    """Keeps all results, and when each was read, in a thread of this process (ME1)."""

    def __init__(self, place: Place, options: JobOptions) -> None:
        """Begin to read at the beginning of the topic."""
        self._place = place
        self._options = options
        self._chunks: list[list[Message]] = []
        self._read_us: list[int] = []
        self._failure: BrokerError | None = None
        self._closing = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": place.bootstrap_servers,
                "group.id": "megaphone-bench",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )
        self._consumer.assign(
            [TopicPartition(options.output, number, 0) for number in range(PARTITIONS)]
        )
        self._thread = threading.Thread(target=self._read, name="results", daemon=True)
        self._thread.start()

    def timeline(self, dating: Dating) -> tuple[Timeline, int]:
        """Stop once all is read, and pair results with events.

        Raises:
            BrokerError: the topic cannot be read.
            MegaphoneError: the results are not those of the events.
        """
        wanted = records_in(self._place, [self._options.output])
        clock = SystemClock()
        deadline = clock.monotonic_ns() + int(_END_S * 1e9)
        while self._count() < wanted and self._failure is None:
            if clock.monotonic_ns() > deadline:
                raise BrokerError(f"{self._count():,} of {wanted:,} results were read in time")
            self._closing.wait(_WAIT_S)
        self.close()
        if self._failure is not None:
            raise self._failure
        query = self._options.query
        results = rows_of(query, self._place, ReadBack(self._chunks, 0, 0))
        read_us = np.repeat(np.array(self._read_us, dtype=np.int64), list(map(len, self._chunks)))
        events = Published(self._place, self._options.prefix)
        return timeline_of(query, results, read_us, events, dating)

    def close(self) -> None:
        """Stop reading; may be called twice."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join()
            self._consumer.close()

    def _count(self) -> int:
        return sum(map(len, self._chunks))

    def _read(self) -> None:
        clock = SystemClock()
        try:
            while not self._closing.is_set():
                messages = self._consumer.consume(1, _WAIT_S)
                if messages:
                    # The client would wait for a full list.
                    messages += self._consumer.consume(_LIST, 0.0)
                now_us = clock.wall_us()
                records = [message for message in messages if self._is_record(message)]
                if records:
                    self._read_us.append(now_us)
                    self._chunks.append(records)
        except (BrokerError, KafkaException) as error:
            self._failure = BrokerError(f"results cannot be read: {error}")

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is not None and not error.retriable():
            raise BrokerError(f"topic {self._options.output!r}: {error.str()}")
        return error is None
