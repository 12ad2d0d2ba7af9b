"""Batches that the Kafka client cannot unpack: where each ends, so that reading goes on behind it.

Flow: an error of the client at an offset -> [UnreadableBatches], in a thread of its own -> a batch
with its first offset and the one behind it -> a dead letter; the partition is read on from there.

The head of a batch says how many offsets it has, but the client gives no heads: whichever offset of
the batch one reads from, it says that the batch beginning at its first cannot be unpacked. So
offsets behind are tried, further and further apart, and then halved in between.

Invariants
  UB1  Every offset that is left out was seen to be, or lies below one that was seen to be, of the
       batch; the first behind it was seen not to be, or is the end of the partition.
  UB2  One reading for a batch of one record, 2 log2(n) for n offsets, each with its patience.
  UB3  Whoever reads meanwhile is not kept waiting: a reading unpacks up to 100 MB before it fails.

Source: librdkafka 2.16, which bounds what zstd unpacks to by `receive.message.max.bytes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as ClientPartition

from service.errors import BrokerUnavailable
from service.ingest.client_errors import UNREADABLE
from service.ingest.records import TopicPartition


@dataclass(frozen=True, slots=True)
class UnreadableBatch:
    """A batch that nobody here can read, with what it covers."""

    topic: str
    partition: int
    #: Its first offset, and the one behind its last.
    first: int
    end: int
    #: What the client said.
    detail: str

    @property
    def which(self) -> TopicPartition:
        """The partition it is in."""
        return self.topic, self.partition


def end_of_batch(first: int, end: int, is_within: Callable[[int], bool]) -> int:
    """The first offset behind the batch that begins at `first` (UB1, UB2).

    Args:
        first: the batch's first offset.
        end: of the partition, surely behind the batch.
        is_within: whether an offset is of the batch.

    >>> end_of_batch(10, 1_000, lambda offset: offset < 137)
    137
    """
    within, behind, stride = first, end, 1
    while within + stride < behind:
        if not is_within(within + stride):
            behind = within + stride
            break
        within += stride
        stride *= 2
    while behind - within > 1:
        middle = (within + behind) // 2
        if is_within(middle):
            within = middle
        else:
            behind = middle
    return behind


class UnreadableBatches:
    """Finds the ends of batches, one after the other; to be asked by one thread."""

    def __init__(self, settings: Mapping[str, object], bootstrap: str, timeout_s: float) -> None:
        """Start nothing before a batch is named.

        Args:
            settings: of the client that could not read the batch.
            bootstrap: where it reads, for errors.
            timeout_s: patience with each reading.
        """
        # Ends of partitions tell that nothing more is coming.
        self._settings = {**settings, "enable.partition.eof": True}
        self._bootstrap = bootstrap
        self._timeout_s = timeout_s
        self._thread: ThreadPoolExecutor | None = None
        self._sought: dict[TopicPartition, Future[UnreadableBatch]] = {}

    def seek(self, which: TopicPartition, first: int, detail: str) -> None:
        """Begin to look for the end of the batch that begins at `first`, unless that is done."""
        if which in self._sought:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "unreadable")
        self._sought[which] = self._thread.submit(self._find, which, first, detail)

    def found(self) -> list[UnreadableBatch]:
        """Those whose end is known now, each once.

        Raises:
            BrokerUnavailable: no answer in time.
        """
        done = [which for which, future in self._sought.items() if future.done()]
        return [self._sought.pop(which).result() for which in done]

    def close(self) -> None:
        """Look for nothing any more; a reading under way ends with its patience."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _find(self, which: TopicPartition, first: int, detail: str) -> UnreadableBatch:
        with closing(Consumer(self._settings)) as client:
            try:
                _, end = client.get_watermark_offsets(
                    ClientPartition(*which), timeout=self._timeout_s
                )
            except KafkaException as error:
                raise BrokerUnavailable(self._bootstrap, self._timeout_s) from error

            def is_within(offset: int) -> bool:
                client.assign([ClientPartition(*which, offset)])
                said = client.poll(self._timeout_s)
                if said is None:
                    raise BrokerUnavailable(self._bootstrap, self._timeout_s)
                error = said.error()
                return error is not None and error.code() in UNREADABLE and said.offset() == first

            return UnreadableBatch(*which, first, end_of_batch(first, end, is_within), detail)
