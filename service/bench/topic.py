"""A topic of NEXMark events, made for one benchmark and removed behind it.

Flow: event numbers -> EventSource.encode -> [filled_topic] -> Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient

from service.control_topics import Admin
from service.errors import BrokerError
from service.kafka_access import client_settings
from service.nexmark.events import EventSource, NexmarkConfig

PARTITIONS = 4
#: Date of event 0, epoch milliseconds; each later event is a millisecond younger.
_FIRST_MS = 1_700_000_000_000
_RUN_EVENTS = 50_000
#: Messages waiting in the client beyond which no more are made.
_QUEUE_MAX = 500_000
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class FilledTopic:
    """A topic, and how many records each partition holds from offset 0 on."""

    name: str
    records: tuple[int, ...]
    #: Of all values together.
    bytes: int


@contextmanager
def filled_topic(bootstrap_servers: str, name: str, events: int) -> Iterator[FilledTopic]:
    """Events 0 to `events` of the NEXMark stream in a topic of PARTITIONS partitions.

    Raises:
        BrokerError: the broker refused, or did not take everything in a minute.

    Cost: 3 us an event.
    """
    Admin(bootstrap_servers, _TIMEOUT_S).create(name, PARTITIONS)
    admin = AdminClient(client_settings(bootstrap_servers))
    try:
        yield _fill(bootstrap_servers, name, events)
    finally:
        admin.delete_topics([name])[name].result(_TIMEOUT_S)


def _fill(bootstrap_servers: str, name: str, events: int) -> FilledTopic:
    lost: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            lost.append(error)

    producer = Producer(
        {
            **client_settings(bootstrap_servers),
            "linger.ms": 20,
            "batch.size": 1 << 20,
            "queue.buffering.max.messages": 2 * _QUEUE_MAX,
            "queue.buffering.max.kbytes": 1 << 20,
        }
    )
    source = EventSource(NexmarkConfig())
    counts = np.zeros(PARTITIONS, dtype=np.int64)
    size = 0
    for first in range(0, events, _RUN_EVENTS):
        numbers = np.arange(first, min(events, first + _RUN_EVENTS))
        run = source.encode(numbers, numbers + _FIRST_MS, PARTITIONS)
        messages = [
            {"value": value, "key": key}
            for value, key in zip(run.values(), run.key_bytes(), strict=True)
        ]
        for partition, (start, end) in enumerate(pairwise(run.partition_starts.tolist())):
            producer.produce_batch(
                name, messages[start:end], partition=partition, on_delivery=delivered
            )
        counts += np.diff(run.partition_starts)
        size += int(run.offsets[-1])
        while len(producer) > _QUEUE_MAX:
            producer.poll(0.05)
    left = producer.flush(_TIMEOUT_S)
    if lost or left:
        reason = lost[0].str() if lost else f"{left} records were not taken in {_TIMEOUT_S:g} s"
        raise BrokerError(f"topic {name!r} was not filled: {reason}")
    return FilledTopic(name, tuple(counts.tolist()), size)
