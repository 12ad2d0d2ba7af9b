"""The doctor's patience with a broker that will serve a group in a moment, and its end."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclOperation

from service.doctor.asking import Asking

#: What a broker says that has just made the topic for its groups.
SOON = [
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
]


@dataclass(frozen=True)
class Described:
    """An answer, as far as the doctor reads it."""

    authorized_operations: list[AclOperation]


@dataclass
class Broker:
    """Answers by a list of codes, then with the right to read; keeps the patience of each."""

    codes: list[int]
    patience: list[float] = field(default_factory=list)

    def describe_consumer_groups(self, names, *, include_authorized_operations, request_timeout):
        assert include_authorized_operations
        self.patience.append(request_timeout)
        future = Future()
        if self.codes:
            future.set_exception(KafkaException(KafkaError(self.codes.pop(0))))
        else:
            future.set_result(Described([AclOperation.READ]))
        return dict.fromkeys(names, future)


@dataclass
class SecondByQuestion:
    """A clock that is a second on whenever it is asked."""

    seconds: int = 0

    def monotonic_ns(self):
        self.seconds += 1
        return self.seconds * 1_000_000_000

    def wall_us(self):
        raise AssertionError("no time of day is wanted")


def test_a_group_that_will_be_served_in_a_moment_is_asked_for_again():
    broker = Broker([*SOON])
    assert Asking(broker, 10, SecondByQuestion()).group("bids") == {"READ"}
    assert broker.patience == [9, 8, 7, 6]


def test_patience_ends():
    broker = Broker(SOON * 10)
    assert Asking(broker, 3, SecondByQuestion()).group("bids") is None
    assert broker.patience == [2, 1]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (KafkaError.GROUP_AUTHORIZATION_FAILED, frozenset()),
        (KafkaError.UNSUPPORTED_VERSION, None),
    ],
)
def test_what_time_does_not_change_is_told_at_once(code, told):
    broker = Broker([code])
    assert Asking(broker, 10, SecondByQuestion()).group("bids") == told
    assert len(broker.patience) == 1
