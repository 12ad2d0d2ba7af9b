"""What of a dead letter can be written again: the record itself, the letter's bytes, or nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dead_letters import (
    REPLAYED_HEADER,
    Letter,
    Original,
    Place,
    kept,
    letter_of,
    letters_topic,
    remade,
)
from service.errors import BrokerError
from service.retention import Retention

PLACE = Place("bids.dlq", 0, 17)
ORIGIN = Place("bids", 3, 40)
HEADERS = [
    ("topic", b"bids"),
    ("partition", b"3"),
    ("offset", b"40"),
    ("error", b"unknown_schema: no schema 99: really"),
]
MARK = (REPLAYED_HEADER, b"bids.dlq/0/17")


def letter(key: bytes | None, value: bytes | None, *, cut: bool = False) -> Letter:
    return Letter(PLACE, ORIGIN, "unknown_schema", "", key, value, cut)


def test_a_letter_says_where_its_record_was_and_why_it_is_here() -> None:
    found = letter_of(PLACE, HEADERS, b"k", None)
    assert found == Letter(
        PLACE, ORIGIN, "unknown_schema", "no schema 99: really", b"k", None, cut=False
    )
    cut = letter_of(PLACE, [*HEADERS, ("cut", b"value had 5 bytes")], b"k", b"v")
    assert cut is not None
    assert cut.cut


@pytest.mark.parametrize("lacking", range(4))
def test_a_record_without_the_headers_of_a_gateway_is_no_letter(lacking: int) -> None:
    headers = [each for number, each in enumerate(HEADERS) if number != lacking]
    assert letter_of(PLACE, headers, None, None) is None
    wrong = [*headers, (HEADERS[lacking][0], None)]
    assert letter_of(PLACE, wrong, None, None) is None


def test_numbers_that_are_none_make_no_letter() -> None:
    assert letter_of(PLACE, [*HEADERS[:2], ("offset", b"x"), HEADERS[3]], None, None) is None


texts = st.none() | st.binary(max_size=6)


@given(key=texts, value=texts, stamp=st.none() | st.integers(0, 1 << 40))
def test_a_record_that_is_still_there_is_written_as_it_was(key, value, stamp) -> None:
    headers = [("a", b"1"), ("a", None), (REPLAYED_HEADER, b"bids.dlq/0/2"), ("topic", b"theirs")]
    found = remade(letter(key, value), Original(key, value, headers, stamp))
    assert found is not None
    assert (found.key, found.value, found.timestamp_ms, found.whole) == (key, value, stamp, True)
    # A second replay says where it comes from once, and nothing else is taken away.
    assert list(found.headers) == [("a", b"1"), ("a", None), ("topic", b"theirs"), MARK]


@given(key=texts, value=texts, other=texts)
def test_a_letter_stands_in_for_a_record_that_is_gone_or_is_another(key, value, other) -> None:
    gone = remade(letter(key, value), None)
    assert gone is not None
    assert (gone.key, gone.value, list(gone.headers)) == (key, value, [MARK])
    assert (gone.whole, gone.timestamp_ms) == (False, None)
    if other != value:
        assert remade(letter(key, value), Original(key, other, [("a", b"1")], 5)) == gone


def test_a_letter_that_was_cut_gives_the_record_or_nothing() -> None:
    cut = letter(b"k", b"abc", cut=True)
    assert remade(cut, None) is None
    assert remade(cut, Original(b"k", b"abX and more", (), 5)) is None
    whole = remade(cut, Original(b"k", b"abc and more", (), 5))
    assert whole is not None
    assert whole.value == b"abc and more"


def test_empty_and_absent_are_not_the_same() -> None:
    assert remade(letter(None, b""), Original(None, None, (), 5)) == remade(letter(None, b""), None)


def test_an_input_and_its_letters_may_both_be_named() -> None:
    assert letters_topic("bids") == letters_topic("bids.dlq") == "bids.dlq"


@pytest.mark.parametrize(
    ("age_ms", "retention_ms", "own_time"),
    [
        (0, 1_000, True),
        (899, 1_000, True),
        (900, 1_000, False),
        (10**9, 1_000, False),
        (10**9, None, True),
        (-(10**9), 1_000, True),
    ],
)
def test_a_record_too_old_for_its_topic_is_written_without_its_time(
    age_ms: int, retention_ms: int | None, own_time: bool
) -> None:
    now_ms = 10**12
    record = remade(letter(b"k", b"v"), Original(b"k", b"v", [], now_ms - age_ms))
    assert record is not None
    found = kept(record, retention_ms, now_ms)
    assert found == replace(record, timestamp_ms=now_ms - age_ms if own_time else None)


def test_a_record_without_a_time_stays_without() -> None:
    record = remade(letter(b"k", b"v"), None)
    assert record is not None
    assert kept(record, 1, 10**12) == record
    assert silent().fitted([record], None, 10**12) == [record]  # nobody is asked


def test_a_broker_that_does_not_say_how_long_it_keeps_records_is_an_error() -> None:
    record = remade(letter(b"k", b"v"), Original(b"k", b"v", [], 1))
    assert record is not None
    with pytest.raises(BrokerError, match="topic 'bids': Kafka did not say in 0.2 s"):
        silent().fitted([record], None, 10**12)


def silent() -> Retention:
    """Asks where nobody listens."""
    return Retention({"bootstrap.servers": "127.0.0.1:1"}, 0.2)
