"""Numbers out of results, against fastavro and json, with every kind of field before them.

Cannot catch: schemas with nested records, which are refused.
"""

from __future__ import annotations

import io
import json

import fastavro
import numpy as np
import pytest

from loadgen.fields import UNREADABLE, AvroField, FieldUnknown, JsonField
from loadgen.payloads import Payloads

SCHEMA = {
    "type": "record",
    "name": "everything",
    "fields": [
        {"name": "text", "type": "string"},
        {"name": "raw", "type": ["null", "bytes"]},
        {"name": "yes", "type": "boolean"},
        {"name": "small", "type": "int"},
        {"name": "half", "type": "float"},
        {"name": "whole", "type": ["double", "null"]},
        {"name": "mac", "type": {"type": "fixed", "name": "six", "size": 6}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "maybe", "type": ["null", "long"]},
        {"name": "end", "type": "string"},
    ],
}
PARSED = fastavro.parse_schema({**SCHEMA, "fields": [*SCHEMA["fields"]]})
ID = 70_000


def record(number, **changes):
    return {
        "text": "é" * (number % 90),
        "raw": None if number % 3 else b"x" * number,
        "yes": True,
        "small": number,
        "half": 0.5,
        "whole": None if number % 2 else 1.25,
        "mac": b"abcdef",
        "at": 1_750_000_000_000 + number,
        "maybe": None if number % 5 else -number,
        "end": "",
        **changes,
    }


def message(content, schema_id=ID):
    body = io.BytesIO()
    fastavro.schemaless_writer(body, PARSED, content)
    return b"\0" + schema_id.to_bytes(4, "big") + body.getvalue()


@pytest.mark.parametrize("name", ["small", "at", "maybe"])
def test_a_number_is_found_behind_every_kind_of_field(name):
    records = [record(number) for number in range(300)]
    found = AvroField(SCHEMA, ID, name).values(Payloads.of([*map(message, records)]))
    assert found.tolist() == [UNREADABLE if r[name] is None else r[name] for r in records]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_record_cut_short_costs_only_itself(cut):
    whole = message(record(7))
    payloads = Payloads.of([whole, whole[:-cut], whole + b"\0" * cut, whole])
    found = AvroField(SCHEMA, ID, "small").values(payloads).tolist()
    assert found == [7, UNREADABLE, UNREADABLE, 7]


def test_another_schema_is_unreadable():
    found = AvroField(SCHEMA, ID, "small").values(Payloads.of([message(record(1), ID + 1)]))
    assert found.tolist() == [UNREADABLE]


@pytest.mark.parametrize(("name", "why"), [("nowhere", "no field"), ("text", "no long or int")])
def test_a_field_that_is_no_number_is_refused_by_name(name, why):
    with pytest.raises(FieldUnknown, match=why):
        AvroField(SCHEMA, ID, name)


def test_a_type_that_cannot_be_passed_over_is_refused_by_name():
    nested = {"fields": [{"name": "list", "type": {"type": "array", "items": "long"}}]}
    with pytest.raises(FieldUnknown, match="list is array"):
        AvroField(nested, ID, "list")


@pytest.mark.parametrize("value", [0, 7, -1, 1_750_000_000_000, 2**63 - 1, -(2**63 - 1)])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_json_number_is_found_wherever_it_stands(value, separators):
    objects = [
        {"at": value},
        {"a": "x", "at": value, "b": None},
        {"note": 'it says "at":5 here', "at": value},
        {"bid": {"price": 1, "at": value}},
        {"what": {}, "xat": 3, "at": value},
    ]
    texts = [json.dumps(each, separators=separators).encode() for each in objects]
    found = JsonField("at").values(Payloads.of(texts))
    assert found.tolist() == [value] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", '{"at":}', '{"at":"5"}', '{"at":1.5}', '{"at":1e3}', '{"at":null}'),
        *('{"at":5', '"at":', '{"at":9223372036854775808}', '{"at":123456789012345678901}'),
    ],
)
def test_what_is_no_whole_number_is_unreadable(text):
    whole = b'{"at":5}'
    found = JsonField("at").values(Payloads.of([whole, text.encode(), whole]))
    assert found.tolist() == [5, UNREADABLE, 5]


def test_no_payloads_are_no_numbers():
    assert len(JsonField("at").values(Payloads.of([]))) == 0
    assert AvroField(SCHEMA, ID, "at").values(Payloads.of([])).dtype == np.int64
