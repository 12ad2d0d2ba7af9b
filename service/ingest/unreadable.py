"""Batches that the Kafka client cannot unpack: where each ends, so that reading goes on behind it.

Flow: an error of the client at an offset -> [UnreadableBatches], in a thread of its own -> a batch
with its first offset and the one behind it -> a dead letter; the partition is read on from there.

The head of a batch says how many offsets it has, but the client gives no heads: whichever offset of
the batch one reads from, it says that the batch beginning at its first cannot be unpacked. So
offsets behind are tried, further and further apart, and then halved in between.

Invariants
  UB1  Every offset that is left out was seen to be of the batch, or lies below one that was; the
       first behind it was seen not to be, or is the end of the partition. What does not say either
       is asked again, and in the end an error.
  UB2  One reading for a batch of one record, 1 + 2 log2(n + 1) at most for n offsets, each with its
       patience.
  UB3  Whoever reads meanwhile is not kept waiting: a reading unpacks up to 100 MB before it fails.

Source: librdkafka 2.16, which bounds what zstd unpacks to by `receive.message.max.bytes`, and names
a batch by its first offset wherever one reads from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from threading import Event

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientPartition

from service.errors import BrokerError, BrokerUnavailable
from service.ingest.client_errors import ELSEWHERE, UNREADABLE, heals
from service.ingest.records import TopicPartition

#: Between looks whether anybody still wants to know.
_SLICE_S = 0.1
#: Questions for the end of a partition that a broker may refuse for a moment.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class UnreadableBatch:
    """What is left out of a partition because nobody here can read it."""

    topic: str
    partition: int
    #: The first offset, and the one behind the last; equal if the batch was passed already.
    first: int
    end: int
    #: What the client said.
    detail: str
    #: The partition's own end, as it was when this was found.
    partition_end: int

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
        # Ends of partitions tell that nothing more is coming; one record is enough of an answer.
        own = {"enable.partition.eof": True, "queued.max.messages.kbytes": 1_024}
        self._settings = {**settings, **own}
        self._bootstrap = bootstrap
        self._timeout_s = timeout_s
        self._thread: ThreadPoolExecutor | None = None
        self._closed = Event()
        self._sought: dict[TopicPartition, Future[UnreadableBatch]] = {}

    def seek(self, which: TopicPartition, start: int, base: int, detail: str) -> bool:
        """Begin to look for the end of a batch; False if a search in the partition is under way.

        Args:
            which: the partition.
            start: the first offset that is wanted.
            base: the batch's first offset, as the client names it; `start` may lie behind it.
            detail: what the client said.
        """
        if which in self._sought:
            return False
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "unreadable")
        self._sought[which] = self._thread.submit(self._find, which, start, base, detail)
        return True

    def found(self) -> list[UnreadableBatch]:
        """Those whose end is known now, each once.

        Raises:
            BrokerUnavailable: no answer in time.
            BrokerError: the partition cannot be read for another reason.
        """
        done = [which for which, future in self._sought.items() if future.done()]
        return [self._sought.pop(which).result() for which in done]

    def forget(self) -> None:
        """Want to know nothing of what was sought so far."""
        self._sought.clear()

    def close(self) -> None:
        """Look for nothing any more; a reading under way ends with its slice."""
        self._closed.set()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _find(self, which: TopicPartition, start: int, base: int, detail: str) -> UnreadableBatch:
        with closing(Consumer(self._settings)) as client:
            end = self._end(client, which)
            is_within = partial(self._is_within, client, which, base)
            # Only the base is known to be of the batch, as the client has just said so.
            behind = start
            if start == base or is_within(start):
                behind = end_of_batch(start, end, is_within)
            return UnreadableBatch(*which, start, behind, detail, end)

    def _end(self, client: Consumer, which: TopicPartition) -> int:
        """The offset behind the partition's last record."""
        for _ in range(_TRIES):
            try:
                found = client.get_watermark_offsets(
                    ClientPartition(*which), timeout=self._timeout_s
                )
            except KafkaException as error:
                cause: KafkaError = error.args[0]
                if not heals(cause):
                    raise _unreadable(which, cause) from error
            else:
                return found[1]
        raise BrokerUnavailable(self._bootstrap, self._timeout_s)

    def _is_within(self, client: Consumer, which: TopicPartition, base: int, offset: int) -> bool:
        """Whether an offset is of the batch that begins at `base` (UB1)."""
        client.assign([ClientPartition(*which, offset)])
        for _ in range(math.ceil(self._timeout_s / _SLICE_S)):
            said = client.poll(_SLICE_S)
            if self._closed.is_set():
                break
            answer = None if said is None else is_of_batch(said, which, base)
            if answer is not None:
                return answer
        raise BrokerUnavailable(self._bootstrap, self._timeout_s)


def is_of_batch(said: Message, which: TopicPartition, base: int) -> bool | None:
    """Whether what the client gave at an offset says that the offset is of a batch.

    Args:
        said: the record there, or the error in its place.
        which: the partition, for errors.
        base: the batch's first offset.

    Returns:
        None: it says neither, and the client goes on by itself.

    Raises:
        BrokerError: the partition cannot be read for another reason.
    """
    error = said.error()
    if error is None or error.code() in ELSEWHERE:
        return False
    if error.code() in UNREADABLE:
        return said.offset() == base
    if heals(error):
        return None
    raise _unreadable(which, error)


def _unreadable(which: TopicPartition, error: KafkaError) -> BrokerError:
    return BrokerError(f"partition {which[1]} of {which[0]!r} cannot be read: {error.str()}")
