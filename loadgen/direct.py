"""Kafka without a client library: a socket per broker, and kernels instead of an object per record.

Flow: EncodedRun -> [DirectProducer] -> input topic; output topic -> [DirectConsumer] -> measure.

The client library spends most of a generator's processor time, and of a meter's, on an object, a
queue entry and a callback for each record. A load generator needs none of them: its events are
already bytes, and when the broker is slow it waits, which its schedule shows as lateness.

What it leaves out is what a generator can do without: a lost connection, a leader that moves or a
broker's refusal ends the load with an error (`--client librdkafka` waits and tries again); no
encryption, no compression.

Invariants
  D1  Messages of a partition are stored once, in order, or the next `poll` or `flush` raises: the
      producer numbers its batches and the broker refuses gaps and repetitions.
  D2  At most `_UNANSWERED_MAX` requests of a broker are unanswered; `send` waits for room.
  D3  A value is given once all of its batch is here and committed; what a transaction took back is
      not given.
  D4  `behind` is true until every broker has answered a question put after it was first asked: an
      answer that was under way knows nothing of what was stored meanwhile.

Cost: 0.2 to 0.3 us per event sent, 0.1 per result read, at a thousand per request.
"""

from __future__ import annotations

import select
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from loadgen import protocol, records
from loadgen.broker import ANSWER_SECONDS_MAX, DELIVERY_SECONDS_MAX, LoadError, leaders
from loadgen.clock import Clock
from loadgen.connection import FALLBACK, Connection, whole_answer
from loadgen.payloads import NOTHING, Payloads
from service.nexmark.events import BLOCK, EncodedRun

_UNANSWERED_MAX = 5  # What a broker remembers of an idempotent producer.
_FETCH_BYTES_MAX = 4 << 20
#: A broker answers as soon as it has a single record, hundreds of times a second if asked to; this
#: is what the asking costs, and by how much at most a latency is overstated.
_FETCH_EVERY_US = 2_000
_SEQUENCES = 1 << 31  # Sequence numbers begin again at 0.


@dataclass(slots=True)
class _Target:
    """One broker of a producer: what it leads and what it has not acknowledged."""

    connection: Connection
    #: Partitions of each topic that it leads.
    groups: list[int] = field(default_factory=list)
    #: Messages of each unanswered request, oldest first.
    unacknowledged: list[int] = field(default_factory=list)
    #: When the last answer came, or the first of them was sent, epoch microseconds.
    heard_us: int = 0


