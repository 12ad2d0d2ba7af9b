"""What a dead letter holds, and that none is lost in silence."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from service.errors import BrokerError
from service.ingest.dead_letter import DeadLetters, OnDelivery
from service.ingest.decode import Rejected
from tests.unit.ingest.records import raw_of


@dataclass
class Letter:
    """What the producer was given."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: dict[str, bytes]
    on_delivery: OnDelivery


class Producer:
    """Takes letters; `room` is how many until its queue is full, and polling makes some."""

    def __init__(self, room: int = 1000, *, drains: bool = True) -> None:
        self.letters: list[Letter] = []
        self.polls = 0
        self._room = room
        self._drains = drains

    def produce(self, topic, value, key, *, headers, on_delivery) -> None:
        if self._room == 0:
            raise BufferError("Local: Queue full")
        self._room -= 1
        self.letters.append(Letter(topic, value, key, dict(headers), on_delivery))

    def poll(self, timeout: float) -> int:
        self.polls += 1
        self._room += self._drains
        return 0

    def deliver(self, error: KafkaError | None = None) -> None:
        """Report on the letters so far."""
        for letter in self.letters:
            letter.on_delivery(error, Message(topic=letter.topic, error=error))


def test_a_letter_has_the_original_bytes_and_says_where_from_and_why():
    producer = Producer()
    letters = DeadLetters(producer)
    raw = raw_of([b"good", b"\x00bad\xff", b"good", None, b""], topic="shop.events")
    rejected = [
        Rejected(1, "truncated", "record ends within a field"),
        Rejected(3, "null_value", "record has no value"),
        Rejected(4, "empty_value", "value is empty"),
    ]
    letters.send(raw, rejected)
    first, second, third = producer.letters
    assert {letter.topic for letter in producer.letters} == {"shop.events.dlq"}
    assert (first.value, first.key) == (b"\x00bad\xff", b"k1")
    assert first.headers == {
        "topic": b"shop.events",
        "partition": b"1",
        "offset": b"101",
        "error": b"truncated: record ends within a field",
    }
    assert (second.value, third.value) == (None, b"")
    assert letters.counts == {"truncated": 1, "null_value": 1, "empty_value": 1}


def test_letters_are_pending_until_kafka_has_them():
    producer = Producer()
    letters = DeadLetters(producer)
    letters.send(raw_of([b"x", b"y"]), [Rejected(0, "a", "b"), Rejected(1, "a", "b")])
    assert letters.pending == 2
    producer.deliver()
    assert letters.pending == 0
    letters.check()
    assert letters.counts == {"a": 2}


def test_a_letter_is_cut_to_its_bounds_and_says_so():
    producer = Producer()
    letters = DeadLetters(producer, value_bytes_max=10, key_bytes_max=1)
    letters.send(raw_of([b"v" * 100, b"v" * 10]), [Rejected(0, "too_large", "d")])
    (letter,) = producer.letters
    assert (letter.value, letter.key) == (b"v" * 10, b"k")
    assert letter.headers["cut"] == b"value had 100 bytes, key 2"


def test_a_letter_at_its_bounds_is_not_cut():
    producer = Producer()
    letters = DeadLetters(producer, value_bytes_max=10, key_bytes_max=2)
    letters.send(raw_of([b"v" * 10]), [Rejected(0, "a", "d")])
    assert "cut" not in producer.letters[0].headers


def test_a_letter_that_kafka_refuses_is_an_error_that_names_the_topic():
    producer = Producer()
    letters = DeadLetters(producer)
    letters.send(raw_of([b"x"]), [Rejected(0, "a", "d")])
    producer.deliver(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    for act in (letters.check, lambda: letters.send(raw_of([]), [])):
        with pytest.raises(BrokerError, match=r"'events\.dlq' was lost.*create the topic"):
            act()


def test_a_full_queue_is_waited_for():
    producer = Producer(room=1)
    DeadLetters(producer).send(raw_of([b"x"] * 3), [Rejected(at, "a", "d") for at in range(3)])
    assert (len(producer.letters), producer.polls) == (3, 2)


def test_a_queue_that_stays_full_is_an_error():
    with pytest.raises(BrokerError, match="stays full"):
        DeadLetters(Producer(room=0, drains=False)).send(raw_of([b"x"]), [Rejected(0, "a", "d")])


def test_what_the_client_refuses_at_once_is_an_error_too():
    class Refusing(Producer):
        def produce(self, *_: object, **__: object) -> None:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))

    with pytest.raises(BrokerError, match="was lost"):
        DeadLetters(Refusing()).send(raw_of([b"x"]), [Rejected(0, "a", "d")])
