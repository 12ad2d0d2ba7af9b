"""What a gateway needs of a broker.

Flow: Kafka, or the fake of the tests -> [MessageSource] -> SourceFeed.

What its methods promise (C1 to C7, consumer.py) holds for all of them: one suite of tests runs over
the fake and over a real broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from service.ingest.records import RawRecords, TopicPartition
from service.ingest.unreadable import UnreadableBatch


class MessageSource(Protocol):
    """What a gateway needs of a broker; the simulator and the tests have another one."""

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """Next offset to deliver of each assigned partition."""

    def partitions_of(self, topics: Iterable[str]) -> list[TopicPartition]:
        """All partitions of `topics`, in order.

        Raises:
            UsageError: a topic does not exist.
            BrokerUnavailable: no answer in time.
        """

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset of the oldest record kept in each partition."""

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Offset behind the newest record of each partition."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions, each from its offset on (C1)."""

    def poll(self, max_records: int, timeout_s: float) -> RawRecords:
        """What has arrived, at most `max_records`; waits up to `timeout_s` for a first record.

        Raises:
            BrokerError: reading cannot go on (C2, C3).
        """

    def left_out(self) -> list[UnreadableBatch]:
        """Batches that positions have passed unread since it was last asked (C7)."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for a record, at most so long; whether `poll` will have one. Not while paused."""

    def lag(self) -> dict[TopicPartition, int]:
        """Records between the position and the end of each assigned partition."""

    def at_end(self, which: TopicPartition) -> bool:
        """Whether the position is at the end of a partition, as far as known. Not while paused."""

    def pause(self) -> None:
        """Deliver nothing until `resume` (C4)."""

    def resume(self) -> None:
        """Deliver again."""

    def commit_advisory(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell lag tools how far we are; returns at once and never fails."""

    def close(self) -> None:
        """Let go of the broker; may be called twice."""
