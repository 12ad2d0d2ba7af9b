"""The gate for schemas from outside: what is read, and what is refused before any byte is."""

from __future__ import annotations

import json

import fastavro
import pytest

from service.avro.schema import DEPTH_MAX, NODES_MAX, Kind, parse_schema
from service.errors import SchemaError


def _record(*types: object, name: str = "r") -> dict[str, object]:
    fields = [{"name": f"f{at}", "type": each} for at, each in enumerate(types)]
    return {"type": "record", "name": name, "fields": fields}


def _parsed(*types: object):
    return parse_schema(json.dumps(_record(*types)))


def test_names_with_and_without_namespace_find_the_record():
    schema = parse_schema(json.dumps(_record("long") | {"namespace": "shop", "name": "bid"}))
    assert (schema.name, schema.fullname) == ("bid", "shop.bid")
    assert schema.is_named("bid")
    assert schema.is_named("shop.bid")
    assert not schema.is_named("id")


def test_a_field_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(SchemaError, match=r"no field 'price'; it has: f0, f1"):
        _parsed("long", "string").field("price")


def test_a_logical_type_means_its_base_type():
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}
    assert _parsed(decimal).field("f0").type.kind is Kind.BYTES
    assert (
        _parsed({"type": {"type": "long", "logicalType": "x"}}).field("f0").type.kind is Kind.LONG
    )


def test_a_union_with_null_knows_which_branch_is_null():
    assert _parsed(["null", "long"]).field("f0").type.null_branch == 0
    assert _parsed(["long", "null"]).field("f0").type.null_branch == 1
    assert _parsed(["long", "string"]).field("f0").type.null_branch == -1
    assert _parsed(["null", "long", "string"]).field("f0").type.null_branch == -1


def test_nested_fields_are_named_as_not_covered():
    array = {"type": "array", "items": "long"}
    assert _parsed("long", array, ["null", "string"], ["long", "string"]).not_covered == (
        "f1",
        "f3",
    )


def test_a_named_type_may_be_used_again():
    colour = {"type": "enum", "name": "colour", "symbols": ["RED"]}
    schema = _parsed(colour, ["null", "colour"])
    assert schema.field("f1").type.present is schema.field("f0").type
    fastavro.parse_schema(schema.to_json())
    assert parse_schema(schema.canonical()).canonical() == schema.canonical()


@pytest.mark.parametrize(
    ("types", "complaint"),
    [
        (["r"], "contains itself"),
        ([["null", "r"]], "contains itself"),
        ([{"type": "array", "items": "r"}], "contains itself"),
        ([{"type": "array", "items": "null"}], "take no bytes"),
        ([{"type": "map", "values": _record(name="empty")}], "take no bytes"),
        ([{"type": "array", "items": _record("long", "null", name="i")}], "take no bytes"),
        ([{"type": "array", "items": ["null", _record("null", name="i")]}], "take no bytes"),
        ([{"type": "array", "items": {"type": "fixed", "name": "z", "size": 0}}], "take no bytes"),
        (["nonsense"], "unknown type 'nonsense'"),
        ([7], "not 7"),
        ([[]], "no branches"),
        ([["long", "long"]], "twice"),
        ([["null", ["long", "string"]]], "directly inside a union"),
        ([{"type": "enum", "name": "e", "symbols": []}], "no symbols"),
        ([{"type": "enum", "name": "e", "symbols": ["A", "A"]}], "twice"),
        ([{"type": "enum", "name": "e", "symbols": ["A-B"]}], "letters, digits"),
        ([{"type": "fixed", "name": "f", "size": -1}], "size -1"),
        ([{"type": "fixed", "name": "f", "size": 1 << 40}], "size"),
        ([{"type": "fixed", "name": "f", "size": True}], "size True"),
        ([{"type": "fixed", "name": "f x", "size": 1}], "letters, digits"),
        ([{"type": "array"}], "without 'items'"),
        ([{"type": "record", "name": "q"}], "no list of fields"),
        ([{"type": "record", "fields": []}], "without a name"),
        ([{"type": "record", "name": "r", "fields": []}], "defined twice"),
        ([{"type": "record", "name": "q", "fields": ["x"]}], "without a type"),
    ],
)
def test_a_schema_that_is_wrong_or_unsafe_is_refused(types, complaint):
    with pytest.raises(SchemaError, match=complaint):
        _parsed(*types)


@pytest.mark.parametrize("text", ["", "{", '"long"', "[" * 100_000, "null", "17", " " * (1 << 21)])
def test_text_that_is_no_record_schema_is_refused(text):
    with pytest.raises(SchemaError):
        parse_schema(text)


def test_field_names_are_unique():
    twice = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}] * 2}
    with pytest.raises(SchemaError, match="field twice"):
        parse_schema(json.dumps(twice))


def test_nesting_is_bounded():
    shape: object = "long"
    for _ in range(DEPTH_MAX + 1):
        shape = {"type": "array", "items": shape}
    with pytest.raises(SchemaError, match="deeper than"):
        _parsed(shape)


def test_a_schema_that_doubles_with_every_line_is_refused():
    """Thirty records, each holding the one before twice, would decode to 2**30 values."""
    doubled = [_record(f"a{at - 1}", f"a{at - 1}", name=f"a{at}") for at in range(1, 30)]
    with pytest.raises(SchemaError, match=f"more than {NODES_MAX} types"):
        _parsed(_record(name="a0"), *doubled)
