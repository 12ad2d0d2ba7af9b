"""Reads chosen partitions of Kafka topics from chosen offsets.

Flow: Kafka -> [KafkaPartitions.poll] -> RawRecords -> decode.

The only file of the ingest edge that calls the Kafka client. There is no group membership: the
owner table says who reads what, and positions are kept by the job. Offsets committed to a group are
advice for tools that show lag, nothing here reads them.

Invariants
  C1  Records of a partition come in offset order, each once, from the assigned offset on.
  C2  No offset is skipped silently: one that is gone is an error that names it.
  C3  An error of the client leaves this file as a BrokerError, or not at all if the client repairs
      it by itself; those are counted in `repaired`.
  C4  After `pause` nothing is delivered; after `resume` the next record is the one that was due.
  C5  Positions reach the end of a partition whatever its last offsets hold: what transactions leave
      behind (marks, aborted records) has offsets and is never delivered. So the client is asked for
      its positions, which pass such offsets; that is also cheaper than asking every record.
  C6  An error comes in place of a record and carries its text as the value. A text does not begin
      with a zero byte, so a poll whose values all do has no error in it and need not be searched.
  C7  A batch that the client cannot unpack is left out whole, and told by `left_out`; its partition
      rests until its end is known, the others do not.

Source: librdkafka 2.16 CONFIGURATION.md and INTRODUCTION.md; confluent-kafka-python 407, 597.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientPartition

from service.errors import BrokerError, BrokerUnavailable, UsageError
from service.ingest import client_errors as errors
from service.ingest.records import RawRecords, TopicPartition, raw_records
from service.ingest.unreadable import UnreadableBatch, UnreadableBatches
from service.kafka_access import client_settings

__all__ = ["KafkaPartitions", "TopicPartition", "client_config"]

#: Longest time one call into the client may take; from 0.2 s on it takes the interpreter lock anew.
_POLL_S_MAX = 0.1
#: Patience for what only lag tools need.
_MEET_S = 2.0
#: Objects made since its last walk that let the interpreter look for cycles, at least: some polls.
_YOUNG_MIN = 100_000


class KafkaPartitions:
    """A MessageSource over a Kafka consumer. Owned by one thread."""

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        group: str,
        client_id: str,
        prefetch_kb: int = 65_536,
        timeout_s: float = 10.0,
    ) -> None:
        """Make the client; it connects when it is first asked for something.

        Args:
            bootstrap_servers: comma-separated host:port.
            group: consumer group that `commit_advisory` commits to.
            client_id: how the broker's logs and quotas name us.
            prefetch_kb: bytes of records the client may hold ready, in kB.
            timeout_s: how long questions to the broker may take.

        Affects: the interpreter's search for cycles (see `_let_polls_live`).
        """
        _let_polls_live()
        self._bootstrap = bootstrap_servers
        self._timeout_s = timeout_s
        self._fatal: KafkaError | None = None
        self._topics: tuple[str, ...] = ()
        self._positions: dict[TopicPartition, int] = {}
        #: The same partitions as the client wants them named.
        self._assigned: list[ClientPartition] = []
        #: Those whose position the client may still give as of an earlier assignment.
        self._doubted: set[TopicPartition] = set()
        self._ends: dict[TopicPartition, int] = {}
        self._paused = False
        self._closed = False
        #: What `wait` took from the client, for the next poll.
        self._early: list[Message] = []
        #: Errors the client got over by itself (C3).
        self.repaired = 0
        settings = client_config(bootstrap_servers, group, client_id, prefetch_kb)
        self._unreadable = UnreadableBatches(settings, bootstrap_servers, timeout_s)
        self._left_out: list[UnreadableBatch] = []
        #: Ends of partitions when a batch in them was passed.
        self._passed: dict[TopicPartition, int] = {}
        self._client = Consumer(settings | {"error_cb": self._on_error})

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """Next offset to deliver of each assigned partition."""
        return self._positions

    def partitions_of(self, topics: Iterable[str]) -> list[TopicPartition]:
        """All partitions of `topics`; see MessageSource."""
        found: list[TopicPartition] = []
        for topic in topics:
            try:
                known = self._client.list_topics(topic, timeout=self._timeout_s).topics[topic]
            except KafkaException as error:
                raise self._translated(error, f"topic {topic!r}") from error
            if known.error is not None or not known.partitions:
                raise UsageError(
                    f"topic {topic!r} cannot be read at {self._bootstrap}: "
                    f"{known.error or 'it has no partitions'}; create it, or check its name"
                )
            found += [(topic, partition) for partition in sorted(known.partitions)]
        return found

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset of the oldest record kept in each partition. Cost: one request each."""
        return {each: self._watermarks(each)[0] for each in partitions}

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset behind the newest record of each partition. Cost: one request each."""
        return {each: self._watermarks(each)[1] for each in partitions}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions, each from its offset on."""
        self._topics = tuple(sorted({topic for topic, _ in positions}))
        self._doubted = set(positions) if self._assigned else set()
        self._positions = dict(positions)
        self._assigned = [ClientPartition(topic, partition) for topic, partition in positions]
        self._ends = {}
        self._paused = False
        self._early = []
        self._unreadable.forget()
        self._left_out, self._passed = [], {}
        self._client.assign(
            [
                ClientPartition(topic, partition, offset)
                for (topic, partition), offset in positions.items()
            ]
        )
        self._meet_coordinator()

    def poll(self, max_records: int, timeout_s: float) -> RawRecords:
        """What has arrived; see MessageSource.

        Cost: two calls into the client; never waits for a full batch.
        """
        if self._paused:
            return raw_records([], self._topics)
        if timeout_s > 0:
            self.wait(timeout_s)
        messages, self._early = self._early, []
        if len(messages) < max_records:
            messages += self._client.consume(max_records - len(messages), 0)
        if self._fatal is not None:
            raise BrokerError(f"Kafka at {self._bootstrap}: {self._fatal.str()}")
        for batch in self._unreadable.found():
            self._pass(batch)
        said = self._said()
        moved = {which: offset for which, offset in said.items() if offset > self._positions[which]}
        raw = raw_records(messages, self._topics, None if self._doubted else moved)
        if raw.unmarked and any(map(Message.error, messages)):
            raw = raw_records(self._without_errors(messages), self._topics)
        self._positions.update(raw.positions())
        if self._doubted:
            self._doubted = {
                which for which in self._doubted if said[which] not in (-1, self._positions[which])
            }
        return raw

    def left_out(self) -> list[UnreadableBatch]:
        """Batches that positions have passed unread since it was last asked (C7)."""
        left_out, self._left_out = self._left_out, []
        return left_out

    def wait(self, timeout_s: float) -> bool:
        """Wait for a record, at most so long and 0.1 s; whether the next `poll` has one."""
        assert not self._paused, "who is paused does not wait for records"
        if not self._early:
            self._early = self._client.consume(1, min(timeout_s, _POLL_S_MAX))
        return bool(self._early)

    def lag(self) -> dict[TopicPartition, int]:
        """Records between the position and the end of each assigned partition.

        The client learns ends with the records it fetches; while paused it soon fetches none, so
        then the broker is asked, and if it does not answer, the last known end serves.
        """
        for each in self._positions:
            end = self._known_end(each)
            if end is not None:
                self._ends[each] = max(end, self._ends.get(each, 0))
        return {
            each: max(0, self._ends.get(each, position) - position)
            for each, position in self._positions.items()
        }

    def at_end(self, which: TopicPartition) -> bool:
        """Whether the position is at the end that the client learned with its last fetch."""
        end = self._known_end(which)
        return end is not None and self._positions[which] >= max(end, self._passed.get(which, 0))

    def pause(self) -> None:
        """Deliver nothing until `resume`.

        The client is not told: it would drop what it has fetched ahead and fetch it again, which
        cost a job under back-pressure two thirds of its rate. `prefetch_kb` bounds what it holds.
        """
        self._paused = True

    def resume(self) -> None:
        """Deliver again."""
        self._paused = False

    def commit_advisory(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell lag tools how far we are; returns at once and never fails."""
        offsets = [ClientPartition(topic, at, offset) for (topic, at), offset in positions.items()]
        if not offsets:
            return
        try:
            self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException:
            self.repaired += 1

    def close(self) -> None:
        """Let go of the broker; may be called twice."""
        if not self._closed:
            self._closed = True
            self._unreadable.close()
            self._client.close()

    def _meet_coordinator(self) -> None:
        """Learn who keeps the group's commits.

        The client asks only with its first commit; a job that ends before the answer would have
        told lag tools nothing.
        """
        try:
            self._client.committed(list(self._assigned), timeout=min(self._timeout_s, _MEET_S))
        except KafkaException:
            self.repaired += 1

    def _watermarks(self, which: TopicPartition) -> tuple[int, int]:
        try:
            answer = self._ask_watermarks(which, self._timeout_s, cached=False)
        except KafkaException as error:
            raise self._translated(error, f"partition {which[1]} of {which[0]!r}") from error
        if answer is None:
            raise BrokerUnavailable(self._bootstrap, self._timeout_s)
        return answer

    def _known_end(self, which: TopicPartition) -> int | None:
        try:
            answer = self._ask_watermarks(which, _POLL_S_MAX, cached=not self._paused)
        except KafkaException:
            self.repaired += 1
            return None
        # The client says -1001 for an end it has not learned yet.
        return answer[1] if answer is not None and answer[1] >= 0 else None

    def _ask_watermarks(
        self, which: TopicPartition, timeout_s: float, *, cached: bool
    ) -> tuple[int, int] | None:
        """Oldest offset and end of a partition, or None if there was no answer in time."""
        return self._client.get_watermark_offsets(
            ClientPartition(*which), timeout=timeout_s, cached=cached
        )

    def _said(self) -> dict[TopicPartition, int]:
        """Positions as the client knows them (C5), -1 where it delivered nothing. 1 us each."""
        answers = self._client.position(self._assigned)
        return {which: max(-1, answer.offset) for which, answer in zip(self._positions, answers)}

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        """The records among `messages`; errors are counted or raised (C3)."""
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif errors.heals(error):
                self.repaired += 1
            elif error.code() in errors.UNREADABLE:
                self._leave_out(message, error)
            else:
                raise self._refusal(message, error)
        return records

    def _leave_out(self, message: Message, error: KafkaError) -> None:
        """Let the partition of an unreadable batch rest, and look for the batch's end (C7)."""
        which, base = (str(message.topic()), int(message.partition() or 0)), message.offset() or 0
        # Retention may have cut into the batch: then reading begins behind its first offset.
        start = max(base, self._positions[which])
        if self._unreadable.seek(which, start, base, error.str()):
            self._client.pause([ClientPartition(*which)])

    def _pass(self, batch: UnreadableBatch) -> None:
        """Read on behind a batch."""
        at = ClientPartition(*batch.which, batch.end)
        try:
            self._client.resume([at])
            self._client.seek(at)
        except KafkaException as error:
            raise self._translated(error, f"partition {at.partition} of {at.topic!r}") from error
        self._positions[batch.which] = batch.end
        # What the client knows of the end is as old as its last fetch.
        self._passed[batch.which] = batch.partition_end
        if batch.end > batch.first:
            self._left_out.append(batch)

    def _refusal(self, message: Message, error: KafkaError) -> BrokerError:
        topic, partition = str(message.topic()), int(message.partition() or 0)
        if error.code() in errors.OFFSET_GONE:
            return errors.offset_gone(topic, partition, self._positions.get((topic, partition), -1))
        return BrokerError(f"partition {partition} of {topic!r} cannot be read: {error.str()}")

    def _on_error(self, error: KafkaError) -> None:
        """Take an error that belongs to no partition; the client calls this within `consume`."""
        if error.fatal() or error.code() in errors.REFUSED:
            self._fatal = error
        else:
            self.repaired += 1

    def _translated(self, error: KafkaException, what: str) -> BrokerError:
        cause: KafkaError = error.args[0]
        if cause.code() in errors.UNREACHABLE:
            return BrokerUnavailable(self._bootstrap, self._timeout_s)
        return BrokerError(f"{what} cannot be read at {self._bootstrap}: {cause.str()}")


def _let_polls_live() -> None:
    """Have the interpreter look for cycles after 100,000 new objects at least, not after 700.

    A poll makes an object for every record, and all are freed when it is decoded. With the default
    each poll is walked many times, and every few polls the whole heap with it: 0.4 us a record,
    more than all the rest of a gateway's work.
    """
    young, middle, old = gc.get_threshold()
    if 0 < young < _YOUNG_MIN:
        gc.set_threshold(_YOUNG_MIN, middle, old)


def client_config(
    bootstrap_servers: str, group: str, client_id: str, prefetch_kb: int
) -> dict[str, object]:
    """The client's settings; each that differs from its default has its reason."""
    return {
        **client_settings(bootstrap_servers),
        "client.id": client_id,
        "group.id": group,
        # Positions belong to the job's manifest, not to the group.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": False,
        "check.crcs": True,
        # A gateway that stops reading must not be thrown out of a group it is not in.
        "max.poll.interval.ms": 86_400_000,
        # A record waits at the broker at most this long for company.
        "fetch.wait.max.ms": 5,
        "fetch.min.bytes": 1,
        # The bound on memory; the default then waits 1 s before it looks for room again.
        "queued.max.messages.kbytes": prefetch_kb,
        "fetch.queue.backoff.ms": 5,
        "fetch.error.backoff.ms": 100,
        "reconnect.backoff.max.ms": 1_000,
        "log.connection.close": False,
        # Standard error holds one JSON object a line; what matters comes back as errors.
        "log_level": 0,
    }
