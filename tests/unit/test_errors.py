"""Who can act on a failure, whether waiting helps, and how the process ends."""

from __future__ import annotations

import inspect

import pytest

from service import errors
from service.errors import (
    BrokerError,
    BrokerUnavailable,
    GraphError,
    MegaphoneError,
    NotYetSupported,
    PeerLost,
    ProtocolViolation,
    StateCorrupt,
    UsageError,
)

EVERY = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MegaphoneError)
]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_failure_says_who_can_act_and_what_helps(kind: type[MegaphoneError]) -> None:
    assert kind.domain in ("user", "external", "internal")
    assert kind.retry in ("never", "backoff", "restart")
    assert kind.exit_status in (1, 2)
    assert kind.__doc__


def test_usage_and_environment_end_with_two_and_everything_else_with_one() -> None:
    with_two = {kind.__name__ for kind in EVERY if kind.exit_status == 2}
    assert with_two == {
        "UsageError",
        "GraphError",
        "NotYetSupported",
        "BrokerRefused",
        "BrokerUnavailable",
    }


def test_what_a_user_wrote_is_never_retried() -> None:
    assert {kind.retry for kind in EVERY if issubclass(kind, UsageError)} == {"never"}


def test_a_lost_peer_or_damaged_state_asks_for_a_restart_and_a_broker_for_patience() -> None:
    assert PeerLost.retry == ProtocolViolation.retry == StateCorrupt.retry == "restart"
    assert BrokerError.retry == "backoff"


def test_messages_name_the_cause_and_the_next_step() -> None:
    refused = NotYetSupported("a loop (iterate)", "write the flow without one")
    assert str(refused) == (
        "a loop (iterate) is not supported in this version; write the flow without one"
    )
    assert refused.feature == "a loop (iterate)"
    unavailable = BrokerUnavailable("kafka:9092", 2.5)
    assert "no Kafka broker answered at kafka:9092 within 2.5 s" in str(unavailable)
    assert "check --bootstrap-servers" in str(unavailable)


def test_a_graph_that_cannot_be_built_is_a_mistake_of_its_author() -> None:
    assert issubclass(GraphError, UsageError)
    assert GraphError.domain == "user"
