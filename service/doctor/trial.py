"""One record through a topic made for it: may we create, write and read; what is the time there?

Flow: [try_a_record] -> fence -> create -> write -> read back -> delete -> Trial. The topic stamps
records with the broker's clock as it appends them, which is the only way to learn that clock.

A right to transactional ids cannot be asked for, only used, and whoever uses the controller's own
ends the controller; so one with the job's prefix is used, always the same, which the broker forgets
after `transactional.id.expiration.ms`.

Invariants
  TR1  The topic is named after the job, holds one record and is deleted, whatever failed.
  TR2  Nothing that a job uses is touched.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass, field, replace
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from service.clock import Clock
from service.doctor.cluster_facts import Trial, clock_ahead_us
from service.kafka_access import access

_CONFIG = {"message.timestamp.type": "LogAppendTime", "retention.ms": "60000"}
_PAYLOAD = b"megaphone doctor"


def try_a_record(settings: Mapping[str, Any], prefix: str, timeout_s: float, clock: Clock) -> Trial:
    """Create a topic, write a record, read it back, delete the topic.

    Args:
        settings: of a Kafka client.
        prefix: of the topic's name, so that permissions of the job's own topics hold for it.
        timeout_s: patience with each step.
        clock: of this machine.
    """
    trial = _Trial(f"{prefix}.doctor-{secrets.token_hex(4)}", timeout_s, clock)
    trial.fence(settings, f"{prefix}.doctor")
    client = AdminClient({**settings, "log_level": 0})
    new = NewTopic(trial.topic, num_partitions=1, replication_factor=-1, config=_CONFIG)
    told = trial.step("created", lambda: client.create_topics([new])[trial.topic].result(timeout_s))
    if not told:
        return trial.told
    if trial.step("written", lambda: trial.write(settings)):
        trial.step("read", lambda: trial.read(settings))
    trial.step(
        "deleted", lambda: client.delete_topics([trial.topic])[trial.topic].result(timeout_s)
    )
    return trial.told


class _NotDone(Exception):
    """A step that did not fail with an error of the client's; never leaves this file."""


@dataclass
class _Trial:
    """The steps, and what they told so far."""

    topic: str
    timeout_s: float
    clock: Clock
    told: Trial = field(init=False)
    #: Our clock before the write and after its acknowledgement.
    between: tuple[int, int] = (0, 0)
    _failed: KafkaError | None = None

    def __post_init__(self) -> None:
        self.told = Trial(self.topic)

    def step(self, name: str, do: Callable[[], object]) -> bool:
        """Do one step; whether it was done. The first problem is the one that is told."""
        try:
            do()
        except (KafkaException, NoAnswer, _NotDone) as error:
            cause = error.args[0] if error.args else None
            text = cause.str() if isinstance(cause, KafkaError) else str(error)
            why = f"not {name}: {text or f'no answer within {self.timeout_s:g} s'}"
            self.told = replace(self.told, problem=self.told.problem or why)
            return False
        self.told = replace(self.told, done=(*self.told.done, name))
        return True

    def fence(self, settings: Mapping[str, Any], transactional: str) -> None:
        """Take a transactional id, as the controller does; other steps go on without."""
        producer = Producer({**settings, "log_level": 0, "transactional.id": transactional})
        try:
            producer.init_transactions(self.timeout_s)
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            why = f"{transactional}: {access().scrubbed(cause.str())}"
            self.told = replace(self.told, fencing=why)
        else:
            self.told = replace(self.told, done=("fenced",))

    def write(self, settings: Mapping[str, Any]) -> None:
        """Write the record, the second time around: the first one pays for the connection."""
        producer = Producer(
            {
                **settings,
                "log_level": 0,
                "linger.ms": 0,
                "enable.idempotence": True,
                "message.timeout.ms": int(self.timeout_s * 1_000),
            }
        )
        for _ in range(2):
            sent = self.clock.wall_us()
            producer.produce(self.topic, _PAYLOAD, partition=0, on_delivery=self._delivered)
            if producer.flush(self.timeout_s):
                raise _NotDone(f"no acknowledgement within {self.timeout_s:g} s")
            if self._failed is not None:
                raise KafkaException(self._failed)
            self.between = (sent, self.clock.wall_us())
        self.told = replace(self.told, took_us=self.between[1] - self.between[0])

    def read(self, settings: Mapping[str, Any]) -> None:
        """Read the record back and compare the clocks."""
        consumer = Consumer(
            {
                **settings,
                "log_level": 0,
                "group.id": self.topic,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
            }
        )
        try:
            consumer.assign([TopicPartition(self.topic, 0, 1)])
            message = consumer.poll(self.timeout_s)
        finally:
            consumer.close()
        if message is None:
            raise _NotDone(f"nothing came within {self.timeout_s:g} s")
        error = message.error()
        if error is not None:
            raise KafkaException(error)
        if message.value() != _PAYLOAD:
            raise _NotDone("another record came back")
        ahead = clock_ahead_us(*self.between, message.timestamp()[1])
        self.told = replace(self.told, ahead_us=ahead)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._failed = error or self._failed
