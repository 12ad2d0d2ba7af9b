"""Python works per poll, not per record: the number of its calls does not depend on the rows.

It cannot see what C code does for each row; the benchmark shows that.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.ingest.decode import RecordDecoder
from service.ingest.records import RawRecords, raw_records
from service.ingest.registry import FolderRegistry
from tests.counted_calls import calls_of
from tests.unit.ingest.records import TOPIC, raw_of, record_schema, value_of, write_schemas

_FEW, _MANY = 1_000, 100_000
_PERSON = record_schema("person", {"id": "long"})
_BID = record_schema("bid", {"auction": "long", "url": "string", "price": ["null", "long"]})
_BID_2 = record_schema("bid", {"price": "int", "auction": "long", "url": "string"})


def _calls(work: Callable[[], object]) -> int:
    """Python and C functions that `work` calls from Python code."""
    return calls_of(work, builtin=True).total()


@pytest.fixture
def decoder(tmp_path) -> RecordDecoder:
    folder = write_schemas(tmp_path, {1: _PERSON, 2: _BID, 3: _BID_2})
    return RecordDecoder(FolderRegistry(folder), "bid", ["auction", "url", "price"])


_RECORD = {"auction": 5, "url": "https://example.org/é", "price": 7}
_KINDS = {
    "bid": value_of(2, _BID, _RECORD),
    "newer bid": value_of(3, _BID_2, _RECORD),
    "person": value_of(1, _PERSON, {"id": 1}),
}


def _poll(kinds: list[str], count: int) -> RawRecords:
    return raw_of(_KINDS[kinds[at % len(kinds)]] for at in range(count))


@pytest.mark.parametrize(
    "kinds", [["bid"], ["bid", "person"], ["newer bid", "bid", "person", "bid"]], ids=str
)
def test_decoding_makes_as_many_calls_for_100000_rows_as_for_1000(decoder, kinds):
    few, many = _poll(kinds, _FEW), _poll(kinds, _MANY)
    assert decoder.decode(few).rows.num_rows == _FEW * (len(kinds) - ("person" in kinds)) // len(
        kinds
    )
    assert decoder.decode(many).rejected == []
    calls = _calls(lambda: decoder.decode(few))
    assert calls == _calls(lambda: decoder.decode(many))
    assert 10 < calls < 1_000


def test_taking_a_poll_apart_makes_as_many_calls_for_100000_rows_as_for_1000():
    few, many = _poll(["bid"], _FEW).messages, _poll(["bid"], _MANY).messages
    calls = _calls(lambda: raw_records(few, (TOPIC,)).positions())
    assert calls == _calls(lambda: raw_records(many, (TOPIC,)).positions())
    several = (TOPIC, "other")
    calls = _calls(lambda: raw_records(few, several).positions())
    assert calls == _calls(lambda: raw_records(many, several).positions())
