"""JSON sources: their columns, what is refused when the flow is written, and polls.

Claims: JI1, X1, X2 for JSON.
"""

from __future__ import annotations

import pyarrow as pa
import pytest

from service.dataflow.vertices import KafkaSink, KafkaSource
from service.errors import GraphError, SchemaError
from service.ingest.decode import DecodeLimits, RecordDecoder
from service.ingest.decoders import decoder_of, source_columns
from service.ingest.registry import FolderRegistry
from tests.unit.ingest.records import raw_of, record_schema, write_schemas

LIMITS = DecodeLimits(record_bytes_max=60)


@pytest.fixture
def registry(tmp_path):
    """Bids, and events that hold one or not."""
    bid = record_schema("bid", {"auction": "long", "note": ["null", "string"], "at": "long"})
    event = record_schema("event", {"kind": "long", "bid": ["null", bid]})
    return FolderRegistry(write_schemas(tmp_path, {1: bid, 2: event}))


def source(**given):
    return KafkaSource(["bids"], **{"record": "bid", "format": "json", **given})


def test_columns_have_the_types_of_avro_whatever_the_records_are_written_in(registry):
    fields = ["note", "auction", "at"]
    decoder = decoder_of(source(fields=fields, times=["at"]), registry, LIMITS)
    assert decoder.arrow_schema == RecordDecoder(registry, "bid", fields).arrow_schema
    assert source_columns(source(fields=fields), registry) == decoder.arrow_schema
    inside = source(record="event", inside="bid", fields=fields)
    assert source_columns(inside, registry) == decoder.arrow_schema


def test_a_poll_is_sorted_into_rows_skipped_and_rejected_in_its_order(registry):
    decoder = decoder_of(
        source(record="event", inside="bid", fields=["auction", "note"]), registry, LIMITS
    )
    decoder.warm()
    values = [
        b'{"bid": {"auction": 5, "note": null}}',
        None,
        b'{"bid": null}',
        b'{"bid": {"auction": 6, "note": "' + b"x" * 60 + b'"}}',
        b'{"bid": {"note": "a"}}',
        b'{"bid": {"auction": 7}}',
        b"",
    ]
    decoded = decoder.decode(raw_of(values))
    assert decoded.rows.to_pylist() == [
        {"auction": 5, "note": None},
        {"auction": 7, "note": None},
    ]
    assert decoded.members.tolist() == [0, 5]
    assert decoded.offsets.tolist() == [100, 105]
    assert decoded.skipped == 1
    assert [(each.row, each.reason) for each in decoded.rejected] == [
        (1, "null_value"),
        (3, "too_large"),
        (4, "missing_field"),
        (6, "bad_json"),
    ]


def test_types_may_be_said_without_a_schema(registry):
    clicks = source(record="", types={"user": "int64", "page": "string?"})
    assert clicks.fields == ("user", "page")
    decoder = decoder_of(clicks, registry, LIMITS)
    decoded = decoder.decode(raw_of([b'{"user": 1}', b'{"page": "a"}']))
    assert decoded.rows.schema == pa.schema([("user", pa.int64()), ("page", pa.string())])
    assert decoded.rows.to_pylist() == [{"user": 1, "page": None}]
    assert [each.reason for each in decoded.rejected] == ["missing_field"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fields": ["a"], "format": "xml"}, "KafkaSource format 'xml' is none of avro, json"),
        ({"fields": ["a"], "record": ""}, "needs a record, whose schema says"),
        ({"types": {"a": "int64"}, "format": "avro"}, "leave out `types`"),
        ({"fields": ["b"], "types": {"a": "int64"}}, "fields \\['b'\\] have no type"),
        ({"fields": ["a"], "times": ["t"]}, "times \\['t'\\] are none of its fields"),
    ],
)
def test_what_cannot_be_read_is_refused_when_the_flow_is_written(given, words):
    with pytest.raises(GraphError, match=words):
        source(**given)


def test_what_does_not_fit_the_schema_is_refused_at_the_start(registry):
    with pytest.raises(GraphError, match="time 'note' is string"):
        decoder_of(source(fields=["note"], times=["note"]), registry, LIMITS)
    with pytest.raises(GraphError, match="'integer' is no type"):
        decoder_of(source(record="", types={"a": "integer"}), registry, LIMITS)
    with pytest.raises(SchemaError, match="field 'kind' of tests.event holds no record"):
        decoder_of(source(record="event", inside="kind", fields=["auction"]), registry, LIMITS)


def test_a_sink_of_avro_needs_a_schema_and_one_of_json_does_not():
    assert KafkaSink("out", key="auction", format="json").schema is None
    with pytest.raises(GraphError, match="'out' needs the id of its schema"):
        KafkaSink("out", key="auction")
    with pytest.raises(GraphError, match="KafkaSink format 'xml'"):
        KafkaSink("out", key="auction", format="xml")
