"""The end of a batch is found by trying offsets, whatever its size, and in few tries (UB1, UB2)."""

from __future__ import annotations

import math

import pytest
from confluent_kafka import KafkaError, Message
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BrokerError
from service.ingest.unreadable import end_of_batch, is_of_batch

OFFSETS = st.integers(0, 1 << 40)
WHICH = ("events", 3)


def said(offset, error=None):
    """What the client gives at an offset."""
    return Message(
        topic=WHICH[0],
        partition=WHICH[1],
        offset=offset,
        value=b"",
        error=None if error is None else KafkaError(error),
    )


@given(first=OFFSETS, size=st.integers(1, 1 << 31), behind=st.integers(0, 1 << 31))
def test_the_end_is_found_in_few_tries(first, size, behind):
    tried = []

    def is_within(offset):
        tried.append(offset)
        return offset < first + size

    end = first + size + behind
    assert end_of_batch(first, end, is_within) == first + size
    assert all(first < offset < end for offset in tried)
    assert len(tried) <= 1 + 2 * math.log2(size + 1)


def test_a_batch_of_one_record_takes_one_try():
    tried = []
    assert end_of_batch(7, 100, lambda offset: tried.append(offset) or False) == 8
    assert tried == [8]


def test_the_last_batch_of_a_partition_takes_none_behind_its_end():
    assert end_of_batch(7, 8, lambda _: 1 / 0) == 8


@pytest.mark.parametrize(
    ("given_there", "answer"),
    [
        (said(12), False),
        (said(-1, KafkaError._PARTITION_EOF), False),
        (said(10, KafkaError._BAD_MSG), False),
        (said(10, KafkaError._BAD_COMPRESSION), True),
        (said(17, KafkaError._BAD_COMPRESSION), False),
        (said(-1, KafkaError._TRANSPORT), None),
    ],
)
def test_what_the_client_gives_says_whether_an_offset_is_of_the_batch(given_there, answer):
    assert is_of_batch(given_there, WHICH, 10) is answer


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._CRIT_SYS_RESOURCE]
)
def test_what_says_neither_and_does_not_pass_is_an_error_and_no_end(code):
    with pytest.raises(BrokerError, match="partition 3 of 'events' cannot be read"):
        is_of_batch(said(-1, code), WHICH, 10)
