"""The two sides of the ingest benchmark, and what a gateway's parts cost from memory.

Flow: a filled topic -> [IngestBench.bare], [IngestBench.gateway] -> Reading -> figures (ingest).

Invariants
  BI1  Time runs from the end of the first poll that gave records to the end of the work on the last
      record; the first poll's records are not counted. Connecting is nobody's rate.
  BI2  The bare consumer is as fast as we can make it: it waits for full polls, and no search for
      cycles interrupts it. The gateway runs as a process of a job does.
"""

from __future__ import annotations

import gc
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from confluent_kafka import Consumer, Message
from confluent_kafka import TopicPartition as ClientPartition

from service.avro.decoder import compile_decoder
from service.avro.schema import parse_schema
from service.avro.wire import HEADER_BYTES
from service.bench.gateway import Gateway
from service.bench.topic import PARTITIONS, FilledTopic
from service.clock import Clock
from service.config import GatewayConfig
from service.dataflow.flow import Flow
from service.dataflow.vertices import SourceVertex
from service.errors import BrokerError
from service.ingest.consumer import KafkaPartitions, client_config
from service.ingest.dead_letter import DeadLetters, OnDelivery
from service.ingest.decode import RecordDecoder
from service.ingest.feed import PORTION_RECORDS, SourceFeed
from service.ingest.records import RawRecords, TopicPartition, raw_records
from service.ingest.registry import FolderRegistry
from service.ingest.source import ReadRows
from service.nexmark.events import SCHEMA_IDS, EventSource, NexmarkConfig, schema_text

_SCHEMAS = Path(__file__).parents[1] / "nexmark" / "schemas"
_CLIENT = "megaphone-bench"
#: Longest wait for records that are known to be there.
_SILENCE_S = 30.0
_BARE_WAIT_S = 0.1
_NS = 1_000_000_000
_REPEATS = 200


@dataclass(frozen=True, slots=True)
class Shape:
    """The job that the gateway belongs to, and its largest poll."""

    workers: int
    bins: int
    poll_records: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One side's way through the topic."""

    records: int
    wall_ns: int
    #: Processor time of the thread that polls.
    cpu_ns: int

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records * _NS / self.wall_ns


@dataclass(frozen=True, slots=True)
class Stages:
    """Where a gateway's time goes, nanoseconds a record, median over its polls."""

    poll: float
    decode: float
    route: float


