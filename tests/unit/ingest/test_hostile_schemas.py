"""Schemas made to crash or stall whoever decodes with them: refused, or read without harm.

Cannot catch: an error in fastavro that well-formed rows of a harmless schema lead to.
"""

from __future__ import annotations

import pytest

from service.avro.decoder import compile_decoder
from service.avro.schema import DEPTH_MAX
from service.avro.wire import header
from service.ingest.decode import COMPILED_FIELDS_MAX, RecordDecoder
from service.ingest.nested import NestedDecoder
from service.ingest.registry import FolderRegistry
from tests.unit.ingest.records import raw_of, record_schema, value_of, write_schemas


def nested(levels: int, innermost: object) -> object:
    """A list of a list of ..., so many levels deep."""
    shape = innermost
    for _ in range(levels):
        shape = {"type": "array", "items": shape}
    return shape


BID = record_schema("bid", {"auction": "long"})
WIDE = record_schema(
    "bid",
    {"auction": "long"} | {f"f{number}": "string" for number in range(COMPILED_FIELDS_MAX)},
)
HOSTILE = {
    10: record_schema("bid", {"auction": "long", "next": ["null", "tests.bid"]}),
    11: record_schema("bid", {"auction": "long", "deep": nested(DEPTH_MAX, "long")}),
    12: record_schema("bid", {"auction": "long", "bomb": {"type": "array", "items": "null"}}),
    13: record_schema("bid", {"auction": "long", "all": [{"type": "map", "values": "tests.bid"}]}),
    14: record_schema(
        "bid", {"auction": "long", "huge": {"type": "fixed", "name": "f", "size": 1 << 40}}
    ),
}
#: As deep as can be, and full of long counts.
DEEP = record_schema("bid", {"auction": "long", "deep": nested(DEPTH_MAX - 2, "long")})


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> RecordDecoder:
    schemas = {3: BID, 20: WIDE, 21: DEEP, **HOSTILE}
    folder = write_schemas(tmp_path_factory.mktemp("schemas"), schemas)
    (folder / "15.avsc").write_text('{"type": ' * 100_000)
    (folder / "16.avsc").write_text("[" * 100_000 + "]" * 100_000)
    return RecordDecoder(FolderRegistry(folder), "bid", ["auction"])


def good(number: int) -> bytes:
    return value_of(3, BID, {"auction": number})


@pytest.mark.parametrize("schema_id", [*HOSTILE, 15, 16])
def test_a_hostile_schema_costs_the_records_that_name_it(decoder, schema_id):
    bomb = header(schema_id) + b"\x02" + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" * 9
    decoded = decoder.decode(raw_of([good(1), bomb, bomb, good(2)]))
    assert decoded.rows.column("auction").to_pylist() == [1, 2]
    assert [(each.row, each.reason) for each in decoded.rejected] == [
        (1, "bad_schema"), (2, "bad_schema")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"\x02" + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" * 62,
        b"\x02" + b"\x02" * 62,
        b"\x02" + b"\x01\x80\x80\x80\x80\x80\x80\x80\x80\x01" * 40,
        b"\x02" + b"\x02" * 1_000_000,
        b"\xff" * 1_000_000,
    ],
)
def test_counts_that_no_record_can_hold_are_bad_records_at_the_greatest_depth(decoder, body):
    decoded = decoder.decode(raw_of([good(1), header(21) + body, good(2)]))
    assert decoded.rows.column("auction").to_pylist() == [1, 2]
    ((row, reason, _),) = decoded.rejected
    assert row == 1
    assert reason in {"truncated", "bad_length", "varint_overflow", "trailing_bytes"}


def test_lists_as_deep_as_can_be_are_read(decoder):
    deepest: object = [7]
    for _ in range(DEPTH_MAX - 3):
        deepest = [deepest]
    decoded = decoder.decode(raw_of([value_of(21, DEEP, {"auction": 5, "deep": deepest})]))
    assert decoded.rows.column("auction").to_pylist() == [5]


def test_a_schema_too_wide_to_compile_is_read_all_the_same(decoder):
    values = {f"f{number}": f"text {number}" for number in range(COMPILED_FIELDS_MAX)}
    records = [value_of(20, WIDE, {"auction": number, **values}) for number in range(3)]
    decoded = decoder.decode(raw_of([good(9), *records, records[0][:-1]]))
    assert decoded.rows.column("auction").to_pylist() == [9, 0, 1, 2]
    assert [(each.row, each.reason) for each in decoded.rejected] == [(4, "bad_length")]
    kinds = {type(made) for made in decoder._decoders.values()}
    assert kinds == {type(compile_decoder_of_bid(decoder)), NestedDecoder}


def compile_decoder_of_bid(decoder: RecordDecoder):
    """The kind of decoder that a narrow schema has."""
    return compile_decoder(decoder._registry.schema(3), ["auction"])
