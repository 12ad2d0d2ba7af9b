"""Kafka in memory: partitions as lists, and a MessageSource over them.

One contract suite runs over this fake and over a real broker, so tests that use the fake may trust
it. It cannot show anything about time, threads, or bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Message

from service.errors import UsageError
from service.ingest.client_errors import offset_gone
from service.ingest.records import RawRecords, TopicPartition, raw_records
from service.ingest.unreadable import UnreadableBatch


@dataclass
class FakePartition:
    """A log; offsets below `oldest` were deleted."""

    messages: list[Message] = field(default_factory=list)
    oldest: int = 0
    #: Batches that cannot be unpacked, by first offset: the offset behind.
    unreadable: dict[int, int] = field(default_factory=dict)


class FakeBroker:
    """Topics by name. What a test publishes is there at once for every reader."""

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._logs = {
            (topic, partition): FakePartition()
            for topic, count in topics.items()
            for partition in range(count)
        }
        #: Offsets that readers committed for lag tools, by group.
        self.committed: dict[str, dict[TopicPartition, int]] = {}

    def publish(
        self, topic: str, partition: int, value: bytes | None, key: bytes | None = None
    ) -> int:
        """Append a record and answer its offset."""
        log = self.log((topic, partition))
        offset = len(log.messages)
        log.messages.append(
            Message(topic=topic, partition=partition, offset=offset, value=value, key=key)
        )
        return offset

    def publish_unreadable(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        """Append records as a batch that no reader can unpack."""
        log = self.log((topic, partition))
        log.unreadable[len(log.messages)] = len(log.messages) + len(values)
        for value in values:
            self.publish(topic, partition, value)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """What retention does: forget the records below `offset`."""
        self.log((topic, partition)).oldest = offset

    def log(self, which: TopicPartition) -> FakePartition:
        """The log of one partition."""
        return self._logs[which]

    def partitions_of(self, topic: str) -> list[TopicPartition]:
        """The partitions of a topic, in order; empty if there is no such topic."""
        return sorted(which for which in self._logs if which[0] == topic)


class FakePartitions:
    """A MessageSource over a FakeBroker. Takes partitions in turn, as a fetch would."""

    def __init__(self, broker: FakeBroker, group: str = "fake") -> None:
        self._broker = broker
        self._group = group
        self._topics: tuple[str, ...] = ()
        self._positions: dict[TopicPartition, int] = {}
        self._left_out: list[UnreadableBatch] = []
        self._paused = False
        self.closed = False

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """Next offset to deliver of each assigned partition."""
        return self._positions

    def partitions_of(self, topics: Iterable[str]) -> list[TopicPartition]:
        """All partitions of `topics`, in order."""
        found: list[TopicPartition] = []
        for topic in topics:
            partitions = self._broker.partitions_of(topic)
            if not partitions:
                raise UsageError(f"topic {topic!r} cannot be read: there is none")
            found += partitions
        return found

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset of the oldest record kept in each partition."""
        return {each: self._broker.log(each).oldest for each in partitions}

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset behind the newest record of each partition."""
        return {each: len(self._broker.log(each).messages) for each in partitions}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions, each from its offset on."""
        self._topics = tuple(sorted({topic for topic, _ in positions}))
        self._positions = dict(positions)
        self._paused = False

    def poll(self, max_records: int, timeout_s: float) -> RawRecords:
        """What is there, at most `max_records`; never waits."""
        messages: list[Message] = []
        for (topic, partition), position in self._positions.items():
            log = self._broker.log((topic, partition))
            if not log.oldest <= position <= len(log.messages):
                raise offset_gone(topic, partition, position)
            if self._paused:
                continue
            ends = [end for first, end in log.unreadable.items() if first <= position < end]
            if ends:
                self._leave_out((topic, partition), ends[0])
                continue
            readable = min((at for at in log.unreadable if at > position), default=None)
            most = position + max_records - len(messages)
            messages += log.messages[position : most if readable is None else min(most, readable)]
        raw = raw_records(messages, self._topics)
        self._positions.update(raw.positions())
        return raw

    def _leave_out(self, which: TopicPartition, end: int) -> None:
        first, self._positions[which] = self._positions[which], end
        known = len(self._broker.log(which).messages)
        self._left_out.append(UnreadableBatch(*which, first, end, "made so by a test", known))

    def left_out(self) -> list[UnreadableBatch]:
        """Batches that positions have passed since it was last asked."""
        left_out, self._left_out = self._left_out, []
        return left_out

    def wait(self, timeout_s: float) -> bool:
        """Whether the next `poll` has a record; never waits."""
        assert not self._paused
        return any(self.lag().values())

    def lag(self) -> dict[TopicPartition, int]:
        """Records between the position and the end of each assigned partition."""
        ends = self.end_offsets(self._positions)
        return {each: ends[each] - position for each, position in self._positions.items()}

    def at_end(self, which: TopicPartition) -> bool:
        """Whether the position is at the end of a partition."""
        assert not self._paused
        return self.lag()[which] == 0

    def pause(self) -> None:
        """Deliver nothing until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Deliver again."""
        self._paused = False

    def commit_advisory(self, positions: Mapping[TopicPartition, int]) -> None:
        """Note how far we are."""
        self._broker.committed.setdefault(self._group, {}).update(positions)

    def close(self) -> None:
        """Let go of the broker; may be called twice."""
        self.closed = True