class IngestBench:
    """The two sides, over one filled topic."""

    def __init__(
        self,
        servers: str,
        topic: FilledTopic,
        flow: Flow,
        config: GatewayConfig,
        shape: Shape,
        clock: Clock,
    ) -> None:
        """Prepare what both sides share; `flow` reads `topic`."""
        self._servers = servers
        self._topic = topic
        self._flow = flow
        self._poll_records = shape.poll_records
        self._portion = min(PORTION_RECORDS, shape.poll_records)
        self._shape = shape
        self._prefetch_kb = config.prefetch_kb
        self._tick_s = config.tick_ms / 1e3
        self._clock = clock
        (vertex,) = (each for each in flow.vertices if isinstance(each, SourceVertex))
        self._source = vertex.kafka

    def bare(self) -> Reading:
        """Read the topic with a consumer that does nothing else (BI2)."""
        client = Consumer(client_config(self._servers, _CLIENT, _CLIENT, self._prefetch_kb))
        client.assign([ClientPartition(*each, 0) for each in self._partitions()])
        total = sum(self._topic.records)
        stopwatch = _Stopwatch(self._clock, total)
        try:
            with _no_search_for_cycles():
                while stopwatch.left:
                    wanted = min(self._portion, stopwatch.left)
                    stopwatch.note(len(client.consume(wanted, _BARE_WAIT_S)))
        finally:
            client.close()
        return stopwatch.reading()

    def gateway(self) -> tuple[Reading, Stages]:
        """Read the topic as a gateway does, and route what was read."""
        gateway, decoder = self._gateway(), self._decoder()
        client = _TimedPartitions(
            self._clock,
            self._servers,
            group=_CLIENT,
            client_id=_CLIENT,
            prefetch_kb=self._prefetch_kb,
        )
        feed = SourceFeed(
            client, decoder, DeadLetters(_NoLetters()), self._partitions(), until_end=False
        )
        now = self._clock.monotonic_ns
        idle = threading.Event()
        stopwatch = _Stopwatch(self._clock, sum(self._topic.records))
        polls: list[tuple[int, int, int, int]] = []
        try:
            while stopwatch.left:
                begun, before, client.poll_ns = now(), feed.records_in, 0
                rows, full = feed.read(self._poll_records)
                read = now()
                if rows is not None:
                    gateway.route(rows, read // 1000)
                routed = now()
                count = feed.records_in - before
                if stopwatch.note(count):
                    polls.append(
                        (count, client.poll_ns, read - begun - client.poll_ns, routed - read)
                    )
                # A gateway sleeps until its next tick unless the poll came back full.
                wait_s = self._tick_s - (routed - begun) / _NS
                if not full and stopwatch.left and wait_s > 0:
                    idle.wait(wait_s)
        finally:
            feed.close()
        assert feed.rejected == 0, "generated events are good"
        return stopwatch.reading(), _stages(polls)

    def kernel_rate(self) -> float:
        """Rows a second that the kernel for bids decodes, from memory."""
        numbers = np.arange(self._poll_records)
        run = EventSource(NexmarkConfig()).encode(numbers, numbers, 1)
        starts, ends = run.offsets[:-1].astype(np.int64), run.offsets[1:].astype(np.int64)
        of_bids = run.data[starts + HEADER_BYTES - 1] == SCHEMA_IDS["bid"]
        starts, ends = starts[of_bids] + HEADER_BYTES, ends[of_bids]
        decoder = compile_decoder(parse_schema(schema_text("bid")), self._source.fields)
        spent = self._repeated(lambda: decoder.decode(run.data, starts, ends))
        return len(starts) * _NS / spent

    def poll_cost_us(self, records: int) -> float:
        """Microseconds from the client's messages of a poll to frames, the client left out."""
        gateway, decoder = self._gateway(), self._decoder()
        messages = self._messages(records)
        topics, positions = (self._topic.name,), self._partitions()

        def poll() -> None:
            raw = raw_records(messages, topics, positions)
            rows = ReadRows(decoder.decode(raw).rows, raw.positions())
            gateway.route(rows, self._clock.monotonic_ns() // 1000)

        return self._repeated(poll) / 1000

    def _repeated(self, work: Callable[[], object]) -> float:
        """Median nanoseconds of one `work`, warm."""
        spent = []
        for _ in range(_REPEATS):
            begun = self._clock.monotonic_ns()
            work()
            spent.append(self._clock.monotonic_ns() - begun)
        return median(spent)

    def _messages(self, count: int) -> list[Message]:
        """Some records of the topic as the client delivers them."""
        client = Consumer(client_config(self._servers, _CLIENT, _CLIENT, self._prefetch_kb))
        client.assign([ClientPartition(*each, 0) for each in self._partitions()])
        messages: list[Message] = client.consume(count, _SILENCE_S)
        client.close()
        if len(messages) < count:
            raise BrokerError(f"{len(messages)} of {count} records came from {self._topic.name!r}")
        return messages

    def _gateway(self) -> Gateway:
        return Gateway(
            self._flow,
            self._decoder().arrow_schema,
            {self._topic.name: PARTITIONS},
            workers=self._shape.workers,
            bins=self._shape.bins,
            now_us=self._clock.wall_us(),
            monotonic_us=self._clock.monotonic_ns() // 1000,
        )

    def _decoder(self) -> RecordDecoder:
        return RecordDecoder(FolderRegistry(_SCHEMAS), self._source.record, self._source.fields)

    def _partitions(self) -> dict[TopicPartition, int]:
        return {(self._topic.name, partition): 0 for partition in range(PARTITIONS)}


class _Stopwatch:
    """Counts records and time as BI1 says."""

    def __init__(self, clock: Clock, total: int) -> None:
        self._clock = clock
        self._counted = 0
        self._begun: tuple[int, int] | None = None
        self._heard_ns = clock.monotonic_ns()
        #: Records that are still to come.
        self.left = total

    def note(self, records: int) -> bool:
        """Take note of a poll and the work on it; whether it counts.

        Raises:
            BrokerError: nothing came for too long.
        """
        now_ns = self._clock.monotonic_ns()
        if not records:
            if now_ns - self._heard_ns > _SILENCE_S * _NS:
                raise BrokerError(f"{self.left} records did not come within {_SILENCE_S:g} s")
            return False
        self._heard_ns = now_ns
        self.left -= records
        if self._begun is None:
            self._begun = now_ns, _thread_ns()
            return False
        self._counted += records
        return True

    def reading(self) -> Reading:
        """What was measured up to the last `note`."""
        assert self._begun is not None, "a topic has records"
        wall_ns, cpu_ns = self._begun
        return Reading(self._counted, self._heard_ns - wall_ns, _thread_ns() - cpu_ns)


class _TimedPartitions(KafkaPartitions):
    """The gateway's client, with the time its polls took."""

    def __init__(
        self,
        clock: Clock,
        bootstrap_servers: str,
        *,
        group: str,
        client_id: str,
        prefetch_kb: int,
    ) -> None:
        super().__init__(
            bootstrap_servers, group=group, client_id=client_id, prefetch_kb=prefetch_kb
        )
        self._clock = clock
        self.poll_ns = 0

    def poll(self, max_records: int, timeout_s: float) -> RawRecords:
        """The same poll, timed."""
        begun = self._clock.monotonic_ns()
        raw = super().poll(max_records, timeout_s)
        self.poll_ns += self._clock.monotonic_ns() - begun
        return raw


class _NoLetters:
    """The producer of dead letters where every record is good."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        headers: list[tuple[str, bytes]],
        on_delivery: OnDelivery,
    ) -> None:
        """Refuse a letter.

        Raises:
            AssertionError: always.
        """
        raise AssertionError(f"a good record was rejected: {headers}")

    def poll(self, timeout: float) -> int:
        """Nothing to serve."""
        return 0


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """The interpreter's cyclic collector switched off for the length of a block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _stages(polls: list[tuple[int, int, int, int]]) -> Stages:
    """Medians over the polls of (records, nanoseconds of poll, decode and route)."""
    table = np.array(polls, dtype=np.float64)
    poll, decode, route = np.median(table[:, 1:] / table[:, :1], axis=0).tolist()
    return Stages(poll, decode, route)


def _thread_ns() -> int:
    """Processor time of this thread; exact to a scheduler's tick, some milliseconds."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return int((usage.ru_utime + usage.ru_stime) * _NS)