class DirectProducer:
    """An idempotent producer of whole runs (D1, D2)."""

    def __init__(
        self, bootstrap_servers: str, topics: tuple[str, ...], partitions: int, clock: Clock
    ) -> None:
        """Connect to the leaders of the topics' partitions.

        Raises:
            LoadError: a broker or a leader cannot be found.
        """
        self._topics = topics
        self._partitions = partitions
        self._clock = clock
        #: Times `send` had to wait. Writer: send().
        self.waits = 0
        self._targets: dict[tuple[str, int], _Target] = {}
        for number, topic in enumerate(topics):
            for partition, address in leaders(bootstrap_servers, topic).items():
                target = self._targets.get(address)
                if target is None:
                    target = self._targets[address] = _Target(Connection(*address))
                target.groups.append(number * partitions + partition)
        groups = len(topics) * partitions
        if sum(len(target.groups) for target in self._targets.values()) != groups:
            raise LoadError(f"topics {', '.join(topics)}: not {partitions} partitions each")
        self._sequences = np.zeros(groups, dtype=np.int64)
        self._numbers = np.tile(np.arange(partitions, dtype=np.int64), len(topics))
        self._ends = np.zeros(groups, dtype=np.int64)
        self._out = np.empty(1 << 16, dtype=np.uint8)
        self._writer = np.array([0, *self._producer_id()], dtype=np.int64)
        self._warm_up()

    def send(self, run: EncodedRun) -> None:
        """Send a run, waiting for room as long as it takes.

        Raises:
            LoadError: the broker does not take it.
        """
        for target in self._targets.values():
            if len(target.unacknowledged) >= _UNANSWERED_MAX:
                self._take_answers(target)
                while len(target.unacknowledged) >= _UNANSWERED_MAX:
                    self.waits += 1
                    target.connection.wait(DELIVERY_SECONDS_MAX)
                    self._take_answers(target)
        counts = np.diff(run.partition_starts)
        self._write(run, counts)
        self._sequences = (self._sequences + counts) % _SEQUENCES
        ends = [0, *self._ends.tolist()]
        batches = self._out.data
        for target in self._targets.values():
            self._ask(target, counts.tolist(), [batches[a:b] for a, b in pairwise(ends)])

    def _warm_up(self) -> None:
        """Load or compile the kernel, so that the first events are not late for it."""
        empty = np.zeros(0, dtype=np.int64)
        data = np.zeros(BLOCK, dtype=np.uint8)
        starts = np.zeros(len(self._ends) + 1, dtype=np.int64)
        run = EncodedRun(data, np.zeros(1, dtype=np.int32), empty, starts, empty)
        self._write(run, np.diff(starts))

    def _write(self, run: EncodedRun, counts: NDArray[np.int64]) -> None:
        """Write the run's batches into the buffer, and where each ends."""
        room = (
            int(run.offsets[-1])
            + len(run.keys) * records.RECORD_BYTES_MAX
            + len(counts) * (records.PREFIX_BYTES + records.BATCH_BYTES)
            + BLOCK
        )
        if room > len(self._out):
            self._out = np.empty(room, dtype=np.uint8)
        self._writer[0] = self._clock.wall_us() // 1000
        records.write_batches(
            run.data,
            run.offsets,
            run.keys,
            run.partition_starts,
            self._numbers,
            self._writer,
            self._sequences,
            records.tables(),
            self._out,
            self._ends,
        )

    def poll(self, seconds: float) -> None:
        """Take the answers that have come; wait up to `seconds` for one.

        Raises:
            LoadError: a broker refused a batch, or is gone.
        """
        for target in self._targets.values():
            if target.unacknowledged:
                if seconds:
                    target.connection.wait(seconds)
                self._take_answers(target)

    def flush(self, seconds: float) -> None:
        """Wait up to `seconds` for all answers.

        Raises:
            LoadError: a broker refused a batch, or is gone.
        """
        deadline = self._clock.wall_us() + seconds * 1e6
        while self.queued() and self._clock.wall_us() < deadline:
            self.poll(seconds)

    def queued(self) -> int:
        """Messages that are not acknowledged."""
        return sum(sum(target.unacknowledged) for target in self._targets.values())

    def close(self) -> None:
        """Hang up."""
        for target in self._targets.values():
            target.connection.close()

    def _ask(self, target: _Target, counts: list[int], batches: list[memoryview]) -> None:
        mine = [group for group in target.groups if counts[group]]
        if not mine:
            return
        topics = []
        for number, topic in enumerate(self._topics):
            of_topic = [group for group in mine if group // self._partitions == number]
            if of_topic:
                head = protocol.topic_head(topic, len(of_topic))
                topics.append((head, [batches[group] for group in of_topic]))
        head = protocol.produce_head(DELIVERY_SECONDS_MAX * 1000, len(topics))
        target.connection.ask(protocol.PRODUCE, protocol.produce_body(head, topics))
        if not target.unacknowledged:
            target.heard_us = self._clock.wall_us()
        target.unacknowledged.append(sum(counts[group] for group in mine))

    def _take_answers(self, target: _Target) -> None:
        while target.unacknowledged:
            answer = target.connection.answer()
            if answer is None:
                if self._clock.wall_us() - target.heard_us > DELIVERY_SECONDS_MAX * 1e6:
                    raise LoadError(f"a broker has not answered for {DELIVERY_SECONDS_MAX} s")
                return
            target.heard_us = self._clock.wall_us()
            for topic, partition, error in protocol.produce_errors(bytes(answer)):
                what = protocol.text_of(error)
                raise LoadError(f"topic {topic}, partition {partition}: {what}{FALLBACK}")
            target.unacknowledged.pop(0)

    def _producer_id(self) -> tuple[int, int]:
        connection = next(iter(self._targets.values())).connection
        deadline = self._clock.wall_us() + ANSWER_SECONDS_MAX * 1e6
        while True:
            connection.ask(protocol.INIT_PRODUCER_ID, [memoryview(protocol.init_producer_id())])
            answer = whole_answer(connection)
            error, number, epoch = protocol.producer_id(bytes(answer))
            if not error:
                return number, epoch
            if self._clock.wall_us() > deadline:
                raise LoadError(f"no id for a producer: {protocol.text_of(error)}")
            self._clock.sleep_us(20_000)  # A young broker is still loading what it knows.


class DirectConsumer:
    """Reads all partitions of a topic from given offsets (D3)."""

    def __init__(
        self, bootstrap_servers: str, topic: str, offsets: dict[int, int], clock: Clock
    ) -> None:
        """Start at `offsets`: {partition: next offset}.

        Raises:
            LoadError: a broker or a leader cannot be found.
        """
        self._topic = topic
        self._clock = clock
        self._asked_us = 0
        self._positions = dict(offsets)
        self._ends = dict(offsets)
        self._connections: dict[Connection, list[int]] = {}
        #: D4: brokers asked since `behind` was, and those whose answer to that is still to come.
        self._asked_anew: set[Connection] = set()
        self._unsure: set[Connection] | None = None
        by_address: dict[tuple[str, int], Connection] = {}
        for partition, address in leaders(bootstrap_servers, topic).items():
            if partition in offsets:
                if address not in by_address:
                    by_address[address] = Connection(*address)
                self._connections.setdefault(by_address[address], []).append(partition)
        # Loads the kernel before the first record comes.
        records.values_in(
            np.frombuffer(b"\0", dtype=np.uint8),
            np.empty((0, 5), dtype=np.int64),
            np.empty(0, dtype=np.int64),
            np.empty(0, dtype=np.int64),
        )

    def fetch(self, seconds: float) -> Payloads:
        """Wait up to `seconds` for values; all that one answer of each broker has.

        Raises:
            LoadError: the broker refuses, or a batch is none that can be read here.
        """
        idle = [connection for connection in self._connections if not connection.unanswered]
        if idle:
            rest_us = self._asked_us + _FETCH_EVERY_US - self._clock.wall_us()
            if 0 < rest_us <= _FETCH_EVERY_US:
                self._clock.sleep_us(rest_us)
            self._asked_us = self._clock.wall_us()
            for connection in idle:
                self._ask(connection)
        waiting = [*self._connections]
        ready = select.select(waiting, [], [], seconds)[0]
        found = [self._taken(connection) for connection in ready]
        return Payloads.together([each for each in found if len(each)])

    def behind(self) -> bool:
        """Whether the topic held more, when this was first asked, than was fetched since (D4)."""
        if self._unsure is None:
            self._unsure = set(self._connections)
        return bool(self._unsure) or any(self._positions[p] < end for p, end in self._ends.items())

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections:
            connection.close()

    def _ask(self, connection: Connection) -> None:
        wanted = {
            partition: self._positions[partition] for partition in self._connections[connection]
        }
        body = protocol.fetch(self._topic, wanted, wait_ms=100, bytes_max=_FETCH_BYTES_MAX)
        connection.ask(protocol.FETCH, [memoryview(body)])
        if self._unsure is not None:
            self._asked_anew.add(connection)

    def _taken(self, connection: Connection) -> Payloads:
        answer = connection.answer()
        if answer is None:
            return NOTHING
        if self._unsure is not None and connection in self._asked_anew:
            self._unsure.discard(connection)
        found: list[tuple[int, int, int, int, int]] = []
        for part in protocol.fetched(answer):
            if part.error:
                what = protocol.text_of(part.error)
                raise LoadError(f"topic {self._topic}, partition {part.partition}: {what}")
            try:
                sections, position = protocol.sections(
                    answer, part, self._positions[part.partition]
                )
            except protocol.Unreadable as error:
                raise LoadError(
                    f"topic {self._topic}: a batch is {error}; use --client librdkafka"
                ) from error
            found += sections
            self._positions[part.partition] = position
            self._ends[part.partition] = part.high_watermark
        return _values(answer, found)


def _values(answer: memoryview, found: list[tuple[int, int, int, int, int]]) -> Payloads:
    sections = np.array(found, dtype=np.int64).reshape(len(found), 5)
    room = int(sections[:, 2].sum())
    starts = np.empty(room, dtype=np.int64)
    ends = np.empty(room, dtype=np.int64)
    # A copy: the answer's memory is used again for the next one.
    data: NDArray[np.uint8] = np.frombuffer(bytes(answer), dtype=np.uint8)
    count = records.values_in(data, sections, starts, ends)
    if count < 0:
        raise LoadError("a batch of the output topic is malformed")
    return Payloads(data, starts[:count], ends[:count])
