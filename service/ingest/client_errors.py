"""What the errors of a Kafka consumer mean here.

Flow: KafkaError -> [these] -> read on, leave a batch out, or end with a named error.
"""

from __future__ import annotations

from confluent_kafka import KafkaError

from service.errors import BrokerError


def _codes(*names: str) -> frozenset[int]:
    """Error codes by the names the client gives them; its own begin with an underscore."""
    return frozenset(getattr(KafkaError, name) for name in names)


OFFSET_GONE = _codes("OFFSET_OUT_OF_RANGE", "_AUTO_OFFSET_RESET")
UNREACHABLE = _codes("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_RESOLVE")
REFUSED = _codes("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED")
#: A batch cannot be unpacked.
UNREADABLE = _codes("_BAD_COMPRESSION")
#: What lies at an offset is no part of a batch that cannot be unpacked: the partition's end, or a
#: batch whose checksum is wrong, which the client sees before it unpacks.
ELSEWHERE = _codes("_PARTITION_EOF", "_BAD_MSG")
#: Reason of the dead letter about such a batch.
UNREADABLE_REASON = "unreadable"
_PASSING = UNREACHABLE | _codes("_PARTITION_EOF", "_WAIT_CACHE")


def heals(error: KafkaError) -> bool:
    """Whether the client gets over `error` by itself, so that reading simply goes on later."""
    if error.fatal() or error.code() in OFFSET_GONE | REFUSED:
        return False
    return error.retriable() or error.code() in _PASSING


def offset_gone(topic: str, partition: int, offset: int) -> BrokerError:
    """The error for a position that the partition does not hold."""
    return BrokerError(
        f"partition {partition} of {topic!r} has no offset {offset}: its records were deleted "
        "(retention) or the topic was created anew, so going on would lose records silently; "
        "restore the topic, or start under a new application name to read from the oldest record"
    )
