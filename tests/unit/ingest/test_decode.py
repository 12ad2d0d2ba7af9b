"""Decoding a poll: what becomes a row, what is skipped, what is rejected and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.avro.schema import RecordSchema, parse_schema
from service.avro.wire import header
from service.errors import SchemaError
from service.ingest.decode import DecodeLimits, RecordDecoder
from service.ingest.registry import FolderRegistry, RegistryUnavailable, UnknownSchema
from tests.unit.ingest.records import raw_of, record_schema, value_of, write_schemas

_PERSON = record_schema("person", {"id": "long", "name": "string"})
_BID = record_schema("bid", {"auction": "long", "price": "long", "note": ["null", "string"]})
#: A later version of bid: a field more, another order, int where it was long.
_BID_2 = record_schema("bid", {"note": "string", "x": "double", "price": "int", "auction": "long"})
_BID_WITHOUT_PRICE = record_schema("bid", {"auction": "long"})
_BID_TEXT_PRICE = record_schema("bid", {"auction": "long", "price": "string", "note": "string"})
_BID_NESTED = record_schema(
    "bid",
    {
        "tags": {"type": "array", "items": "string"},
        "auction": "long",
        "price": "long",
        "note": ["null", "string"],
        "more": ["null", "long", "string"],
    },
)
_RECURSIVE = record_schema("bid", {"auction": "long", "next": ["null", "tests.bid"]})
_SCHEMAS = {
    1: _PERSON,
    3: _BID,
    4: _BID_2,
    5: _BID_WITHOUT_PRICE,
    6: _BID_TEXT_PRICE,
    7: _BID_NESTED,
    8: _RECURSIVE,
    9: _BID,
}
_FIELDS = ["price", "auction", "note"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> FolderRegistry:
    return FolderRegistry(write_schemas(tmp_path_factory.mktemp("schemas"), _SCHEMAS))


@pytest.fixture
def decoder(registry) -> RecordDecoder:
    return RecordDecoder(registry, "bid", _FIELDS)


def _bid(number: int, schema_id: int = 3) -> bytes:
    record = {"auction": number, "price": 10 * number, "note": f"n{number}", "x": 0.5}
    record |= {"tags": ["a", "b"], "more": "text"}
    if schema_id == 6:
        record["price"] = "ten"
    schema = _SCHEMAS[schema_id]
    return value_of(schema_id, schema, {f["name"]: record[f["name"]] for f in schema["fields"]})


def _row(number: int) -> dict[str, object]:
    return {"price": 10 * number, "auction": number, "note": f"n{number}"}


def _person(number: int) -> bytes:
    return value_of(1, _PERSON, {"id": number, "name": "p"})


def _reasons(decoded) -> list[tuple[int, str]]:
    return [(each.row, each.reason) for each in decoded.rejected]


def test_rows_of_one_schema_keep_their_places(decoder):
    raw = raw_of(_bid(number) for number in range(5))
    decoded = decoder.decode(raw)
    assert decoded.rows.to_pylist() == [_row(number) for number in range(5)]
    assert decoded.rows.schema == decoder.arrow_schema
    assert decoded.partitions.tolist() == [0, 1, 2, 0, 1]
    assert decoded.offsets.tolist() == [100, 101, 102, 103, 104]
    assert (decoded.rejected, decoded.skipped) == ([], 0)


def test_other_record_types_are_skipped_and_counted(decoder):
    decoded = decoder.decode(raw_of([_person(0), _bid(1), _person(2), _person(3), _bid(4)]))
    assert decoded.rows.to_pylist() == [_row(1), _row(4)]
    assert decoded.offsets.tolist() == [101, 104]
    assert (decoded.rejected, decoded.skipped) == ([], 3)


def test_no_records_and_no_wanted_records_make_empty_rows_of_the_same_schema(decoder):
    for values in ([], [_person(1)]):
        decoded = decoder.decode(raw_of(values))
        assert decoded.rows.num_rows == 0
        assert decoded.rows.schema == decoder.arrow_schema
        assert len(decoded.offsets) == len(decoded.partitions) == 0


def test_rows_of_several_versions_come_in_the_order_read(decoder):
    ids = [3, 4, 7, 3, 9, 4, 7, 7, 3]
    decoded = decoder.decode(raw_of(_bid(at, schema_id) for at, schema_id in enumerate(ids)))
    assert decoded.rows.to_pylist() == [_row(number) for number in range(len(ids))]
    assert decoded.offsets.tolist() == list(range(100, 100 + len(ids)))
    assert decoded.rows.schema == decoder.arrow_schema


_BAD = [
    (None, "null_value"),
    (b"", "empty_value"),
    (b"{}", "bad_magic"),
    (b"\x00\x00", "truncated_header"),
    (b"\x00\xff\xff\xff\xff\x00", "bad_schema_id"),
    (header(99) + b"\x02\x02\x00", "unknown_schema"),
    (header(8) + b"\x02\x00", "bad_schema"),
    (_bid(1, 5), "missing_field"),
    (_bid(1, 6), "wrong_type"),
    (_bid(1)[:-1], "bad_length"),
    (_bid(1)[:6], "truncated"),
    (header(3), "truncated"),
    (_bid(1) + b"\x00", "trailing_bytes"),
    (header(3) + b"\x02\x02\x05", "bad_union_index"),
    (header(3) + b"\x02\x02\x02\x02\xff", "bad_utf8"),
    (header(3) + b"\xff" * 11, "varint_overflow"),
    (header(4) + b"\x00" + b"\x00" * 8 + b"\x80\x80\x80\x80\x10\x02", "int_out_of_range"),
    (_person(1).replace(header(1), header(3)), "bad_union_index"),
    (_bid(1, 7) + b"\x00", "trailing_bytes"),
    (_bid(1, 7)[:-1], "bad_length"),
    (b"\x00" * 40, "unknown_schema"),
]


@pytest.mark.parametrize(("value", "reason"), _BAD)
def test_a_bad_record_has_its_reason_and_costs_only_itself(decoder, value, reason):
    decoded = decoder.decode(raw_of([_bid(0), value, _person(2), _bid(3)]))
    assert _reasons(decoded) == [(1, reason)]
    assert decoded.rejected[0].detail
    assert decoded.rows.to_pylist() == [_row(0), _row(3)]
    assert decoded.offsets.tolist() == [100, 103]
    assert decoded.skipped == 1


def test_all_bad_records_at_once_are_each_rejected_in_order(decoder):
    values = [each for value, _ in _BAD for each in (value, _bid(7))]
    decoded = decoder.decode(raw_of(values))
    assert _reasons(decoded) == [(2 * at, reason) for at, (_, reason) in enumerate(_BAD)]
    assert decoded.rows.to_pylist() == [_row(7)] * len(_BAD)
    assert decoded.rows.num_rows + decoded.skipped + len(decoded.rejected) == len(values)


def test_a_poll_of_bad_records_only_has_no_rows(decoder):
    decoded = decoder.decode(raw_of([None, b"", b"x"]))
    assert decoded.rows.num_rows == 0
    assert len(decoded.rejected) == 3


def test_two_bad_records_whose_lengths_cancel_leave_those_between_alone(decoder):
    short, long = _bid(1)[:-1], _bid(1) + b"1"
    decoded = decoder.decode(raw_of([_bid(0), short, _bid(2), _bid(3), long, _bid(5)]))
    assert [row for row, _ in _reasons(decoded)] == [1, 4]
    assert decoded.rows.to_pylist() == [_row(number) for number in (0, 2, 3, 5)]


def test_a_record_over_the_limit_is_rejected_unread(registry):
    size = len(_bid(1))
    decoder = RecordDecoder(registry, "bid", _FIELDS, DecodeLimits(record_bytes_max=size))
    note = {"auction": 1, "price": 10, "note": "longer"}
    decoded = decoder.decode(raw_of([_bid(1), value_of(3, _BID, note), _bid(2)]))
    assert _reasons(decoded) == [(1, "too_large")]
    assert f"at most {size}" in decoded.rejected[0].detail


def test_more_schema_ids_than_the_kernel_tells_apart_are_sorted(decoder):
    strange = [header(1000 + at) + b"x" for at in range(200)]
    decoded = decoder.decode(raw_of([_bid(0), *strange, _bid(1)]))
    assert _reasons(decoded) == [(at, "unknown_schema") for at in range(1, 201)]
    assert decoded.rows.to_pylist() == [_row(0), _row(1)]


def test_a_schema_that_appears_later_is_found(tmp_path):
    folder = write_schemas(tmp_path, {3: _BID})
    decoder = RecordDecoder(FolderRegistry(folder), "tests.bid", _FIELDS)
    raw = raw_of([_bid(1, 4)])
    assert _reasons(decoder.decode(raw)) == [(0, "unknown_schema")]
    write_schemas(folder, {4: _BID_2})
    assert decoder.decode(raw).rows.to_pylist() == [_row(1)]


def test_a_registry_that_fails_loses_nothing(tmp_path):
    folder = write_schemas(tmp_path, {3: _BID})
    decoder = RecordDecoder(FolderRegistry(folder), "bid", _FIELDS)
    (folder / "4.avsc").mkdir()
    raw = raw_of([_bid(0), _bid(1, 4)])
    with pytest.raises(RegistryUnavailable, match=r"4\.avsc"):
        decoder.decode(raw)
    (folder / "4.avsc").rmdir()
    write_schemas(folder, {4: _BID_2})
    assert decoder.decode(raw).rows.to_pylist() == [_row(0), _row(1)]


def test_a_record_or_field_that_does_not_exist_is_refused_at_the_start(registry):
    with pytest.raises(UnknownSchema, match="'sale'"):
        RecordDecoder(registry, "sale", ["x"])
    with pytest.raises(SchemaError, match="no field 'colour'"):
        RecordDecoder(registry, "person", ["colour"])
    with pytest.raises(SchemaError, match="no fields"):
        RecordDecoder(registry, "person", [])


def test_nested_fields_become_nested_columns(tmp_path):
    shape = record_schema(
        "order",
        {
            "lines": {
                "type": "array",
                "items": record_schema("line", {"sku": "string", "count": ["null", "int"]}),
            },
            "labels": {"type": "map", "values": "double"},
            "kind": {"type": "enum", "name": "kind", "symbols": ["A", "B"]},
        },
    )
    records = [
        {"lines": [{"sku": "a", "count": None}], "labels": {"x": 0.5}, "kind": "B"},
        {"lines": [], "labels": {}, "kind": "A"},
    ]
    folder = write_schemas(tmp_path, {1: shape})
    decoder = RecordDecoder(FolderRegistry(folder), "order", ["kind", "lines", "labels"])
    decoder.warm()
    good = [value_of(1, shape, record) for record in records]
    negative_symbol = good[1][:-1] + b"\x01"
    decoded = decoder.decode(raw_of([good[0], negative_symbol, good[1], good[1] + b"?"]))
    assert _reasons(decoded) == [(1, "bad_enum_index"), (3, "trailing_bytes")]
    assert decoded.rows.column("lines").to_pylist() == [record["lines"] for record in records]
    assert decoded.rows.column("labels").to_pylist() == [[("x", 0.5)], []]
    assert decoded.rows.column("kind").to_pylist() == ["B", "A"]
    assert decoded.rows.schema.field("kind").type == pa.string()


def test_a_field_of_several_types_cannot_be_wanted_but_may_be_there(tmp_path):
    registry = FolderRegistry(write_schemas(tmp_path, {7: _BID_NESTED}))
    decoder = RecordDecoder(registry, "bid", ["auction"])
    assert decoder.decode(raw_of([_bid(1, 7)])).rows.to_pylist() == [{"auction": 1}]
    with pytest.raises(SchemaError, match=r"'more'.*union of several types"):
        RecordDecoder(registry, "bid", ["more"])


class _InMemory:
    """The schemas of this file, without a folder."""

    def schema(self, schema_id: int) -> RecordSchema:
        return parse_schema(json.dumps(_SCHEMAS[schema_id]))

    def find(self, record: str, topics: Sequence[str] = ()) -> RecordSchema:
        return self.schema(3)


@cache
def _shared() -> RecordDecoder:
    return RecordDecoder(_InMemory(), "bid", _FIELDS)


_MANY = st.lists(st.sampled_from(["bid", "bid2", "nested", "person", "short", "null"]), max_size=40)


@given(_MANY)
def test_every_record_is_a_row_or_skipped_or_rejected(kinds):
    """An oracle decodes record by record; the decoder must agree on any mixture."""
    make = {
        "bid": lambda at: _bid(at, 3),
        "bid2": lambda at: _bid(at, 4),
        "nested": lambda at: _bid(at, 7),
        "person": _person,
        "short": lambda at: _bid(at, 3)[:-1],
        "null": lambda _: None,
    }
    decoded = _shared().decode(raw_of(make[kind](at) for at, kind in enumerate(kinds)))
    good = [at for at, kind in enumerate(kinds) if kind in ("bid", "bid2", "nested")]
    assert decoded.rows.to_pylist() == [_row(at) for at in good]
    assert decoded.offsets.tolist() == [100 + at for at in good]
    assert decoded.skipped == kinds.count("person")
    bad = [at for at, kind in enumerate(kinds) if kind in ("short", "null")]
    assert [each.row for each in decoded.rejected] == bad


def test_columns_own_their_memory_or_keep_it_alive(decoder):
    rows = decoder.decode(raw_of(_bid(number) for number in range(1000))).rows
    np.empty(10_000_000, dtype=np.uint8).fill(255)
    assert rows.to_pylist() == [_row(number) for number in range(1000)]
