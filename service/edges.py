"""The Kafka ends of one process's dataflow: feeds of its sources, writers of its sinks.

Flow: Kafka -> SourceFeed -> [KafkaEdges] -> Member's sources; Member's sinks -> KafkaSinkWriter ->
[KafkaEdges]'s one producer -> Kafka. Bad records -> the same producer -> <topic>.dlq.

Invariants
  ED1  What can be refused without a generation is refused by `prepare`, before this process
       registers: a schema nobody has, a registry that is silent, an output topic that is not there.
  ED2  `unstored` is zero only when Kafka has everything this process wrote, dead letters included;
       before that no position is final.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from confluent_kafka import Producer

from service.clock import Clock, sleep
from service.config import Config
from service.control_topics import Admin
from service.dataflow.event_time import microseconds
from service.dataflow.flow import Flow
from service.dataflow.flow_shape import roles_of
from service.dataflow.vertices import SinkVertex, SourceVertex
from service.egress.encoders import RowEncoder, encoder_of
from service.egress.producer import KafkaProducer, KafkaSinkWriter
from service.hashing import bin_bits_of
from service.ids import Role, Slot
from service.ingest.consumer import KafkaPartitions
from service.ingest.dead_letter import DeadLetters, OnDelivery
from service.ingest.decode import DecodeLimits
from service.ingest.decoders import SourceDecoder, decoder_of
from service.ingest.feed import SourceFeed
from service.ingest.records import TopicPartition
from service.ingest.registry import SchemaRegistry
from service.ingest.source import SourceOperator
from service.ingest.watermarks import Estimator
from service.latency import LatencyMeter, Sample
from service.member import Member
from service.migration.records import Generation


class KafkaEdges:
    """Decoders, feeds, writers and the producer of one process. Owned by one thread."""

    def __init__(
        self,
        bootstrap_servers: str,
        app: str,
        slot: Slot,
        config: Config,
        flow: Flow,
        registry: SchemaRegistry,
        clock: Clock,
    ) -> None:
        """Make the producer; it connects when it is first asked for something."""
        self._bootstrap = bootstrap_servers
        self._app = app
        self._slot = slot
        self._config = config
        self._flow = flow
        self._registry = registry
        self._decoders: dict[str, SourceDecoder] = {}
        self._encoders: dict[str, RowEncoder] = {}
        self._letters: list[DeadLetters] = []
        self._clock = clock
        #: Of what was read and not stamped yet.
        self._samples: list[Sample] = []
        self._estimators: dict[str, Estimator] = {}
        self.latency = LatencyMeter()
        self.producer = KafkaProducer(bootstrap_servers, f"{app}.{slot}", config.worker.linger_ms)
        #: By name of the source vertex; only of sources whose partitions this process reads.
        self.feeds: dict[str, SourceFeed] = {}
        self.writers: list[KafkaSinkWriter] = []

    def plays(self, slot: Slot) -> None:
        """Be `slot` from now on, before any feed or writer is made."""
        self._slot = slot

    def prepare(self) -> None:
        """Resolve schemas, compile their kernels, look for the topics written to (ED1).

        Raises:
            SchemaError: the registry has no schema for a source or sink.
            RegistryUnavailable: it does not answer.
            UsageError: an output topic does not exist.
            BrokerUnavailable: no broker answered in time.
        """
        for vertex, roles in zip(self._flow.vertices, roles_of(self._flow.vertices), strict=True):
            if isinstance(vertex, SourceVertex):
                limits = DecodeLimits(self._config.limits.record_bytes_max)
                decoder = decoder_of(vertex.kafka, self._registry, limits)
                if self._slot.role is Role.GATEWAY:
                    decoder.warm()
                self._decoders[vertex.name] = decoder
            elif isinstance(vertex, SinkVertex) and self._slot.role in roles:
                self._encoders[vertex.name] = encoder_of(vertex.kafka, self._registry.schema)
                self.producer.partitions(vertex.kafka.topic, self._config.limits.broker_timeout_s)

    def schema_of(self, vertex: SourceVertex) -> pa.Schema:
        """Columns of a source; equal in every process, so that all build the same graph."""
        return self._decoders[vertex.name].arrow_schema

    def writer(self, vertex: SinkVertex, columns: pa.Schema, bins: int) -> KafkaSinkWriter:
        """The writer behind a sink that rows of `columns` reach here, in a job of so many `bins`.

        Raises:
            GraphError: they do not fit the sink's schema.
        """
        connector = vertex.kafka
        writer = KafkaSinkWriter(
            self.producer,
            connector.topic,
            connector.key,
            self._encoders[vertex.name],
            columns,
            writer=self._slot,
            bin_bits=bin_bits_of(bins),
        )
        self.writers.append(writer)
        return writer

    def open_feeds(self, sources: Mapping[str, SourceOperator], generation: Generation) -> None:
        """Begin to read the partitions that the generation gives to this process.

        Args:
            sources: by name, those that have partitions here.
            generation: owners of partitions, positions to begin at, and whether to note the ends.

        Raises:
            BrokerError: the broker refused or did not answer.
        """
        for vertex in self._flow.vertices:
            if isinstance(vertex, SourceVertex) and vertex.name in sources:
                words = sources[vertex.name].words
                feed = self._feed(vertex, generation, timed=words is not None)
                self.feeds[vertex.name] = feed
                if words is not None:
                    words.at_end = feed.at_end

    def _feed(self, vertex: SourceVertex, generation: Generation, *, timed: bool) -> SourceFeed:
        timeout_s = self._config.limits.broker_timeout_s
        admin = Admin(self._bootstrap, timeout_s)
        for topic in vertex.kafka.topics:
            admin.create(f"{topic}.dlq", 1)
        letters = DeadLetters(_Letters(self.producer.client))
        self._letters.append(letters)
        source = KafkaPartitions(
            self._bootstrap,
            group=self._app,
            client_id=f"{self._app}.{self._slot}.{vertex.name}",
            prefetch_kb=self._config.gateway.prefetch_kb,
            timeout_s=timeout_s,
        )
        positions = {
            (vertex.topic_of(label), partition): generation.positions[label][partition]
            for label in vertex.inputs
            for partition, owner in enumerate(generation.partition_owners[label])
            if owner == self._slot.ordinal
        }
        estimator = None
        if timed and vertex.watermarks is not None:
            estimator = Estimator(vertex.name, vertex.watermarks, self.schema_of(vertex))
            self._estimators[vertex.name] = estimator
        return SourceFeed(
            source,
            self._decoders[vertex.name],
            letters,
            positions,
            until_end=generation.until_end,
            estimator=estimator,
            labels={vertex.topic_of(label): label for label in vertex.inputs},
            times=self._samples,
        )

    def read(self, member: Member) -> bool:
        """Poll every source that may read, into the member; whether a poll came back full."""
        full = False
        for name, feed in self.feeds.items():
            if not member.may_read(name):
                feed.hold()
                continue
            rows, more = feed.read(self._config.gateway.poll_records)
            if rows is not None:
                member.sources[name].offer(rows)
            full = full or more
        return full

    def tick(self, member: Member, monotonic_us: int) -> None:
        """Let the member close an epoch, and note which records it took."""
        if member.tick(monotonic_us) and self._samples:
            self.latency.stamped(member.ticks.last, self._samples[:])
            self._samples.clear()

    def watch(self, member: Member) -> None:
        """Count the latency of records whose results Kafka has. Cost: 5 us while any wait."""
        if self.latency.waits:
            epochs = (epoch for epoch in member.frontiers().values() if epoch is not None)
            self.latency.passed(min(epochs, default=None), self._clock.wall_us())

    def watermark_lags(self, member: Member) -> dict[str, float]:
        """How far event time is behind the clock, seconds, by source; only where it is known."""
        lags = {}
        now_us = self._clock.wall_us()
        for name, estimator in self._estimators.items():
            words = member.sources[name].words
            if words is not None and words.told is not None:
                lags[name] = (now_us - microseconds(words.told, estimator.unit)) / 1e6
        return lags

    def wait(self, timeout_s: float) -> bool:
        """Wait for a record of any source that reads, at most so long; whether there is one.

        The client's consumers cannot be waited for together: of several sources one is waited for,
        a tick at most, and the others are looked at.
        """
        reading = [feed for feed in self.feeds.values() if not feed.paused]
        if not reading:
            sleep(timeout_s)
            return False
        first, *others = reading
        if others:
            timeout_s = min(timeout_s, self._config.gateway.tick_ms / 1_000)
        return any(feed.wait(0) for feed in others) or first.wait(timeout_s)

    def drained(self, member: Member) -> bool:
        """Whether everything up to the ends found at start is in the dataflow (until_end)."""
        return all(feed.drained for feed in self.feeds.values()) and not any(
            source.has_rows for source in member.sources.values()
        )

    @property
    def unstored(self) -> int:
        """Records given to the producer that Kafka has not acknowledged (ED2)."""
        return self.producer.unstored

    def check_stored(self) -> None:
        """Notice dead letters that were lost.

        Raises:
            BrokerError: there is one.
        """
        for letters in self._letters:
            letters.check()
            assert self.unstored or not letters.pending, "ED2: the producer is the letters' own"

    def mark_letters(self) -> list[int]:
        """Marks behind the dead letters sent so far, for `letters_stored`."""
        return [letters.mark() for letters in self._letters]

    def letters_stored(self, marks: list[int]) -> bool:
        """Whether Kafka has every dead letter that was sent before the marks."""
        return all(each.stored(mark) for each, mark in zip(self._letters, marks, strict=True))

    def check_letters(self) -> None:
        """Notice dead letters that were lost, while others are under way.

        Raises:
            BrokerError: there is one.
        """
        for letters in self._letters:
            letters.check()

    @property
    def lag(self) -> int:
        """Records between the positions and the ends of this process's partitions."""
        return sum(feed.lag() for feed in self.feeds.values())

    @property
    def problem(self) -> str | None:
        """Why reading waits though there is room: a registry that does not answer."""
        problems = (feed.registry_problem for feed in self.feeds.values())
        return next((problem for problem in problems if problem is not None), None)

    def commit_advisory(self) -> None:
        """Tell lag tools where reading stands."""
        for feed in self.feeds.values():
            feed.commit_advisory()

    def commit_final(self, positions: Mapping[str, Mapping[TopicPartition, int]]) -> None:
        """Tell them where the checkpoint stands, by source: rows read ahead of it do not count."""
        for name, feed in self.feeds.items():
            feed.commit_advisory(positions[name])

    def close(self) -> None:
        """Let go of the consumers; may be called twice."""
        for feed in self.feeds.values():
            feed.close()


class _Letters:
    """The process's producer as dead letters see it."""

    def __init__(self, client: Producer) -> None:
        self._client = client

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        headers: list[tuple[str, bytes]],
        on_delivery: OnDelivery,
    ) -> None:
        """Queue a letter; BufferError if the queue is full."""
        self._client.produce(topic, value, key, headers=[*headers], on_delivery=on_delivery)

    def poll(self, timeout: float) -> int:
        """Serve callbacks for up to `timeout` seconds."""
        return self._client.poll(timeout)
