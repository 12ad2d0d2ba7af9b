"""Which broker is taken, and what is said when there is none."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import pytest

from service.broker import lookup
from service.broker.kinds import KindMissing
from service.broker.lookup import VARIABLE, find_broker
from service.errors import BrokerError, BrokerUnavailable, UsageError


@dataclass
class Started:
    """A broker that some kind started."""

    bootstrap_servers: str
    alive: bool = True

    def close(self) -> None:
        """End it."""
        self.alive = False


def _works() -> Started:
    return Started("works:1")


def _missing() -> Started:
    raise KindMissing("nothing there")


def _broken() -> Started:
    raise BrokerError("did not come up")


def test_the_first_kind_that_is_there_is_taken():
    kinds = [("A", _missing), ("B", _works), ("C", _broken)]
    assert find_broker({}, kinds).bootstrap_servers == "works:1"


def test_a_kind_that_is_there_but_fails_is_an_error_and_no_other_is_tried():
    with pytest.raises(BrokerError, match="did not come up"):
        find_broker({}, [("A", _broken), ("B", _works)])


def test_nothing_found_is_one_sentence_that_names_all_three_ways_and_status_two():
    with pytest.raises(UsageError) as failure:
        find_broker({}, [("Java", _missing), ("Docker", _missing)])
    assert str(failure.value) == (
        "no Kafka to work with: set KAFKA_BOOTSTRAP_SERVERS to a running broker, or install "
        "Java 17+ with Maven, or start Docker (Java: nothing there; Docker: nothing there)"
    )
    assert failure.value.exit_status == 2


def test_an_empty_variable_counts_as_not_set():
    assert find_broker({VARIABLE: " "}, [("A", _works)]).bootstrap_servers == "works:1"


def test_a_named_broker_that_is_silent_is_an_error_though_another_could_start(monkeypatch):
    monkeypatch.setattr(lookup, "ANSWER_SECONDS", 0.3)
    with socket.socket() as held:  # bound, not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(BrokerUnavailable, match=address):
            find_broker({VARIABLE: address}, [("A", _works)])


def test_java_is_preferred_to_docker():
    assert [name for name, _ in lookup.KINDS] == ["Java", "Docker"]
